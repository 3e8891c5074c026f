"""The supervisor: the state it is in, and what it does there.

Transitions are synchronous and come from the table alone; each state has at most one activity, a
task that is cancelled when the state is left and has ended before the next activity begins. What
an activity needs done to files, volumes and processes is :mod:`~instance_manager.supervision.work`
of others, given by the composition root, so that this room knows no other.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from instance_manager.errors import (
    ConflictError,
    CrashLoopError,
    DataDirectoryInUseError,
    DataDirectoryLostError,
    DiskSpaceError,
    Exit,
    InstanceManagerError,
    SettingsError,
    StartError,
    VolumesUnansweringError,
)
from instance_manager.log import get_logger
from instance_manager.supervision.cleanup import ended
from instance_manager.supervision.endings import Cause
from instance_manager.supervision.shutdown import SIGNALS, Rung
from instance_manager.supervision.states import (
    Desired,
    Event,
    State,
    allows,
    next_state,
    phase_of,
)
from instance_manager.supervision.stopping import Asked, Stop
from instance_manager.supervision.work import LastExit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from instance_manager.supervision.children import Child, ExitStatus
    from instance_manager.supervision.restart import RestartBudget
    from instance_manager.supervision.work import Policy, StartWork, StopWork

_log: Final = get_logger()
_FIRST_POLL_SECONDS: Final = 0.01
_LONGEST_POLL_SECONDS: Final = 0.5
_POLL_GROWTH: Final = 1.2
_LEAST_LOOK_SECONDS: Final = 1.0
"""For the last look at the control file, however long the stop has taken."""


class Supervisor:
    """Holds the state; :meth:`run` until the manager may end, :meth:`request` from outside.

    *clock* is monotonic; *chance* returns a number between 0 and 1.
    """

    def __init__(
        self,
        starting: StartWork,
        stopping: StopWork,
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
        self._starting = starting
        self._stopping = stopping
        self.policy = policy
        self.budget = budget
        self._clock = clock
        self._chance = chance
        self.stop: Stop | None = None
        self._end_by = math.inf
        self._asked = Asked()
        self._changed = asyncio.Event()
        self._unfinished: set[asyncio.Task[None]] = set()
        self._watch: asyncio.Task[None] | None = None
        self._activities: dict[State, Callable[[], Awaitable[Event | None]]] = {
            State.PREPARING: starting.prepare,
            State.INITIALIZING: self._initialize,
            State.STARTING: self._start,
            State.RECOVERING: self._await_acceptance,
            State.STOPPING: self._descend,
            State.FENCING: self._descend,
            State.RESTARTING: self._descend,
            State.ABANDONING: self._descend,
            State.LEAVING: self._descend,
            State.BACKOFF: self._back_off,
            State.FAILED: self._stay_failed,
        }

    async def run(self) -> int:
        """Supervise until the manager may end; return its exit code."""
        self._enter(self.state)
        await self.until({State.GONE})
        if self.failure is not None:
            # It says more than the control file would: why it never ran, or can't go on.
            return self.failure.exit_code
        limit = max(_LEAST_LOOK_SECONDS, self._end_by - self._clock())
        return Exit.DONE if await self._stopping.left_clean(limit) else Exit.UNCLEAN

    def request(self, event: Event, rung: Rung | None = None, *, at_once: bool = False) -> None:
        """Take a request from outside.

        Args:
            event: what is asked for.
            rung: how hard a stop that it needs begins; the settings say so by default.
            at_once: whether that stop does without a checkpoint before it.

        Raises:
            ConflictError: it makes no sense in the present state.
        """
        if not allows(self.state, event):
            raise ConflictError(
                f"cannot carry out {str(event).removesuffix(' requested')!r}: the instance is"
                f" {phase_of(self.state)}",
                hint=_WAYS_OUT.get(self.state, "wait until it is over, or see the status"),
            )
        if event in _STOP_REQUESTS:
            if self.stop is not None:
                # It joins the stop that is under way: a new one would begin with the whole budget
                # again.
                self.stop.harden(rung or self.policy.ladder.first_rung(), at_once=at_once)
                # For a tool that an earlier state is still ending: a harder request counts for
                # it, too.
                self._starting.hasten(self.stop.tools_seconds)
            self._asked = Asked(rung, at_once)
        if next_state(self.state, event) is not self.state:
            # Only where something changes: a stop of a fenced instance leaves the fence desired.
            self.desired = _DESIRED.get(event, self.desired)
            if self.desired is Desired.RUNNING:
                # Somebody has looked at it: what was before does not count any more.
                self.budget = replace(self.budget, restarts=())
        self.handle(event)

    def escalate(self) -> None:
        """Go one rung down the stop ladder, if a stop is under way."""
        if self.stop is not None:
            self.stop.escalate()
            # A second TERM is meant for scripts and tools as much as for postgres.
            self._starting.hasten(self.stop.tools_seconds)

    def abandon(self, error: InstanceManagerError) -> None:
        """Stop a server that must not go on: its directory is lost, or it can't recover."""
        # It is ending already, or has ended: the failure that is shown stays what it was.
        if next_state(self.state, Event.HOPELESS) is self.state:
            return
        self._fail_with(error)
        # A fast stop makes a checkpoint, which would write into a directory that may be
        # another's.
        self._asked = Asked(Rung.IMMEDIATE, at_once=True)
        self.handle(Event.HOPELESS)

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
        """Wait until the state changes, or a stop gets on, and return the state."""
        await self._changed.wait()
        return self.state

    def _enter(self, state: State) -> None:
        # Also where no server runs yet: tools that must end share the budget of a stop.
        stop = self.stop or self._new_stop()
        # What the state before has begun is ended; what a start begins has all the time.
        self._starting.hasten(stop.tools_seconds if state in _ENDING else math.inf)
        if state in _STOPPING:
            # The end is kept when the stop is over: the last look at the control file goes by it.
            self.stop, self._end_by = stop, self._clock() + stop.seconds_left
        else:
            # How one stop was asked for says nothing of the next one.
            self.stop, self._asked = None, Asked()
        self.state = state
        if state in _SETTLED:
            # A failure, too: the startup probe must not kill a container that shows what is
            # wrong.
            self.first_start_is_over = True
        self.was_running = self.was_running or state is State.RUNNING
        if state in _WITHOUT_FAILURE:
            # Before the activity begins, which may set a new one at once.
            self.failure = None
        if state is State.FENCED:
            # One that was found at the start was asked for, too: of an earlier manager.
            self.desired = Desired.FENCED
        # Who waits for a state is woken before what is done there leads to the next one.
        self._tell_change()
        self._begin(state)
        try:
            self.on_change(state)
        except Exception as error:  # noqa: BLE001 - the guard: whoever is told must not stop us
            _log.error("a fault of the manager", exc_info=error, state=state)

    def _begin(self, state: State) -> None:
        """Begin what is done in *state*, after all that was done before has ended."""
        # One that is cancelled before its first step has not waited for those before it.
        before = self._unfinished - {asyncio.current_task()}
        for task in before:
            task.cancel()
        work = self._perform(self._activities.get(state), before)
        activity = asyncio.create_task(work, name=f"{state}")
        self._unfinished.add(activity)
        activity.add_done_callback(self._unfinished.discard)

    def _new_stop(self) -> Stop:
        """Return the stop that was asked for, of a server in the present state."""
        return Stop(
            self.policy.ladder,
            self._asked,
            self._stopping,
            # The state that is being left: only a server that accepts can be asked for one.
            checkpoint_first=self.state is State.RUNNING,
            clock=self._clock,
            on_progress=self._tell_change,
        )

    def _tell_change(self) -> None:
        # A new one for each change: who waits is woken once, who comes later waits for the next.
        self._changed.set()
        self._changed = asyncio.Event()

    async def _perform(
        self,
        activity: Callable[[], Awaitable[Event | None]] | None,
        before: Collection[asyncio.Task[None]],
    ) -> None:
        """Let the activities before end, then run this one, and take the event that it gives."""
        # Else the activity after next could begin while the first one still cleans up.
        await ended(before)
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

    def _fail_with(self, error: InstanceManagerError) -> None:
        self.failure = error
        _log.error(error.message, code=error.code, hint=error.hint, **error.context)

    def _refuse(self, error: InstanceManagerError) -> None:
        self._fail_with(error)
        if allows(self.state, Event.REFUSED):
            self.handle(Event.REFUSED)
        elif self.postmaster is None:
            # Nothing was spawned, or nothing is left of it.
            self.handle(Event.EXITED)
        elif self.state in _STOPPING:
            # The ladder itself is broken: what must end still has to.
            self.postmaster.signal(SIGNALS[Rung.KILL])

    async def _initialize(self) -> Event:
        await self._starting.initialize()
        return Event.INITIALIZED

    async def _start(self) -> Event | None:
        try:
            self.postmaster = self._starting.spawn()
        except StartError as error:
            # An end and no refusal: the restarts that are allowed count for it as for a server's.
            now = datetime.now(UTC)
            self.last_exit = LastExit(now, None, False, Cause.NOT_STARTED, error.message)
            _log.error(error.message, code=error.code, hint=error.hint)
            return Event.EXITED
        # No activity: it goes on over all states. Kept, since the loop holds its tasks only
        # weakly.
        self._watch = asyncio.create_task(self._watch_end(self.postmaster), name="postmaster")
        return await self._await_acceptance()

    async def _await_acceptance(self) -> Event | None:
        delay = _FIRST_POLL_SECONDS
        while True:
            event = await self._starting.ask()
            # A recovery is seen at each poll, and is news at the first one only.
            if event is not None and event in _NEWS.get(self.state, ()):
                return event
            await asyncio.sleep(delay)
            # Often at first only: a recovery may take hours.
            delay = min(delay * _POLL_GROWTH, _LONGEST_POLL_SECONDS)

    async def _watch_end(self, child: Child) -> None:
        status = await child.wait()
        try:
            # Before the event: the next start must not meet what the old server left behind.
            await self._note_end(status)
        except Exception as error:  # noqa: BLE001 - the guard: the end must be known
            _log.error("a fault of the manager", exc_info=error, state=self.state)
        self.postmaster = None
        self.handle(Event.EXITED)

    async def _note_end(self, status: ExitStatus) -> None:
        """Write down how the postmaster ended, and end what it may have left behind."""
        now, stop = datetime.now(UTC), self.stop
        if stop is None:
            # Shown at once: the cause takes a while to find, and to look for it may go wrong.
            self.last_exit = LastExit(now, status, False, Cause.ERROR, "")
            ending = await self._stopping.why_ended(status)
            self.last_exit = LastExit(now, status, False, ending.cause, ending.message)
            _log.error("postgres ended on its own", status=str(status), cause=str(ending.cause))
        else:
            # The code alone does not tell: a postmaster ends with 0 after an immediate stop, too.
            in_order = status.is_success and stop.rung not in _DISORDERLY
            cause = Cause.CLEAN if in_order else Cause.SIGNAL
            self.last_exit = LastExit(now, status, True, cause, "")
            _log.info("postgres stopped", status=str(status), seconds=round(stop.seconds, 2))
        # A postmaster that stops in order ends after its children; a killed one leaves them
        # behind.
        if stop is None or stop.rung in _DISORDERLY:
            await self._stopping.end_leftovers()

    async def _back_off(self) -> Event:
        """Wait before the next start; raise where none would help, or none is allowed."""
        now = self._clock()
        last = self.last_exit
        if not self.policy.restart_when_ended:
            self.failure = self._why_ended()
            _log.error(self.failure.message, code=self.failure.code, hint=self.failure.hint)
            return Event.LEAVE_REQUESTED
        # Before the budget is looked at: a full disk is waited for, and is no crash.
        if last is not None and last.cause.waits_for_space:
            raise DiskSpaceError(
                f"cannot keep postgres running: {last}",
                hint="enlarge the volume, or free space on it: postgres is started again then",
            )
        # No restart is spent on these: the same start would only fail again.
        if last is not None and last.cause.is_permanent:
            if await self._starting.fall_back(last):
                return Event.BACKOFF_ELAPSED
            raise self._why_ended()
        if self.budget.is_spent(now):
            # Memory that can't be had shows in no other way than by ends again and again.
            if last is not None and await self._starting.fall_back(last):
                return Event.BACKOFF_ELAPSED
            raise self._why_spent()
        # Before this one is counted: the first within the window comes at once.
        delay = self.budget.delay_seconds(now, self._chance())
        self.budget = self.budget.after(now)
        self.restarts += 1
        _log.warning("restarting postgres", after_seconds=round(delay, 2))
        await asyncio.sleep(delay)
        return Event.BACKOFF_ELAPSED

    def _why_ended(self) -> StartError:
        cause = self.last_exit.cause if self.last_exit else Cause.ERROR
        return StartError(
            f"cannot keep postgres running: {self.last_exit}",
            hint=_HINTS.get(cause, "see the log of postgres"),
        )

    def _why_spent(self) -> InstanceManagerError:
        """A server that never came up could not be started; one that did is in a crash loop."""
        if not self.was_running:
            return self._why_ended()
        return CrashLoopError(
            f"cannot restart postgres any more, it has ended too often: {self.last_exit}",
            hint="mend the cause, then ask for a start; restart.maximum limits the attempts",
        )

    async def _stay_failed(self) -> Event:
        failure = self.failure
        if failure is not None and not self.policy.stay_when_failed:
            return Event.LEAVE_REQUESTED
        if isinstance(failure, SettingsError):
            # What only other settings can mend ends the manager, as at its start.
            return Event.LEAVE_REQUESTED
        # The cause alone is asked for, not the whole start tried: the phase stays "failed"
        # meanwhile.
        while isinstance(failure, _MAY_PASS):
            is_lock = isinstance(failure, DataDirectoryInUseError)
            policy = self.policy
            await asyncio.sleep(policy.lock_retry_seconds if is_lock else policy.retry_seconds)
            still = await self._starting.still_fails(failure)
            if still is None:
                return Event.CAUSE_GONE
            # Logged when it changes, and not at each look.
            if still.message != failure.message:
                self._fail_with(still)
            failure = still
        # What only a person can mend is waited for without end: a request leaves this state.
        return await asyncio.Future[Event]()

    async def _descend(self) -> Event | None:
        """Stop the postmaster; its end is an event of its own."""
        child, stop = self.postmaster, self.stop
        if child is None or stop is None:
            return Event.EXITED
        await stop.descend(child)
        return None


