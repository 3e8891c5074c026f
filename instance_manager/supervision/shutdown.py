"""The stop ladder: smart, fast, immediate, then SIGKILL, within one budget.

Pure. The ladder only goes down: a later, milder request changes nothing. Source of the signals:
the manual, "Shutting Down the Server".
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from instance_manager.settings.models import ShutdownSettings

StopMode = Literal["smart", "fast", "immediate"]


class Rung(StrEnum):
    """How hard postgres is asked to stop."""

    SMART = "smart"
    FAST = "fast"
    IMMEDIATE = "immediate"
    KILL = "kill"


ORDER: Final = (Rung.SMART, Rung.FAST, Rung.IMMEDIATE, Rung.KILL)
SIGNALS: Final = {
    Rung.SMART: signal.SIGTERM,
    Rung.FAST: signal.SIGINT,
    Rung.IMMEDIATE: signal.SIGQUIT,
    Rung.KILL: signal.SIGKILL,
}


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

    def seconds_of(self, rung: Rung) -> float:
        """Return the time of one rung; 0 for SIGKILL, which needs none."""
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
