"""The supervisor over real processes that behave as a postmaster might."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from instance_manager.errors import (
    ConflictError,
    DataDirectoryError,
    DataDirectoryInUseError,
    DiskSpaceError,
    InstanceManagerError,
    StartError,
)
from instance_manager.supervision.children import Child, Children, ExitStatus
from instance_manager.supervision.endings import Cause, Ending
from instance_manager.supervision.restart import RestartBudget
from instance_manager.supervision.shutdown import Ladder, Rung
from instance_manager.supervision.states import Desired, Event, State
from instance_manager.supervision.supervisor import Supervisor
from instance_manager.supervision.work import LastExit, Policy
from tests.support.processes import look

DEADLINE = 60.0
OBEDIENT = "trap 'exit 0' TERM INT QUIT; "
IGNORES_SMART = "trap '' TERM; trap 'exit 0' INT QUIT; "
ONLY_IMMEDIATE = "trap '' TERM INT; trap 'exit 2' QUIT; "
DEAF = "trap '' TERM INT QUIT; "
PATIENT = Ladder(0, 10, 10)
ENDLESS = Ladder(0, 3600, 3600)
PATH = {"PATH": "/usr/bin:/bin"}
# Announced on the pipe once the traps stand, so that no signal comes before them.
LIVE = "echo up >&3; while :; do sleep 0.02; done"


@dataclass
class Scripted:
    """Work whose postmaster is a shell script; the rest says what it is told to."""

    children: Children
    scripts: list[str]
    """The postmaster of each start; the last one of all further ones."""
    prepare_gives: list[Event | Exception] = field(default_factory=list)
    clean: bool = True
    is_up: bool = False
    starts: int = 0
    initialized: int = 0
    initialization: asyncio.Event | None = None
    causes: list[Cause] = field(default_factory=list)
    """Why each postmaster ended; then for no known reason."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when what hinders a start is gone."""
    checkpoint: asyncio.Event | None = None
    """When a checkpoint before a stop is done; none is made by default."""
    checkpoints: list[float] = field(default_factory=list)
    """The limits of those that were asked for."""
    leftovers_ended: int = 0
    asked_for_cause: int = 0
    other_configurations: int = 0
    fell_back: list[LastExit] = field(default_factory=list[LastExit])
    fault: Exception | None = None
    """Raised where the end of a server is to be explained."""
    cleaning: asyncio.Event | None = None
    """What the cleaning up behind a cancelled initialization waits for."""
    looks: list[float] = field(default_factory=list)
    """The limits of the last looks whether all is clean."""
    tool: str | None = None
    """A script that an initialization runs; then the next one is done at once."""
    later_failure: InstanceManagerError | None = None
    """What the failure turns into."""

    async def prepare(self) -> Event:
        outcome = self.prepare_gives.pop(0) if self.prepare_gives else Event.PREPARED
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def initialize(self) -> None:
        self.initialized += 1
        tool, self.tool = self.tool, None
        if tool is not None:
            await self.children.run(
                "script", ["/bin/sh", "-c", tool], environment=PATH, deadline_seconds=DEADLINE
            )
        if self.initialization is not None:
            try:
                await self.initialization.wait()
            finally:
                if self.cleaning is not None:
                    await self.cleaning.wait()

    def spawn(self) -> Child:
        script = self.scripts[min(self.starts, len(self.scripts) - 1)]
        self.starts += 1
        self.is_up = False
        reading, writing = os.pipe2(os.O_CLOEXEC)
        child = self.children.spawn(
            "postgres",
            ["/bin/sh", "-c", f"exec 3>&1; {script}"],
            environment=PATH,
            streams=(None, writing, None),
        )
        os.close(writing)
        loop = asyncio.get_running_loop()

        def heard() -> None:
            self.is_up = bool(os.read(reading, 64)) or self.is_up
            loop.remove_reader(reading)
            os.close(reading)

        loop.add_reader(reading, heard)
        return child

    async def ask(self) -> Event | None:
        return Event.ACCEPTED if self.is_up else None

    def hasten(self, seconds: float) -> None:
        self.children.hasten(seconds)

    async def left_clean(self, limit_seconds: float) -> bool:
        self.looks.append(limit_seconds)
        return self.clean

    async def why_ended(self, status: ExitStatus) -> Ending:
        if self.fault is not None:
            raise self.fault
        return Ending(self.causes.pop(0) if self.causes else Cause.ERROR, "some last words")

    async def still_fails(self, failure: InstanceManagerError) -> InstanceManagerError | None:
        self.asked_for_cause += 1
        return None if self.gone.is_set() else self.later_failure or failure

    async def fall_back(self, ending: LastExit) -> bool:
        self.fell_back.append(ending)
        return len(self.fell_back) <= self.other_configurations

    async def checkpoint_first(self, limit_seconds: float) -> None:
        self.checkpoints.append(limit_seconds)
        if self.checkpoint is not None:
            await self.checkpoint.wait()

    async def awaited(self, postmaster: int) -> str:
        return "waiting for the test"

    async def end_leftovers(self) -> None:
        self.leftovers_ended += 1


