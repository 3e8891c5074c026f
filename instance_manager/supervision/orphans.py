"""The log of orphans: a line for each, and one a window in a storm.

All that the kernel keeps of an ended process is its name: its arguments, which may hold secrets,
are gone with its memory. Source: proc_pid_comm(5), proc_pid_cmdline(5).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from instance_manager.log import get_logger
from instance_manager.supervision.flood import Flood

if TYPE_CHECKING:
    from instance_manager.supervision.children import Orphan

_log: Final = get_logger()
_LIMIT: Final = 20
_WINDOW_SECONDS: Final = 10.0


class OrphanLog:
    """Logs what it is called with; use it in the thread of a running loop."""

    def __init__(self, limit: int = _LIMIT, window_seconds: float = _WINDOW_SECONDS) -> None:
        self._flood = Flood(limit, window_seconds)

    def __call__(self, orphan: Orphan) -> None:
        """Log an orphan, or count it where there are too many."""
        was_flood = self._flood.is_flood
        if self._flood.passes(asyncio.get_running_loop().time()):
            _log.info(
                "reaped an orphan",
                pid=orphan.pid,
                command=orphan.command,
                status=str(orphan.status),
            )
        # Once, when the flood begins: each window that stays one asks for the next look itself.
        elif not was_flood:
            self._settle_later()

    def _settle_later(self) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(self._flood.seconds_left(loop.time()), self._settle)

    def _settle(self) -> None:
        held_back = self._flood.settle(asyncio.get_running_loop().time())
        if held_back:
            _log.info("reaped more orphans", orphans=held_back)
        if self._flood.is_flood:
            self._settle_later()
