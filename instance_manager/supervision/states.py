"""The one state table: what the supervisor does, and what may happen next.

Pure. A state says what is being done; an event is a request or a past fact. Every pair of both is
a row of ``TRANSITIONS``, an explicit entry of ``IGNORED``, or an error that names both. What the
outside sees is a projection, so the table may grow without breaking anyone. Desired state, health
and PostgreSQL's own state are other types on purpose.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from instance_manager.errors import InvalidTransitionError

if TYPE_CHECKING:
    from collections.abc import Mapping


class State(StrEnum):
    """What the supervisor is doing."""

    PREPARING = "preparing"
    """Lock, volumes, data directory and configuration are being checked; no postmaster."""
    INITIALIZING = "initializing"
    """A new cluster is being made."""
    STARTING = "starting"
    """The postmaster was spawned and accepts nobody yet."""
    RECOVERING = "recovering"
    """The postmaster answers that it is starting up: crash recovery or replay."""
    RUNNING = "running"
    """The postmaster accepts connections, or did so last time it was asked."""
    STOPPING = "stopping"
    """On the way to ``STOPPED``."""
    FENCING = "fencing"
    """On the way to ``FENCED``."""
    RESTARTING = "restarting"
    """Stopping in order to start again."""
    BACKOFF = "backoff"
    """The postmaster ended on its own; waiting before the next start."""
    STOPPED = "stopped"
    """Stopped on request; the manager stays."""
    FENCED = "fenced"
    """Stopped and kept so, over a restart of the manager too."""
    FAILED = "failed"
    """Can't go on; the cause is served."""
    ABANDONING = "abandoning"
    """Stopping a server that must not go on, such as one without its data directory; on the way
    to ``FAILED``."""
    LEAVING = "leaving"
    """Stopping in order to end the manager."""
    GONE = "gone"
    """Nothing runs any more: the manager ends."""


class Event(StrEnum):
    """What was asked for, or what has happened."""

    START_REQUESTED = "start requested"
    STOP_REQUESTED = "stop requested"
    RESTART_REQUESTED = "restart requested"
    FENCE_REQUESTED = "fence requested"
    UNFENCE_REQUESTED = "unfence requested"
    LEAVE_REQUESTED = "leave requested"
    DIRECTORY_EMPTY = "directory empty"
    INITIALIZED = "initialized"
    FENCE_FOUND = "fence found"
    PREPARED = "prepared"
    REFUSED = "refused"
    RECOVERY_SEEN = "recovery seen"
    ACCEPTED = "accepted"
    EXITED = "exited"
    HOPELESS = "hopeless"
    BACKOFF_ELAPSED = "backoff elapsed"
    CAUSE_GONE = "cause gone"


class Phase(StrEnum):
    """What the outside sees of the state: the words of the API."""

    INITIALIZING = "initializing"
    """A new cluster is being made."""
    STARTING = "starting"
    """Volumes, data and configuration are proven, or postgres accepts nobody yet."""
    RECOVERING = "recovering"
    """Postgres replays WAL and accepts nobody yet."""
    RUNNING = "running"
    """Postgres accepts connections, or did so when it was asked last."""
    STOPPING = "stopping"
    """Postgres is being stopped."""
    STOPPED = "stopped"
    """Stopped on request; the manager stays."""
    FENCED = "fenced"
    """Stopped and kept so, over a new start of the manager too."""
    RESTARTING = "restarting"
    """Postgres is stopped in order to start again, or ended on its own and is started in a
    moment."""
    FAILED = "failed"
    """It can't go on; ``failure`` says why."""


class Desired(StrEnum):
    """What people asked for, whatever is the case."""

    RUNNING = "running"
    """Postgres shall run."""
    STOPPED = "stopped"
    """Somebody stopped it; a new start of the manager starts it."""
    FENCED = "fenced"
    """Somebody fenced it; only an unfence starts it."""


_REQUESTS_WHILE_ALIVE: Final = {
    Event.STOP_REQUESTED: State.STOPPING,
    Event.RESTART_REQUESTED: State.RESTARTING,
    Event.FENCE_REQUESTED: State.FENCING,
    Event.LEAVE_REQUESTED: State.LEAVING,
    Event.HOPELESS: State.ABANDONING,
}
"""With a postmaster that lives, these need it to be stopped first."""

