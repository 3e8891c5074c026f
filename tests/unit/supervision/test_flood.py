"""How many of a crowd of events are told one by one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from instance_manager.supervision.flood import Flood

LIMIT = 20
WINDOW = 10.0


def flood() -> Flood:
    return Flood(LIMIT, WINDOW)


def test_as_many_as_the_limit_pass_within_a_window() -> None:
    """One more is held back, and counted."""
    events = flood()
    told = [events.passes(now=1.0) for _ in range(LIMIT + 1)]

    assert told == [True] * LIMIT + [False]
    assert events.is_flood
    assert events.settle(now=11.0) == 1


def test_few_events_pass_for_ever() -> None:
    """A window begins with its first event; what came before it does not count."""
    events = flood()

    assert all(events.passes(now) for now in range(1000))
    assert not events.is_flood


def test_nothing_passes_while_a_flood_lasts() -> None:
    """Window after window only the number is told."""
    events = flood()
    for _ in range(2 * LIMIT + 1):
        events.passes(now=0.0)
    numbers = [events.settle(now=10.0)]
    for _ in range(LIMIT + 1):
        assert not events.passes(now=12.0)
    numbers.append(events.settle(now=20.0))

    assert numbers == [LIMIT + 1, LIMIT + 1]
    assert events.is_flood


def test_a_flood_is_over_after_a_window_with_few_events() -> None:
    """Those are counted as well, and the next ones are told one by one."""
    events = flood()
    for _ in range(2 * LIMIT + 1):
        events.passes(now=0.0)
    events.settle(now=10.0)
    events.passes(now=11.0)

    assert events.settle(now=20.0) == 1
    assert not events.is_flood
    assert events.passes(now=21.0)


def test_the_end_of_the_window_is_told() -> None:
    """From its first event on; late, it is now."""
    events = flood()
    events.passes(now=5.0)

    assert events.seconds_left(now=6.0) == 9.0
    assert events.seconds_left(now=99.0) == 0.0


@given(st.lists(st.tuples(st.floats(0, 4), st.integers(1, 60))))
def test_every_event_is_told_or_counted_and_none_twice(crowds: list[tuple[float, int]]) -> None:
    """Whenever they come."""
    events, now, passed, counted, came = flood(), 0.0, 0, 0, 0
    settle_at = None
    for pause, number in crowds:
        now += pause
        if settle_at is not None and now >= settle_at:
            counted += events.settle(now)
            settle_at = now + WINDOW if events.is_flood else None
        for _ in range(number):
            came += 1
            passed += events.passes(now)
            if events.is_flood and settle_at is None:
                settle_at = now + events.seconds_left(now)
    counted += events.settle(now)

    assert passed + counted == came