def supervise(
    body: Callable[[Supervisor, Scripted], Coroutine[Any, Any, None]],
    *scripts: str,
    ladder: Ladder = PATIENT,
    maximum: int = 5,
    stay: bool = True,
    restart: bool = True,
    grace_seconds: float = 5,
    retry: float = 0.05,
    **options: Any,
) -> int:
    """Run *body* beside a supervisor, ask it to leave, and return its exit code."""

    async def main() -> int:
        with Children(grace_seconds=grace_seconds) as children:
            work = Scripted(children, list(scripts), **options)
            supervisor = Supervisor(
                work,
                work,
                Policy(
                    ladder,
                    stay_when_failed=stay,
                    restart_when_ended=restart,
                    retry_seconds=retry,
                    lock_retry_seconds=0.05,
                ),
                RestartBudget(maximum, 300),
                clock=time.monotonic,
                chance=lambda: 0.0,
            )
            async with asyncio.timeout(DEADLINE):
                running = asyncio.create_task(supervisor.run())
                try:
                    await body(supervisor, work)
                finally:
                    if supervisor.state is not State.GONE:
                        supervisor.request(Event.LEAVE_REQUESTED)
                    code = await running
            assert supervisor.postmaster is None
            return code

    return asyncio.run(main())


def rung_of(supervisor: Supervisor) -> Rung | None:
    """Return how hard the postmaster is being stopped."""
    return supervisor.stop.rung if supervisor.stop else None


def test_a_start_ends_in_running_and_a_leave_in_a_clean_exit() -> None:
    """Without any trouble, the exit code is 0."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await supervisor.until({State.RUNNING})

        assert supervisor.first_start_is_over

    assert supervise(body, OBEDIENT + LIVE) == 0


def test_an_unclean_data_directory_makes_the_exit_code_8() -> None:
    """Postgres' own exit status does not count: the control file does."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await supervisor.until({State.RUNNING})

    assert supervise(body, OBEDIENT + LIVE, clean=False) == 8


def test_an_empty_directory_is_initialized_and_prepared_again() -> None:
    """A new cluster is made once, and then checked like any other."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await supervisor.until({State.RUNNING})

        assert (work.initialized, work.starts) == (1, 1)

    supervise(body, OBEDIENT + LIVE, prepare_gives=[Event.DIRECTORY_EMPTY])


def test_a_stop_during_initialization_cancels_it() -> None:
    """Whoever stops the instance does not wait for a bootstrap."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        work.initialization = asyncio.Event()
        await supervisor.until({State.INITIALIZING})
        supervisor.request(Event.STOP_REQUESTED)

        assert supervisor.state is State.STOPPED
        assert work.starts == 0

    supervise(body, OBEDIENT + LIVE, prepare_gives=[Event.DIRECTORY_EMPTY])


def hold_out(supervisor: Supervisor) -> None:
    """Only the budget ends it."""


def escalate(supervisor: Supervisor) -> None:
    """As a second TERM does."""
    supervisor.escalate()


def leave_fast(supervisor: Supervisor) -> None:
    """As INT does."""
    supervisor.request(Event.LEAVE_REQUESTED, Rung.FAST, at_once=True)


def leave_immediately(supervisor: Supervisor) -> None:
    """As QUIT does."""
    supervisor.request(Event.LEAVE_REQUESTED, Rung.IMMEDIATE, at_once=True)


