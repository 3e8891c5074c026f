"""The supervisor: the state it is in, and what it does there.

Transitions are synchronous and come from the table alone; each state has at most one activity, a
task that is cancelled when the state is left and has ended before the next activity begins. What
an activity needs done to files, volumes and processes is a :class:`Work`, made by the composition
root, so that this room knows no other.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

from instance_manager.errors import (
    ConflictError,
    CrashLoopError,
    DataDirectoryInUseError,
    DiskSpaceError,
    Exit,
    InstanceManagerError,
    SettingsError,
    StartError,
)
from instance_manager.log import get_logger
from instance_manager.supervision.shutdown import SIGNALS, Ladder, Rung, harder, next_rung
from instance_manager.supervision.states import (
    Desired,
    Event,
    State,
    allows,
    next_state,
    phase_of,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from instance_manager.supervision.children import Child, ExitStatus
    from instance_manager.supervision.restart import RestartBudget

_log: Final = get_logger()
_FIRST_POLL_SECONDS: Final = 0.01
_LONGEST_POLL_SECONDS: Final = 0.5
_POLL_GROWTH: Final = 1.2
_RETRY_SECONDS: Final = 5.0
_KILL_POLL_SECONDS: Final = 5.0


class Work(Protocol):
    """What the supervisor has done by others."""

    async def prepare(self) -> Event:
        """Check and write all that a start needs: ``PREPARED``, or ``DIRECTORY_EMPTY``."""
        ...

    async def initialize(self) -> None:
        """Make a new cluster."""
        ...

    def spawn(self) -> Child:
        """Start the postmaster."""
        ...

    async def ask(self) -> Event | None:
        """Ask the postmaster: ``ACCEPTED``, ``RECOVERY_SEEN``, or nothing to be told."""
        ...

    async def left_clean(self) -> bool:
        """Whether the data directory needs no recovery at the next start."""
        ...

    def last_words(self) -> str:
        """Return what the postmaster said last of itself."""
        ...


@dataclass(frozen=True, slots=True)
class Policy:
    """The part of the settings that the supervisor goes by."""

    ladder: Ladder
    stay_when_failed: bool
    restart_when_ended: bool


@dataclass(frozen=True, slots=True)
class LastExit:
    """How the postmaster ended; *status* is None where it could not even be spawned."""

    at: datetime
    status: ExitStatus | None
    expected: bool
    """Whether it was asked to end."""
    message: str
    """Its own last words."""

    def __str__(self) -> str:
        how = f"it ended with {self.status}" if self.status else "it was not started"
        return f"{how}: {self.message}" if self.message else how


class Supervisor:
    """Holds the state; :meth:`run` until the manager may end, :meth:`request` from outside.

    *clock* is monotonic; *chance* returns a number between 0 and 1.
    """

    def __init__(
        self,
        work: Work,
        policy: Policy,
        budget: RestartBudget,
        *,
        clock: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        self.state = State.PREPARING
        self.desired = Desired.RUNNING
        self.failure: InstanceManagerError | None = None
        self.last_exit: LastExit | None = None
        self.postmaster: Child | None = None
        self.restarts = 0
        self.first_start_is_over = False
        self.was_running = False
        self.on_change: Callable[[State], None] = lambda state: None
        self._work = work
        self.policy = policy
        self.budget = budget
        self._clock = clock
        self._chance = chance
        self._rung: Rung | None = None
        self._stop_began = 0.0
        self._harder = asyncio.Event()
        self._changed = asyncio.Event()
        self._activity: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._activities: dict[State, Callable[[], Awaitable[Event | None]]] = {
            State.PREPARING: work.prepare,
            State.INITIALIZING: self._initialize,
            State.STARTING: self._start,
            State.RECOVERING: self._await_acceptance,
            State.STOPPING: self._descend,
            State.FENCING: self._descend,
            State.RESTARTING: self._descend,
            State.LEAVING: self._descend,
            State.BACKOFF: self._back_off,
            State.FAILED: self._stay_failed,
        }

    async def run(self) -> int:
        """Supervise until the manager may end; return its exit code."""
        self._enter(self.state)
        await self.until({State.GONE})
        if self.failure is not None:
            return self.failure.exit_code
        return Exit.DONE if await self._work.left_clean() else Exit.UNCLEAN

    def request(self, event: Event, rung: Rung | None = None) -> None:
        """Take a request from outside; *rung* says how hard a stop that it needs begins.

        Raises:
            ConflictError: it makes no sense in the present state.
        """
        if not allows(self.state, event):
            raise ConflictError(
                f"cannot carry out {str(event).removesuffix(' requested')!r}: the instance is"
                f" {phase_of(self.state)}",
                hint="wait until it is over, or see the status",
            )
        self.desired = _DESIRED.get(event, self.desired)
        if event in _STOP_REQUESTS:
            asked = rung or self.policy.ladder.first_rung()
            before, self._rung = self._rung, harder(self._rung or asked, asked)
            if self._rung is not before:
                self._harder.set()
        self.handle(event)

    def escalate(self) -> None:
        """Go one rung down the stop ladder, if a stop is under way."""
        if self._rung is not None:
            self._rung = next_rung(self._rung)
            self._harder.set()

    def handle(self, event: Event) -> None:
        """Take an event: change the state by the table, and begin what the new one asks for."""
        following = next_state(self.state, event)
        if following is not self.state:
            _log.debug("state changed", state=following, was=self.state, event_=event)
            self._enter(following)

    async def until(self, states: Collection[State]) -> State:
        """Wait until the state is one of *states* and return it."""
        while self.state not in states:
            await self.changed()
        return self.state

    async def changed(self) -> State:
        """Wait until the state changes and return it."""
        await self._changed.wait()
        return self.state

    @property
    def rung(self) -> Rung | None:
        """How hard postgres is being stopped; None while it isn't."""
        return self._rung if self.state in _STOPPING else None

    def _enter(self, state: State) -> None:
        if state in _STOPPING and self.state not in _STOPPING:
            self._stop_began = self._clock()
        self.state = state
        if state in _SETTLED:
            self.first_start_is_over = True
        if state in (State.RUNNING, State.STOPPED, State.FENCED):
            self.was_running = self.was_running or state is State.RUNNING
            self.failure = None
        if state not in _STOPPING:
            self._rung = None
        self._changed.set()
        self._changed = asyncio.Event()
        self.on_change(state)
        before, activity = self._activity, self._activities.get(state)
        if before is not None and before is not asyncio.current_task():
            before.cancel()
        self._activity = asyncio.create_task(self._perform(activity, before), name=f"{state}")

    async def _perform(
        self,
        activity: Callable[[], Awaitable[Event | None]] | None,
        before: asyncio.Task[None] | None,
    ) -> None:
        """Let the activity before end, then run this one, and take the event that it gives."""
        if before is not None:
            await _ended(before)
        if activity is None:
            return
        try:
            event = await activity()
        except InstanceManagerError as error:
            self._refuse(error)
        except Exception as error:  # noqa: BLE001 - the guard: a bug must not take postgres down
            _log.error("a fault of the manager", exc_info=error, state=self.state)
            self._refuse(InstanceManagerError(f"a fault of the manager: {error!r}"))
        else:
            if event is not None:
                self.handle(event)

    def _refuse(self, error: InstanceManagerError) -> None:
        self.failure = error
        _log.error(error.message, code=error.code, hint=error.hint, **error.context)
        if allows(self.state, Event.REFUSED):
            self.handle(Event.REFUSED)
        elif self.postmaster is None:
            # Nothing was spawned, or nothing is left of it.
            self.handle(Event.EXITED)
        elif self.state in _STOPPING:
            # The ladder itself is broken: what must end still has to.
            self.postmaster.signal(SIGNALS[Rung.KILL])

    async def _initialize(self) -> Event:
        await self._work.initialize()
        return Event.INITIALIZED

    async def _start(self) -> Event | None:
        try:
            self.postmaster = self._work.spawn()
        except StartError as error:
            self.last_exit = LastExit(datetime.now(UTC), None, False, error.message)
            _log.error(error.message, code=error.code, hint=error.hint)
            return Event.EXITED
        self._watch = asyncio.create_task(self._watch_end(self.postmaster), name="postmaster")
        return await self._await_acceptance()

    async def _await_acceptance(self) -> Event | None:
        delay = _FIRST_POLL_SECONDS
        while True:
            event = await self._work.ask()
            if event is not None and event in _NEWS[self.state]:
                return event
            await asyncio.sleep(delay)
            delay = min(delay * _POLL_GROWTH, _LONGEST_POLL_SECONDS)

    async def _watch_end(self, child: Child) -> None:
        status = await child.wait()
        self.postmaster = None
        expected = self.state in _STOPPING
        words = "" if expected else self._work.last_words()
        self.last_exit = LastExit(datetime.now(UTC), status, expected, words)
        if expected:
            _log.info("postgres stopped", status=str(status))
        else:
            _log.error("postgres ended on its own", status=str(status))
        self.handle(Event.EXITED)

    async def _back_off(self) -> Event:
        now = self._clock()
        if not self.policy.restart_when_ended:
            self.failure = self._why_ended()
            _log.error(self.failure.message, code=self.failure.code, hint=self.failure.hint)
            return Event.LEAVE_REQUESTED
        if self.budget.is_spent(now):
            raise self._why_spent()
        delay = self.budget.delay_seconds(now, self._chance())
        self.budget = self.budget.after(now)
        _log.warning("restarting postgres", after_seconds=round(delay, 2))
        await asyncio.sleep(delay)
        self.restarts += 1
        return Event.BACKOFF_ELAPSED

    def _why_ended(self) -> StartError:
        return StartError(
            f"cannot keep postgres running: {self.last_exit}", hint="see the log of postgres"
        )

    def _why_spent(self) -> InstanceManagerError:
        """A server that never came up could not be started; one that did is in a crash loop."""
        if not self.was_running:
            return self._why_ended()
        return CrashLoopError(
            f"cannot restart postgres: {self._why_ended().message}",
            hint="mend the cause, then ask for a start; restart.maximum limits the attempts",
        )

    async def _stay_failed(self) -> Event:
        failure = self.failure
        if failure is not None and not self.policy.stay_when_failed:
            return Event.LEAVE_REQUESTED
        if isinstance(failure, SettingsError):
            # What only other settings can mend ends the manager, as at its start.
            return Event.LEAVE_REQUESTED
        if isinstance(failure, DataDirectoryInUseError | DiskSpaceError):
            await asyncio.sleep(_RETRY_SECONDS)
            return Event.CAUSE_GONE
        return await asyncio.Future[Event]()

    async def _descend(self) -> Event | None:
        """Go down the stop ladder until the postmaster has ended."""
        child = self.postmaster
        if child is None:
            return Event.EXITED
        ladder = self.policy.ladder
        while child.status is None:
            rung = self._rung = self._rung or ladder.first_rung()
            _log.info("stopping postgres", mode=str(rung))
            child.signal(SIGNALS[rung])
            self._harder.clear()
            await self._ended_or_harder(child, self._time_of(rung))
            if self._rung is rung:
                self._rung = next_rung(rung)
        return None

    def _time_of(self, rung: Rung) -> float:
        ladder = self.policy.ladder
        if rung is Rung.KILL:
            return _KILL_POLL_SECONDS
        if rung is Rung.SMART:
            # Asked for by name where the settings give it no time of its own.
            return ladder.smart_seconds or ladder.fast_seconds
        left = ladder.total_seconds - (self._clock() - self._stop_began)
        return max(0.0, min(ladder.seconds_of(rung), left))

    async def _ended_or_harder(self, child: Child, seconds: float) -> None:
        waits = [asyncio.ensure_future(child.wait()), asyncio.ensure_future(self._harder.wait())]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


async def _ended(task: asyncio.Task[None]) -> None:
    """Wait for a cancelled task's end, even if this one is cancelled meanwhile.

    Else the activity after next could begin while the first one still cleans up.
    """
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError


_STOPPING: Final = frozenset({State.STOPPING, State.FENCING, State.RESTARTING, State.LEAVING})
_STOP_REQUESTS: Final = frozenset(
    {
        Event.STOP_REQUESTED,
        Event.RESTART_REQUESTED,
        Event.FENCE_REQUESTED,
        Event.LEAVE_REQUESTED,
    }
)
_SETTLED: Final = frozenset({State.RUNNING, State.STOPPED, State.FENCED, State.FAILED})
_NEWS: Final = {
    State.STARTING: frozenset({Event.ACCEPTED, Event.RECOVERY_SEEN}),
    State.RECOVERING: frozenset({Event.ACCEPTED}),
}
_DESIRED: Final = {
    Event.START_REQUESTED: Desired.RUNNING,
    Event.RESTART_REQUESTED: Desired.RUNNING,
    Event.UNFENCE_REQUESTED: Desired.RUNNING,
    Event.STOP_REQUESTED: Desired.STOPPED,
    Event.FENCE_REQUESTED: Desired.FENCED,
}
