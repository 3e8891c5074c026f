"""The main job: from an empty directory to a query that uses an extension from a volume."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.support.manager import Manager, until


def test_an_empty_directory_becomes_a_server_with_a_usable_extension(manager: Manager) -> None:
    """From nothing, ``CREATE EXTENSION vector`` and a query through an index work."""
    manager.trust().start().until_ready()
    with manager.sql() as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute("CREATE TABLE items (id int, embedding vector(3))")
        connection.execute("INSERT INTO items VALUES (1, '[1,0,0]'), (2, '[0,1,0]')")
        connection.execute("CREATE INDEX ON items USING hnsw (embedding vector_l2_ops)")
        nearest = connection.execute(
            "SELECT id FROM items ORDER BY embedding <-> '[0,0.9,0]' LIMIT 1"
        ).fetchone()

    assert nearest == (2,)
    assert manager.end() == 0


def test_the_composed_paths_are_those_of_the_volume(manager: Manager) -> None:
    """The API shows what the server runs with, to the letter."""
    manager.trust().start().until_ready()
    root = manager.server.extensions
    code, report = manager.ask("GET", "/v1/extensions")

    assert code == 200
    composed = report["composed"]
    assert composed["extension_control_path"] == f"$system:{root}/pgvector/share"
    assert composed["dynamic_library_path"] == f"$libdir:{root}/pgvector/lib"
    assert composed["ld_library_path"] == ""
    assert [(volume["name"], volume["state"]) for volume in report["volumes"]] == [
        ("pgvector", "ready")
    ]
    assert manager.query("SHOW extension_control_path") == [(composed["extension_control_path"],)]
    assert manager.query("SHOW dynamic_library_path") == [(composed["dynamic_library_path"],)]
    until(
        lambda: manager.ask("GET", "/v1/extensions")[1]["running"] == composed,
        "the live postmaster runs with what was composed",
    )


def test_data_is_kept_over_a_restart_of_the_manager(manager: Manager) -> None:
    """A second start finds the cluster that the first one made."""
    manager.trust().start().until_ready()
    manager.query("CREATE TABLE kept AS SELECT 42 AS answer")
    first = manager.until_phase("running")["postgres"]["system_identifier"]
    assert manager.end() == 0
    manager.start().until_ready()

    assert manager.query("SELECT answer FROM kept") == [(42,)]
    assert manager.until_phase("running")["postgres"]["system_identifier"] == first


def test_the_status_tells_what_runs(manager: Manager) -> None:
    """Version, process, role and condition are those of the live server."""
    manager.trust().start().until_ready()
    pid = int((manager.data / "postmaster.pid").read_text().splitlines()[0])

    def complete() -> bool:
        status = manager.status()
        return status is not None and status["postgres"]["role"] is not None

    until(complete, "the observer has read the facts")
    status = manager.until_phase("running")
    postgres = status["postgres"]
    assert (postgres["pid"], postgres["port"], postgres["role"]) == (pid, manager.port, "primary")
    assert postgres["version"].startswith("18.")
    assert postgres["timeline"] == 1
    assert status["configuration"]["loaded"] is True
    assert status["instance"]["name"] == "test"
    ready = {one["type"]: one["status"] for one in status["conditions"]}
    assert ready["Ready"] == "True"


def test_the_probes_are_answered_while_the_cluster_is_made(manager: Manager) -> None:
    """From the first moment livez says ok, and readyz is not true before postgres is."""
    scripts = manager.directory / "init"
    scripts.mkdir()
    (scripts / "1.sql").write_text("SELECT pg_sleep(3600)")
    manager.trust().start()
    manager.until_phase("initializing")

    assert manager.probe("livez")[0] == 200
    assert manager.probe("startupz")[0] == 200
    assert manager.probe("readyz")[0] == 503
    assert manager.end() == 0


def test_every_line_of_the_log_is_an_object_and_postgres_speaks_in_records(
    manager: Manager,
) -> None:
    """Standard output carries JSON lines: the manager's, and the server's own records."""
    manager.trust().start().until_ready()
    manager.query("DO $$ BEGIN RAISE WARNING 'a warning of the test'; END $$")
    until(lambda: "a warning of the test" in manager.logged(), "the server's warning is passed on")
    warning = next(
        line for line in manager.records() if line["message"] == "a warning of the test"
    )

    assert (warning["logger"], warning["level"]) == ("postgres", "warning")
    assert isinstance(warning["record"]["pid"], int)
    assert manager.end() == 0
    assert all({"ts", "level", "logger", "message"} <= line.keys() for line in manager.records())


def test_nothing_is_written_but_in_the_places_of_the_contract(manager: Manager) -> None:
    """In the data directory one directory is ours, and one line in postgresql.conf."""
    manager.trust().start().until_ready()
    lines = (manager.data / "postgresql.conf").read_text().splitlines()

    assert lines[-1] == "include_if_exists 'instance-manager/postgresql.conf'"
    assert sum("instance-manager" in line for line in lines) == 1
    ours = {entry.name for entry in manager.data.iterdir()} - CLUSTER
    assert ours == {"instance-manager", "postmaster.opts", "postmaster.pid", "current_logfiles"}
    assert not any(
        "instance-manager" in text(manager.data / name)
        for name in ("pg_hba.conf", "pg_ident.conf")
    )


def test_without_volumes_the_server_starts(manager: Manager) -> None:
    """A root that is not there is no volumes, and no error."""
    manager.settings["extensions"]["root"] = str(manager.directory / "nowhere")
    manager.trust().start().until_ready()
    _, report = manager.ask("GET", "/v1/extensions")

    assert report["volumes"] == []
    assert report["composed"]["extension_control_path"] == "$system"
    assert report["composed"]["dynamic_library_path"] == "$libdir"


def test_a_broken_volume_is_quarantined_and_the_rest_starts(manager: Manager) -> None:
    """A library for another machine is left out, and status, check and log say why."""
    root = manager.directory / "extensions"
    subprocess.run(["cp", "-a", manager.server.extensions, root], check=True)
    subprocess.run(["cp", "-a", root / "pgvector", root / "foreign"], check=True)
    for entry in (root / "foreign" / "share" / "extension").iterdir():
        entry.rename(entry.with_name(entry.name.replace("vector", "other")))
    library = root / "foreign" / "lib" / "vector.so"
    content = bytearray(library.read_bytes())
    content[18:20] = (183).to_bytes(2, "little")  # EM_AARCH64, elf(5)
    library.write_bytes(content)
    manager.settings["extensions"]["root"] = str(root)
    manager.trust().start().until_ready()
    status = manager.until_phase("running")

    assert status["extensions"]["ready"] == 1
    assert status["extensions"]["quarantined"] == 1
    assert "foreign" not in manager.query("SHOW dynamic_library_path")[0][0]
    assert any(line.get("code") == "EXT031" for line in manager.records())
    checked = manager.run("check", "--output", "json")
    assert checked.returncode == 3
    volumes = {one["name"]: one for one in json.loads(checked.stdout)["volumes"]}
    assert volumes["foreign"]["state"] == "quarantined"
    assert [one["code"] for one in volumes["foreign"]["findings"] if one["severity"] == "error"]


def test_a_volume_whose_name_has_a_colon_is_a_finding_and_the_rest_starts(
    manager: Manager,
) -> None:
    """What could split a search path is never composed."""
    root = manager.directory / "extensions"
    subprocess.run(["cp", "-a", manager.server.extensions, root], check=True)
    (root / "pgvector").rename(root / "a:b")
    manager.settings["extensions"]["root"] = str(root)
    manager.trust().start().until_ready()
    _, report = manager.ask("GET", "/v1/extensions")

    codes = [one["code"] for volume in report["volumes"] for one in volume["findings"]]
    assert "EXT005" in codes + [one["code"] for one in report["findings"]]
    assert report["composed"]["dynamic_library_path"] == "$libdir"


def text(path: Path) -> str:
    """Return the text of a file."""
    return path.read_text(encoding="utf-8")


CLUSTER = {
    *("PG_VERSION", "base", "global", "pg_commit_ts", "pg_dynshmem", "pg_hba.conf"),
    *("pg_ident.conf", "pg_logical", "pg_multixact", "pg_notify", "pg_replslot", "pg_serial"),
    *("pg_snapshots", "pg_stat", "pg_stat_tmp", "pg_subtrans", "pg_tblspc", "pg_twophase"),
    *("pg_wal", "pg_xact", "postgresql.auto.conf", "postgresql.conf"),
}
"""What initdb makes; the manual, "Database File Layout"."""