_REQUESTS_WITHOUT: Final = {
    Event.STOP_REQUESTED: State.STOPPED,
    Event.FENCE_REQUESTED: State.FENCED,
    Event.LEAVE_REQUESTED: State.LEAVING,
}
"""Without a postmaster, these hold at once."""

_START: Final = {
    Event.START_REQUESTED: State.PREPARING,
    Event.RESTART_REQUESTED: State.PREPARING,
}

TRANSITIONS: Final[Mapping[State, Mapping[Event, State]]] = MappingProxyType(
    {
        State.PREPARING: _REQUESTS_WITHOUT
        | {
            Event.DIRECTORY_EMPTY: State.INITIALIZING,
            Event.FENCE_FOUND: State.FENCED,
            Event.HOPELESS: State.FAILED,
            Event.PREPARED: State.STARTING,
            Event.REFUSED: State.FAILED,
        },
        State.INITIALIZING: _REQUESTS_WITHOUT
        | {
            # The new cluster is looked at like any other before a server starts on it.
            Event.INITIALIZED: State.PREPARING,
            Event.REFUSED: State.FAILED,
            Event.HOPELESS: State.FAILED,
        },
        State.STARTING: _REQUESTS_WHILE_ALIVE
        | {
            Event.RECOVERY_SEEN: State.RECOVERING,
            Event.ACCEPTED: State.RUNNING,
            Event.EXITED: State.BACKOFF,
        },
        State.RECOVERING: _REQUESTS_WHILE_ALIVE
        | {Event.ACCEPTED: State.RUNNING, Event.EXITED: State.BACKOFF},
        State.RUNNING: _REQUESTS_WHILE_ALIVE
        # A process of the server crashed, and the postmaster, which lives on, recovers from it.
        | {Event.RECOVERY_SEEN: State.RECOVERING, Event.EXITED: State.BACKOFF},
        State.STOPPING: {
            Event.EXITED: State.STOPPED,
            Event.FENCE_REQUESTED: State.FENCING,
            Event.LEAVE_REQUESTED: State.LEAVING,
        },
        State.FENCING: {
            Event.EXITED: State.FENCED,
            # A signal to stop can't be called back: the server ends first, then a new one starts.
            Event.UNFENCE_REQUESTED: State.RESTARTING,
            Event.LEAVE_REQUESTED: State.LEAVING,
        },
        State.RESTARTING: {
            # Not at once to the start: the data directory is looked at before each one.
            Event.EXITED: State.PREPARING,
            Event.STOP_REQUESTED: State.STOPPING,
            Event.FENCE_REQUESTED: State.FENCING,
            Event.LEAVE_REQUESTED: State.LEAVING,
        },
        State.BACKOFF: _REQUESTS_WITHOUT
        | _START
        | {Event.BACKOFF_ELAPSED: State.PREPARING, Event.REFUSED: State.FAILED},
        State.STOPPED: _START
        | {Event.FENCE_REQUESTED: State.FENCED, Event.LEAVE_REQUESTED: State.LEAVING},
        # No start and no restart: a request that knows nothing of the fence must not undo it.
        State.FENCED: {
            Event.UNFENCE_REQUESTED: State.PREPARING,
            Event.LEAVE_REQUESTED: State.LEAVING,
        },
        State.FAILED: _REQUESTS_WITHOUT | _START | {Event.CAUSE_GONE: State.PREPARING},
        State.ABANDONING: {
            Event.EXITED: State.FAILED,
            Event.STOP_REQUESTED: State.STOPPING,
            Event.FENCE_REQUESTED: State.FENCING,
            Event.LEAVE_REQUESTED: State.LEAVING,
        },
        # Without a way back: the container's runtime has begun to count towards its KILL.
        State.LEAVING: {Event.EXITED: State.GONE},
        State.GONE: {},
    }
)

