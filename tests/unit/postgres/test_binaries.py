"""PostgreSQL's programs: which ones are taken, and which version they say to be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from instance_manager.errors import SettingsError, StartError
from instance_manager.postgres import binaries
from instance_manager.postgres.binaries import Binaries, Version

NOBODY = 65534


def programs(directory: Path, *names: str, mode: int = 0o755) -> Path:
    """Make files that look like programs."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        (directory / name).write_text("#!/bin/sh\n")
        (directory / name).chmod(mode)
    return directory


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    """Yield a directory that this test can't enter, whoever runs it."""
    directory = tmp_path / "closed"
    directory.mkdir(mode=0o000)
    me = os.geteuid()
    if me == 0:
        os.seteuid(NOBODY)
    try:
        yield directory
    finally:
        os.seteuid(me)
        directory.chmod(0o700)


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("postgres (PostgreSQL) 18.6\n", Version("18.6", 18, 6)),
        (
            "postgres (PostgreSQL) 18.6 (Debian 18.6-1.pgdg13+1)\n",
            Version("18.6", 18, 6),
        ),
        ("postgres (PostgreSQL) 19beta1\n", Version("19beta1", 19, 0)),
        ("postgres (PostgreSQL) 19devel\n", Version("19devel", 19, 0)),
        (
            "postgres (PostgreSQL) 15.14 (Ubuntu 15.14-0ubuntu0.25.04.1)\n",
            Version("15.14", 15, 14),
        ),
    ],
)
def test_a_version_is_what_the_program_says(said: str, version: Version) -> None:
    """A vendor's addition is no part of the version."""
    assert binaries.parse_version(said) == version


def test_the_number_is_that_of_server_version_num() -> None:
    """Programs compare versions by it."""
    assert Version("18.6", 18, 6).number == 180006
    assert Version("19beta1", 19, 0).number == 190000


@pytest.mark.parametrize("said", ["", "postgres", "psql 18.6", "(PostgreSQL) eighteen"])
def test_other_words_are_shown(said: str) -> None:
    """What is no version is shown, so that people see what they installed."""
    with pytest.raises(StartError) as caught:
        binaries.parse_version(f"{said}\n")

    assert repr(said) in caught.value.message


def test_the_configured_directory_wins(tmp_path: Path) -> None:
    """A setting counts more than PATH."""
    configured = programs(tmp_path / "configured", "postgres", "initdb")
    other = programs(tmp_path / "other", "postgres", "initdb")

    assert binaries.find(configured, str(other)) == Binaries(configured)


def test_the_first_server_on_the_search_path_is_taken(tmp_path: Path) -> None:
    """As a shell would do; a file that can't be executed is passed over."""
    programs(tmp_path / "first", "postgres", mode=0o644)
    second = programs(tmp_path / "second", "postgres", "initdb")
    third = programs(tmp_path / "third", "postgres", "initdb")
    search_path = ":".join(
        str(tmp_path / name) for name in ("nowhere", "first", "second", "third")
    )

    assert third.exists()
    assert binaries.find(None, search_path) == Binaries(second)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "postgres is not there"),
        (("postgres",), "initdb is not there"),
        (("initdb",), "postgres is not there"),
    ],
)
def test_a_directory_that_lacks_a_program_is_refused(
    tmp_path: Path, names: tuple[str, ...], words: str
) -> None:
    """The directory, the program and the setting are named."""
    directory = programs(tmp_path / "bin", *names)

    with pytest.raises(SettingsError) as caught:
        binaries.find(directory, "")
    assert caught.value.problems[0].path == "postgres.bin_directory"
    assert caught.value.message.endswith(f"cannot use bin directory {str(directory)!r}: {words}")
    assert "postgres.bin_directory" in caught.value.hint


def test_a_program_that_can_not_be_executed_is_refused(tmp_path: Path) -> None:
    """Root may not execute a file without any such bit either."""
    directory = programs(tmp_path / "bin", "postgres", "initdb", mode=0o644)

    with pytest.raises(SettingsError, match="postgres can't be executed by this user"):
        binaries.find(directory, "")


def test_a_directory_in_place_of_a_program_is_refused(tmp_path: Path) -> None:
    """A name alone is no program."""
    (tmp_path / "bin" / "postgres").mkdir(parents=True)

    with pytest.raises(SettingsError, match="postgres is not there"):
        binaries.find(tmp_path / "bin", "")


def test_a_directory_that_can_not_be_entered_is_refused(closed: Path) -> None:
    """Too little permission is a matter of settings, not a fault of the manager."""
    with pytest.raises(SettingsError, match="cannot use bin directory"):
        binaries.find(closed / "bin", "")


def test_a_path_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    """A name that is too long is a matter of settings as well."""
    with pytest.raises(SettingsError, match="cannot use bin directory"):
        binaries.find(tmp_path / ("x" * 300), "")


def test_a_server_on_the_search_path_needs_its_initdb_too(tmp_path: Path) -> None:
    """Half an installation is refused before anything is touched."""
    programs(tmp_path / "bin", "postgres")

    with pytest.raises(SettingsError, match="initdb is not there"):
        binaries.find(None, str(tmp_path / "bin"))


@pytest.mark.parametrize("place", ["lib", "lib/postgresql", "lib64/postgresql", "lib64"])
def test_the_libraries_of_a_server_lie_beside_its_programs(tmp_path: Path, place: str) -> None:
    """Every layout of an installation is known by the language that each server has."""
    directory = programs(tmp_path / "bin", "postgres")
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "plpgsql.so").write_text("")
    (tmp_path / place / "vector.so").write_text("")
    facts = binaries.server_facts(Binaries(directory), Version("18.6", 18, 6))

    assert facts.libraries == frozenset({"plpgsql.so", "vector.so"})
    assert (facts.major, facts.machine) == (18, os.uname().machine)


def test_libraries_that_can_not_be_found_are_unknown_not_absent(tmp_path: Path) -> None:
    """Nothing is concluded from a layout that is not known."""
    directory = programs(tmp_path / "bin", "postgres")

    assert binaries.server_facts(Binaries(directory), Version("18.6", 18, 6)).libraries is None


@pytest.mark.parametrize(
    ("programs_in", "place"),
    [
        ("pg/bin", "pg/share/extension"),
        ("usr/bin", "usr/share/postgresql/extension"),
        ("usr/lib/postgresql/18/bin", "usr/share/postgresql/18/extension"),
    ],
)
def test_the_extensions_of_a_server_are_its_control_files(
    tmp_path: Path, programs_in: str, place: str
) -> None:
    """Control files of single versions and scripts are no extensions of their own."""
    directory, extensions = programs(tmp_path / programs_in, "postgres"), tmp_path / place
    extensions.mkdir(parents=True)
    for name in ("plpgsql.control", "hstore.control", "hstore--1.8.control", "hstore--1.8.sql"):
        (extensions / name).write_text("")

    facts = binaries.server_facts(Binaries(directory), Version("18.6", 18, 6))

    assert facts.extensions == frozenset({"plpgsql", "hstore"})
