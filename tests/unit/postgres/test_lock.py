"""The lock of a data directory: one holder, as long as any process of its has the descriptor."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from instance_manager.errors import DataDirectoryError, DataDirectoryInUseError
from instance_manager.postgres import data_directory, leftovers, lock
from instance_manager.postgres.data_directory import OurFiles
from instance_manager.postgres.lease import Lease


def hold(files: OurFiles) -> AbstractContextManager[lock.Held]:
    return lock.held(files, Lease(files.directory))


def test_a_second_lock_is_refused_until_the_first_one_is_gone(tmp_path: Path) -> None:
    """Whoever comes second is told that somebody else is there."""
    files = data_directory.prepare(tmp_path)
    with (
        hold(files),
        pytest.raises(DataDirectoryInUseError, match="it is in use by") as caught,
        hold(files),
    ):
        pass
    assert caught.value.exit_code == 7
    with hold(files):
        pass


def test_a_lock_lasts_as_long_as_anybody_has_its_descriptor(tmp_path: Path) -> None:
    """A server that outlives its manager holds it."""
    files = data_directory.prepare(tmp_path)
    with hold(files) as held:
        inherited = os.dup(held.descriptor)
    with pytest.raises(DataDirectoryInUseError), hold(files):
        pass
    os.close(inherited)

    with hold(files):
        pass


def test_a_refused_lock_leaves_no_descriptor_open(tmp_path: Path) -> None:
    """Waiting for a lock for hours costs nothing."""
    files = data_directory.prepare(tmp_path)
    with hold(files):
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(5):
            with pytest.raises(DataDirectoryInUseError), hold(files):
                pass

        assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("kind", ["link", "directory"])
@pytest.mark.parametrize("name", ["lock", "manager.lock"])
def test_a_lock_that_is_no_file_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    """A link is not followed: the lock of another directory would be taken."""
    files: OurFiles = data_directory.prepare(tmp_path / "data")
    path = files.directory / name
    if kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.mkdir()

    with pytest.raises(DataDirectoryError, match="cannot open lock"), hold(files):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_where_locks_work_there_is_no_lease(tmp_path: Path) -> None:
    """Nothing is renewed, and a lease that somebody left does not matter."""
    files = data_directory.prepare(tmp_path)
    (files.directory / "lease.json").write_text("left behind")
    lease = Lease(files.directory)
    with lock.held(files, lease) as held:
        assert held.site.lock is leftovers.Lock.OURS
        assert not lease.is_held

    assert (files.directory / "lease.json").read_text() == "left behind"


def test_a_lock_is_known_as_that_of_its_directory(tmp_path: Path) -> None:
    """One that was taken before a volume was swapped belongs to the old volume."""
    files = data_directory.prepare(tmp_path / "data")
    with hold(files) as held:
        assert held.is_of(files)

        files.data_directory.rename(tmp_path / "old")
        assert not held.is_of(files)
        with hold(data_directory.prepare(tmp_path / "data")):
            assert not held.is_of(files)


@pytest.mark.parametrize("name", ["lock", "manager.lock"])
def test_a_lock_that_was_removed_is_not_that_of_its_directory_any_more(
    tmp_path: Path, name: str
) -> None:
    """Whoever comes next makes a new file and locks it, whichever of the two it is."""
    files = data_directory.prepare(tmp_path)
    with hold(files) as held:
        (files.directory / name).unlink()
        assert not held.is_of(files)
        (files.directory / name).touch()
        assert not held.is_of(files)


def test_a_lock_is_known_without_its_descriptor(tmp_path: Path) -> None:
    """It may be closed while a thread looks, and be another file's by then."""
    files = data_directory.prepare(tmp_path)
    with hold(files) as held:
        pass

    assert held.is_of(files)