async def script_runs(own: Path) -> int:
    """Wait until the script has said its pid, and return it."""
    while not (said := _said(own)).endswith("\n"):
        await asyncio.sleep(0.005)
    return int(said)


def _said(own: Path) -> str:
    return own.read_text() if own.exists() else ""


def deaf_script(own: Path) -> str:
    """Return a script that says its pid in a file, and ignores TERM."""
    return f"trap '' TERM; echo $$ > {own}; while :; do sleep 0.02; done"


@pytest.mark.parametrize(
    ("ladder", "hasten"),
    [
        (Ladder(0, 0.1, 0.1), hold_out),
        (ENDLESS, escalate),
        (ENDLESS, leave_fast),
        (ENDLESS, leave_immediately),
    ],
    ids=["budget", "second TERM", "INT", "QUIT"],
)
def test_a_script_that_ignores_its_end_is_killed_with_the_budget_or_a_harder_request(
    tmp_path: Path, ladder: Ladder, hasten: Callable[[Supervisor], None]
) -> None:
    """The manager ends after it, and neither waits for the script's own grace."""
    own = tmp_path / "pid"

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        pid = await script_runs(own)
        supervisor.request(Event.LEAVE_REQUESTED)
        hasten(supervisor)
        await supervisor.until({State.GONE})

        assert look(pid) is None

    supervise(
        body,
        OBEDIENT + LIVE,
        ladder=ladder,
        grace_seconds=3600,
        prepare_gives=[Event.DIRECTORY_EMPTY],
        tool=deaf_script(own),
    )


@pytest.mark.parametrize(
    ("script", "ladder", "limit"), [(DEAF, Ladder(0, 0.1, 0.1), 1.0), (OBEDIENT, PATIENT, 20.0)]
)
def test_the_last_look_has_what_is_left_of_the_budget_and_a_second_at_least(
    script: str, ladder: Ladder, limit: float
) -> None:
    """Storage that hangs holds the end up no longer than the budget says."""
    looks: list[float] = []

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        work.looks = looks
        await supervisor.until({State.RUNNING})

    supervise(body, script + LIVE, ladder=ladder)
    assert len(looks) == 1
    assert 1.0 <= looks[0] <= limit


def test_however_often_it_is_stopped_no_script_lives_on_beside_what_comes_next(
    tmp_path: Path,
) -> None:
    """A stop, a fence and a start later, the first script has ended before the second begins."""
    own = tmp_path / "pid"

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        pid = await script_runs(own)
        for event in (Event.STOP_REQUESTED, Event.FENCE_REQUESTED, Event.UNFENCE_REQUESTED):
            supervisor.request(event)
            # Each is on its way before the next one comes.
            for _ in range(5):
                await asyncio.sleep(0)
        assert look(pid) is not None
        assert (work.initialized, work.starts) == (1, 0)

        work.hasten(0)
        await supervisor.until({State.RUNNING})
        assert look(pid) is None
        assert work.initialized == 2

    supervise(
        body,
        OBEDIENT + LIVE,
        grace_seconds=3600,
        prepare_gives=[Event.DIRECTORY_EMPTY, Event.DIRECTORY_EMPTY],
        tool=deaf_script(own),
    )


def test_a_stop_is_kept_and_a_start_follows_when_asked() -> None:
    """Stopped on request, postgres stays down until somebody asks for it."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await supervisor.until({State.RUNNING})
        supervisor.request(Event.STOP_REQUESTED)
        await supervisor.until({State.STOPPED})
        assert (supervisor.desired, supervisor.postmaster) == (Desired.STOPPED, None)

        supervisor.request(Event.START_REQUESTED)
        await supervisor.until({State.RUNNING})
        assert work.starts == 2

    supervise(body, OBEDIENT + LIVE)


def test_a_restart_stops_before_it_starts() -> None:
    """There is never a second postmaster beside the first."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await supervisor.until({State.RUNNING})
        first = supervisor.postmaster
        assert first is not None
        supervisor.request(Event.RESTART_REQUESTED)
        await supervisor.until({State.PREPARING})
        assert first.status is not None

        await supervisor.until({State.RUNNING})
        assert work.starts == 2

    supervise(body, OBEDIENT + LIVE)


