"""Reading one small file of text whose place a setting names: whole, up to a limit, or not at all.

A file is opened without waiting (a FIFO without a writer would hold up PID 1 for ever).
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from instance_manager.errors import Problem, SettingsError

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


def read_text(
    path: Path, limit_bytes: int, what: str, key: str = "", *, secret: bool = False
) -> str:
    """Read a regular file of UTF-8; *what* names it in the message of the SettingsError."""
    try:
        with _opened(path) as descriptor:
            facts = os.fstat(descriptor)
            if fault := _file_fault(facts, limit_bytes, secret=secret):
                raise SettingsError([Problem(key, f"cannot read {what}: {fault}")])
            content = _read_all(descriptor, limit_bytes)
        # Some editors put a mark before the text.
        return content.decode("utf-8-sig")
    except OSError as err:
        raise SettingsError([Problem(key, f"cannot read {what}: {err.strerror}")]) from err
    except UnicodeDecodeError as err:
        fault = f"not UTF-8 text (byte {err.start})"
        raise SettingsError([Problem(key, f"cannot read {what}: {fault}")]) from None


@contextmanager
def _opened(path: Path) -> Generator[int]:
    # O_NOCTTY: a terminal of this name must not become that of PID 1.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _file_fault(facts: os.stat_result, limit_bytes: int, *, secret: bool) -> str:
    if stat.S_ISDIR(facts.st_mode):
        return "it is a directory"
    if not stat.S_ISREG(facts.st_mode):
        return "it is not a regular file"
    # Before it is read: the memory of PID 1 is not for whoever fills the file.
    if facts.st_size > limit_bytes:
        return f"it has {facts.st_size} bytes, more than {limit_bytes}"
    if secret and facts.st_mode & (stat.S_IROTH | stat.S_IWOTH):
        mode = stat.S_IMODE(facts.st_mode)
        return (
            f"others can read or change it (mode {mode:04o}): set mode 0400, or 0440 for a group"
            " (in Kubernetes, the volume's defaultMode)"
        )
    return ""


def _read_all(descriptor: int, limit_bytes: int) -> bytes:
    """Read to the end, or to the limit in a file that grows meanwhile."""
    chunks: list[bytes] = []
    left = limit_bytes
    while left > 0 and (chunk := os.read(descriptor, left)):
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)
