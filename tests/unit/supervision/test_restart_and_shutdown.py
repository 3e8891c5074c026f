"""The restart budget and the stop ladder: pure arithmetic."""

from __future__ import annotations

import signal

import pytest

from instance_manager.supervision.restart import LONGEST_DELAY_SECONDS, RestartBudget
from instance_manager.supervision.shutdown import (
    ORDER,
    SIGNALS,
    Ladder,
    Rung,
    harder,
    next_rung,
)


def test_a_budget_is_spent_after_its_maximum_within_the_window() -> None:
    """Five restarts within the window are allowed, a sixth is not."""
    budget = RestartBudget(maximum=5, window_seconds=300)
    for now in range(5):
        assert not budget.is_spent(now)
        budget = budget.after(now)

    assert budget.is_spent(5)


def test_restarts_older_than_the_window_do_not_count() -> None:
    """A server that was stable for the whole window has its budget back."""
    budget = RestartBudget(maximum=1, window_seconds=300).after(0)

    assert budget.is_spent(299)
    assert not budget.is_spent(300)


def test_no_restart_is_allowed_by_a_maximum_of_zero() -> None:
    """Zero restarts means that the first end is the last."""
    assert RestartBudget(maximum=0, window_seconds=300).is_spent(0)


def test_each_delay_is_twice_the_one_before_up_to_a_limit() -> None:
    """The first restart comes at once; then the delay doubles, up to a limit but for jitter."""
    budget = RestartBudget(maximum=50, window_seconds=300)
    delays: list[float] = []
    for _ in range(10):
        delays.append(budget.delay_seconds(0, chance=0))
        budget = budget.after(0)

    assert delays[:5] == [0.0, 0.5, 1.0, 2.0, 4.0]
    assert delays[-1] == LONGEST_DELAY_SECONDS


def test_any_number_of_restarts_has_a_delay() -> None:
    """A maximum of thousands is odd, and no reason for the manager to fail."""
    budget = RestartBudget(maximum=5000, window_seconds=300, restarts=(0.0,) * 4000)

    assert budget.delay_seconds(0, chance=0) == LONGEST_DELAY_SECONDS


def test_chance_spreads_delays_by_a_fifth_at_most() -> None:
    """Instances that fail together do not start together."""
    budget = RestartBudget(maximum=5, window_seconds=300).after(0)

    assert budget.delay_seconds(0, chance=1) == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("seconds", "first"),
    [
        ((10, 20, 5), Rung.SMART),
        ((0, 20, 5), Rung.FAST),
        ((0, 0, 5), Rung.IMMEDIATE),
        ((0, 0, 0), Rung.FAST),
    ],
)
def test_a_stop_begins_at_the_first_rung_that_has_time(
    seconds: tuple[float, float, float], first: Rung
) -> None:
    """A rung without time is skipped; with none at all, a stop is still fast before it kills."""
    assert Ladder(*seconds).first_rung() is first


def test_the_ladder_only_goes_down() -> None:
    """Each rung is followed by a harder one, and the last one by itself."""
    assert [next_rung(rung) for rung in ORDER] == [*ORDER[1:], Rung.KILL]
    assert harder(Rung.IMMEDIATE, Rung.FAST) is Rung.IMMEDIATE
    assert harder(Rung.SMART, Rung.FAST) is Rung.FAST


def test_each_rung_has_the_signal_that_the_manual_gives_it() -> None:
    """Smart is TERM, fast is INT, immediate is QUIT."""
    assert SIGNALS == {
        Rung.SMART: signal.SIGTERM,
        Rung.FAST: signal.SIGINT,
        Rung.IMMEDIATE: signal.SIGQUIT,
        Rung.KILL: signal.SIGKILL,
    }


def test_the_total_is_the_budget_of_a_stop() -> None:
    """After smart, fast and immediate, SIGKILL."""
    assert Ladder(1, 20, 5).total_seconds == 26


def test_what_an_earlier_step_took_is_not_taken_from_later_rungs() -> None:
    """A checkpoint of 10 s before a fast stop of 20 s leaves it 10, and immediate all its 5."""
    ladder = Ladder(0, 20, 5)

    assert ladder.time_left(Rung.FAST, 10) == 10
    assert ladder.time_left(Rung.IMMEDIATE, 20) == 5
    assert ladder.time_left(Rung.IMMEDIATE, 25) == 0


def test_a_rung_that_begins_early_has_its_own_time_and_no_more() -> None:
    """Who skips a rung does not give its time to the next one."""
    assert Ladder(60, 20, 5).time_left(Rung.FAST, 1) == 20


@pytest.mark.parametrize("settings", [(0, 20, 5), (30, 20, 5), (0, 0, 5), (10, 0, 0)])
@pytest.mark.parametrize("rung", [Rung.SMART, Rung.FAST, Rung.IMMEDIATE])
def test_a_stop_that_nobody_hastens_reaches_the_kill_within_its_budget(
    settings: tuple[float, float, float], rung: Rung
) -> None:
    """Each rung ends by its boundary, whatever the first one was."""
    ladder = Ladder(*settings).beginning_with(rung)
    elapsed = 0.0
    while rung is not Rung.KILL:
        elapsed += ladder.time_left(rung, elapsed)
        rung = next_rung(rung)

    assert elapsed <= ladder.total_seconds


def test_a_smart_stop_by_name_has_time_even_where_the_settings_give_it_none() -> None:
    """It waits for sessions as long as a fast stop may take, then stops fast."""
    ladder = Ladder(0, 20, 5).beginning_with(Rung.SMART)

    assert ladder.time_left(Rung.SMART, 0) == 20
    assert ladder.time_left(Rung.FAST, 20) == 20
