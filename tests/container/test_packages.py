"""Real packages as extension volumes: what the preflight says, and what the server then does.

With ``--matrix`` all rows are tried and the page on compatibility is written; else a sample.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import programs
from tests.support.built_table import kept_part
from tests.support.manager import until
from tests.support.package_images import PackageImages
from tests.support.package_recipes import LOADER_SAMPLE, RECIPES
from tests.support.package_rows import ROWS, WORKING, Row
from tests.support.package_table import PAGE, Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tests.container.conftest import Cluster, Images, Operand, Podman

PREFIX = os.environ.get("IMAGE_PREFIX") or "localhost/instance-manager"
PLAIN_SECONDS = 300
LOADER_SECONDS = 600
CHECKOUT = Path(__file__).parents[2]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Take all rows, or the sample."""
    is_whole = metafunc.config.getoption("--matrix")
    rows = [row for row in ROWS if is_whole or row.sample]
    if "row" in metafunc.fixturenames:
        metafunc.parametrize("row", rows, ids=lambda row: row.name)
    if "linked" in metafunc.fixturenames:
        linked = ("packages",) if is_whole else LOADER_SAMPLE
        metafunc.parametrize("linked", [linked], ids=["all packages" if is_whole else "sample"])
    if "company" in metafunc.fixturenames:
        alone = [row for row in WORKING if row in rows and len(row.volumes) == 1]
        metafunc.parametrize("company", [alone], ids=[f"{len(alone)} volumes"])


@pytest.fixture(scope="module")
def package_images(
    podman: Podman, images: Images, tmp_path_factory: pytest.TempPathFactory
) -> PackageImages:
    """Return the maker of images of packages."""
    return PackageImages(podman, images.operand, PREFIX, tmp_path_factory.mktemp("packages"))


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[Table]:
    """Yield the table, which is written where it became whole."""
    table = Table()
    yield table
    if table.is_whole:
        PAGE.write_text(table.text() + kept_part())


def mounted(images: PackageImages, table: Table, names: Iterable[str]) -> dict[str, str]:
    """Return the images of volumes, by their names."""
    made = {name: images.image(name, RECIPES[name]) for name in dict.fromkeys(names)}
    table.add_volumes({name: images.contents(image) for name, image in made.items()})
    return made


def managed(cluster: Cluster, extensions: dict[str, str], rows: Sequence[Row]) -> Operand:
    """Return a managed server that is set up as rows want it, once it runs or is refused."""
    preload = [library for row in rows for library in row.preload]
    parameters = {name: value for row in rows for name, value in row.parameters.items()}
    prefix = "--env=INSTANCE_MANAGER_POSTGRES__"
    operand = cluster.run(
        f"{prefix}SHARED_PRELOAD_LIBRARIES={json.dumps(preload)}",
        f"{prefix}PARAMETERS={json.dumps(parameters)}",
        extensions=extensions,
    )
    until(lambda: operand.status()["phase"] in {"running", "failed"}, "the start is decided")
    return operand


def verdict_of(operand: Operand) -> list[dict[str, str]]:
    """Return all that the preflight finds, also what the manager finds only once postgres runs."""
    result = operand.exec("instance-manager", "check", "--output", "json")
    assert result.code in {0, 3}, result.error
    report: Any = json.loads(result.out)
    return [
        *report["findings"],
        *(finding for volume in report["volumes"] for finding in volume["findings"]),
    ]


def use(operand: Operand, row: Row) -> tuple[bool, str]:
    """Return whether a row works on a managed server, and what was said."""
    said = ""
    for statement in row.statements:
        result = operand.psql(statement)
        said += result.out + result.error
        if result.code != 0:
            return False, said
    return True, said


def use_plain(cluster: Cluster, extensions: dict[str, str], row: Row) -> tuple[bool, str]:
    """Return whether a row works on a server that nobody manages, and all that was said."""
    places = [f"/extensions/{name}" for name in extensions]
    settings = {
        **row.parameters,
        "extension_control_path": ":".join(["$system", *(f"{each}/share" for each in places)]),
        "dynamic_library_path": ":".join(["$libdir", *(f"{each}/lib" for each in places)]),
        "shared_preload_libraries": ",".join(row.preload),
    }
    lines = "".join(f"{name} = '{value}'\n" for name, value in settings.items())
    server = cluster.run(
        "--entrypoint=sh",
        f"--env=CONFIGURATION={lines}",
        f"--env=LOADER_PATH={':'.join(f'{each}/system' for each in places)}",
        extensions=extensions,
        command=("-c", programs.PLAIN_SERVER, "sh", *row.statements),
    )
    return server.wait(PLAIN_SECONDS) == 0, server.logs()


def test_the_verdict_on_a_package_is_what_the_server_does(
    cluster: Cluster, package_images: PackageImages, table: Table, row: Row
) -> None:
    """What the preflight lets pass works, and what it warns of fails with the known words."""
    extensions = mounted(package_images, table, row.volumes)
    operand = managed(cluster, extensions, [row])
    findings = verdict_of(operand)

    is_fit = not row.foretold(findings)
    works, said = use(operand, row) if is_fit else use_plain(cluster, extensions, row)

    assert row.shows in said
    assert works == is_fit, findings
    assert works != row.fails
    assert bool(row.main_finding(findings)) == bool(row.code), findings
    if not (row.preload or row.parameters):
        assert operand.status()["phase"] == "running", "a volume kept the server from running"
    table.add(row, findings)


def test_what_works_alone_works_in_one_server(
    cluster: Cluster, package_images: PackageImages, table: Table, company: list[Row]
) -> None:
    """All packages that can live together, in one server at once."""
    extensions = mounted(package_images, table, (row.volumes[0] for row in company))
    operand = managed(cluster, extensions, company)

    findings = verdict_of(operand)
    used = {row.name: use(operand, row) for row in company}

    assert [each for each in findings if each["severity"] == "error"] == []
    assert {name: said for name, (works, said) in used.items() if not works} == {}
    assert [row.name for row in company if row.shows not in used[row.name][1]] == []
    table.add_company(len(extensions))


def test_the_loader_and_its_emulation_agree_on_every_module(
    cluster: Cluster, package_images: PackageImages, table: Table, linked: tuple[str, ...]
) -> None:
    """With what the modules need, without it, and with older libraries in its place."""
    extensions = mounted(package_images, table, (*linked, "old_libraries"))
    system = ":".join(f"/extensions/{name}/system" for name in linked)
    old = f"/extensions/old_libraries/system:{system}"
    container = cluster.run(
        "--user=0:0",
        f"--volume={CHECKOUT}:/checkout:ro",
        "--entrypoint=/opt/instance-manager/bin/python",
        extensions=extensions,
        command=("-c", programs.LOADERS, "", system, old),
    )

    code = container.wait(LOADER_SECONDS)

    assert code == 0, container.logs()
    found = json.loads(container.logs())
    # The old libraries lack versions, which says it all. The loader then leaves out symbols that
    # no relocation asks for, and asks for others by their version.
    said = [line for line in found[old] if ": symbols: " not in line]
    assert [*found[""], *found[system], *said] == []
    assert found["packages"] >= (60 if linked == ("packages",) else len(linked))
    table.add_loader(found["packages"], found["modules"])
