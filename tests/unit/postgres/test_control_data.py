"""``pg_control``: what it says, and that no damage of it goes unnoticed."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instance_manager.errors import DataDirectoryDamagedError, DataDirectoryError
from instance_manager.postgres import control_data, crc32c
from instance_manager.postgres.control_data import ClusterState
from tests.support.control_files import COVERED_BYTES, SAMPLES

HEAD_BYTES = 52
FILE_BYTES = 8192


def head(state: int = ClusterState.SHUT_DOWN) -> bytes:
    """Return a head as a C compiler lays it out: natural alignment, native order."""
    return struct.pack(
        "@QIIiqQQI", 7_300_000_000_000_000_001, 1800, 202506291, state, 1767225600, 40, 41, 7
    )


def whole(state: int = ClusterState.SHUT_DOWN, later: bytes = b"later fields") -> bytes:
    """Return a file as a server writes it: head, later fields, checksum, zeros."""
    fields = head(state) + later
    checksum = list(crc32c.of_prefixes(fields))[-1].to_bytes(4, sys.byteorder)
    return (fields + checksum).ljust(FILE_BYTES, b"\0")


def place(data_directory: Path, content: bytes) -> Path:
    """Write the control file of a data directory and return its path."""
    path = data_directory / "global" / "pg_control"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def test_each_field_is_read_from_where_the_server_writes_it() -> None:
    """The layout is that of the compiler, written out by hand."""
    found = control_data.parse(whole())

    assert found.system_identifier == 7_300_000_000_000_000_001
    assert (found.control_version, found.catalog_version) == (1800, 202506291)
    assert found.state is ClusterState.SHUT_DOWN
    assert found.timeline == 7


@given(st.binary(max_size=100).map(lambda later: later + bytes(-len(later) % 4)))
def test_the_checksum_is_found_behind_whatever_fields_a_version_has(later: bytes) -> None:
    """Later fields differ between major versions, and their meaning does not matter."""
    assert control_data.parse(whole(later=later)) == control_data.parse(whole())


@pytest.mark.parametrize("major", SAMPLES)
def test_the_files_of_real_servers_are_understood(major: int) -> None:
    """Each major version has a layout of its own."""
    found = control_data.parse(SAMPLES[major])

    assert control_data.covered_bytes(SAMPLES[major]) == COVERED_BYTES[major]
    assert found.is_clean
    assert found.timeline == 1
    assert found.system_identifier > 7 * 10**18


@pytest.mark.parametrize("major", SAMPLES)
def test_every_single_flipped_byte_is_noticed(major: int) -> None:
    """In the fields and in the checksum itself, whichever bits of it."""
    content = SAMPLES[major]
    for position in range(COVERED_BYTES[major] + 4):
        for bits in (0x01, 0x80, 0xFF):
            torn = bytearray(content)
            torn[position] ^= bits
            with pytest.raises(ValueError, match="checksum"):
                control_data.parse(bytes(torn))


@pytest.mark.parametrize("major", SAMPLES)
def test_a_file_that_ends_before_its_checksum_is_noticed(major: int) -> None:
    """Cut anywhere, and filled up with zeros or not."""
    content = SAMPLES[major]
    for length in range(COVERED_BYTES[major]):
        for torn in (content[:length], content[:length].ljust(FILE_BYTES, b"\0")):
            if torn[: len(content)] != content:
                with pytest.raises(ValueError, match=r"checksum|are needed"):
                    control_data.parse(torn)


def test_zeros_are_no_control_file() -> None:
    """A file whose blocks were never written reads as zeros."""
    with pytest.raises(ValueError, match="checksum"):
        control_data.parse(bytes(FILE_BYTES))


@pytest.mark.parametrize(
    ("state", "clean"),
    [
        (ClusterState.STARTUP, False),
        (ClusterState.SHUT_DOWN, True),
        (ClusterState.SHUT_DOWN_IN_RECOVERY, True),
        (ClusterState.SHUTTING_DOWN, False),
        (ClusterState.IN_CRASH_RECOVERY, False),
        (ClusterState.IN_ARCHIVE_RECOVERY, False),
        (ClusterState.IN_PRODUCTION, False),
    ],
)
def test_only_a_shut_down_cluster_is_clean(state: ClusterState, clean: bool) -> None:
    """Every other state means crash recovery at the next start."""
    assert control_data.parse(whole(state)).is_clean is clean


@pytest.mark.parametrize("length", [0, 1, 8, HEAD_BYTES - 1])
def test_a_short_file_is_refused_with_its_length(length: int) -> None:
    """A torn file says how torn it is."""
    with pytest.raises(ValueError, match=f"^{length} bytes where at least {HEAD_BYTES}"):
        control_data.parse(head()[:length])


@pytest.mark.parametrize("state", [-1, 7, 2**31 - 1])
def test_a_state_that_no_server_writes_is_refused(state: int) -> None:
    """Another number means that this is no control file of a version that is known."""
    with pytest.raises(ValueError, match=str(state)):
        control_data.parse(whole(state))


@given(st.binary(max_size=600))
def test_any_bytes_are_understood_or_refused(content: bytes) -> None:
    """Nothing but ValueError comes of damage."""
    try:
        found = control_data.parse(content)
    except ValueError:
        return
    assert len(content) >= HEAD_BYTES
    assert found.state in ClusterState


def test_a_data_directory_without_the_file_is_not_whole(tmp_path: Path) -> None:
    """The way out is a backup, and the directory is named."""
    with pytest.raises(DataDirectoryError) as caught:
        control_data.read(tmp_path)

    assert caught.value.message == (
        f"cannot use data directory {str(tmp_path)!r}: global/pg_control is missing"
    )
    assert "backup" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"short", head(), whole(99), whole()[:60]])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    """What can't be understood is said with the file's path."""
    path = place(tmp_path, content)

    with pytest.raises(DataDirectoryDamagedError) as caught:
        control_data.read(tmp_path)
    assert caught.value.message.startswith(f"cannot read {str(path)!r}: ")
    assert caught.value.exit_code == 7


def test_something_else_in_its_place_is_named_too(tmp_path: Path) -> None:
    """A directory is no control file."""
    (tmp_path / "global" / "pg_control").mkdir(parents=True)

    with pytest.raises(DataDirectoryError, match="Is a directory"):
        control_data.read(tmp_path)


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    """From the path to the meaning."""
    place(tmp_path, whole())

    assert control_data.read(tmp_path).timeline == 7


def test_a_file_that_is_being_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    """Beside a running server a reader may see half of the old and half of the new."""
    old, new = whole(ClusterState.IN_PRODUCTION), whole(ClusterState.SHUT_DOWN)
    place(tmp_path, new[:48] + old[48:])

    def watch(_: FrameType, event: str, called: object) -> None:
        if event == "c_call" and getattr(called, "__name__", "") == "sleep":
            place(tmp_path, new)

    sys.setprofile(watch)
    try:
        found = control_data.read(tmp_path)
    finally:
        sys.setprofile(None)
    assert found.is_clean
