"""What people see while a command waits: on a terminal one line that is redrawn, else lines.

Nothing is shown of what is done at once. A stream that nobody reads any more is no reason to stop
waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final, Self

from instance_manager.commands import terminal
from instance_manager.commands.text import clock_of, printable, status_line

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import TextIO

_PATIENCE_SECONDS: Final = 0.5
"""What ends before would only flicker."""
_REDRAW_SECONDS: Final = 1.0
_ERASE: Final = "\r\x1b[K"
"""To the first column, and erase to the end of the line (ECMA-48, EL)."""


class Waiting:
    """Tells what is waited for, and on a terminal for how long; an asynchronous context manager.

    On leaving it the line is gone, also where the wait was interrupted.
    """

    def __init__(self, what: str, stream: TextIO, environment: Mapping[str, str]) -> None:
        self._what = what
        self._stream = stream
        self._style = terminal.style_of(stream, environment)
        self._is_redrawn = terminal.can_redraw(stream, environment)
        self._text = ""
        self._is_shown = False
        self._ticking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._is_redrawn:
            self._ticking = asyncio.create_task(self._tick(), name="progress line")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
            # Waited for, so that it draws nothing after the line is erased; wait() raises nothing
            # of the task's.
            await asyncio.wait({self._ticking})
        if self._is_shown:
            self._write(_ERASE)

    def tell(self, text: str) -> None:
        """Say what is waited for from now on; the same as before is said once."""
        # Lines in a log would repeat each second.
        if text == self._text:
            return
        self._text = text
        if not self._is_redrawn:
            self._write(f"{self._what}: {printable(text)}\n")

    def note(self, text: str) -> None:
        """Have it shown where a line is shown anyway."""
        if self._is_redrawn:
            self._text = text

    async def _tick(self) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        await asyncio.sleep(_PATIENCE_SECONDS)
        while True:
            self._draw(clock() - began)
            await asyncio.sleep(_REDRAW_SECONDS)

    def _draw(self, seconds: float) -> None:
        text = f"{self._what}: {self._text or 'waiting for the manager'}"
        # The last column stays free: many terminals go to the next line once it is written to.
        columns = terminal.columns_of(self._stream) - 1
        line, elapsed = status_line(text, clock_of(seconds), columns, is_ascii=self._style.ascii)
        self._is_shown = True
        self._write(f"{_ERASE}{line}{self._style.paint(elapsed, 'faint')}")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(text)
            self._stream.flush()
