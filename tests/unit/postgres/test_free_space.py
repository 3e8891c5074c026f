"""Space for a start."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import pytest

from instance_manager.errors import DiskSpaceError
from instance_manager.postgres import free_space

MIB = 1024 * 1024
SEGMENT = "000000010000000000000001"


def lay_out(directory: Path, segment_bytes: int = 0) -> Path:
    """Make a data directory with a WAL directory, and return it."""
    wal = directory / "pg_wal"
    wal.mkdir()
    if segment_bytes:
        with (wal / SEGMENT).open("wb") as file:
            file.truncate(segment_bytes)
    return directory


def opened() -> set[tuple[int, int]]:
    """Return which files this process has open."""
    found: set[tuple[int, int]] = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            status = descriptor.stat()
            found.add((status.st_dev, status.st_ino))
    return found


def test_enough_space_is_enough_and_leaves_nothing(tmp_path: Path) -> None:
    """What is reserved to see whether it can be is given back."""
    data = lay_out(tmp_path)
    before = opened()
    free_space.require_for_start(data)

    assert list((data / "pg_wal").iterdir()) == []
    # A file without a name takes its space for as long as it is open.
    assert opened() <= before


@pytest.mark.parametrize(("segment_bytes", "size"), [(0, 16 * MIB), (MIB, MIB)])
def test_too_little_space_is_said_with_path_free_and_needed_bytes(
    tmp_path: Path, segment_bytes: int, size: int
) -> None:
    """As many segments as are wanted, of the size that the cluster has."""
    data, wanted = lay_out(tmp_path, segment_bytes), 10**9
    with pytest.raises(DiskSpaceError) as caught:
        free_space.require_for_start(data, segments=wanted)

    found = re.fullmatch(
        r"cannot start postgres: (\d+) bytes are free on the file system of '(.*)',"
        r" and (\d+) are needed for WAL",
        caught.value.message,
    )
    assert found
    assert found[2] == str(data / "pg_wal")
    assert int(found[3]) == wanted * size
    assert 0 < int(found[1]) < wanted * size
    assert caught.value.exit_code == 4


def test_the_place_where_a_link_leads_is_judged(tmp_path: Path) -> None:
    """WAL on a volume of its own needs space there."""
    (tmp_path / "volume").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pg_wal").symlink_to(tmp_path / "volume")
    with pytest.raises(DiskSpaceError, match=re.escape(repr(str(tmp_path / "volume")))):
        free_space.require_for_start(tmp_path / "data", segments=10**9)
