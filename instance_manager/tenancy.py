"""Who holds the data directory: its lock, or a lease, and what earlier holders left in it.

Looks and waits on the disk: whoever calls these methods runs them in a thread, but for
:meth:`Tenancy.let_go`. One at a time: the turn of all work on our files.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from instance_manager.errors import DataDirectoryInUseError
from instance_manager.postgres import (
    data_directory,
    leftovers,
    lock,
    lost,
    pid_file,
    read_only,
)
from instance_manager.postgres.lease import Lease

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path


class Tenancy:
    """Holds one data directory for as long as the manager lives, as far as that is possible.

    *pids* tells which processes are the manager's own children.
    """

    def __init__(self, directory: Path, pids: Callable[[], Collection[int]]) -> None:
        self.had_cluster = False
        """Whether this manager saw a cluster here: no new one may take its place."""
        self.past_stale_pid: dict[str, str] = {}
        """What makes a server start past a postmaster.pid that names nobody of ours."""
        self._pids = pids
        self._ends = ExitStack()
        self._held: lock.Held | None = None
        self.move_to(directory)

    def move_to(self, directory: Path) -> None:
        """Hold this directory from the next time on; nothing is held yet."""
        self.files = data_directory.OurFiles(directory)
        self.lease = Lease(self.files.directory)

    @property
    def directory(self) -> Path:
        """The data directory."""
        return self.files.data_directory

    @property
    def holds(self) -> bool:
        """Whether the data directory is ours, or was when that was asked last."""
        return self._held is not None

    @property
    def descriptor(self) -> int | None:
        """The lock's, for those who shall carry it; None where nothing is held."""
        return None if self._held is None else self._held.descriptor

    def has_own_lock(self) -> bool:
        """Whether the lock that is held is that of the directory as it is mounted now."""
        # Looked at in a thread: it may be let go meanwhile.
        held = self._held
        return held is not None and held.is_of(self.files)

    def take(self) -> None:
        """Take the lock, or make sure of it.

        Raises:
            DataDirectoryError: the directory can't be used, or is somebody else's.
            OSError: its storage fails.
        """
        if self.had_cluster:
            lost.require_not_vanished(self.directory)
        if not data_directory.has_cluster(self.directory):
            # Before anything is made here: a refusal leaves the directory as it was.
            data_directory.require_no_data_nearby(self.directory)
        elif not self.files.marker.exists():
            self.had_cluster = True
        # By the figures, before anything is written; some file systems refuse the write alone.
        read_only.require_writable(self.directory)
        if self._held is not None and not self._held.is_of(self.files):
            # Another volume is there now, or another directory: it has a lock of its own.
            self.let_go()
        with read_only.told(self.directory):
            # Each time: owner and mode may have been changed while the lock was held.
            files = data_directory.prepare(self.directory)
            if self._held is None:
                held = lock.held(files, self.lease, self._pids)
                self._held = self._ends.enter_context(held)

    def end_leftovers(self, clear: Callable[[], None]) -> None:
        """End old processes of the data directory, and see what postmaster.pid is worth.

        *clear* takes away what a trial of a start left behind, once nobody is left on it.

        Raises:
            DataDirectoryError: somebody can't be ended, or the lock was let go.
        """
        # It may be let go meanwhile, by the event loop.
        held = self._held
        if held is None:
            raise DataDirectoryInUseError(
                f"cannot use data directory {str(self.directory)!r}: it was let go",
                hint="somebody else may have taken it; this is tried again by itself",
            )
        # Before the pid file is looked at: only then is whoever it names surely no server of ours.
        leftovers.end_all(held.site)
        clear()
        pid_file.remove_damaged(self.directory)
        self.past_stale_pid = pid_file.past_stale(self.directory)

    def let_go(self) -> None:
        """Release the data directory, which is another's by now: the next start takes it again.

        At once, for the event loop: a lease is given back in the background.
        """
        # First, so that nobody is given a descriptor that is being closed.
        self._held = None
        self._ends.close()

    def close(self) -> None:
        """Release the lock, as far as this process holds it."""
        self.let_go()
        # Given up after a moment: storage that hangs must not keep the manager from its end.
        self.lease.finish()
