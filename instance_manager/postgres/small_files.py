"""Small files in the data directory: read and written whatever has their name.

Who may write in the data directory, as a superuser of the database may, can put a FIFO, a link or
a file of many gigabytes in their place. None of them holds up a start, leads elsewhere or costs
memory: it is an error that says what is there.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

LIMIT_BYTES: Final = 64 << 10
"""Far more than any of these files needs."""
# Without O_NONBLOCK, open(2) of a FIFO waits for somebody at its other end.
_SAFE: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_NOT_OPENED: Final = frozenset({errno.ELOOP, errno.ENXIO})
"""What open(2) says of a link that is not to be followed, and of a FIFO or a socket."""


def read(path: Path) -> bytes:
    """Return the content of a file of at most :data:`LIMIT_BYTES`.

    Raises:
        FileNotFoundError: it isn't there.
        OSError: it can't be read, is no regular file, or is longer.
    """
    content = read_head(path, LIMIT_BYTES + 1)
    if len(content) > LIMIT_BYTES:
        raise OSError(errno.EFBIG, f"it is longer than {LIMIT_BYTES} bytes")
    return content


def read_head(path: Path, length: int) -> bytes:
    """Return the first *length* bytes of a file, or all of a shorter one.

    Raises:
        FileNotFoundError: it isn't there.
        OSError: it can't be read, or is no regular file.
    """
    with (
        _opened(path, os.O_RDONLY) as descriptor,
        os.fdopen(descriptor, "rb", closefd=False) as file,
    ):
        return file.read(length)


@contextmanager
def emptied(path: Path) -> Generator[int]:
    """Yield a descriptor that writes to the file, which is made or emptied.

    Raises:
        OSError: it can't be made or written, or what is there is no regular file.
    """
    with _opened(path, os.O_WRONLY | os.O_CREAT) as descriptor:
        # Not by O_TRUNC: what is there is looked at before it is emptied.
        os.ftruncate(descriptor, 0)
        yield descriptor


@contextmanager
def _opened(path: Path, flags: int) -> Generator[int]:
    try:
        descriptor = os.open(path, flags | _SAFE, 0o600)
    except OSError as error:
        if error.errno in _NOT_OPENED:
            raise _no_file(path.lstat().st_mode) from error
        raise
    try:
        # Of what is open, since the name may mean something else a moment later.
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise _no_file(mode)
        yield descriptor
    finally:
        os.close(descriptor)


def _no_file(mode: int) -> OSError:
    if stat.S_ISDIR(mode):
        return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return OSError(errno.EINVAL, f"it is no file: mode {stat.filemode(mode)}")
