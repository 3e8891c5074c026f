"""Where a build works, beside its result, and the step that puts the result into its place.

Whoever interrupts a build finds what was there before. What a killed one leaves, the next removes.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator

_LOCK: Final = "lock"
_CURRENT_DIRECTORY: Final = -100
"""AT_FDCWD of ``fcntl.h``."""
_EXCHANGE: Final = 2
"""RENAME_EXCHANGE of ``linux/fs.h``; see rename(2)."""
_CANNOT_EXCHANGE: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP})


@contextmanager
def workplace(path: Path) -> Generator[Path]:
    """Yield a directory on the file system of *path*, of which nothing is left at the end.

    Raises:
        OSError: there is no room, or it can't be written.
    """
    prefix = f".{path.name}.building-"
    # Before the work: what was left may be what fills the disk.
    _tidy(path.parent, prefix)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=path.parent) as work, _kept(Path(work)):
        yield Path(work)


def put(result: Path, path: Path) -> None:
    """Put a result into its place; what was there goes.

    In one step: at no moment is there nothing. Only on a file system that can't exchange two
    directories, such as NFS, it takes two, and a kill between them leaves the old result beside
    its place, as ``.NAME.replaced``.
    """
    # Whatever the umask was: who reads a volume is mostly another user.
    if result.is_dir():
        result.chmod(0o755)
    # rename(2) replaces a file by itself, but no directory that holds something.
    if not (result.is_dir() and path.exists()):
        result.rename(path)
    elif not _exchange(result, path):
        _put_in_two_steps(result, path)


def _put_in_two_steps(result: Path, path: Path) -> None:
    # Not in the workplace, which the next build would remove after a kill.
    replaced = path.with_name(f".{path.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    path.rename(replaced)
    try:
        result.rename(path)
    except BaseException:
        # Whatever happened, also an interrupt: what was there is back.
        replaced.rename(path)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def _kept(work: Path) -> Generator[None]:
    """Hold a lock that says that a build is at work here."""
    # Under its name only once it is locked: whoever tidies may look in between.
    unlocked, lock = work / f"{_LOCK}.new", work / _LOCK
    descriptor = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # Where nothing can be locked there is none, and nobody tidies.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unlocked.rename(lock)
        yield
    finally:
        os.close(descriptor)


def _tidy(parent: Path, prefix: str) -> None:
    """Remove what builds of this result left when they were killed."""
    for each in parent.iterdir():
        if each.name.startswith(prefix) and _is_left(each / _LOCK):
            shutil.rmtree(each, ignore_errors=True)


def _is_left(lock: Path) -> bool:
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two directories; return whether the file system can do so."""
    # Python's own os module has no renameat2(2).
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if not libc.renameat2(_CURRENT_DIRECTORY, names[0], _CURRENT_DIRECTORY, names[1], _EXCHANGE):
        return True
    number = ctypes.get_errno()
    if number in _CANNOT_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(other))
