"""The stop ladder: smart, fast, immediate, then SIGKILL, within one budget.

Pure. The ladder only goes down: a later, milder request changes nothing. Source of the signals:
the manual, "Shutting Down the Server".
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from instance_manager.settings.models import ShutdownSettings

StopMode = Literal["smart", "fast", "immediate"]


class Rung(StrEnum):
    """How hard postgres is asked to stop."""

    SMART = "smart"
    """Postgres waits for its sessions to end."""
    FAST = "fast"
    """Postgres ends its sessions, and makes a checkpoint."""
    IMMEDIATE = "immediate"
    """Postgres ends at once; the next start recovers."""
    KILL = "kill"
    """The kernel ends it; the next start recovers."""


ORDER: Final = (Rung.SMART, Rung.FAST, Rung.IMMEDIATE, Rung.KILL)
SIGNALS: Final = {
    Rung.SMART: signal.SIGTERM,
    Rung.FAST: signal.SIGINT,
    Rung.IMMEDIATE: signal.SIGQUIT,
    Rung.KILL: signal.SIGKILL,
}


_KILL_AGAIN_SECONDS: Final = 5.0
"""Between two tries of SIGKILL: a process that waits for a disk dies when the disk answers."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """Seconds that each rung may take before the next one; SIGKILL has no limit."""

    smart_seconds: float
    fast_seconds: float
    immediate_seconds: float

    @classmethod
    def of(cls, settings: ShutdownSettings) -> Ladder:
        """Return the ladder that the settings describe."""
        return cls(settings.smart_seconds, settings.fast_seconds, settings.immediate_seconds)

    @property
    def total_seconds(self) -> float:
        """The whole budget: after it, SIGKILL."""
        return self.smart_seconds + self.fast_seconds + self.immediate_seconds

    def first_rung(self) -> Rung:
        """Return where a stop without a mode begins: the first rung that has any time."""
        return next((rung for rung in ORDER if self.seconds_of(rung) > 0), Rung.FAST)

    def beginning_with(self, rung: Rung) -> Ladder:
        """Return the ladder of a stop that begins with *rung*.

        A smart stop that is asked for by name, where the settings give it no time of its own, gets
        that of a fast one before that one begins.
        """
        if rung is Rung.SMART and not self.smart_seconds:
            return replace(self, smart_seconds=self.fast_seconds)
        return self

    def time_left(self, rung: Rung, elapsed_seconds: float) -> float:
        """Return how long *rung* may last from now, *elapsed_seconds* after the stop began.

        Each rung has its own time, and ends no later than it would had all before it taken theirs:
        what a checkpoint, or an earlier rung, took is not taken from those that follow.
        """
        if rung is Rung.KILL:
            return _KILL_AGAIN_SECONDS
        end = sum(self.seconds_of(one) for one in ORDER[: ORDER.index(rung) + 1])
        return max(0.0, min(self.seconds_of(rung), end - elapsed_seconds))

    def seconds_of(self, rung: Rung) -> float:
        """Return the time that the settings give to one rung; 0 for SIGKILL, which needs none."""
        match rung:
            case Rung.SMART:
                return self.smart_seconds
            case Rung.FAST:
                return self.fast_seconds
            case Rung.IMMEDIATE:
                return self.immediate_seconds
            case Rung.KILL:
                return 0.0


def next_rung(rung: Rung) -> Rung:
    """Return the rung below; the last one has none but itself."""
    return ORDER[min(ORDER.index(rung) + 1, len(ORDER) - 1)]


def harder(one: Rung, other: Rung) -> Rung:
    """Return the harder of two rungs."""
    return max(one, other, key=ORDER.index)
