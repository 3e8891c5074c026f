"""Volumes that vanish or change while databases use them: told before, and what the server says.

The plain server is given the same data directory, once the manager has left it.
"""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from tests.support.manager import Manager, until
from tests.support.modules import Volumes
from tests.support.plain_server import PlainServer

MISSING = 'could not access file "{}": No such file or directory'


def operate(manager: Manager, verb: str) -> dict[str, Any]:
    code, operation = manager.ask("POST", f"/v1/postgres/{verb}", Prefer="wait=60")
    assert code == 200, operation
    assert isinstance(operation, dict)
    return operation


def restart(manager: Manager) -> None:
    """Have the databases read, which a stop does, and be sure that it was in time."""
    inventory = manager.data / "instance-manager" / "inventory.json"

    def is_read() -> bool:
        operate(manager, "stop")
        assert operate(manager, "start")["state"] == "succeeded"
        return inventory.exists() and "mod" in inventory.read_text()

    until(is_read, "the databases were read")


def refusal(manager: Manager) -> str:
    """Start the manager and return why it refuses to start postgres, which never ran."""
    manager.start()
    status = manager.until_phase("failed")
    assert status["failure"]["exit_code"] == 3
    assert status["postgres"]["restarts"] == 0
    assert manager.end() == 3
    return str(status["failure"]["message"])


@pytest.fixture
def volumes(manager: Manager) -> Volumes:
    """Return the volumes of a manager whose database uses ``mod-1``, of the volume ``mod``."""
    made = Volumes(manager)
    code = (made.libraries / "autoinc.so").read_bytes()
    made.module("mod", code, is_asked_for=False).rename(made.root / "mod" / "lib" / "mod-1.so")
    script = made.control("mod").with_name("mod--1.0.sql")
    script.write_text(
        "CREATE FUNCTION autoinc() RETURNS trigger AS '$libdir/mod-1' LANGUAGE C;"
        "CREATE TABLE numbers (a int);"
        "CREATE TRIGGER number BEFORE INSERT ON numbers FOR EACH ROW"
        " EXECUTE FUNCTION autoinc('a', 'sequence');"
    )
    manager.trust()
    return made


def plain_says(manager: Manager, statement: str, **parameters: str) -> str:
    """Return what a server without the manager says on the same data."""
    place = manager.directory / "plain"
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    plain = PlainServer(manager.server, place, manager.data)
    with plain.running(**parameters) as running:
        return running.said(statement)


def test_a_volume_that_vanished_is_missed_before_a_query_misses_it(
    manager: Manager, volumes: Volumes
) -> None:
    """Nothing of it is preloaded: the server itself would start, and its queries fail."""
    manager.start().until_ready()
    manager.query("CREATE EXTENSION mod")
    restart(manager)
    assert manager.end() == 0
    shutil.rmtree(volumes.root / "mod")

    expected = 'EXT070 database "postgres" uses extension "mod" 1.0 (library "mod-1")'
    assert expected in refusal(manager)
    assert MISSING.format("mod-1") in plain_says(
        manager, "INSERT INTO numbers VALUES (1)", dynamic_library_path="$libdir"
    )


def test_a_start_in_spite_of_it_still_says_what_is_missing(
    manager: Manager, volumes: Volumes
) -> None:
    """It runs and is ready; the volume that is not there is no secret."""
    manager.start().until_ready()
    manager.query("CREATE EXTENSION mod")
    restart(manager)
    assert manager.end() == 0
    shutil.rmtree(volumes.root / "mod")
    manager.start()
    manager.until_phase("failed")
    assert manager.run("start", "--ignore-inventory").returncode == 0
    manager.until_ready()
    status = manager.status()
    assert status is not None
    (usable,) = [one for one in status["conditions"] if one["type"] == "ExtensionsUsable"]

    assert (usable["status"], usable["reason"]) == ("False", "ErrorsFound")
    assert 'EXT070 error: database "postgres" uses' in manager.run("status").stdout


def test_a_reload_that_is_refused_does_not_speak_of_a_start(
    manager: Manager, volumes: Volumes
) -> None:
    """Nor does a restart: the server goes on, and it is said that it does."""
    manager.settings["extensions"]["volumes"] = [{"name": "mod", "required": True}]
    manager.start().until_ready()
    shutil.rmtree(volumes.root / "mod")

    for verb, doing in (("reload", "reload"), ("restart", "restart postgres")):
        detail = operate(manager, verb)["error"]["detail"]
        assert detail.startswith(f"cannot {doing}, the server goes on as it is: ")
        assert "the required volume" in detail
    assert manager.until_phase("running")["postgres"]["restarts"] == 0


def test_a_library_version_that_the_volume_no_longer_holds_is_missed(
    manager: Manager, volumes: Volumes
) -> None:
    """As with libraries that have their version in their name: the new one is no help."""
    manager.start().until_ready()
    manager.query("CREATE EXTENSION mod")
    restart(manager)
    assert manager.end() == 0
    library = volumes.root / "mod" / "lib" / "mod-1.so"
    library.rename(library.with_name("mod-2.so"))

    assert '(library "mod-1") but no volume provides it' in refusal(manager)
    assert MISSING.format("mod-1") in plain_says(
        manager,
        "INSERT INTO numbers VALUES (1)",
        dynamic_library_path=f"$libdir:{library.parent}",
    )


def test_a_preloaded_library_of_a_volume_that_vanished_is_missed(
    manager: Manager, volumes: Volumes
) -> None:
    """The server would not start: not once, and so not again and again."""
    manager.settings["postgres"]["shared_preload_libraries"] = ["mod-1"]
    manager.start().until_ready()
    manager.query("CREATE EXTENSION mod")
    restart(manager)
    assert manager.end() == 0
    shutil.rmtree(volumes.root / "mod")

    message = refusal(manager)
    assert 'EXT051 shared_preload_libraries lists "mod-1", not found' in message
    assert "EXT070" in message
    with pytest.raises(AssertionError, match=f"FATAL:  {MISSING.format('mod-1')}"):
        plain_says(manager, "SELECT 1", shared_preload_libraries="mod-1")


def test_files_that_vanish_under_a_running_server_are_told(
    manager: Manager, volumes: Volumes
) -> None:
    """Sessions that have the library go on, new ones fail, and the finding says which file."""
    manager.start().until_ready()
    manager.query("CREATE EXTENSION mod")
    library = volumes.root / "mod" / "lib" / "mod-1.so"
    library.unlink()
    manager.ask("POST", "/v1/extensions/rescan")
    findings = manager.ask("GET", "/v1/extensions")[1]["findings"]

    (gone,) = [one for one in findings if one["code"] == "EXT082"]
    assert gone["subject"] == str(library)
    with pytest.raises(Exception, match=MISSING.format("mod-1")):
        manager.query("INSERT INTO numbers VALUES (1)")
    status = manager.status()
    assert status is not None
    assert (status["phase"], status["postgres"]["restarts"]) == ("running", 0)