@pytest.mark.parametrize(
    ("script", "ladder", "code"),
    [
        (IGNORES_SMART, Ladder(0.2, 10, 10), 0),
        (ONLY_IMMEDIATE, Ladder(0.1, 0.1, 10), 2),
    ],
)
def test_a_stop_escalates_when_a_rung_does_not_help(
    script: str, ladder: Ladder, code: int
) -> None:
    """What ignores one rung meets the next one."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await supervisor.until({State.RUNNING})
        child = supervisor.postmaster
        assert child is not None
        supervisor.request(Event.STOP_REQUESTED)
        await supervisor.until({State.STOPPED})

        assert child.status is not None
        assert child.status.code == code

    supervise(body, script + LIVE, ladder=ladder)


def test_a_postmaster_that_ignores_everything_is_killed() -> None:
    """The last rung has no handler."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await supervisor.until({State.RUNNING})
        child = supervisor.postmaster
        assert child is not None
        supervisor.request(Event.STOP_REQUESTED)
        await supervisor.until({State.STOPPED})

        assert child.status is not None
        assert child.status.signal == signal.SIGKILL

    supervise(body, DEAF + LIVE, ladder=Ladder(0, 0.1, 0.1))


def test_a_harder_request_takes_effect_at_once_and_a_milder_one_never() -> None:
    """A stop that is under way can be hastened, not slowed down."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await supervisor.until({State.RUNNING})
        supervisor.request(Event.STOP_REQUESTED, Rung.FAST)
        supervisor.request(Event.STOP_REQUESTED, Rung.IMMEDIATE)
        supervisor.request(Event.STOP_REQUESTED, Rung.SMART)
        assert rung_of(supervisor) is Rung.IMMEDIATE

        await supervisor.until({State.STOPPED})

    supervise(body, ONLY_IMMEDIATE + LIVE, ladder=Ladder(0, 3600, 3600))


def test_escalating_goes_one_rung_down() -> None:
    """A second signal to end skips to the next rung."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await supervisor.until({State.RUNNING})
        supervisor.request(Event.LEAVE_REQUESTED)
        before = rung_of(supervisor)
        supervisor.escalate()
        assert [before, rung_of(supervisor)] == [Rung.FAST, Rung.IMMEDIATE]

        await supervisor.until({State.GONE})

    supervise(body, ONLY_IMMEDIATE + LIVE, ladder=Ladder(0, 3600, 3600))


def test_a_mode_of_an_earlier_request_does_not_harden_a_later_stop() -> None:
    """Every stop begins where it was asked to begin."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await supervisor.until({State.RUNNING})
        supervisor.request(Event.RESTART_REQUESTED, Rung.IMMEDIATE)
        await supervisor.until({State.PREPARING})
        await supervisor.until({State.RUNNING})
        supervisor.request(Event.STOP_REQUESTED, Rung.FAST)

        assert rung_of(supervisor) is Rung.FAST
        await supervisor.until({State.STOPPED})

    supervise(body, OBEDIENT + LIVE)


def test_a_postmaster_that_ends_on_its_own_is_started_again() -> None:
    """An unexpected end is counted, explained, and answered with a restart."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await supervisor.until({State.RUNNING})
        assert supervisor.postmaster is not None
        os.kill(supervisor.postmaster.pid, signal.SIGKILL)
        await supervisor.until({State.BACKOFF})
        await supervisor.until({State.RUNNING})

        assert (supervisor.restarts, work.starts) == (1, 2)
        assert supervisor.last_exit is not None
        assert not supervisor.last_exit.expected
        assert str(supervisor.last_exit.status) == "signal SIGKILL"

    supervise(body, OBEDIENT + LIVE)


def test_a_server_that_never_comes_up_ends_in_failed_with_its_last_words() -> None:
    """Without one good start, the cause is that it could not be started (5)."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await supervisor.until({State.FAILED})

        assert work.starts == 2
        assert isinstance(supervisor.failure, StartError)
        assert "exit code 1: some last words" in supervisor.failure.message

    assert supervise(body, "exit 1", maximum=1) == 5


def test_a_server_that_keeps_ending_ends_in_failed_as_a_crash_loop() -> None:
    """After good starts, too many restarts are a crash loop (6)."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await supervisor.until({State.RUNNING})
        assert supervisor.postmaster is not None
        os.kill(supervisor.postmaster.pid, signal.SIGKILL)
        await supervisor.until({State.FAILED})

    assert supervise(body, OBEDIENT + LIVE, maximum=0) == 6


