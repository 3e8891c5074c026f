"""``postmaster.pid``: who says to be the postmaster of a data directory.

Source: src/include/utils/pidfile.h, which names the lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

FILE_NAME = "postmaster.pid"
_LIMIT_BYTES = 8192
_LINES = 8


@dataclass(frozen=True, slots=True)
class PidFile:
    """The lines of the file; an absent one is None."""

    pid: int
    data_directory: str | None
    started_at: int | None
    port: int | None
    socket_directory: str | None
    status: str | None


def parse(text: str) -> PidFile | None:
    """Return what the file says; None if it is empty, torn, or no such file at all.

    A negative pid, which a single-user server writes, is returned as a positive one.
    """
    lines = [line.strip() for line in text.splitlines()]
    lines += [""] * (_LINES - len(lines))
    pid = _number(lines[0])
    if not pid:
        return None
    return PidFile(
        pid=abs(pid),
        data_directory=lines[1] or None,
        started_at=_number(lines[2]),
        port=_number(lines[3]),
        socket_directory=lines[4] or None,
        status=lines[7] or None,
    )


def read(data_directory: Path) -> PidFile | None:
    """Return what the data directory's file says; None without one that can be read."""
    try:
        with (data_directory / FILE_NAME).open(encoding="utf-8", errors="replace") as file:
            return parse(file.read(_LIMIT_BYTES))
    except OSError:
        return None


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None