_STOPPING: Final = frozenset(
    {State.STOPPING, State.FENCING, State.RESTARTING, State.ABANDONING, State.LEAVING}
)
_ENDING: Final = _STOPPING | {State.STOPPED, State.FENCED, State.GONE}
_STOP_REQUESTS: Final = frozenset(
    {
        Event.STOP_REQUESTED,
        Event.RESTART_REQUESTED,
        Event.FENCE_REQUESTED,
        Event.LEAVE_REQUESTED,
    }
)
_WITHOUT_FAILURE: Final = frozenset({State.PREPARING, State.RUNNING, State.STOPPED, State.FENCED})
"""What was wrong before these is over, or is looked at again."""
_DISORDERLY: Final = frozenset({Rung.IMMEDIATE, Rung.KILL})
_MAY_PASS: Final = (
    DataDirectoryInUseError,
    DataDirectoryLostError,
    DiskSpaceError,
    VolumesUnansweringError,
)
"""Failures whose cause may go by itself: the lock, the volume, the space, the silence."""
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
_WAYS_OUT: Final = {State.FENCED: "unfence it first", State.FENCING: "unfence it first"}
_HINTS: Final = {
    Cause.BAD_CONFIGURATION: "mend the configuration that it names, then ask for a start",
    Cause.MISSING_LIBRARY: "mount what holds the library, or take it out of the preload list,"
    " then ask for a start",
    Cause.OUT_OF_MEMORY: "give the container more memory, or postgres less: shared_buffers,"
    " work_mem, max_connections",
}