def test_failed_is_left_by_a_start_that_succeeds() -> None:
    """The way back: mend the cause, ask for a start."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await supervisor.until({State.FAILED})
        supervisor.request(Event.START_REQUESTED)
        await supervisor.until({State.RUNNING})

        assert supervisor.failure is None

    refusal = DataDirectoryError("cannot use it")
    assert supervise(body, OBEDIENT + LIVE, prepare_gives=[refusal]) == 0


def test_a_refusal_ends_the_manager_where_the_settings_say_so() -> None:
    """With failure: exit, the cause's own code is the exit code, at once."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await supervisor.until({State.GONE})

    refusal = DataDirectoryError("cannot use it")
    assert supervise(body, OBEDIENT + LIVE, prepare_gives=[refusal], stay=False) == 7


def test_without_restarts_the_manager_ends_with_its_server() -> None:
    """With restart.policy: exit, an unexpected end is the manager's end too (5)."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await supervisor.until({State.GONE})

    assert supervise(body, "echo up >&3; exit 1", restart=False) == 5


def test_a_fault_in_an_activity_is_served_as_a_failure() -> None:
    """A bug of ours does not take the manager down."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await supervisor.until({State.FAILED})

        assert supervisor.failure is not None
        assert "ZeroDivisionError" in supervisor.failure.message

    assert supervise(body, OBEDIENT + LIVE, prepare_gives=[ZeroDivisionError()]) == 1


def test_a_request_that_makes_no_sense_is_a_conflict() -> None:
    """A fenced instance is not started by accident."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await supervisor.until({State.RUNNING})
        supervisor.request(Event.FENCE_REQUESTED)
        await supervisor.until({State.FENCED})

        with pytest.raises(ConflictError, match="the instance is fenced"):
            supervisor.request(Event.START_REQUESTED)
        supervisor.request(Event.UNFENCE_REQUESTED)
        await supervisor.until({State.RUNNING})

    supervise(body, OBEDIENT + LIVE)


async def ended(supervisor: Supervisor) -> Child:
    """Wait for a server that runs, kill it, and return it."""
    await supervisor.until({State.RUNNING})
    child = supervisor.postmaster
    assert child is not None
    child.signal(signal.SIGKILL)
    await child.wait()
    return child


@pytest.mark.parametrize("cause", [Cause.BAD_CONFIGURATION, Cause.MISSING_LIBRARY])
def test_what_would_only_fail_again_is_not_tried_again(cause: Cause) -> None:
    """A broken configuration ends in failed at the first time, and a start brings it back."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await ended(supervisor)
        await supervisor.until({State.FAILED})
        assert (work.starts, supervisor.restarts) == (1, 0)
        assert supervisor.failure is not None
        assert "some last words" in supervisor.failure.message

        supervisor.request(Event.START_REQUESTED)
        await supervisor.until({State.RUNNING})
        assert supervisor.failure is None

    assert supervise(body, OBEDIENT + LIVE, causes=[cause]) == 0


def test_a_configuration_that_does_not_work_gives_way_to_another_one() -> None:
    """It is started at once with what else there is, and no restart is counted for that."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await ended(supervisor)
        await supervisor.until({State.RUNNING})
        assert (work.starts, supervisor.restarts) == (2, 0)
        assert [ending.cause for ending in work.fell_back] == [Cause.BAD_CONFIGURATION]
        assert supervisor.failure is None

    causes = [Cause.BAD_CONFIGURATION]
    assert supervise(body, OBEDIENT + LIVE, causes=causes, other_configurations=1) == 0


def test_a_full_disk_is_no_restart_and_is_waited_for() -> None:
    """The phase is failed until there is space; then postgres is started, and nothing counted."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await ended(supervisor)
        await supervisor.until({State.FAILED})
        assert isinstance(supervisor.failure, DiskSpaceError)
        assert (work.starts, supervisor.restarts) == (1, 0)

        work.gone.set()
        await supervisor.until({State.RUNNING})
        assert (work.starts, supervisor.restarts) == (2, 0)

    assert supervise(body, OBEDIENT + LIVE, maximum=0, causes=[Cause.DISK_FULL]) == 0


