"""A bound on lines of the log that others can cause. Pure: time enters as an argument."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Flood:
    """Lets *limit* events within a window pass, and counts what comes beyond it.

    From then on nothing passes until a window has had no more than *limit* again: whoever uses it
    calls :meth:`settle` at the end of each such window and tells the number instead.
    """

    limit: int
    window_seconds: float
    _began: float = field(default=float("-inf"), init=False)
    _passed: int = field(default=0, init=False)
    _held_back: int = field(default=0, init=False)
    _is_flood: bool = field(default=False, init=False)

    @property
    def is_flood(self) -> bool:
        """Whether events are being held back."""
        return self._is_flood

    def passes(self, now: float) -> bool:
        """Take one more event at *now*; return whether to tell it, else it is counted."""
        if not self._is_flood:
            if now - self._began >= self.window_seconds:
                self._began, self._passed = now, 0
            if self._passed < self.limit:
                self._passed += 1
                return True
            self._is_flood = True
        self._held_back += 1
        return False

    def seconds_left(self, now: float) -> float:
        """Return how long the present window still lasts."""
        return max(0.0, self._began + self.window_seconds - now)

    def settle(self, now: float) -> int:
        """End a window at *now*, begin the next one, and return how many were held back."""
        held_back = self._held_back
        # By what was held back: while it is a flood, nothing passes that could be counted.
        self._is_flood = held_back > self.limit
        self._began, self._passed, self._held_back = now, 0, 0
        return held_back
