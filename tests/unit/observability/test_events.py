"""The ring of events."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from instance_manager.observability.events import Events, EventType

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_events_are_kept_newest_last_with_growing_ids() -> None:
    """The order is that of the recording."""
    events = Events(now=lambda: NOON, run="r")
    events.record("Started", "postgres was started")
    events.record("Crashed", "postgres ended", kind=EventType.WARNING, actor="uid=0")

    first, second = events.recent()

    assert (first.id, second.id) == ("r-1", "r-2")
    assert (first.type, first.actor) == ("Normal", "manager")
    assert (second.type, second.actor, second.time) == ("Warning", "uid=0", NOON)


def test_the_oldest_event_leaves_a_full_ring() -> None:
    """Ids go on growing, so that a reader sees what it missed."""
    events = Events(now=lambda: NOON, run="r", keep=2)
    for number in range(4):
        events.record("Counted", str(number))

    assert [(event.id, event.message) for event in events.recent()] == [("r-3", "2"), ("r-4", "3")]


def test_an_event_does_not_change_with_what_it_was_made_of() -> None:
    """The details are copied, and can't be written to."""
    details: dict[str, object] = {"operation": "op-1"}
    event = Events(now=lambda: NOON).record("Asked", "for it", details=details)
    details["operation"] = "op-2"

    assert event.details == {"operation": "op-1"}
    with pytest.raises(TypeError):
        event.details["operation"] = "op-3"  # type: ignore[index]


def ids(events: Events, after: str | None) -> tuple[list[str], bool]:
    found = events.after(after)
    return [event.id for event in found.events], found.is_complete


@pytest.fixture
def full() -> Events:
    """Return a ring of three that has seen five events."""
    events = Events(now=lambda: NOON, run="r", keep=3)
    for number in range(5):
        events.record("Counted", str(number))
    return events


@pytest.mark.parametrize(
    ("after", "rest"),
    [
        (None, ["r-3", "r-4", "r-5"]),
        ("r-2", ["r-3", "r-4", "r-5"]),
        ("r-3", ["r-4", "r-5"]),
        ("r-5", []),
    ],
)
def test_a_reader_goes_on_where_it_was(full: Events, after: str | None, rest: list[str]) -> None:
    """Without an id with all; the id of the last that has left the ring is still enough."""
    assert ids(full, after) == (rest, True)


@pytest.mark.parametrize(
    "after",
    ["r-1", "r-0", "r-6", "other-4", "4", "", "r-", "r--4", "r-x", "r-\u0664", "r-" + "9" * 5000],
)
def test_a_gap_is_noticed(full: Events, after: str) -> None:
    """What has left the ring, what another run gave, and what is no id: all is told again."""
    assert ids(full, after) == (["r-3", "r-4", "r-5"], False)


def test_who_listens_is_called_after_each_event_and_no_longer_than_that() -> None:
    """The event is in the ring when the call comes."""
    events = Events(now=lambda: NOON)
    seen: list[int] = []
    with events.announced_to(lambda: seen.append(len(events.recent()))):
        events.record("One", "")
        events.record("Two", "")
    events.record("Three", "")

    assert seen == [1, 2]
