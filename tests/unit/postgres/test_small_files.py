"""Whatever has the name of a small file of ours: no reader waits, follows it, or swallows it."""

from __future__ import annotations

import json
import os
import socket
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from instance_manager.errors import DataDirectoryDamagedError, DataDirectoryError
from instance_manager.postgres import (
    control_data,
    data_directory,
    fencing,
    instance_state,
    marker,
    pid_file,
    small_files,
)
from instance_manager.postgres.data_directory import OurFiles

KINDS = ("fifo", "socket", "directory", "link", "huge")
HUGE_BYTES = 64 << 20
BOUND_BYTES = 4 << 20

pytestmark = pytest.mark.timeout(30)


def put(path: Path, kind: str) -> None:
    """Make *path* what should not be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        # Relative, for the name of a socket is short.
        directory = os.open(path.parent, os.O_RDONLY)
        with closing(socket.socket(socket.AF_UNIX)) as listening:
            listening.bind(f"/proc/self/fd/{directory}/{path.name}")
        os.close(directory)
    elif kind == "directory":
        path.mkdir()
    elif kind == "link":
        (path.parent / "elsewhere").write_text("18\n")
        path.symlink_to("elsewhere")
    else:
        path.touch()
        os.truncate(path, HUGE_BYTES)


@pytest.fixture
def files(tmp_path: Path) -> OurFiles:
    """Return the files of ours in an empty data directory."""
    files = OurFiles(tmp_path / "data")
    files.directory.mkdir(parents=True)
    return files


@pytest.mark.parametrize("length", [0, 1, small_files.LIMIT_BYTES])
def test_a_file_up_to_the_limit_is_read_whole(tmp_path: Path, length: int) -> None:
    """The limit itself is allowed."""
    (tmp_path / "file").write_bytes(b"x" * length)

    assert small_files.read(tmp_path / "file") == b"x" * length


def test_a_longer_file_is_an_error_that_says_so(tmp_path: Path) -> None:
    """One byte more is too much."""
    (tmp_path / "file").write_bytes(b"x" * (small_files.LIMIT_BYTES + 1))

    with pytest.raises(OSError, match="longer than 65536 bytes"):
        small_files.read(tmp_path / "file")


@pytest.mark.parametrize("kind", ["fifo", "socket", "link"])
def test_what_is_no_file_is_neither_read_nor_written(tmp_path: Path, kind: str) -> None:
    """The error says what is there, and it stays as it is."""
    put(tmp_path / "file", kind)
    before = (tmp_path / "file").lstat()

    with pytest.raises(OSError, match="it is no file: mode"):
        small_files.read(tmp_path / "file")
    with (
        pytest.raises(OSError, match="it is no file: mode"),
        small_files.emptied(tmp_path / "file"),
    ):
        pass
    assert (tmp_path / "file").lstat() == before


def test_a_fifo_that_somebody_reads_is_not_written_into(tmp_path: Path) -> None:
    """It can be opened then, and still is no file."""
    os.mkfifo(tmp_path / "file")
    reading = os.open(tmp_path / "file", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with (
            pytest.raises(OSError, match="it is no file: mode p"),
            small_files.emptied(tmp_path / "file"),
        ):
            pass
    finally:
        os.close(reading)


def is_fenced(files: OurFiles) -> None:
    assert fencing.look(files, "pg-0") is fencing.Verdict.FENCED


def has_no_readable_marker(files: OurFiles) -> None:
    with pytest.raises(DataDirectoryError, match="cannot read"):
        marker.read(files)


def has_no_known_instance(files: OurFiles) -> None:
    assert instance_state.read(files.instance) is None


def has_a_damaged_control_file(files: OurFiles) -> None:
    with pytest.raises(DataDirectoryDamagedError, match="cannot read"):
        control_data.read(files.data_directory)


def has_a_damaged_version(files: OurFiles) -> None:
    with pytest.raises(DataDirectoryDamagedError, match="cannot read"):
        data_directory.major_of(files.data_directory)


def has_an_unreadable_pid(files: OurFiles) -> None:
    assert pid_file.watch(files.data_directory, b"1\n") is pid_file.Watched.UNREADABLE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "keeps_its_meaning"),
    [
        ("instance-manager/fence.json", is_fenced),
        ("instance-manager/bootstrap.json", has_no_readable_marker),
        ("instance-manager/instance.json", has_no_known_instance),
        ("global/pg_control", has_a_damaged_control_file),
        ("PG_VERSION", has_a_damaged_version),
        ("postmaster.pid", has_an_unreadable_pid),
    ],
)
def test_what_can_not_be_understood_keeps_its_meaning_at_once_and_in_little_memory(
    files: OurFiles, kind: str, name: str, keeps_its_meaning: Callable[[OurFiles], None]
) -> None:
    """A fence holds, a marker refuses, a damaged cluster is said to be one."""
    put(files.data_directory / name, kind)
    tracemalloc.start()
    try:
        keeps_its_meaning(files)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < BOUND_BYTES


@pytest.mark.parametrize("kind", ["fifo", "socket", "directory", "link"])
def test_a_fence_that_can_not_be_written_is_an_error_and_can_be_taken_away(
    files: OurFiles, kind: str
) -> None:
    """Nobody waits for the reader of a FIFO."""
    put(files.fence, kind)

    with pytest.raises(OSError, match=r"it is no file|directory") as caught:
        fencing.raise_fence(files, "pg-0")
    assert caught.value.strerror
    if kind != "directory":
        fencing.remove_fence(files)
        assert fencing.look(files, "pg-0") is fencing.Verdict.OPEN


def test_a_huge_fence_is_replaced_by_a_whole_one(files: OurFiles) -> None:
    """What was there before is no part of it."""
    put(files.fence, "huge")
    fencing.raise_fence(files, "pg-0")

    assert json.loads(files.fence.read_text())["instance"] == "pg-0"


@pytest.mark.parametrize("kind", ["fifo", "link", "huge"])
def test_a_marker_is_written_whatever_has_the_name_of_its_new_file(
    files: OurFiles, kind: str
) -> None:
    """A FIFO is not waited for, a link not written through."""
    put(files.marker.with_suffix(".tmp"), kind)
    marker.write(files, marker.Marker("/wal", ("base",)))

    assert marker.read(files) == marker.Marker("/wal", ("base",))
    assert not files.marker.is_symlink()
