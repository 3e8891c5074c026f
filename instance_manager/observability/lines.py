"""Lines from a pipe that never ends: PostgreSQL's log and the output of long-running children.

The reader lives in the event loop and never blocks; a line that passes the limit is cut, so that
hostile or broken output costs bounded memory. It holds no opinion about what a line means.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

LINE_LIMIT_BYTES: Final = 1 << 20
_READ_BYTES: Final = 1 << 16
_LAST_READS: Final = 256


class LineReader:
    """Calls *on_line* for each line that a non-blocking descriptor carries, without the newline.

    The reader owns the descriptor: :meth:`close` closes it.
    """

    def __init__(
        self,
        descriptor: int,
        on_line: Callable[[bytes], None],
        limit_bytes: int = LINE_LIMIT_BYTES,
    ) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._on_line = on_line
        self._limit = limit_bytes
        self._partial = bytearray()
        self._skipping = False
        self._loop = asyncio.get_running_loop()
        self._open = True
        self.ended = asyncio.Event()
        """Set once nobody can write any more, or this is closed."""
        self._loop.add_reader(descriptor, self._readable)

    @property
    def is_open(self) -> bool:
        """Whether somebody may still write at the other end."""
        return self._open

    def close(self) -> None:
        """Take what is still in the pipe, a last line without newline included, and close it."""
        # First: the last words of a server are often still in the pipe.
        self.drain()
        if self._open:
            self._end()

    def drain(self) -> None:
        """Take what is in the pipe now, without waiting for the loop to see it."""
        # A writer that never stops must not keep the manager from its end.
        for _ in range(_LAST_READS):
            if not self._open or not self._readable():
                break

    def _readable(self) -> bool:
        """Read once; return whether there may be more."""
        try:
            part = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return False
        # The end of file: the last one who could write has closed the pipe.
        if not part:
            self._end()
            return False
        self._take(part)
        return True

    def _take(self, part: bytes) -> None:
        *lines, rest = part.split(b"\n")
        for line in lines:
            whole = bytes(self._partial) + line if self._partial else line
            self._partial.clear()
            if not self._skipping:
                self._on_line(whole[: self._limit])
            self._skipping = False
        self._partial += rest
        # Told at once and cut: to wait for its end would cost memory without a bound.
        if len(self._partial) > self._limit and not self._skipping:
            self._on_line(bytes(self._partial[: self._limit]))
            self._skipping = True
        if self._skipping:
            self._partial.clear()

    def _end(self) -> None:
        self._open = False
        # Before it is closed: the number may be another file's a moment later.
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        if self._partial and not self._skipping:
            self._on_line(bytes(self._partial))
        self._partial.clear()
        self.ended.set()
