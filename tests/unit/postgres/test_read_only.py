"""Errors of a file system that is full or read-only."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from instance_manager.errors import (
    DataDirectoryError,
    DataDirectoryInUseError,
    DataDirectoryReadOnlyError,
    DiskSpaceError,
)
from instance_manager.postgres import read_only


def fails_with(number: int) -> None:
    raise OSError(number, os.strerror(number))


def test_a_writable_place_is_let_through_also_before_it_is_made(tmp_path: Path) -> None:
    """Where the directory is missing, the nearest one above counts."""
    read_only.require_writable(tmp_path)
    read_only.require_writable(tmp_path / "not" / "there")


def test_a_file_in_the_way_is_left_to_others(tmp_path: Path) -> None:
    """Whoever uses the directory says what is wrong with it."""
    (tmp_path / "file").write_text("")

    read_only.require_writable(tmp_path / "file" / "below")


def test_the_error_of_a_read_only_file_system_has_a_name_of_its_own(tmp_path: Path) -> None:
    """Some file systems tell nothing before the first write."""
    with (
        pytest.raises(DataDirectoryReadOnlyError) as caught,
        read_only.told(tmp_path),
    ):
        fails_with(errno.EROFS)
    assert caught.value.message == (
        f"cannot write directory {str(tmp_path)!r}: its file system is read-only"
    )
    assert caught.value.exit_code == 7


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_the_error_of_a_full_file_system_is_about_space(tmp_path: Path, number: int) -> None:
    """It may pass by itself, unlike others."""
    with pytest.raises(DiskSpaceError, match=os.strerror(number)), read_only.told(tmp_path):
        fails_with(number)


def test_the_cause_behind_an_error_of_ours_counts_too(tmp_path: Path) -> None:
    """What another module has put into words is told by its cause."""
    with pytest.raises(DataDirectoryReadOnlyError), read_only.told(tmp_path):
        raise DataDirectoryError("cannot open lock") from OSError(errno.EROFS, "read-only")


@pytest.mark.parametrize(
    "error", [OSError(errno.EACCES, "no"), DataDirectoryInUseError("in use"), ValueError("other")]
)
def test_every_other_error_is_let_through(tmp_path: Path, error: Exception) -> None:
    """Nothing is made of what says nothing of the file system."""
    with pytest.raises(type(error)) as caught, read_only.told(tmp_path):
        raise error
    assert caught.value is error
