"""The state table: total, reachable, and the same as the diagram in the documentation."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from instance_manager.errors import InvalidTransitionError
from instance_manager.supervision.states import (
    IGNORED,
    TRANSITIONS,
    Event,
    Phase,
    State,
    allows,
    next_state,
    phase_of,
    render_diagram,
)

DIAGRAM = Path(__file__).parents[3] / "docs" / "states.md"
WITHOUT_POSTMASTER = {State.STOPPED, State.FENCED, State.FAILED, State.BACKOFF, State.GONE}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_every_pair_is_a_row_an_ignore_or_an_error_that_names_both(
    state: State, event: Event
) -> None:
    """No pair of state and event is left to chance."""
    row, ignored = event in TRANSITIONS[state], event in IGNORED[state]
    assert not (row and ignored)

    if row:
        assert next_state(state, event) is TRANSITIONS[state][event]
    elif ignored:
        assert next_state(state, event) is state
    else:
        with pytest.raises(InvalidTransitionError, match=rf"{event} in state {state}"):
            next_state(state, event)
    assert allows(state, event) is (row or ignored)


def test_every_state_can_be_reached_from_the_first_one() -> None:
    """The table has no room without a door."""
    reached = {State.PREPARING}
    while (
        more := {target for state in reached for target in TRANSITIONS[state].values()} - reached
    ):
        reached |= more

    assert reached == set(State)


@pytest.mark.parametrize("state", State)
def test_the_manager_can_be_ended_from_every_state(state: State) -> None:
    """A request to leave is a transition everywhere, or the state is on its way out already."""
    assert next_state(state, Event.LEAVE_REQUESTED) in {State.LEAVING, State.GONE}


@pytest.mark.parametrize("state", sorted(set(State) - {State.GONE, State.LEAVING}))
def test_a_postmaster_that_lives_is_stopped_before_another_state_holds(state: State) -> None:
    """From a state with a postmaster, no single event leads to one without it but its exit."""
    if Event.EXITED not in TRANSITIONS[state]:
        return

    for event, target in TRANSITIONS[state].items():
        if event is not Event.EXITED:
            assert target not in WITHOUT_POSTMASTER | {State.PREPARING, State.INITIALIZING}


@pytest.mark.parametrize("state", State)
def test_late_observations_never_break_a_state(state: State) -> None:
    """The observer may speak of a server that is gone; that changes nothing."""
    if state in {State.STARTING, State.RECOVERING, State.RUNNING}:
        return

    assert next_state(state, Event.ACCEPTED) is state
    assert next_state(state, Event.RECOVERY_SEEN) is state


@pytest.mark.parametrize("state", State)
def test_every_state_has_a_phase_of_the_contract(state: State) -> None:
    """What the outside sees is one of nine words."""
    assert phase_of(state) in Phase


def test_leaving_is_final() -> None:
    """Once the manager ends, only the end of postgres matters."""
    for event in set(Event) - {Event.EXITED}:
        assert next_state(State.LEAVING, event) is State.LEAVING
    assert next_state(State.LEAVING, Event.EXITED) is State.GONE


def test_the_documented_diagram_is_the_table() -> None:
    """The picture in the documentation is rendered from the table, and up to date."""
    assert f"```mermaid\n{render_diagram()}```" in DIAGRAM.read_text(encoding="utf-8")
