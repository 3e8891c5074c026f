"""Whether the scripts of an extension ask for its library."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from instance_manager.extensions import module_use
from instance_manager.extensions.inspection import inspect
from instance_manager.extensions.models import State

if TYPE_CHECKING:
    from pathlib import Path

    from instance_manager.extensions.facts import ServerFacts
    from tests.unit.extensions.conftest import MakeVolume

CONTROL = "default_version = '1.0'\nmodule_pathname = '$libdir/tap'"
PLACE = "share/extension"


def state(server: ServerFacts, place: Path) -> State:
    """Return what becomes of a volume."""
    return inspect([place], server).volumes[0].state


def test_an_extension_of_sql_alone_needs_no_library(
    volume: MakeVolume, server: ServerFacts
) -> None:
    """Its control file may name one all the same, as pgTAP's does."""
    place = volume(
        "tap",
        {
            f"{PLACE}/tap.control": CONTROL,
            f"{PLACE}/tap--1.0.sql": "CREATE FUNCTION ok() RETURNS int RETURN 1",
        },
    )

    assert state(server, place) is State.READY


def test_a_library_that_only_an_old_update_names_is_not_needed(
    volume: MakeVolume, server: ServerFacts
) -> None:
    """It was given up since, and nobody who installs the extension misses it."""
    place = volume(
        "tap",
        {
            f"{PLACE}/tap.control": CONTROL,
            f"{PLACE}/tap--1.0.sql": "SELECT 1",
            f"{PLACE}/tap--0.9--1.0.sql": "DO $$BEGIN CREATE FUNCTION f() RETURNS int AS 'tap'"
            " LANGUAGE c; EXCEPTION WHEN undefined_file THEN NULL; END$$",
        },
    )

    assert state(server, place) is State.READY


def test_a_library_that_an_update_to_the_default_version_names_is_needed(
    volume: MakeVolume, server: ServerFacts
) -> None:
    """It has no script of its own: CREATE EXTENSION runs the update."""
    place = volume(
        "tap",
        {
            f"{PLACE}/tap.control": CONTROL,
            f"{PLACE}/tap--0.9.sql": "SELECT 1",
            f"{PLACE}/tap--0.9--1.0.sql": "CREATE FUNCTION f() RETURNS int AS MODULE_PATHNAME",
        },
    )

    assert state(server, place) is State.QUARANTINED


@pytest.mark.parametrize(
    "script",
    [
        "CREATE FUNCTION f() RETURNS int AS '$libdir/tap', 'f' LANGUAGE c",
        "CREATE FUNCTION f() RETURNS int as\n 'tap' LANGUAGE c",
        "LOAD 'tap.so'",
    ],
)
def test_a_library_that_a_script_has_the_name_of_is_needed(
    volume: MakeVolume, server: ServerFacts, script: str
) -> None:
    """PostGIS has it in place of the macro."""
    place = volume("tap", {f"{PLACE}/tap.control": CONTROL, f"{PLACE}/tap--1.0.sql": script})

    assert state(server, place) is State.QUARANTINED


@pytest.mark.parametrize("script", ["SELECT 'tap'", "LOAD '$libdir/tap_other'", "-- tap"])
def test_a_word_that_is_the_name_asks_for_no_library(
    volume: MakeVolume, server: ServerFacts, script: str
) -> None:
    """Scripts speak of their extension, and of others that are called alike."""
    place = volume("tap", {f"{PLACE}/tap.control": CONTROL, f"{PLACE}/tap--1.0.sql": script})

    assert state(server, place) is State.READY


@pytest.mark.parametrize("name", [b"MODULE_PATHNAME", b"'$libdir/x'"])
@pytest.mark.parametrize("before", [0, (1 << 20) - 7, (1 << 20) + 3])
def test_the_name_is_found_wherever_it_stands(tmp_path: Path, before: int, name: bytes) -> None:
    """Also where two pieces of a large script meet."""
    script = tmp_path / "x--1.sql"
    script.write_bytes(b"-" * before + name + b"-" * 100)

    assert module_use.asks_for_module([script], "x")


def test_what_can_not_be_read_may_ask(tmp_path: Path) -> None:
    """A pipe, a script that is gone, or one without end: the library is then taken for needed."""
    pipe, endless = tmp_path / "x--1.sql", tmp_path / "x--2.sql"
    os.mkfifo(pipe)
    with endless.open("wb") as file:
        file.truncate(1 << 40)

    for script in (pipe, endless, tmp_path / "gone.sql"):
        assert module_use.asks_for_module([script], "x")
    assert not module_use.asks_for_module([], "x")
