"""The ring of events: what happened to the instance, newest last.

In memory only, bounded, and cheap; the log is the lasting record. The words are those of
Kubernetes events: a type, a reason for programs, a message for people. The clock is an argument.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

KEEP: Final = 500
"""Enough for days of a quiet instance, and about 300 KB at the most."""

MANAGER: Final = "manager"
"""The actor of what nobody asked for."""


class EventType(StrEnum):
    """Whether someone should look: the two types that Kubernetes knows."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened."""

    id: str
    """A decimal number that grows by one with each event of this run of the manager."""
    time: datetime
    type: EventType
    reason: str
    """One word in CamelCase, for programs."""
    message: str
    actor: str
    """Who caused it: the manager, or a caller of the API."""
    details: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    """Plain values for programs; never a secret."""


class Events:
    """Keeps the last events. For the loop's thread only."""

    def __init__(self, *, now: Callable[[], datetime], keep: int = KEEP) -> None:
        self._now = now
        self._ring: deque[Event] = deque(maxlen=keep)
        self._count = 0

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
        copy = MappingProxyType(dict(details or {}))
        event = Event(str(self._count), self._now(), kind, reason, message, actor, copy)
        self._ring.append(event)
        return event

    def recent(self) -> tuple[Event, ...]:
        """Return what the ring holds, newest last."""
        return tuple(self._ring)
