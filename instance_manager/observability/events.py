"""The ring of events: what happened to the instance, newest last.

In memory only, bounded, and cheap; the log is the lasting record. The words are those of
Kubernetes events: a type, a reason for programs, a message for people. The clock is an argument.
"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from datetime import datetime

KEEP: Final = 500
"""Enough for days of a quiet instance, and about 300 KB at the most."""

_LONGEST: Final = 18
"""Digits of the number in an id."""

MANAGER: Final = "manager"
"""The actor of what nobody asked for."""


class EventType(StrEnum):
    """Whether someone should look: the two types that Kubernetes knows."""

    NORMAL = "Normal"
    """Nobody needs to look."""
    WARNING = "Warning"
    """Somebody should look."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened."""

    id: str
    """The run of the manager, and a number that grows by one with each of its events."""
    time: datetime
    type: EventType
    reason: str
    """One word in CamelCase, for programs."""
    message: str
    actor: str
    """Who caused it: the manager, or a caller of the API."""
    details: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    """Plain values for programs; never a secret."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """What follows an event, as far as it is remembered."""

    events: tuple[Event, ...]
    """Newest last."""
    is_complete: bool
    """Whether nothing is missing between that event and these."""


class Events:
    """Keeps the last events. For the loop's thread only.

    *run* tells the runs of the manager apart: no id is given twice.
    """

    def __init__(self, *, now: Callable[[], datetime], run: str = "0", keep: int = KEEP) -> None:
        self._now = now
        self._run = run
        self._ring: deque[Event] = deque(maxlen=keep)
        self._count = 0
        self._listeners: set[Callable[[], None]] = set()

    def record(
        self,
        reason: str,
        message: str,
        *,
        kind: EventType = EventType.NORMAL,
        actor: str = MANAGER,
        details: Mapping[str, object] | None = None,
    ) -> Event:
        """Append an event and return it; the oldest one leaves when the ring is full."""
        self._count += 1
        # A copy: readers see an event later, when the caller may have changed its own.
        copy = MappingProxyType(dict(details or {}))
        identifier = f"{self._run}-{self._count}"
        event = Event(identifier, self._now(), kind, reason, message, actor, copy)
        self._ring.append(event)
        # A copy: a listener may leave while it is called.
        for call in tuple(self._listeners):
            call()
        return event

    def recent(self) -> tuple[Event, ...]:
        """Return what the ring holds, newest last."""
        return tuple(self._ring)

    def after(self, event_id: str | None) -> Continuation:
        """Return what came after the event of that id; for None, all that is remembered.

        The id of another run, of an event that has left the ring together with its successor, and
        what is no id at all, are continued with all that is remembered, and are not complete.
        """
        if event_id is None:
            return Continuation(self.recent(), is_complete=True)
        number = self._number_of(event_id)
        first = self._count - len(self._ring) + 1
        # The event itself may have left the ring, as long as the next one is still there.
        if number is None or number < first - 1:
            return Continuation(self.recent(), is_complete=False)
        return Continuation(self.recent()[number - first + 1 :], is_complete=True)

    @contextmanager
    def announced_to(self, call: Callable[[], None]) -> Generator[None]:
        """Have *call* called after each event while the context lasts; it must not raise."""
        self._listeners.add(call)
        try:
            yield
        finally:
            self._listeners.discard(call)

    def _number_of(self, event_id: str) -> int | None:
        """Return the number in an id of this run; None where it never was given."""
        run, _, digits = event_id.rpartition("-")
        # Long digit strings are refused first: converting them takes quadratic time.
        if (
            run != self._run
            or not (digits.isascii() and digits.isdecimal())
            or len(digits) > _LONGEST
        ):
            return None
        number = int(digits)
        return number if number <= self._count else None
