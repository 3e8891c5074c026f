"""The head of ``pg_control``."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instance_manager.errors import DataDirectoryError
from instance_manager.postgres import control_data
from instance_manager.postgres.control_data import ClusterState

HEAD_BYTES = 52


def head(state: int = ClusterState.SHUT_DOWN) -> bytes:
    """Return a head as a C compiler lays it out: natural alignment, native order."""
    return struct.pack(
        "@QIIiqQQI", 7_300_000_000_000_000_001, 1800, 202506291, state, 1767225600, 40, 41, 7
    )


def test_each_field_is_read_from_where_the_server_writes_it() -> None:
    """The layout is that of the compiler, written out by hand."""
    found = control_data.parse(head())

    assert found.system_identifier == 7_300_000_000_000_000_001
    assert (found.control_version, found.catalog_version) == (1800, 202506291)
    assert found.state is ClusterState.SHUT_DOWN
    assert found.timeline == 7


def test_what_follows_the_head_does_not_matter() -> None:
    """The file is 8 KiB long; later fields differ between major versions."""
    assert control_data.parse(head() + b"\xff" * 8000) == control_data.parse(head())


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
    assert control_data.parse(head(state)).is_clean is clean


@pytest.mark.parametrize("length", [0, 1, 8, HEAD_BYTES - 1])
def test_a_short_file_is_refused_with_its_length(length: int) -> None:
    """A torn file says how torn it is."""
    with pytest.raises(ValueError, match=f"^{length} bytes where at least {HEAD_BYTES}"):
        control_data.parse(head()[:length])


@pytest.mark.parametrize("state", [-1, 7, 2**31 - 1])
def test_a_state_that_no_server_writes_is_refused(state: int) -> None:
    """Another number means that this is no control file of a version that is known."""
    with pytest.raises(ValueError, match=str(state)):
        control_data.parse(head(state))


@given(st.binary(max_size=100))
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


@pytest.mark.parametrize("content", [b"", b"short", head(99)])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    """What can't be understood is said with the file's path."""
    (tmp_path / "global").mkdir()
    path = tmp_path / "global" / "pg_control"
    path.write_bytes(content)

    with pytest.raises(DataDirectoryError) as caught:
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
    (tmp_path / "global").mkdir()
    (tmp_path / "global" / "pg_control").write_bytes(head().ljust(8192, b"\0"))

    assert control_data.read(tmp_path).timeline == 7
