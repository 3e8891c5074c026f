"""What is read of the databases of a real server, whatever their owners put there."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest

from instance_manager.databases.facts import Database, Installed, Library, Override, Reading
from instance_manager.databases.reading import Place, Reader, Renewal
from tests.support.manager import Manager, until
from tests.support.sql_extensions import write


def reader_of(manager: Manager, user: str = "postgres", renewal: Renewal | None = None) -> Reader:
    """Return a reader of the server that a manager runs."""
    return Reader(Place(Path("127.0.0.1"), manager.port, user, 18), renewal or Renewal())


def read(manager: Manager) -> Reading:
    """Read the server that a manager runs."""
    found = asyncio.run(reader_of(manager).read())
    assert found is not None
    return found


def of(reading: Reading, name: str) -> Database:
    """Return one database of a reading."""
    return next(each for each in reading.inventory.databases if each.name == name)


@pytest.fixture
def running(manager: Manager) -> Manager:
    """Return a manager whose volumes are a copy that a test may spoil."""
    root = manager.directory / "extensions"
    subprocess.run(["cp", "-a", manager.server.extensions, root], check=True)
    manager.settings["extensions"]["root"] = str(root)
    return manager.trust().start().until_ready()


def test_every_database_says_its_extensions_and_libraries(running: Manager) -> None:
    """Templates too, where they allow connections; an access method names its library."""
    running.query("CREATE DATABASE app")
    running.query("CREATE SCHEMA things", dbname="app")
    running.query("CREATE EXTENSION vector SCHEMA things", dbname="app")
    reading = read(running)
    app = of(reading, "app")

    assert [each.name for each in reading.inventory.databases] == ["app", "postgres", "template1"]
    assert app.extensions is not None
    assert app.libraries is not None
    vector = next(each for each in app.extensions if each.name == "vector")
    assert vector == Installed("vector", vector.version, "things")
    library = next(each for each in app.libraries if each.extension == "vector")
    assert library == Library("$libdir/vector", "vector", ("hnsw", "ivfflat"), ())
    assert Library("$libdir/plpgsql", "plpgsql", (), ("plpgsql",)) in app.libraries
    assert of(reading, "template1").problems == ()
    assert reading.available is not None
    assert {each.name for each in reading.available} >= {"plpgsql", "vector"}
    assert reading.problems == ()


def test_what_an_older_version_can_be_updated_to_is_read(running: Manager) -> None:
    """Each target has the versions on its way, from the installed one."""
    running.query("CREATE EXTENSION vector")
    running.query("UPDATE pg_extension SET extversion = '0.7.0' WHERE extname = 'vector'")
    updates = read(running).updates["vector", "0.7.0"]

    assert updates is not None
    assert all(each.path[0] == "0.7.0" and each.path[-1] == each.target for each in updates)
    assert "0.8.0" in {each.target for each in updates}


def lead(reading: Reading, name: str, version: str) -> set[str] | None:
    """Return the versions that an installed one can be updated to."""
    updates = reading.updates[name, version]
    return None if updates is None else {each.target for each in updates}


def test_a_script_that_comes_or_goes_between_known_versions_is_seen(running: Manager) -> None:
    """A volume that lacked a path is mended, and the server goes on; so does the reader."""
    scripts = {"1.0": "SELECT 1;", "1.1": "SELECT 1;"}
    root = Path(running.settings["extensions"]["root"])
    write(root, "toy", scripts, volume="pgvector")
    running.query("CREATE EXTENSION toy VERSION '1.0'")
    # At each reading: how long the first one took on a host with other work tells nothing here.
    reader = reader_of(running, renewal=Renewal(share=0))
    with asyncio.Runner() as runner:

        def leads() -> set[str] | None:
            found = runner.run(reader.read())
            assert found is not None
            return lead(found, "toy", "1.0")

        assert leads() == set()
        write(root, "toy", {"1.0--1.1": "SELECT 1;"}, volume="pgvector")
        assert leads() == {"1.1"}
        (root / "pgvector/share/extension/toy--1.0--1.1.sql").unlink()
        assert leads() == set()


def test_each_path_has_its_turn_where_there_is_not_the_time_for_all(running: Manager) -> None:
    """Those whose names come first don't take it each time."""
    root = Path(running.settings["extensions"]["root"])
    names = ("alpha", "beta", "gamma")
    for name in names:
        write(root, name, {"1.0": "SELECT 1;", "1.1": "SELECT 1;"}, volume="pgvector")
        running.query(f"CREATE EXTENSION {name} VERSION '1.0'")
    # One at each reading: the time is over after the first.
    reader = reader_of(running, renewal=Renewal(share=0, seconds=1e-9))
    with asyncio.Runner() as runner:

        def known() -> list[str]:
            found = runner.run(reader.read())
            assert found is not None
            return [name for name in names if lead(found, name, "1.0")]

        assert known() == []
        for name in names:
            write(root, name, {"1.0--1.1": "SELECT 1;"}, volume="pgvector")

        assert [known() for _ in names] == [["alpha"], ["alpha", "beta"], [*names]]


