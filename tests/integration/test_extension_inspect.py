"""``extension inspect`` as authors of images call it: a directory, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from instance_manager.postgres.embedded import Demonstration

DEADLINE = 60.0


def inspect(*arguments: str | Path, path: str = "", **environment: str) -> tuple[int, str, str]:
    """Call the program with no settings and no server but the one on *path*."""
    done = subprocess.run(
        [sys.executable, "-m", "instance_manager", "extension", "inspect", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={"PATH": path or "/nowhere", **environment},
        timeout=DEADLINE,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_sound_volume_ends_with_0_and_shows_what_it_holds(server: Demonstration) -> None:
    """Versions, update paths, and what the real module says of itself."""
    volume = server.extensions / "pgvector"
    code, shown, errors = inspect(volume, path=str(server.bin_directory))

    assert (code, errors) == (0, "")
    assert shown.startswith("pgvector: ready (vector 0.")
    for word in ("updates from 0.", "library vector", "lib/vector.so", "module vector 0."):
        assert word in shown
    assert "for PostgreSQL 18" in shown
    assert f"{os.uname().machine}, {server.bin_directory}/postgres" in shown
    assert shown.endswith("1 volume: no errors\n")


def test_the_document_is_that_of_the_api_and_more(server: Demonstration) -> None:
    """Programs read both with the same code."""
    volume = server.extensions / "pgvector"
    code, shown, _ = inspect(volume, "--output", "json", path=str(server.bin_directory))
    document = json.loads(shown)
    (inspected,) = document["volumes"]

    assert code == 0
    assert document.keys() == {"server", "volumes", "findings"}
    assert {"name", "path", "state", "extensions", "libraries", "findings"} < inspected.keys()
    assert inspected["extensions"][0]["updatable_from"]
    assert inspected["libraries"][0]["name"] == "vector"
    assert inspected["libraries"][0]["version"] == inspected["extensions"][0]["default_version"]


def test_an_image_layout_is_no_volume(tmp_path: Path) -> None:
    """It would be called empty; who has one is told what takes it."""
    (tmp_path / "oci-layout").write_text("{}")
    code, _, errors = inspect(tmp_path)

    assert code == 2
    assert "it is an OCI layout" in errors
    assert "extension test takes it" in errors


def test_another_machine_is_judged_for_when_asked(server: Demonstration) -> None:
    """An image for arm64 is made on amd64, and the other way round."""
    volume, here = server.extensions / "pgvector", os.uname().machine
    other, own = ("arm64", "amd64") if here == "x86_64" else ("amd64", "arm64")
    programs = str(server.bin_directory)
    code, shown, _ = inspect(volume, "--machine", other, path=programs)

    assert code == 3
    assert "EXT031 error: pgvector: lib/vector.so is built for" in shown
    assert inspect(volume, "--machine", own, path=programs)[0] == 0


def test_without_a_server_it_says_so_and_judges_what_it_can(
    tmp_path: Path, server: Demonstration
) -> None:
    """Where no PostgreSQL is installed at all, or another one is asked for."""
    volume = server.extensions / "pgvector"
    code, shown, errors = inspect(
        volume, "--postgres-major", "19", path=str(server.bin_directory), HOME=str(tmp_path)
    )

    assert (code, errors) == (3, "")
    assert "EXT033 error: " in shown
    assert "PostgreSQL 19" in shown
    assert "there is no such server here" in shown


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_path_that_is_no_directory_is_wrong_usage(tmp_path: Path, kind: str) -> None:
    """Before anything is judged."""
    path = tmp_path / "volume"
    if kind == "file":
        path.write_text("")
    code, shown, errors = inspect(tmp_path, path)

    assert (code, shown) == (2, "")
    assert str(path) in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--machine", "vax", "/"),
        ("--postgres-major", "3", "/"),
        ("--postgres-major", "x", "/"),
    ],
    ids=str,
)
def test_wrong_usage_is_told(arguments: tuple[str, ...]) -> None:
    """With the words that are known."""
    code, shown, errors = inspect(*arguments)

    assert (code, shown) == (2, "")
    assert errors
    assert "Traceback" not in errors


def test_a_settings_file_that_is_asked_for_names_the_server(
    tmp_path: Path, server: Demonstration
) -> None:
    """And a server that it names, but that is not there, is an error."""
    volume = server.extensions / "pgvector"
    there = f"postgres.bin_directory={server.bin_directory}"
    nowhere = f"postgres.bin_directory={tmp_path}"

    assert f"{server.bin_directory}/postgres" in inspect("--set", there, volume)[1]
    assert inspect("--set", nowhere, volume)[0] == 78
