"""PostGIS from one real version to the next: the volume is another one, all else stays.

Both images are made by the builder, for the same operand: of Debian forky, and of sid, whose
libraries come from forky where forky has what is needed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

from tests.container.conftest import CHECKOUT, PREFIX, Cluster, Images, Podman
from tests.support.manager import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.container.conftest import Operand

CACHE: Final = CHECKOUT / ".cache" / "extension-build"
PACKAGE: Final = "postgresql-18-postgis-3"
BUILD_SECONDS: Final = 800
INSTALLED: Final = "SELECT extversion FROM pg_extension WHERE extname = '{}'"
# Only PostGIS itself is newer than what the operand's suite has.
SOURCES: Final = r"""
FROM {operand}
USER 0
RUN mirror=$(sed -nE 's/^(URIs:|deb( +\[.*\])?) +([^ ]+).*/\3/p' \
        /etc/apt/sources.list /etc/apt/sources.list.d/* 2> /dev/null | head -n 1) && \
    key=/usr/share/keyrings/debian-archive-keyring.gpg && \
    echo "deb [signed-by=$key] $mirror sid main" > /etc/apt/sources.list.d/sid.list && \
    printf 'Package: %s\nPin: release n=sid\nPin-Priority: %s\n\n' \
        'postgresql-18-postgis-3*' 990 '*' 100 > /etc/apt/preferences.d/sid
"""
CLIENT: Final = """
import asyncio, json, sys
from pathlib import Path
from instance_manager.client import Client
async def main(call, *arguments):
    async with Client.unix(Path("/run/instance-manager/control.sock")) as client:
        answer = await getattr(client, call)(*arguments, **json.loads(sys.argv[1]))
        print(answer.model_dump_json())
asyncio.run(main(*sys.argv[2:]))
"""
PREPARE: Final = """
CREATE EXTENSION postgis;
CREATE EXTENSION postgis_raster;
CREATE EXTENSION postgis_topology;
CREATE TABLE places (id int PRIMARY KEY,
    shape geometry(Geometry, 4326), at geography, area raster);
INSERT INTO places SELECT n,
    ST_Buffer(ST_SetSRID(ST_Point(n / 10.0, n / 20.0), 4326), 1, 2),
    ST_SetSRID(ST_Point(n / 10.0, n / 20.0), 4326)::geography,
    ST_AddBand(ST_MakeEmptyRaster(4, 4, n, n, 1), '8BUI'::text, n, 0)
    FROM generate_series(1, 200) n;
CREATE INDEX places_shape ON places USING gist (shape);
CREATE VIEW nearby AS SELECT a.id, count(*) AS others FROM places a
    JOIN places b ON ST_DWithin(a.at, b.at, 50000) GROUP BY a.id;
"""
SEEN: Final = """
SELECT md5(string_agg(concat_ws('|', id, ST_AsEWKT(shape, 6), ST_AsEWKT(at::geometry, 6),
    round(ST_Area(shape::geography)), ST_Value(area, 1, 1),
    ST_AsText(ST_Transform(shape, 3857), 1)), ',' ORDER BY id)),
    count(*) FILTER (WHERE shape && ST_MakeEnvelope(0, 0, 5, 5, 4326)),
    (SELECT sum(others) FROM nearby) FROM places
"""


class Volume(NamedTuple):
    """An image of PostGIS, and the version of the extension in it."""

    image: str
    version: str


def built(podman: Podman, base: str, output: Path) -> Volume:
    """Build an image of the newest PostGIS that the base's sources have."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "instance_manager", "extension", "build"),
            *(f"--package={PACKAGE}", "--name=postgis", f"--base={base}", f"--output={output}"),
            # The mirror of a host may stand still for longer than its lists are valid.
            *(f"--cache={CACHE}", "--apt-option=Acquire::Check-Valid-Until=false"),
            "--format=json",
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert [each for each in summary["findings"] if each["severity"] == "error"] == []
    named = dict(one.rsplit(" ", 1) for one in summary["extensions"])
    identifier = podman("pull", "--quiet", f"oci:{output}", seconds=300).checked().out.split()[-1]
    shutil.rmtree(output)
    return Volume(identifier, named["postgis"])


@pytest.fixture
def volumes(podman: Podman, images: Images, tmp_path: Path) -> Iterator[tuple[Volume, Volume]]:
    """Yield PostGIS of the operand's suite, and that of sid."""
    sources = f"{PREFIX}/newer-sources:{os.getpid()}"
    (tmp_path / "Dockerfile").write_text(SOURCES.replace("{operand}", images.operand))
    limits = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=10000:10000")
    made = [sources]
    try:
        podman(
            *("build", "--quiet", "--pull=never", "--network=none", *limits),
            *(f"--tag={sources}", str(tmp_path)),
        ).checked()
        old = built(podman, images.operand, tmp_path / "old")
        made.append(old.image)
        new = built(podman, sources, tmp_path / "new")
        made.append(new.image)
        yield old, new
    finally:
        for image in reversed(made):
            podman("rmi", "--force", image)


def ask(operand: Operand, call: str, *arguments: str, **options: Any) -> Any:
    """Return what a call of our client answers, within the container."""
    python = ("/opt/instance-manager/bin/python", "-I", "-c", CLIENT, json.dumps(options))
    done = operand.podman("exec", operand.name, *python, call, *arguments, seconds=300)
    return json.loads(done.checked().out)


def known(operand: Operand) -> Any:
    """Return what the API tells of PostGIS in the database, once it was read."""

    def read() -> Any:
        told = ask(operand, "databases")
        if told["read_at"] is None:
            return None
        items = ask(operand, "database_extensions", "postgres")["items"]
        return next(each for each in items if each["name"] == "postgis")

    return until(read, "the databases were read")


def test_postgis_is_updated_by_changing_the_volume_only(
    cluster: Cluster, volumes: tuple[Volume, Volume]
) -> None:
    """The API tells the path; rehearsed, updated, and the data are what they were."""
    old, new = volumes
    if old.version == new.version:
        pytest.skip(f"both suites have PostGIS {old.version} now")
    data = cluster.volume()
    before = cluster.run(data=data, extensions={"postgis": old.image}).wait_ready()
    before.sql(PREPARE)
    seen = before.sql(SEEN)
    assert before.stop()[0] == 0

    operand = cluster.run(data=data, extensions={"postgis": new.image}).wait_ready()

    # The old scripts' functions find what they name in the new library.
    assert operand.sql(SEEN) == seen
    assert f'procs from "{old.version}' in operand.sql("SELECT postgis_full_version()")
    told = known(operand)
    assert (told["installed_version"], told["default_version"]) == (old.version, new.version)
    paths = {each["target"]: each["path"] for each in told["updates"]}
    assert (paths[new.version][0], paths[new.version][-1]) == (old.version, new.version)

    rehearsal = ask(operand, "rehearse_update", "postgres", "postgis")
    assert (rehearsal["outcome"], rehearsal["rolled_back"]) == ("succeeded", True)
    assert rehearsal["to_version"] == new.version
    assert operand.sql(INSTALLED.format("postgis")) == old.version

    for extension in ("postgis", "postgis_raster", "postgis_topology"):
        done = ask(operand, "update_extension", "postgres", extension, wait_seconds=60)
        assert done["state"] == "succeeded", done
        assert operand.sql(INSTALLED.format(extension)) == new.version

    full = operand.sql("SELECT postgis_full_version()")
    assert f'POSTGIS="{new.version}' in full
    assert "need upgrade" not in full
    assert operand.sql(SEEN) == seen
    assert operand.sql("REINDEX TABLE places; SELECT count(*) FROM nearby") == "200"
    until(lambda: known(operand)["installed_version"] == new.version, "the API tells the update")
