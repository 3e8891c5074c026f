"""The builder on real packages: each image built, judged, and used in a server.

With ``--matrix`` all rows are tried and their part of the page on compatibility is written; else
a sample.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.container.conftest import CHECKOUT, CONFINED, PREFIX, Images, Podman
from tests.support import built_table
from tests.support.built_rows import BUILT, BuiltRow
from tests.support.built_table import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

CACHE: Final = CHECKOUT / ".cache" / "extension-build"
BUILD_SECONDS: Final = 600
TEST_SECONDS: Final = 600
USAGE: Final = 2
ROWS: Final = {row.name: row for row in BUILT}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Take all rows, or the sample."""
    if "built_row" in metafunc.fixturenames:
        is_whole = metafunc.config.getoption("--matrix")
        rows = [row for row in BUILT if is_whole or row.sample]
        metafunc.parametrize("built_row", rows, ids=lambda row: row.name)


class Builder:
    """Builds images of rows, each once, and takes all away at the end."""

    def __init__(self, podman: Podman, base: str, scratch: Path) -> None:
        self.podman = podman
        self.base = base
        self._scratch = scratch
        self._has_lists = False
        self._done: dict[str, tuple[str, Any]] = {}
        self._made: list[str] = []

    def build(self, row: BuiltRow) -> tuple[str, Any]:
        """Return the image and the summary of the build; no image, and why, if there is none."""
        if row.name not in self._done:
            self._done[row.name] = self._build(row)
        return self._done[row.name]

    def _build(self, row: BuiltRow) -> tuple[str, Any]:
        layout = self._scratch / row.name
        done = subprocess.run(
            [
                *(sys.executable, "-m", "instance_manager", "extension", "build"),
                *(f"--package={row.package}", f"--base={self.base}", f"--output={layout}"),
                *(f"--cache={CACHE}", f"--name={row.name}", "--format=json"),
                # The mirror of a host may stand still for longer than its lists are valid.
                "--apt-option=Acquire::Check-Valid-Until=false",
                *(("--no-update",) if self._has_lists else ()),
                *(f"--preload={library}" for library in row.preload),
                *row.options,
            ],
            check=False,
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        )
        assert done.returncode != USAGE, done.stderr
        if done.returncode != 0:
            return "", done.stderr.strip()
        self._has_lists = True
        pulled = self.podman("pull", "--quiet", f"oci:{layout}", seconds=300).checked().out
        image = f"{PREFIX}/built/{row.name}:{os.getpid()}"
        self.podman("tag", pulled.split()[-1], image).checked()
        self._made.extend((image, pulled.split()[-1]))
        shutil.rmtree(layout)
        return image, json.loads(done.stdout)

    def remove(self) -> None:
        """Remove all images."""
        for image in self._made:
            self.podman("rmi", "--force", image)


@pytest.fixture(scope="module")
def builder(
    podman: Podman, images: Images, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Builder]:
    """Yield the builder; the page is written at the end, where each row has an outcome."""
    builder = Builder(podman, images.operand, tmp_path_factory.mktemp("built"))
    yield builder
    builder.remove()


@pytest.fixture(scope="module")
def page(request: pytest.FixtureRequest) -> Iterator[None]:
    """Write the page once every row was tried."""
    yield
    if request.config.getoption("--matrix"):
        built_table.write_page()


def tried(builder: Builder, row: BuiltRow, image: str) -> Any:
    """Return what ``extension test`` says of an image that is mounted."""
    mounted = {row.name: image, **{name: builder.build(ROWS[name])[0] for name in row.beside}}
    done = builder.podman(
        *("run", "--rm", *CONFINED, "--entrypoint=instance-manager"),
        *(
            f"--mount=type=image,src={each},dst=/extensions/{name}"
            for name, each in mounted.items()
        ),
        *(builder.base, "extension", "test", "--output=json"),
        *(f"--with=/extensions/{name}" for name in row.beside),
        *(f"--parameter={each}" for each in row.parameters),
        *(f"--sql={each}" for each in row.sql),
        f"/extensions/{row.name}",
        seconds=TEST_SECONDS,
    )
    assert done.code != USAGE, done.error
    (result,) = json.loads(done.out)["items"]
    return result


def outcome_of(builder: Builder, row: BuiltRow) -> Outcome:
    """Build, judge and use one row's package."""
    image, summary = builder.build(row)
    if not image:
        return Outcome(row.package, built=f"no: {summary.removeprefix('instance-manager: ')}")
    result = tried(builder, row, image)
    return Outcome(
        row.package,
        version=summary["version"],
        size=summary["size_bytes"],
        compressed=summary["compressed_bytes"],
        libraries=tuple(each["name"] for each in summary["libraries"]),
        beside=row.beside,
        preload=row.preload,
        built="yes",
        preflight=preflight_of(result["findings"]),
        used=used_of(result),
        works=result["verdict"] == "good",
    )


def preflight_of(findings: Sequence[dict[str, str]]) -> str:
    """Return what was found, in short: errors in words, of all else the codes."""
    errors = [f"{each['code']} {each['message']}" for each in findings if is_error(each)]
    others = sorted({each["code"] for each in findings if not is_error(each)})
    return "; ".join(errors) or (f"good ({', '.join(others)})" if others else "good")


def is_error(finding: dict[str, str]) -> bool:
    """Return whether a server would refuse the volume."""
    return finding["severity"] == "error"


def used_of(result: dict[str, Any]) -> str:
    """Return what came of the use: the steps that failed, or how many extensions there were."""
    if result["verdict"] == "refused":
        return "-"
    failed = [
        f"no: {subject['kind']} {subject['name']}, {step['name']}: {step['detail']}"
        for subject in result["subjects"]
        for step in subject["steps"]
        if step["outcome"] == "failed"
    ]
    if failed:
        return failed[0]
    kinds = [subject["kind"] for subject in result["subjects"]]
    updated = sum(
        step["name"] == "update" and step["outcome"] == "passed"
        for subject in result["subjects"]
        for step in subject["steps"]
    )
    texts = [f"yes: {kinds.count('extension')} extensions"]
    texts += [f"{updated} updated"] if updated else []
    texts += [f"{kinds.count('module')} modules loaded"] if "module" in kinds else []
    return ", ".join(texts)


def test_an_image_that_the_builder_makes_of_a_package_works(
    builder: Builder, page: None, built_row: BuiltRow
) -> None:
    """Or it fails for the reason that is known of it."""
    built_table.forget(built_row)

    outcome = outcome_of(builder, built_row)

    if built_row.reason:
        assert built_row.reason in outcome.said
        assert not outcome.works
    else:
        assert outcome.works, outcome.said
    built_table.keep(outcome)