def test_a_stop_in_the_phase_failed_ends_with_the_code_of_the_cause() -> None:
    """Whoever ends the manager then sees why it was not running."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await ended(supervisor)
        await supervisor.until({State.FAILED})

    assert supervise(body, OBEDIENT + LIVE, causes=[Cause.DISK_FULL]) == DiskSpaceError.exit_code


def test_a_failure_that_lasts_is_one_state_and_not_many() -> None:
    """While the lock is held elsewhere, the phase does not flicker."""
    seen: list[State] = []

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        supervisor.on_change = seen.append
        await supervisor.until({State.FAILED})
        while work.asked_for_cause < 3:
            await asyncio.sleep(0.01)
        work.gone.set()
        await supervisor.until({State.RUNNING})

    refusal = DataDirectoryInUseError("in use")
    assert supervise(body, OBEDIENT + LIVE, prepare_gives=[refusal]) == 0
    assert seen.count(State.FAILED) == 1


def test_a_lock_is_tried_again_at_times_of_its_own() -> None:
    """Who takes over from another container waits for no longer than that needs."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await supervisor.until({State.FAILED})
        work.gone.set()
        await supervisor.until({State.RUNNING})

    refusal = DataDirectoryInUseError("in use")
    assert supervise(body, OBEDIENT + LIVE, prepare_gives=[refusal], retry=3600) == 0


def test_a_failure_whose_reason_changes_says_the_new_one() -> None:
    """Who waits for a manager, and then for the server that it left behind, is told so."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await supervisor.until({State.FAILED})
        work.later_failure = DataDirectoryInUseError("in use by its server")
        while supervisor.failure is not work.later_failure:
            await asyncio.sleep(0.01)
        work.gone.set()
        await supervisor.until({State.RUNNING})

    refusal = DataDirectoryInUseError("in use by a manager")
    assert supervise(body, OBEDIENT + LIVE, prepare_gives=[refusal]) == 0


def test_a_fence_that_is_found_keeps_postgres_stopped() -> None:
    """Nothing is started until it is taken away; a start is a conflict that says so."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await supervisor.until({State.FENCED})
        assert (work.starts, supervisor.desired) == (0, Desired.FENCED)
        assert supervisor.first_start_is_over
        with pytest.raises(ConflictError) as caught:
            supervisor.request(Event.START_REQUESTED)
        assert "unfence" in caught.value.hint

        supervisor.request(Event.UNFENCE_REQUESTED)
        await supervisor.until({State.RUNNING})
        assert supervisor.desired is Desired.RUNNING

    assert supervise(body, OBEDIENT + LIVE, prepare_gives=[Event.FENCE_FOUND]) == 0


def test_a_stop_does_not_lift_a_fence() -> None:
    """What is fenced is stopped: the request holds already, and what is wanted stays the same."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await supervisor.until({State.RUNNING})
        supervisor.request(Event.FENCE_REQUESTED)
        supervisor.request(Event.STOP_REQUESTED)
        await supervisor.until({State.FENCED})
        supervisor.request(Event.STOP_REQUESTED)

        assert (supervisor.state, supervisor.desired) == (State.FENCED, Desired.FENCED)

    assert supervise(body, OBEDIENT + LIVE) == 0


def test_unfencing_while_postgres_still_stops_starts_it_again() -> None:
    """The later request counts."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await supervisor.until({State.RUNNING})
        supervisor.request(Event.FENCE_REQUESTED)
        supervisor.request(Event.UNFENCE_REQUESTED)
        await supervisor.until({State.PREPARING})
        await supervisor.until({State.RUNNING})

        assert (work.starts, supervisor.desired) == (2, Desired.RUNNING)

    assert supervise(body, OBEDIENT + LIVE) == 0


def test_a_server_whose_directory_is_lost_is_stopped_at_once_and_not_started_again() -> None:
    """Without a checkpoint, without the polite rungs, and the failure says why."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await supervisor.until({State.RUNNING})
        supervisor.abandon(DataDirectoryError("gone"))
        assert rung_of(supervisor) is Rung.IMMEDIATE
        await supervisor.until({State.FAILED})

        assert supervisor.failure is not None
        assert supervisor.failure.message == "gone"
        assert (work.checkpoints, work.starts) == ([], 1)

    assert supervise(body, ONLY_IMMEDIATE + LIVE) == DataDirectoryError.exit_code


def test_a_lost_directory_is_no_news_to_a_server_that_is_being_stopped() -> None:
    """Whoever looked comes too late."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await supervisor.until({State.RUNNING})
        supervisor.request(Event.STOP_REQUESTED)
        supervisor.abandon(DataDirectoryError("gone"))
        await supervisor.until({State.STOPPED})

        assert supervisor.failure is None

    assert supervise(body, OBEDIENT + LIVE) == 0


