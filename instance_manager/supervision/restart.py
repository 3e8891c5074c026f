"""When to start again after postgres ended on its own: a budget within a window, and a delay.

Pure: time and chance enter as arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FIRST_DELAY_SECONDS: Final = 0.5
LONGEST_DELAY_SECONDS: Final = 30.0
_MAXIMUM_DOUBLINGS: Final = 16
_JITTER_SHARE: Final = 0.2


@dataclass(frozen=True, slots=True)
class RestartBudget:
    """The restarts of late: at most *maximum* within *window_seconds*."""

    maximum: int
    window_seconds: float
    restarts: tuple[float, ...] = ()

    def after(self, now: float) -> RestartBudget:
        """Return the budget with one more restart, at *now*."""
        return RestartBudget(self.maximum, self.window_seconds, (*self._recent(now), now))

    def is_spent(self, now: float) -> bool:
        """Whether one more restart at *now* would be one too many."""
        return len(self._recent(now)) >= self.maximum

    def delay_seconds(self, now: float, chance: float) -> float:
        """Return how long to wait before the next restart.

        The first one within the window comes at once: clients wait for it. Each later one waits
        twice as long as the one before. *chance* is between 0 and 1, and spreads instances that
        fail together.
        """
        recent = len(self._recent(now))
        if recent == 0:
            return 0.0
        # A limit of thousands would else have a power that no number holds.
        doublings = min(recent - 1, _MAXIMUM_DOUBLINGS)
        delay = min(FIRST_DELAY_SECONDS * 2.0**doublings, LONGEST_DELAY_SECONDS)
        return delay * (1 + _JITTER_SHARE * chance)

    def _recent(self, now: float) -> tuple[float, ...]:
        return tuple(at for at in self.restarts if now - at < self.window_seconds)
