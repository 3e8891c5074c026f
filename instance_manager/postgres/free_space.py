"""Space for a start: without room for the next WAL segment, postgres ends as soon as it began.

Figures of statvfs(2) as an ordinary user has them; it knows nothing of quotas, so the space is
reserved once, in a file without a name, and given back at once.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Final

from instance_manager.errors import DiskSpaceError
from instance_manager.postgres import read_only, wal_directory

DATA_BYTES: Final = 1024 * 1024
"""What a start writes beside WAL: its configuration, ``postmaster.pid``, a few small files."""
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_KEEP_SIZE: Final = 1
"""``FALLOC_FL_KEEP_SIZE`` of fallocate(2)."""
_IN_MEMORY: Final = 0x01021994
"""``TMPFS_MAGIC`` of statfs(2): there a reservation takes the memory itself, page by page."""
NEW_CLUSTER_BYTES: Final = 64 * 1024 * 1024
"""One WAL segment, three databases, and some room."""
_STATFS_BYTES: Final = 256
"""More than the structure has; its first word is the type."""
_HINT: Final = (
    "enlarge the volume, or free space on it, but never by removing files of pg_wal; the start is"
    " tried again by itself"
)


def require_for_start(data_directory: Path, segments: int = 1) -> None:
    """Check that there is space for this many WAL segments, and for the files of a start.

    Raises:
        DiskSpaceError: there isn't; the message has path, free and needed bytes.
        DataDirectoryReadOnlyError: the file system of the WAL can't be written.
    """
    wal = Path(os.path.realpath(data_directory / wal_directory.NAME))
    # The real directory, since the WAL may lie on a volume of its own.
    needed = segments * wal_directory.segment_bytes(wal)
    _require_figures(data_directory, DATA_BYTES, "the files of a start")
    _require_figures(wal, needed, "WAL")
    _require_reservation(wal, needed)


def require_for_new_cluster(data_directory: Path) -> None:
    """Check that there is space for what initdb makes, with its default segments.

    Raises:
        DiskSpaceError: there isn't.
    """
    _require_figures(data_directory, NEW_CLUSTER_BYTES, "a new cluster")


def _require_figures(directory: Path, needed: int, purpose: str) -> None:
    figures = os.statvfs(directory)
    # Not f_bfree: what is reserved for root is not for postgres.
    free = figures.f_bavail * figures.f_frsize
    # Where a file system gives no figures, or has inodes without end, they are 0.
    if figures.f_blocks and free < needed:
        raise _full(directory, free, needed, purpose)
    if figures.f_files and not figures.f_favail:
        raise DiskSpaceError(
            f"cannot start postgres: no inode is free on the file system of {str(directory)!r}"
            f" for {purpose}",
            hint="remove files that are not the server's, or enlarge the volume; the start is"
            " tried again by itself",
        )


def _require_reservation(directory: Path, needed: int) -> None:
    try:
        _reserve(directory, needed)
    except OSError as error:
        if error.errno == errno.EROFS:
            raise read_only.refusal(directory) from error
        if error.errno in _FULL:
            figures = os.statvfs(directory)
            free = figures.f_bavail * figures.f_frsize
            raise _full(directory, free, needed, f"WAL: {error.strerror}") from error
        # It can do without names or reservations, or not: then the figures must do.


def _reserve(directory: Path, size: int) -> None:
    """Reserve space in a file without a name, which is gone when it is closed.

    By the system call itself: the function of the C library would write each block where the file
    system knows no reservations.
    """
    descriptor = os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if _type_of(libc, descriptor) == _IN_MEMORY:
            return
        # Without these, ctypes would hand the sizes over as numbers of 32 bits.
        libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
        if libc.fallocate(descriptor, _KEEP_SIZE, 0, size):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(descriptor)


def _type_of(libc: ctypes.CDLL, descriptor: int) -> int:
    figures = ctypes.create_string_buffer(_STATFS_BYTES)
    if libc.fstatfs(descriptor, figures):
        return 0
    return ctypes.c_long.from_buffer(figures).value


def _full(directory: Path, free: int, needed: int, purpose: str) -> DiskSpaceError:
    return DiskSpaceError(
        f"cannot start postgres: {free} bytes are free on the file system of {str(directory)!r},"
        f" and {needed} are needed for {purpose}",
        hint=_HINT,
    )
