"""Careful reading: no file of a volume may block, crash or outgrow the process that reads it.

Only reads. Everything here may block on slow storage, so it runs in a thread. Files are read with
pread(2) and never mapped: a mapped file that is cut short kills its reader with SIGBUS.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator

_BLOCK_BYTES: Final = 32 * 1024
# At most 8 MiB of one file are kept.
_MAXIMUM_BLOCKS: Final = 256
_FIELDS: Final = 5
_MOUNT_INFO: Final = Path("/proc/self/mountinfo")


class FileView:
    """The bytes of an open file, read in blocks when they are asked for."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._size = size
        self._blocks: dict[int, bytes] = {}

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice, /) -> bytes:
        start, stop, _ = part.indices(self._size)
        number = start // _BLOCK_BYTES
        # What spans blocks is mostly a whole table, which is asked for once: keeping it is of no
        # use.
        if stop > (number + 1) * _BLOCK_BYTES:
            return read_at(self._descriptor, start, stop - start)
        block = self._blocks.get(number)
        if block is None:
            if len(self._blocks) >= _MAXIMUM_BLOCKS:
                self._blocks.clear()
            block = read_at(self._descriptor, number * _BLOCK_BYTES, _BLOCK_BYTES)
            self._blocks[number] = block
        base = number * _BLOCK_BYTES
        return block[start - base : stop - base]


def read_at(descriptor: int, offset: int, size: int) -> bytes:
    """Return up to *size* bytes; fewer only at the end of the file."""
    parts: list[bytes] = []
    while size > 0:
        # pread(2) may return less than is asked for, without being at the end.
        part = os.pread(descriptor, size, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
        size -= len(part)
    return b"".join(parts)


@contextmanager
def open_regular(path: Path) -> Generator[tuple[int, int], None, None]:
    """Open a regular file and yield its descriptor and its size in bytes.

    Raises:
        OSError: it can't be opened, or is something else than a regular file.
    """
    # To open a device can do things; without O_NONBLOCK, a FIFO that took the file's place since
    # would block here until somebody writes to it.
    _check_regular(path.stat())
    # O_NOCTTY: a terminal that took the file's place could become ours, with its signals.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        # Asked again of what was opened: the path may lead to another file since.
        status = os.fstat(descriptor)
        _check_regular(status)
        yield descriptor, status.st_size
    finally:
        os.close(descriptor)


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is not a regular file")


def is_there(path: str) -> bool:
    """Say whether there is something at *path* that is no directory, and can be asked for."""
    try:
        return not stat.S_ISDIR(Path(path).stat().st_mode)
    # A NUL in a path is a ValueError in Python.
    except (OSError, ValueError):
        return False


def mount_points() -> frozenset[str]:
    """Return the absolute paths on which something is mounted; empty where /proc is not there."""
    try:
        lines = os.fsdecode(_MOUNT_INFO.read_bytes()).splitlines()
    except OSError:
        return frozenset()
    # proc_pid_mountinfo(5): the fifth field, with blanks and the like as octal escapes.
    return frozenset(
        _unescape(line.split(" ", 5)[4]) for line in lines if line.count(" ") > _FIELDS
    )


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
