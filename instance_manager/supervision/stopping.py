"""One stop of a postmaster: down the ladder, with what it is waiting for.

A stop outlives the request that began it: whoever asks again, or asks for more, joins it, and the
time that it has is counted from its beginning. Time enters as an argument.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from instance_manager.log import get_logger
from instance_manager.supervision.shutdown import SIGNALS, Ladder, Rung, harder, next_rung

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from instance_manager.supervision.children import Child
    from instance_manager.supervision.work import StopWork

_log: Final = get_logger()
_LOOK_SECONDS: Final = 1.0
_SAY_AGAIN_SECONDS: Final = 10.0
_CHECKPOINT_SHARE: Final = 0.5
"""How much of its first rung's time a stop gives to a checkpoint before it."""
_CAN_WAIT: Final = frozenset({Rung.SMART, Rung.FAST})


@dataclass(frozen=True, slots=True)
class Asked:
    """How a stop was asked for."""

    rung: Rung | None = None
    """How hard it begins; the settings say so by default."""
    at_once: bool = False


class Stop:
    """The stop under way: *rung* is how hard it is, *awaited* what it waits for."""

    def __init__(
        self,
        ladder: Ladder,
        asked: Asked,
        work: StopWork,
        *,
        checkpoint_first: bool,
        clock: Callable[[], float],
        on_progress: Callable[[], None],
    ) -> None:
        self.rung = asked.rung or ladder.first_rung()
        self.awaited = ""
        self._at_once = asked.at_once
        # An immediate stop throws the work of a checkpoint away: the next start recovers anyway.
        may_wait = self.rung in _CAN_WAIT and not asked.at_once
        self._checkpoint_due = checkpoint_first and may_wait
        self._checkpointing: asyncio.Task[None] | None = None
        self._ladder = ladder.beginning_with(self.rung)
        self._work = work
        self._clock = clock
        self._on_progress = on_progress
        self._began = clock()
        self._woken = asyncio.Event()

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return self._clock() - self._began

    @property
    def seconds_left(self) -> float:
        """What is left of its whole budget."""
        return max(0.0, self._ladder.total_seconds - self.seconds)

    @property
    def tools_seconds(self) -> float:
        """How long tools and scripts may take to end: their work is thrown away in any case."""
        return 0.0 if self._at_once or self.rung not in _CAN_WAIT else self.seconds_left

    def harden(self, rung: Rung, *, at_once: bool = False) -> None:
        """Go on at *rung*, if that is harder; *at_once* without a checkpoint before it."""
        self._at_once = self._at_once or at_once
        # An immediate stop throws the work of a checkpoint away, also of one that is still due.
        if at_once or rung not in _CAN_WAIT:
            self._checkpoint_due = False
            if self._checkpointing is not None:
                self._checkpointing.cancel()
        if harder(self.rung, rung) is not self.rung:
            self.rung = rung
            self._woken.set()

    def escalate(self) -> None:
        """Go one rung down, at once."""
        self.harden(next_rung(self.rung), at_once=True)

    async def descend(self, child: Child) -> None:
        """Signal the postmaster, harder and harder, until it has ended.

        May be cancelled and called again: it goes on where it was.
        """
        if self._checkpoint_due:
            # First, for the call after a cancellation: the time for a checkpoint is given once.
            self._checkpoint_due = False
            await self._checkpoint(child)
        async with self._told(child):
            while child.status is None:
                rung = self.rung
                _log.info("stopping postgres", mode=str(rung))
                child.signal(SIGNALS[rung])
                await self._first(child, seconds=self._time_left(rung))
                # A harder request meanwhile has set the rung already: none is skipped by both.
                if child.status is None and self.rung is rung:
                    self.rung = next_rung(rung)
                    self._on_progress()

    async def _checkpoint(self, child: Child) -> None:
        """Have a checkpoint made, for a part of the time; a harder request ends it."""
        limit = _CHECKPOINT_SHARE * self._time_left(self.rung)
        work = asyncio.create_task(self._work.checkpoint_first(limit), name="checkpoint")
        self._checkpointing = work
        try:
            await self._first(child, work, seconds=limit)
        finally:
            # A checkpoint that comes too late would be one more session for the stop to wait for.
            work.cancel()

    def _time_left(self, rung: Rung) -> float:
        return self._ladder.time_left(rung, self.seconds)

    async def _first(self, child: Child, *works: asyncio.Task[None], seconds: float) -> None:
        """Wait for the postmaster's end, a harder request, or one of *works*."""
        # Nothing was awaited since the rung was read: no request can be missed by this.
        self._woken.clear()
        waits: list[asyncio.Task[object]] = [
            asyncio.create_task(child.wait()),
            asyncio.create_task(self._woken.wait()),
        ]
        try:
            await asyncio.wait(
                {*waits, *works}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for wait in waits:
                # Else those that wait for the postmaster would add up, rung after rung.
                wait.cancel()

    @asynccontextmanager
    async def _told(self, child: Child) -> AsyncGenerator[None]:
        """Look what the server waits for, and tell it, while the context lasts."""
        telling = asyncio.create_task(self._tell(child), name="stop progress")
        try:
            yield
        finally:
            telling.cancel()

    async def _tell(self, child: Child) -> None:
        told_at = 0.0
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            awaited = await self._work.awaited(child.pid)
            if awaited != self.awaited or self.seconds - told_at >= _SAY_AGAIN_SECONDS:
                self.awaited, told_at = awaited, self.seconds
                _log.info(
                    "postgres is stopping",
                    mode=str(self.rung),
                    waiting_for=awaited,
                    seconds=round(self.seconds, 1),
                )
                self._on_progress()
