"""The ring of events."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from instance_manager.observability.events import Events, EventType

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_events_are_kept_newest_last_with_growing_ids() -> None:
    """The order is that of the recording."""
    events = Events(now=lambda: NOON)
    events.record("Started", "postgres was started")
    events.record("Crashed", "postgres ended", kind=EventType.WARNING, actor="uid=0")

    first, second = events.recent()

    assert (first.id, second.id) == ("1", "2")
    assert (first.type, first.actor) == ("Normal", "manager")
    assert (second.type, second.actor, second.time) == ("Warning", "uid=0", NOON)


def test_the_oldest_event_leaves_a_full_ring() -> None:
    """Ids go on growing, so that a reader sees what it missed."""
    events = Events(now=lambda: NOON, keep=2)
    for number in range(4):
        events.record("Counted", str(number))

    assert [(event.id, event.message) for event in events.recent()] == [("3", "2"), ("4", "3")]


def test_an_event_does_not_change_with_what_it_was_made_of() -> None:
    """The details are copied, and can't be written to."""
    details: dict[str, object] = {"operation": "op-1"}
    event = Events(now=lambda: NOON).record("Asked", "for it", details=details)
    details["operation"] = "op-2"

    assert event.details == {"operation": "op-1"}
    with pytest.raises(TypeError):
        event.details["operation"] = "op-3"  # type: ignore[index]