def test_a_running_server_is_given_a_checkpoint_before_it_is_stopped() -> None:
    """For half of the first rung's time at most; the signal comes when it is done."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        work.checkpoint = asyncio.Event()
        await supervisor.until({State.RUNNING})
        child = supervisor.postmaster
        assert child is not None
        supervisor.request(Event.STOP_REQUESTED)
        while not work.checkpoints:
            await asyncio.sleep(0)
        assert work.checkpoints == [pytest.approx(50, abs=1)]
        assert child.status is None

        work.checkpoint.set()
        await supervisor.until({State.STOPPED})

    supervise(body, OBEDIENT + LIVE, ladder=Ladder(0, 100, 10))


def test_a_checkpoint_that_takes_too_long_does_not_hold_the_stop_up() -> None:
    """After its share of the time, the signal comes all the same."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        work.checkpoint = asyncio.Event()
        await supervisor.until({State.RUNNING})
        supervisor.request(Event.STOP_REQUESTED)
        await supervisor.until({State.STOPPED})

    supervise(body, OBEDIENT + LIVE, ladder=Ladder(0, 1, 20))


def test_a_harder_request_ends_the_checkpoint() -> None:
    """A second signal does not wait for the disk."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        work.checkpoint = asyncio.Event()
        await supervisor.until({State.RUNNING})
        supervisor.request(Event.LEAVE_REQUESTED)
        while not work.checkpoints:
            await asyncio.sleep(0)
        supervisor.escalate()
        await supervisor.until({State.GONE})

    supervise(body, ONLY_IMMEDIATE + LIVE, ladder=Ladder(0, 3600, 3600))


def test_a_request_for_an_immediate_stop_takes_a_checkpoint_back_that_is_still_due() -> None:
    """It came in the moment between the first request and the stop."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        work.checkpoint = asyncio.Event()
        await supervisor.until({State.RUNNING})
        supervisor.request(Event.LEAVE_REQUESTED)
        supervisor.request(Event.LEAVE_REQUESTED, Rung.IMMEDIATE)
        await supervisor.until({State.GONE})
        assert not work.checkpoints

    supervise(body, ONLY_IMMEDIATE + LIVE, ladder=Ladder(0, 3600, 3600))


@pytest.mark.parametrize(
    ("rung", "at_once"), [(Rung.FAST, True), (Rung.IMMEDIATE, False), (Rung.IMMEDIATE, True)]
)
def test_a_stop_at_once_has_no_checkpoint_before_it(rung: Rung, at_once: bool) -> None:
    """Nor has one that wants no checkpoint at all."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await supervisor.until({State.RUNNING})
        supervisor.request(Event.STOP_REQUESTED, rung, at_once=at_once)
        await supervisor.until({State.STOPPED})

        assert work.checkpoints == []

    supervise(body, OBEDIENT + LIVE)


def test_a_stop_says_what_it_waits_for() -> None:
    """And wakes whoever follows it."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await supervisor.until({State.RUNNING})
        supervisor.request(Event.STOP_REQUESTED)
        while supervisor.stop is None or not supervisor.stop.awaited:
            await supervisor.changed()
        assert supervisor.stop.awaited == "waiting for the test"

        supervisor.escalate()
        await supervisor.until({State.STOPPED})

    supervise(body, ONLY_IMMEDIATE + LIVE, ladder=Ladder(0, 3600, 3600))


def test_what_a_killed_server_leaves_behind_is_ended() -> None:
    """After SIGKILL; who stops in order leaves nothing."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await supervisor.until({State.RUNNING})
        supervisor.request(Event.STOP_REQUESTED)
        await supervisor.until({State.STOPPED})

        assert work.leftovers_ended == 1

    supervise(body, DEAF + LIVE, ladder=Ladder(0, 0.1, 0.1))


def test_what_a_server_that_ended_on_its_own_left_behind_is_ended() -> None:
    """Also where it is not started again, and the manager ends with it."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await ended(supervisor)
        await supervisor.until({State.GONE})

        assert work.leftovers_ended == 1

    assert supervise(body, OBEDIENT + LIVE, restart=False) == 5


