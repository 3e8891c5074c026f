"""The lock of a data directory: never two managers, never two servers.

Two locks, on two files. flock(2) belongs to the open file, so it lasts as long as any process has
the descriptor: also a server that outlived its manager, also in another container. The record lock
of fcntl(2) belongs to this process alone, so it tells whether a manager lives: without one, those
who still hold the other lock are leftovers, and are ended. On one file they would exclude each
other over NFS and SMB, where both are the same lock of the server (flock(2)).

A record lock is lost when *any* descriptor of its file is closed in this process (fcntl(2)): its
file is opened here, once, and nowhere else.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from instance_manager.errors import DataDirectoryError, DataDirectoryInUseError
from instance_manager.log import get_logger
from instance_manager.postgres import leftovers
from instance_manager.postgres.lease import RENEWAL_SECONDS
from instance_manager.postgres.leftovers import MANAGER_LOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator
    from pathlib import Path

    from instance_manager.postgres.data_directory import OurFiles
    from instance_manager.postgres.lease import Lease
    from instance_manager.postgres.processes import Identity

_log: Final = get_logger()
# Close-on-exec: only those carry the lock who are given its descriptor.
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_NOT_POSSIBLE: Final = frozenset(
    {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
)
"""What a file system answers that has no locks, or whose lock server is not there."""


@dataclass(frozen=True, slots=True)
class Held:
    """A data directory that is ours."""

    descriptor: int
    """For postgres to inherit: it carries the lock, where the file system can lock."""
    site: leftovers.Site
    """Where old processes are to be looked for from now on."""
    identities: tuple[Identity, Identity]
    """The server's lock and the manager's, as they were when they were taken."""

    def is_of(self, files: OurFiles) -> bool:
        """Whether these are the locks of that directory, and not of one that was there before.

        A volume that was unmounted takes its locks with it; who removes one lets others in. For
        any thread: no descriptor is used, which may be closed meanwhile.
        """
        try:
            there = [path.lstat() for path in (files.lock, files.directory / MANAGER_LOCK)]
        except (FileNotFoundError, NotADirectoryError):
            return False
        return self.identities == tuple((one.st_dev, one.st_ino) for one in there)


@contextmanager
def held(
    files: OurFiles, lease: Lease, spared: Callable[[], Collection[int]] = tuple
) -> Generator[Held]:
    """Hold the lock of a data directory; old processes that keep it from us are ended.

    Blocks for seconds where there are any, or where the file system can't lock: for a thread.
    *lease* is taken where a lock can't be had, and to be renewed from then on. *spared* gives the
    living children of this process.

    Raises:
        DataDirectoryInUseError: a manager holds it, or a server that can't be ended from here.
        DataDirectoryError: it can't be opened.
    """
    with ExitStack() as ends:
        descriptor = _opened(files.lock, ends)
        managers = _opened(files.directory / MANAGER_LOCK, ends)
        # The manager's first: where it is held, a manager lives, and its server is no leftover.
        if not _lock_as_manager(files, managers):
            lease.take()
            ends.callback(lease.give_back)
        can_flock = _lock_for_server(files, descriptor, spared)
        _warn(by_lease=lease.is_held, can_flock=can_flock)
        state = leftovers.Lock.OURS if can_flock else leftovers.Lock.IMPOSSIBLE
        site = leftovers.Site(files, state, spared)
        yield Held(descriptor, site, (_identity_of(descriptor), _identity_of(managers)))


def _opened(path: Path, ends: ExitStack) -> int:
    try:
        descriptor = os.open(path, _FLAGS, 0o600)
    except OSError as error:
        raise DataDirectoryError(
            f"cannot open lock {str(path)!r}: {error.strerror}",
            hint="the data directory must be writable for the user that runs postgres",
        ) from error
    ends.callback(os.close, descriptor)
    return descriptor


def _identity_of(descriptor: int) -> Identity:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _lock_as_manager(files: OurFiles, descriptor: int) -> bool:
    """Take the lock that belongs to this process; return False where that can't be had."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    # A lock of another process is EAGAIN or EACCES: fcntl(2) leaves it open which.
    except (BlockingIOError, PermissionError) as error:
        raise _in_use(files, "another manager", "stop the other one") from error
    except OSError as error:
        return _not_possible(files, error)
    return True


def _lock_for_server(
    files: OurFiles, descriptor: int, spared: Callable[[], Collection[int]]
) -> bool:
    """Take the lock that postgres inherits; return False where that can't be had."""
    # Once more after the leftovers have ended, and not for ever: others may start new ones.
    for is_last_try in (False, True):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            site = leftovers.Site(files, leftovers.Lock.THEIRS, spared)
            if is_last_try or not leftovers.end_all(site):
                raise _in_use(
                    files,
                    "a server in another container",
                    "stop it there; the lock is released when its last process ends",
                ) from error
        except OSError as error:
            return _not_possible(files, error)
        else:
            break
    return True


def _not_possible(files: OurFiles, error: OSError) -> bool:
    if error.errno in _NOT_POSSIBLE:
        return False
    raise DataDirectoryError(
        f"cannot lock data directory {str(files.data_directory)!r}: {error.strerror}",
        hint="see the state of the storage",
    ) from error


def _warn(*, by_lease: bool, can_flock: bool) -> None:
    """Say what a file system without locks leaves unprotected."""
    if not by_lease and can_flock:
        return
    managers = f"a lease, renewed every {RENEWAL_SECONDS:g} s" if by_lease else "a lock"
    servers = (
        "a lock"
        if can_flock
        else "nothing, where it outlived its manager in another container or on another host"
    )
    _log.warning(
        "the file system of the data directory can't lock",
        other_managers_are_kept_away_by=managers,
        other_servers_are_kept_away_by=servers,
        hint="mount it with locks, and let one container at a time use it",
    )


def _in_use(files: OurFiles, who: str, hint: str) -> DataDirectoryInUseError:
    return DataDirectoryInUseError(
        f"cannot use data directory {str(files.data_directory)!r}: it is in use by {who}",
        hint=hint,
    )