def test_paths_that_cost_the_server_much_are_not_asked_for_at_each_reading(
    running: Manager,
) -> None:
    """Where versions are many: what was told is good for many times as long as it took."""
    scripts = {"0": "SELECT 1;"} | {f"{each}--{each + 1}": "SELECT 1;" for each in range(20)}
    root = Path(running.settings["extensions"]["root"])
    write(root, "toy", scripts, volume="pgvector", default_version="0")
    running.query("CREATE EXTENSION toy")
    # The manager itself reads once a minute, and is not to be counted.
    running.query("CREATE ROLE counted SUPERUSER LOGIN")
    running.query("ALTER ROLE counted SET log_min_duration_statement = 0")
    # However long the host takes for the readings in between.
    reader = reader_of(running, "counted", Renewal(share=1e9))
    with asyncio.Runner() as runner:
        readings = [runner.run(reader.read()) for _ in range(3)]

    ends = [lead(each, "toy", "0") for each in readings if each is not None]
    assert ends == [{str(each) for each in range(1, 21)}] * 3
    running.query("DO $$ BEGIN RAISE LOG 'the last line'; END $$")
    until(lambda: "the last line" in running.logged(), "the log is whole")
    asked = [
        line
        for line in running.logged().splitlines()
        if "pg_extension_update_paths" in line and " execute " in line
    ]
    assert len(asked) == 1, asked


def test_a_broken_control_file_hides_only_what_is_available(running: Manager) -> None:
    """The view of the whole server fails; what is installed is read all the same."""
    running.query("CREATE EXTENSION vector")
    volume = Path(running.settings["extensions"]["root"]) / "pgvector"
    (volume / "share" / "extension" / "broken.control").write_text("magic_sauce = 'yes'\n")
    reading = read(running)

    assert reading.available is None
    assert any("magic_sauce" in each for each in reading.problems)
    assert {each.name for each in of(reading, "postgres").extensions or ()} >= {"vector"}


def test_a_vanished_library_does_not_hide_who_needs_it(running: Manager) -> None:
    """Catalogs are read with the server's own functions alone."""
    running.query("CREATE EXTENSION vector")
    shutil.rmtree(Path(running.settings["extensions"]["root"]) / "pgvector")
    database = of(read(running), "postgres")

    assert any(each.name == "$libdir/vector" for each in database.libraries or ())
    assert database.problems == ()


TRAPS = """
CREATE SCHEMA trap;
CREATE TABLE trap.ran (what text);
CREATE FUNCTION trap.aggregated(text) RETURNS text LANGUAGE plpgsql AS
 $$ BEGIN INSERT INTO trap.ran VALUES ('view'); RETURN $1; END $$;
CREATE FUNCTION trap.split_part(text, text, int) RETURNS text LANGUAGE plpgsql AS
 $$ BEGIN INSERT INTO trap.ran VALUES ('function'); RETURN ''; END $$;
CREATE TABLE trap.pg_extension (extname text);
CREATE VIEW trap.pg_proc AS SELECT trap.aggregated('x') AS probin;
CREATE FUNCTION trap.login() RETURNS event_trigger LANGUAGE plpgsql AS
 $$ BEGIN INSERT INTO trap.ran VALUES ('login'); RAISE 'nobody'; END $$;
ALTER DATABASE postgres SET search_path = trap, pg_catalog;
ALTER ROLE postgres SET search_path = trap, pg_catalog;
ALTER DATABASE postgres SET session_preload_libraries = 'nowhere';
ALTER ROLE ALL SET dynamic_library_path = '/elsewhere';
CREATE EVENT TRIGGER trap ON login EXECUTE FUNCTION trap.login();
ALTER EVENT TRIGGER trap ENABLE ALWAYS;
"""
"""A login trigger, look-alikes of the catalog, and a library that can't be loaded."""


def test_what_an_owner_put_in_the_way_is_not_run(running: Manager) -> None:
    """The database is read as if nothing of it were there."""
    running.query(TRAPS)
    reading = read(running)

    assert of(reading, "postgres").problems == ()
    assert {each.name for each in of(reading, "postgres").extensions or ()} == {"plpgsql"}
    assert reading.inventory.overrides == (
        Override("session_preload_libraries", "nowhere", "postgres", None),
        Override("dynamic_library_path", "/elsewhere", None, None),
    )
    look = "-c event_triggers=off -c session_preload_libraries= -c search_path=pg_catalog"
    assert running.query("SELECT * FROM trap.ran", options=look) == []


def test_a_database_that_can_not_be_entered_is_said_and_the_rest_is_read(
    running: Manager,
) -> None:
    """Its directory is gone; so are the reasons to believe that it uses nothing."""
    running.query("CREATE DATABASE lost")
    (oid,) = running.query("SELECT oid FROM pg_database WHERE datname = 'lost'")[0]
    running.query("CHECKPOINT")
    shutil.rmtree(running.data / "base" / str(oid))
    reading = read(running)
    lost = of(reading, "lost")

    assert (lost.extensions, lost.libraries) == (None, None)
    assert lost.problems
    assert of(reading, "postgres").extensions


def test_a_lock_on_a_catalog_delays_a_reading_and_nothing_else(running: Manager) -> None:
    """A database whose catalog is locked is given up after a second, and said."""
    with running.sql() as holder:
        holder.execute("BEGIN")
        holder.execute("LOCK TABLE pg_extension IN ACCESS EXCLUSIVE MODE")
        locked = of(read(running), "postgres")

    assert locked.extensions is None
    assert any("lock timeout" in each for each in locked.problems)
    assert until(lambda: of(read(running), "postgres").extensions, "it is read again")


def test_nothing_is_read_where_nobody_answers(tmp_path: Path) -> None:
    """No server is no reading, and no error."""
    reader = Reader(Place(tmp_path, 1, "postgres", 18))

    assert asyncio.run(reader.read()) is None