_OF_A_SERVER: Final = frozenset({Event.RECOVERY_SEEN, Event.ACCEPTED})
_LATE_OBSERVATIONS: Final = _OF_A_SERVER | {Event.HOPELESS}
"""The observers may speak of a server that is already being stopped, or gone."""

_NOT_FENCED: Final = frozenset({Event.UNFENCE_REQUESTED})
"""Where nothing is fenced, there is nothing to do: what is asked for holds."""

IGNORED: Final[Mapping[State, frozenset[Event]]] = MappingProxyType(
    {
        State.PREPARING: _OF_A_SERVER | _NOT_FENCED | frozenset(_START),
        State.INITIALIZING: _OF_A_SERVER | _NOT_FENCED | frozenset(_START),
        State.STARTING: _NOT_FENCED | {Event.START_REQUESTED},
        State.RECOVERING: _NOT_FENCED | {Event.START_REQUESTED, Event.RECOVERY_SEEN},
        State.RUNNING: _NOT_FENCED | {Event.START_REQUESTED, Event.ACCEPTED},
        State.STOPPING: _LATE_OBSERVATIONS | _NOT_FENCED | {Event.STOP_REQUESTED},
        State.FENCING: _LATE_OBSERVATIONS | {Event.FENCE_REQUESTED, Event.STOP_REQUESTED},
        State.RESTARTING: _LATE_OBSERVATIONS | _NOT_FENCED | frozenset(_START),
        State.BACKOFF: _LATE_OBSERVATIONS | _NOT_FENCED,
        State.STOPPED: _LATE_OBSERVATIONS | _NOT_FENCED | {Event.STOP_REQUESTED},
        State.FENCED: _LATE_OBSERVATIONS | {Event.FENCE_REQUESTED, Event.STOP_REQUESTED},
        State.FAILED: _LATE_OBSERVATIONS | _NOT_FENCED,
        State.ABANDONING: _LATE_OBSERVATIONS | _NOT_FENCED,
        # Leaving is final: whoever asks for something else is too late, and nothing is lost by it.
        State.LEAVING: frozenset(Event) - {Event.EXITED},
        State.GONE: frozenset(Event),
    }
)

_PHASES: Final[Mapping[State, Phase]] = MappingProxyType(
    {
        State.PREPARING: Phase.STARTING,
        State.INITIALIZING: Phase.INITIALIZING,
        State.STARTING: Phase.STARTING,
        State.RECOVERING: Phase.RECOVERING,
        State.RUNNING: Phase.RUNNING,
        State.STOPPING: Phase.STOPPING,
        State.FENCING: Phase.STOPPING,
        State.RESTARTING: Phase.RESTARTING,
        State.BACKOFF: Phase.RESTARTING,
        State.STOPPED: Phase.STOPPED,
        State.FENCED: Phase.FENCED,
        State.FAILED: Phase.FAILED,
        State.ABANDONING: Phase.STOPPING,
        State.LEAVING: Phase.STOPPING,
        State.GONE: Phase.STOPPED,
    }
)


def next_state(state: State, event: Event) -> State:
    """Return the state that *event* leads to; *state* itself where the event is ignored.

    Raises:
        InvalidTransitionError: the event has no meaning in this state.
    """
    following = TRANSITIONS[state].get(event)
    if following is not None:
        return following
    if event in IGNORED[state]:
        return state
    raise InvalidTransitionError(f"{event!s} in state {state!s} has no transition")


def allows(state: State, event: Event) -> bool:
    """Return whether *event* is a transition of *state*, or ignored by it."""
    return event in TRANSITIONS[state] or event in IGNORED[state]


def phase_of(state: State) -> Phase:
    """Return the phase that the API shows for *state*."""
    return _PHASES[state]


def render_diagram() -> str:
    """Return the table as a Mermaid state diagram, in the order of the table."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.PREPARING}"]
    for state, row in TRANSITIONS.items():
        by_target: dict[State, list[str]] = {}
        for event, target in row.items():
            by_target.setdefault(target, []).append(str(event))
        for target, events in by_target.items():
            lines.append(f"    {state} --> {target}: {', '.join(events)}")
    return "\n".join([*lines, f"    {State.GONE} --> [*]", ""])
