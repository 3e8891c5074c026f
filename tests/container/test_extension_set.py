"""The set of images that ``make extensions`` builds: each alone, all together, and the flavour.

They are built once, by the same program and into the same place; what is there already is kept.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import yaml

from tests.container.conftest import CHECKOUT, PREFIX, Cluster, Images, Operand

OUTPUT: Final = CHECKOUT / "build/extensions"
LOADED: Final = f"{PREFIX}/set"
SECONDS: Final = 1700
pytestmark = pytest.mark.timeout(SECONDS)
FLAVOUR: Final = "geo"
LIBRARIES: Final = "gdal"
POINT: Final = "SELECT ST_AsText(ST_Transform('SRID=4326;POINT(13.4 52.5)'::geometry, 25833), 0)"
DRIVERS: Final = "SELECT 'CSV' IN (SELECT split_part(unnest(ogr_fdw_drivers()), ' ', 1))"
PARAMETERS: Final = {
    "wal_level": "logical",
    "cron.database_name": "postgres",
    "output_plugin_libraries": "pgoutput, wal2json",
}
CREATED: Final = (
    *("vector", "timescaledb", "pgaudit", "pg_cron", "http", "plpython3u"),
    *("postgis", "postgis_raster", "postgis_sfcgal", "postgis_topology", "ogr_fdw"),
)
USED: Final = (
    ("SELECT '[1,2]'::vector <-> '[1,5]'", "3"),
    ("CREATE TABLE m (at timestamptz NOT NULL); SELECT 1 FROM create_hypertable('m', 'at')", "1"),
    ("SHOW pgaudit.log", "none"),
    ("SHOW pg_failover_slots.synchronize_slot_names", "name_like:%%"),
    ("SELECT cron.schedule('x', '0 3 * * *', 'SELECT 1')", "1"),
    ("SELECT slot_name FROM pg_create_logical_replication_slot('s', 'wal2json')", "s"),
    ("SELECT urlencode('a b')", "a+b"),
    (POINT, "POINT(391391 5817855)"),
    (DRIVERS, "t"),
)


class Set(NamedTuple):
    """What came of the run: its exit code and table, the records, and the catalogue's entries."""

    code: int
    said: str
    records: dict[str, Any]
    entries: dict[str, Any]

    def image(self, name: str) -> str:
        """Return the image as podman has it."""
        return f"{LOADED}/{name}:{self.entries[name]['postgres_major']}"


