"""Images that ``extension build`` makes of real packages, mounted in a real server.

With ``--matrix`` PostGIS and others too: they take minutes where nothing is in the cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.container.conftest import CHECKOUT, PREFIX, Cluster, Images, Operand, Podman

BUILD_SECONDS: Final = 600
CACHE: Final = CHECKOUT / ".cache" / "extension-build"


class Built(NamedTuple):
    """A package, what its image is used for, and what it may weigh."""

    name: str
    package: str
    statements: tuple[tuple[str, str], ...]
    preload: tuple[str, ...] = ()
    parameters: tuple[tuple[str, str], ...] = ()
    most_bytes: int = 0
    most_compressed: int = 0


PGVECTOR: Final = Built(
    "pgvector",
    "postgresql-18-pgvector",
    (
        ("CREATE EXTENSION vector", ""),
        ("SELECT '[1,2]'::vector <-> '[1,5]'", "3"),
    ),
    most_bytes=400_000,
    most_compressed=400_000,
)
CRON: Final = Built(
    "pg_cron",
    "postgresql-18-cron",
    (
        ("CREATE EXTENSION pg_cron", ""),
        ("SELECT cron.schedule('x', '* * * * *', 'SELECT 1')", "1"),
    ),
    preload=("pg_cron",),
    parameters=(("cron.database_name", "postgres"),),
)
HTTP: Final = Built(
    "http",
    "postgresql-18-http",
    (("CREATE EXTENSION http", ""), ("SELECT urlencode('a b')", "a+b")),
)
POSTGIS: Final = Built(
    "postgis",
    "postgresql-18-postgis-3",
    (
        ("CREATE EXTENSION postgis", ""),
        ("CREATE EXTENSION postgis_raster", ""),
        ("CREATE EXTENSION postgis_sfcgal", ""),
        ("CREATE EXTENSION fuzzystrmatch", ""),
        ("CREATE EXTENSION postgis_tiger_geocoder", ""),
        ("CREATE EXTENSION postgis_topology", ""),
        (
            (
                "SELECT v LIKE '%=/extensions/postgis/share/proj/%', v LIKE '%GDAL_DATA not%'"
                " FROM postgis_full_version() v"
            ),
            "t|f",
        ),
        ("SELECT round(ST_X(ST_Transform(ST_SetSRID(ST_Point(13.4,52.5),4326),3857)))", "1491681"),
        ("ALTER EXTENSION postgis UPDATE TO 'ANY'", ""),
        ("ALTER EXTENSION postgis UPDATE", ""),
    ),
    most_bytes=235_000_000,
    most_compressed=80_000_000,
)
PLTCL: Final = Built(
    "pltcl",
    "postgresql-pltcl-18",
    (
        ("CREATE EXTENSION pltcl", ""),
        ("CREATE FUNCTION one() RETURNS int LANGUAGE pltcl AS 'return 1'", ""),
        ("SELECT one()", "1"),
    ),
)
MYSQL: Final = Built(
    "mysql_fdw",
    "postgresql-18-mysql-fdw",
    (
        ("CREATE EXTENSION mysql_fdw", ""),
        ("SELECT mysql_fdw_version() > 0", "t"),
    ),
)
SAMPLE: Final = (PGVECTOR, CRON)
MORE: Final = (HTTP, POSTGIS, PLTCL, MYSQL)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Take all, or the sample."""
    if "package" in metafunc.fixturenames:
        chosen = (*SAMPLE, *MORE) if metafunc.config.getoption("--matrix") else SAMPLE
        metafunc.parametrize("package", chosen, ids=[each.name for each in chosen])


def build(package: Built, base: str, output: Path | str, *options: str) -> Any:
    """Build the image of a package; return the summary."""
    program = (sys.executable, "-m", "instance_manager", "extension", "build")
    # The mirror of a host may stand still for longer than its lists are valid.
    apt = "--apt-option=Acquire::Check-Valid-Until=false"
    given = (f"--base={base}", f"--output={output}", f"--cache={CACHE}", f"--name={package.name}")
    preload = (f"--preload={each}" for each in package.preload)
    done = subprocess.run(
        [
            *program,
            f"--package={package.package}",
            *given,
            apt,
            *preload,
            "--format=json",
            *options,
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def pulled(podman: Podman) -> Iterator[Any]:
    """Yield what makes an image of podman's from a layout, and takes all away after it."""
    names: list[str] = []

    def pull(package: Built, layout: Path) -> str:
        image = f"{PREFIX}/built/{package.name}:{os.getpid()}"
        identifier = podman("pull", "--quiet", f"oci:{layout}", seconds=300).checked().out.strip()
        podman("tag", identifier.splitlines()[-1], image).checked()
        names.extend((image, identifier.splitlines()[-1]))
        return image

    yield pull
    for name in names:
        podman("rmi", "--force", name)


def started(cluster: Cluster, package: Built, image: str) -> Operand:
    """Return a server with the image mounted, which uses what it brings."""
    prefix = "--env=INSTANCE_MANAGER_POSTGRES__"
    return cluster.run(
        f"{prefix}SHARED_PRELOAD_LIBRARIES={json.dumps(package.preload)}",
        f"{prefix}PARAMETERS={json.dumps(dict(package.parameters))}",
        extensions={package.name: image},
    ).wait_ready()


def test_an_image_of_a_package_works_in_a_server(
    cluster: Cluster, images: Images, pulled: Any, tmp_path: Path, package: Built
) -> None:
    """Built, taken by podman as it is, mounted, created, used; no finding is an error."""
    summary = build(package, images.operand, tmp_path / "layout")
    operand = started(cluster, package, pulled(package, tmp_path / "layout"))

    for statement, answer in package.statements:
        assert operand.sql(statement) == answer, statement

    report = operand.get_json("/v1/extensions")
    assert [each["state"] for each in report["volumes"]] == ["ready"]
    assert [
        each
        for volume in report["volumes"]
        for each in volume["findings"]
        if each["severity"] == "error" or each["code"] == "EXT061"
    ] == []
    if package.most_bytes:
        assert summary["size_bytes"] <= package.most_bytes
        assert summary["compressed_bytes"] <= package.most_compressed


def test_a_real_package_gives_the_same_digest_again(images: Images, tmp_path: Path) -> None:
    """Into another directory, and as an archive."""
    first = build(PGVECTOR, images.operand, tmp_path / "one")
    second = build(PGVECTOR, images.operand, f"oci-archive:{tmp_path / 'two'}", "--no-update")

    assert first["digest"] == second["digest"]
