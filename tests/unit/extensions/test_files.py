from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instance_manager.extensions.files import FileView, mount_points, open_regular, read_at

CONTENT = bytes(range(256)) * 700


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of several blocks."""
    path = tmp_path_factory.mktemp("files") / "sample"
    path.write_bytes(CONTENT)
    return path


@settings(max_examples=60, deadline=None)
@given(
    start=st.integers(0, len(CONTENT) + 10),
    size=st.integers(0, 100) | st.integers(32_000, 80_000),
)
def test_a_view_slices_like_the_bytes_of_the_file(sample: Path, start: int, size: int) -> None:
    """Within a block, over its border, and beyond the end."""
    with open_regular(sample) as (descriptor, length):
        view = FileView(descriptor, length)

        assert view[start : start + size] == CONTENT[start : start + size]
        assert view[start : start + 4] == CONTENT[start : start + 4]
    assert len(view) == len(CONTENT)


def test_a_file_that_is_cut_short_gives_fewer_bytes(tmp_path: Path) -> None:
    """It is no error here: what parses the bytes notices."""
    path = tmp_path / "sample"
    path.write_bytes(CONTENT)
    with open_regular(path) as (descriptor, size):
        os.truncate(path, 10)

        assert FileView(descriptor, size)[0:20] == CONTENT[:10]
        assert read_at(descriptor, 5, 100_000) == CONTENT[5:10]


@pytest.mark.parametrize("kind", ["fifo", "directory", "device", "socket"])
def test_only_regular_files_are_opened(tmp_path: Path, kind: str) -> None:
    """Opening anything else can block, or do things."""
    path = tmp_path / kind
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    else:
        path = Path("/dev/null")

    with pytest.raises(OSError, match="not a regular file"), open_regular(path):
        pass


def test_the_root_is_a_mount_point() -> None:
    """The kernel's list is read."""
    assert "/" in mount_points()
    assert "/proc" in mount_points()