@pytest.fixture(scope="session")
def built(images: Images) -> Set:
    """Build and test the set as a user would, and give it to podman."""
    program = (sys.executable, str(CHECKOUT / "docker/extensions/build.py"))
    options = (f"--base={images.operand}", f"--output={OUTPUT}", f"--load={LOADED}")
    # The mirror of a host may stand still for longer than its lists are valid.
    apt = "--apt-option=Acquire::Check-Valid-Until=false"
    done = subprocess.run(
        [*program, *options, apt],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    records = {place.name[1:-5]: json.loads(place.read_text()) for place in OUTPUT.glob(".*.json")}
    document = yaml.safe_load((OUTPUT / "catalogue.yaml").read_text())
    entries = {each["name"]: each for each in document["images"]}
    return Set(done.returncode, f"{done.stdout}\n{done.stderr}", records, entries)


def started(cluster: Cluster, built: Set, names: list[str], scratch: Path) -> Operand:
    """Return a server with these images, whose settings name the catalogue."""
    catalogue = scratch / "catalogue.yaml"
    catalogue.write_text((OUTPUT / "catalogue.yaml").read_text())
    catalogue.chmod(0o644)
    prefix = "--env=INSTANCE_MANAGER_"
    return cluster.run(
        f"--volume={catalogue}:/etc/catalogue.yaml:ro",
        f"{prefix}EXTENSIONS__CATALOGUE=/etc/catalogue.yaml",
        f"{prefix}EXTENSIONS__VOLUMES={json.dumps([{'name': name} for name in names])}",
        f"{prefix}POSTGRES__PARAMETERS={json.dumps(PARAMETERS)}",
        extensions={name: built.image(name) for name in names},
    ).wait_ready()


def findings(operand: Operand) -> list[dict[str, Any]]:
    """Return what is said of the volumes."""
    report = operand.get_json("/v1/extensions")
    return [*report["findings"], *(each for one in report["volumes"] for each in one["findings"])]


def test_each_image_of_the_set_is_good_alone(built: Set) -> None:
    """Built, created, used, updated and dropped in a server of its own, by one definition."""
    assert built.code == 0, built.said
    assert {each["verdict"] for each in built.records.values()} == {"good"}
    assert set(built.entries) == set(built.records) >= {"pgvector", FLAVOUR, LIBRARIES}
    assert {
        name for name, each in built.entries.items() if LIBRARIES in each.get("requires", ())
    } == {
        "postgis",
        "ogr-fdw",
    }
    # What they share is in none of them.
    assert built.records["ogr-fdw"]["size"] < 1_000_000
    assert built.records["postgis"]["size"] < 100_000_000 < built.records[LIBRARIES]["size"]


def test_a_second_run_builds_nothing(built: Set, images: Images) -> None:
    """All is as before; an image that is damaged is made anew, and nothing else."""
    command = [sys.executable, str(CHECKOUT / "docker/extensions/build.py"), "wal2json"]
    command += [f"--base={images.operand}", f"--output={OUTPUT}", f"--registry={LOADED}"]
    apt = "--apt-option=Acquire::Check-Valid-Until=false"
    (OUTPUT / "wal2json/index.json").write_text("{}")
    for told in ("wal2json: good\n", "wal2json: good as before\n"):
        done = subprocess.run(
            [*command, apt], capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert done.returncode == 0, done.stderr
        assert told in done.stderr
    assert built.code == 0


def test_the_set_works_together_in_one_server(
    cluster: Cluster, built: Set, tmp_path: Path
) -> None:
    """With every library that the images ask for loaded at the start, in an order that works."""
    names = sorted(set(built.entries) - {FLAVOUR})
    operand = started(cluster, built, names, tmp_path)

    loaded = operand.sql("SHOW shared_preload_libraries").split(",")
    assert {each.strip() for each in loaded} == {
        *("timescaledb", "pgaudit", "pg_failover_slots", "pg_cron")
    }
    for extension in CREATED:
        operand.psql(f"CREATE EXTENSION {extension} CASCADE").checked()
    for statement, answer in USED:
        assert operand.sql(statement) == answer, statement
    report = operand.get_json("/v1/extensions")
    assert {each["name"]: each["state"] for each in report["volumes"]} == dict.fromkeys(
        names, "ready"
    )
    assert [each for each in findings(operand) if each["severity"] == "error"] == []


def test_the_flavour_has_all_three_in_one_volume(
    cluster: Cluster, built: Set, tmp_path: Path
) -> None:
    """PostGIS, pgRouting and H3, with one copy of the libraries."""
    operand = started(cluster, built, [FLAVOUR], tmp_path)

    for extension in ("postgis_raster", "pgrouting", "h3_postgis"):
        operand.psql(f"CREATE EXTENSION {extension} CASCADE").checked()
    assert operand.sql(POINT) == "POINT(391391 5817855)"
    assert operand.sql("SELECT pgr_version() >= '4'") == "t"
    assert operand.sql("SELECT h3_latlng_to_cell(POINT(-122.4, 37.7), 5)").startswith("85")
    assert [each for each in findings(operand) if each["severity"] == "error"] == []


def test_who_lacks_the_shared_libraries_is_told_the_image(
    cluster: Cluster, built: Set, tmp_path: Path
) -> None:
    """Two images use those of a third; without it both are left out, and the hint names it."""
    operand = started(cluster, built, ["ogr-fdw", "postgis"], tmp_path)

    report = operand.get_json("/v1/extensions")
    assert [each["state"] for each in report["volumes"]] == ["quarantined", "quarantined"]
    hints = [each["hint"] for each in findings(operand) if each["code"] == "EXT015"]
    entry = built.entries[LIBRARIES]
    offered = f'mount {entry["image"]} of the catalogue as volume "{LIBRARIES}"'
    assert hints == [offered, offered]
    assert entry["digest"] in entry["image"]