def test_a_fault_in_explaining_an_end_does_not_hide_it() -> None:
    """The end is an event, whatever happens beside it: nobody waits for a server that is gone."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        work.fault = RuntimeError("a bug")
        await ended(supervisor)
        await supervisor.until({State.BACKOFF, State.PREPARING, State.STARTING})
        await supervisor.until({State.RUNNING})

        assert work.starts == 2

    assert supervise(body, OBEDIENT + LIVE) == 0


def test_a_fault_of_who_is_told_of_a_state_does_not_stop_what_is_done_in_it() -> None:
    """The postmaster is signalled all the same."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        def fail(state: State) -> None:
            raise RuntimeError(state)

        await supervisor.until({State.RUNNING})
        supervisor.on_change = fail
        supervisor.request(Event.STOP_REQUESTED)
        await supervisor.until({State.STOPPED})

    assert supervise(body, OBEDIENT + LIVE) == 0


def test_the_manager_does_not_end_before_what_was_cancelled_has_ended() -> None:
    """Two requests at once: the second must not overtake the cleaning up behind the first."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        work.initialization, work.cleaning = asyncio.Event(), asyncio.Event()
        await supervisor.until({State.INITIALIZING})
        while not work.initialized:
            await asyncio.sleep(0)
        supervisor.request(Event.STOP_REQUESTED)
        supervisor.request(Event.LEAVE_REQUESTED)
        for _ in range(20):
            await asyncio.sleep(0)
        assert supervisor.state is State.LEAVING

        work.cleaning.set()
        await supervisor.until({State.GONE})

    assert supervise(body, OBEDIENT + LIVE, prepare_gives=[Event.DIRECTORY_EMPTY]) == 0


def test_a_failure_that_is_over_does_not_decide_the_exit_code() -> None:
    """What counts at the end is how the server was left, not what was wrong before it ran."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        await supervisor.until({State.FAILED})
        supervisor.request(Event.START_REQUESTED)
        await supervisor.until({State.STARTING})
        assert supervisor.failure is None

    refusal = DataDirectoryError("no")
    assert supervise(body, OBEDIENT + LIVE, prepare_gives=[refusal]) == 0


def test_a_start_that_somebody_asks_for_begins_with_the_whole_budget() -> None:
    """Who has looked at a crash loop gets as many restarts as at the beginning."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        for _ in range(2):
            await ended(supervisor)
            await supervisor.until({State.RUNNING, State.FAILED})
            await ended(supervisor) if supervisor.state is State.RUNNING else None
            await supervisor.until({State.FAILED})
            supervisor.request(Event.START_REQUESTED)
            await supervisor.until({State.RUNNING})

        assert supervisor.restarts == 2

    assert supervise(body, OBEDIENT + LIVE, maximum=1) == 0


def test_a_request_at_once_ends_the_checkpoint_of_a_stop_that_is_as_hard() -> None:
    """INT after TERM: both are fast, but who sends INT does not wait."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        work.checkpoint = asyncio.Event()
        await supervisor.until({State.RUNNING})
        supervisor.request(Event.LEAVE_REQUESTED)
        while not work.checkpoints:
            await asyncio.sleep(0)
        supervisor.request(Event.LEAVE_REQUESTED, Rung.FAST, at_once=True)
        await supervisor.until({State.GONE})

    supervise(body, OBEDIENT + LIVE, ladder=Ladder(0, 3600, 3600))


def test_an_initialization_in_a_lost_directory_is_given_up() -> None:
    """There is no server yet, and there shall be none."""

    async def body(supervisor: Supervisor, work: Scripted) -> None:
        work.initialization = asyncio.Event()
        await supervisor.until({State.INITIALIZING})
        supervisor.abandon(DataDirectoryError("somebody else's"))
        await supervisor.until({State.FAILED})
        assert supervisor.failure is not None
        assert supervisor.failure.message == "somebody else's"

    gives: list[Event | Exception] = [Event.DIRECTORY_EMPTY]
    assert supervise(body, OBEDIENT + LIVE, prepare_gives=gives) == 7
