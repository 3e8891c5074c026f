"""Places for connections: a bound for each listener, so that idle ones never keep others out.

The oldest idle connection gives way to a new one; if none is idle, the oldest of all. The bound is
a part of the descriptors that the process may have: postgres' start, its log and the manager's own
work need the rest.
"""

from __future__ import annotations

import resource
from typing import Final, Protocol

_MOST: Final = 1024
# Where descriptors are few, a listener that takes nobody would be of no use.
_FEWEST: Final = 32
_RESERVED: Final = 256
"""Descriptors that connections never get."""
_LISTENERS: Final = 3


class Guest(Protocol):
    """What takes a place."""

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for an answer on it."""
        ...

    def abort(self) -> None:
        """Close it at once; it leaves its place by that."""
        ...


def fair_share(descriptors: int) -> int:
    """Return how many connections one listener may have, where so many descriptors may be open."""
    return max(_FEWEST, min(_MOST, (descriptors - _RESERVED) // _LISTENERS))


def descriptors() -> int:
    """Return how many descriptors this process may have."""
    # The soft limit is the one that open(2) meets.
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _RESERVED + _MOST * _LISTENERS if soft == resource.RLIM_INFINITY else soft


class Places:
    """The places of one listener. For the loop's thread only."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # In the order in which they came.
        self._guests: dict[Guest, None] = {}

    def __len__(self) -> int:
        """Return how many are taken."""
        return len(self._guests)

    def take(self, guest: Guest) -> None:
        """Give *guest* a place; somebody has to go where all are taken."""
        if len(self._guests) >= self._limit:
            idle = (one for one in self._guests if one.is_idle)
            goes = next(idle, None) or next(iter(self._guests))
            # At once: the connection itself is lost in a later turn of the loop only.
            self.leave(goes)
            goes.abort()
        self._guests[guest] = None

    def leave(self, guest: Guest) -> None:
        """Free the place of *guest*, if it has one."""
        self._guests.pop(guest, None)
