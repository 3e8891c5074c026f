"""Changes of the configuration, when a start or a fall-back comes while they are being made."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from instance_manager import applying
from instance_manager.applying import Configuration
from instance_manager.errors import (
    ConflictError,
    DiskSpaceError,
    InstanceManagerError,
    Problem,
    SettingsError,
    UnresponsiveError,
)
from instance_manager.extensions import drift
from instance_manager.extensions.models import ExtensionsReport
from instance_manager.observability.events import Events
from instance_manager.observability.log_pipe import PostgresLog
from instance_manager.postgres import binaries
from instance_manager.server_configuration import Written
from instance_manager.settings.configuration_document import document_of
from instance_manager.settings.models import Settings
from instance_manager.startup import Candidate, Startup
from instance_manager.supervision.children import Child, Children, ExitStatus
from instance_manager.supervision.endings import Cause
from instance_manager.supervision.states import Event, State
from instance_manager.supervision.work import LastExit
from instance_manager.trial import Loading
from tests.support.surroundings import observer_in, silent_journal, surroundings_in

DEADLINE_SECONDS = 60.0
ENDED = LastExit(datetime.now(UTC), None, False, Cause.OUT_OF_MEMORY, "no memory")


def settings_with(work_mem: str) -> Settings:
    """Return settings that tell themselves apart."""
    return Settings.model_validate(
        {
            "postgres": {"parameters": {"work_mem": work_mem}},
            "databases": [{"name": f"of_{work_mem.lower()}"}],
            "configuration": {"source": "api"},
        }
    )


def work_mem(settings: Settings) -> str:
    """Return by what they tell themselves apart."""
    return str(document_of(settings)["parameters"]["work_mem"])


class Stage:
    """A supervisor whose state is as the test says."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.postmaster: Child | None = None
        self.events: list[Event] = []
        self._changed = asyncio.Event()

    def become(self, state: State) -> None:
        self.state = state
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self) -> State:
        await self._changed.wait()
        return self.state

    def handle(self, event: Event) -> None:
        self.events.append(event)

    async def until(self, states: Collection[State]) -> State:
        while self.state not in states:
            await self.changed()
        return self.state


class Server(Child):
    """A server that lives, and notes what signals it gets."""

    def __init__(self) -> None:
        super().__init__("postgres", 0, asyncio.get_running_loop().create_future())
        self.signals: list[int] = []

    def signal(self, number: int) -> None:
        self.signals.append(number)


class Step:
    """Something that lasts until the test lets it go, and then ends as the test says."""

    def __init__(self) -> None:
        self.has_begun, self._gate = asyncio.Event(), asyncio.Event()
        self._gate.set()
        self.error: InstanceManagerError | None = None

    def hold(self) -> None:
        self.has_begun.clear()
        self._gate.clear()

    def let_go(self) -> None:
        self._gate.set()

    async def take(self) -> None:
        self.has_begun.set()
        # Taken now: whoever comes later may meet another end.
        error = self.error
        await self._gate.wait()
        if error is not None:
            raise error


class Staged(Startup):
    """What a start needs, without a server: judging and writing are the test's."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.version = binaries.Version("18.1", 18, 1)
        self.reading, self.judging, self.writing = Step(), Step(), Step()

    async def reread_settings(self, document: Mapping[str, Any] | None = None) -> Settings:
        await self.reading.take()
        return settings_with(document["parameters"]["work_mem"] if document else "9MB")

    async def candidate(self, settings: Settings) -> Candidate:
        await self.judging.take()
        examination: Any = None
        return Candidate(settings, examination, "", {}, Loading((), ()), None)

    async def look_at_volumes(self, *, ignore_inventory: bool | None = None) -> None:
        pass

    async def rescan(self) -> ExtensionsReport:
        return ExtensionsReport(
            root="", scan_seconds=0, volumes=(), findings=(), composed=drift.NOTHING
        )

    async def configure(self, library_path: str = "") -> Written:
        await self.writing.take()
        self.written = Written(work_mem(self.settings), True, "1")
        return self.written


@asynccontextmanager
async def staged(
    directory: Path, state: State
) -> AsyncGenerator[tuple[Configuration, Staged, Stage]]:
    """Yield what applies configurations, in a directory that is ours."""
    here = surroundings_in(directory, settings_with("5MB"))
    observer = observer_in(directory)
    stage = Stage(state)
    supervisor: Any = stage
    with Children() as children, PostgresLog(directory) as log:
        journal = silent_journal()
        startup = Staged(here, children, observer, log, clock=time.monotonic, journal=journal)
        startup.tenancy.take()
        configuration = Configuration(
            startup,
            supervisor,
            observer,
            Events(now=lambda: datetime.now(UTC)),
            use=lambda settings: None,
            hurry=lambda: None,
        )
        try:
            yield configuration, startup, stage
        finally:
            startup.close()


def run(
    directory: Path,
    state: State,
    body: Callable[[Configuration, Staged, Stage], Awaitable[None]],
) -> None:
    """Run a test's body on the stage."""

    async def play() -> None:
        async with asyncio.timeout(DEADLINE_SECONDS), staged(directory, state) as all_of_it:
            await body(*all_of_it)

    data = directory / "data"
    data.mkdir(mode=0o700)
    asyncio.run(play())


async def putting(configuration: Configuration) -> asyncio.Task[Any]:
    """Begin to put another document into force."""
    document = {"parameters": {"work_mem": "9MB"}}
    return asyncio.create_task(configuration.put(document, None, "somebody"))


async def turns() -> None:
    """Give everybody their turn who has something to do."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_what_is_in_force_stays_while_a_start_is_prepared(tmp_path: Path) -> None:
    """Else the server runs with half of each, or with the one before, and nobody says so."""

    async def body(configuration: Configuration, startup: Staged, stage: Stage) -> None:
        startup.judging.hold()
        task = await putting(configuration)
        await startup.judging.has_begun.wait()
        stage.become(State.PREPARING)
        startup.judging.let_go()
        await turns()
        assert work_mem(startup.settings) == "5MB"

        stage.become(State.STARTING)
        await turns()
        assert startup.written is None, "a server that starts may not listen to signals yet"
        stage.become(State.RECOVERING)
        await task
        assert startup.written is not None
        assert work_mem(startup.settings) == startup.written.sha256 == "9MB"

    run(tmp_path, State.STOPPED, body)


def test_settings_that_are_read_again_wait_for_a_start_that_came_meanwhile(
    tmp_path: Path,
) -> None:
    """They were asked for before it, and may be read after it began."""

    async def body(configuration: Configuration, startup: Staged, stage: Stage) -> None:
        startup.reading.hold()
        task = asyncio.create_task(configuration.reload(None))
        await startup.reading.has_begun.wait()
        stage.become(State.PREPARING)
        startup.reading.let_go()
        await turns()
        assert work_mem(startup.settings) == "5MB"

        stage.become(State.RECOVERING)
        await task
        assert startup.written is not None
        assert work_mem(startup.settings) == startup.written.sha256 == "9MB"

    run(tmp_path, State.STOPPED, body)


def test_a_change_that_fails_amid_a_start_is_taken_back_after_it(tmp_path: Path) -> None:
    """The one before is in force, says the answer: so it is what the server gets."""

    async def body(configuration: Configuration, startup: Staged, stage: Stage) -> None:
        # The last step fails: what was accepted can't be kept.
        startup.files.accepted.mkdir()
        task = await putting(configuration)
        while not stage.events:
            await asyncio.sleep(0)
        assert stage.events == [Event.CAUSE_GONE]
        stage.become(State.PREPARING)
        while startup.documents._taking_back is None:  # noqa: SLF001 - it has failed then
            await asyncio.sleep(0)
        await turns()
        assert work_mem(startup.settings) == "9MB", "the start goes by it"
        assert [one.name for one in configuration.databases] == ["of_5mb"], "it is not accepted"

        stage.become(State.RECOVERING)
        with pytest.raises(InstanceManagerError):
            await task
        assert startup.written is not None
        assert work_mem(startup.settings) == startup.written.sha256 == "5MB"

    run(tmp_path, State.FAILED, body)


def test_what_fails_after_a_fall_back_leaves_what_it_took(tmp_path: Path) -> None:
    """What had ended the server must not come back."""

    async def body(configuration: Configuration, startup: Staged, stage: Stage) -> None:
        await startup.documents.remember_good(settings_with("4MB"))
        startup.judging.hold()
        task = await putting(configuration)
        await startup.judging.has_begun.wait()
        assert await startup.fall_back(ENDED)
        assert work_mem(startup.settings) == "4MB"
        startup.writing.error = DiskSpaceError("no space is left")
        startup.writing.hold()
        startup.judging.let_go()
        await startup.writing.has_begun.wait()
        startup.writing.error = None
        startup.writing.let_go()

        with pytest.raises(DiskSpaceError):
            await task

        assert startup.written is not None
        assert work_mem(startup.settings) == startup.written.sha256 == "4MB"

    run(tmp_path, State.RECOVERING, body)


def test_storage_that_hangs_while_a_change_is_taken_back_does_not_keep_the_manager(
    tmp_path: Path,
) -> None:
    """Whoever gives the change up goes on; it is taken back when the storage answers."""

    async def body(configuration: Configuration, startup: Staged, stage: Stage) -> None:
        del stage
        startup.writing.error = DiskSpaceError("no space is left")
        startup.writing.hold()
        task = await putting(configuration)
        await startup.writing.has_begun.wait()
        startup.writing.has_begun.clear()
        startup.writing.let_go()
        startup.writing.hold()
        startup.writing.error = None
        await startup.writing.has_begun.wait()
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=5)
        assert done, "it is given up"

        startup.writing.let_go()
        while startup.written is None:
            await asyncio.sleep(0)
        assert work_mem(startup.settings) == startup.written.sha256 == "5MB"

    run(tmp_path, State.RECOVERING, body)


def test_a_start_that_does_not_end_keeps_no_change_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused then, and what was in force stays so; the next one has its turn."""
    monkeypatch.setattr(applying, "_START_SECONDS", 0.01)

    async def body(configuration: Configuration, startup: Staged, stage: Stage) -> None:
        for _ in range(2):
            startup.judging.hold()
            stage.become(State.STOPPED)
            task = await putting(configuration)
            await startup.judging.has_begun.wait()
            stage.become(State.STARTING)
            startup.judging.let_go()
            with pytest.raises(ConflictError, match="a start is under way"):
                await task
            assert work_mem(startup.settings) == "5MB"

    run(tmp_path, State.STOPPED, body)


def test_a_change_does_not_wait_for_ever_for_one_that_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the storage hangs, who comes next is told so."""
    monkeypatch.setattr(applying, "_TAKING_BACK_SECONDS", 0.01)

    async def body(configuration: Configuration, startup: Staged, stage: Stage) -> None:
        del stage
        startup.writing.hold()
        task = await putting(configuration)
        await startup.writing.has_begun.wait()
        task.cancel()
        await asyncio.wait({task})

        with pytest.raises(ConflictError, match="still taken back"):
            await (await putting(configuration))

        startup.writing.let_go()
        while startup.written is None:
            await asyncio.sleep(0)
        assert work_mem(startup.settings) == "5MB"
        await (await putting(configuration))
        assert work_mem(startup.settings) == "9MB"

    run(tmp_path, State.RECOVERING, body)


KILLED = SettingsError([Problem("", "it ended with signal SIGKILL")])
"""So ends a trial of the settings, when what a server left behind is ended."""


@pytest.mark.parametrize("error", [UnresponsiveError("cannot ask the server"), KILLED])
def test_a_reload_that_meets_the_end_of_the_server_is_done_by_the_next(
    tmp_path: Path, error: InstanceManagerError
) -> None:
    """Nobody would come back to a settings file that changed in that moment."""

    async def body(configuration: Configuration, startup: Staged, stage: Stage) -> None:
        end = asyncio.get_running_loop().create_future()
        stage.postmaster = Child("postgres", 0, end)
        startup.judging.error = error
        startup.judging.hold()
        task = asyncio.create_task(configuration.reload(None))
        await startup.judging.has_begun.wait()
        startup.judging.error = None
        startup.judging.let_go()
        end.set_result(ExitStatus(9))
        await turns()
        assert not task.done(), "why it has ended is still being looked for"

        stage.postmaster = None
        stage.become(State.BACKOFF)
        await task
        assert work_mem(startup.settings) == "9MB", "the next start goes by it"

    run(tmp_path, State.RUNNING, body)


def test_a_document_is_not_blamed_for_a_trial_that_others_have_ended(tmp_path: Path) -> None:
    """The end of a server ends what is left of it, and so does the next start."""

    async def body(configuration: Configuration, startup: Staged, stage: Stage) -> None:
        startup.judging.error = KILLED
        for is_start, error in ((False, UnresponsiveError), (True, ConflictError)):
            end = asyncio.get_running_loop().create_future()
            stage.become(State.STOPPED if is_start else State.RECOVERING)
            stage.postmaster = None if is_start else Child("postgres", 0, end)
            startup.judging.hold()
            task = await putting(configuration)
            await startup.judging.has_begun.wait()
            if is_start:
                stage.become(State.PREPARING)
            end.set_result(ExitStatus(9))
            startup.judging.let_go()
            with pytest.raises(error, match=r"meanwhile|a start is under way"):
                await task
        assert work_mem(startup.settings) == "5MB"

        stage.become(State.STOPPED)
        with pytest.raises(SettingsError):
            await (await putting(configuration))

    run(tmp_path, State.RECOVERING, body)


def test_a_reload_of_a_server_that_lives_and_does_not_answer_fails(tmp_path: Path) -> None:
    """It is told, and what was in force stays so."""

    async def body(configuration: Configuration, startup: Staged, stage: Stage) -> None:
        stage.postmaster = Server()
        startup.judging.error = UnresponsiveError("cannot ask the server")

        with pytest.raises(UnresponsiveError):
            await configuration.reload(None)

        assert work_mem(startup.settings) == "5MB"
        assert [each.message for each in startup.documents.problems] == ["cannot ask the server"]

    run(tmp_path, State.RUNNING, body)


def test_a_reload_that_a_start_keeps_waiting_is_done_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would come back to a settings file; and others have their turn meanwhile."""
    monkeypatch.setattr(applying, "_START_SECONDS", 0.01)

    async def body(configuration: Configuration, startup: Staged, stage: Stage) -> None:
        startup.reading.hold()
        task = asyncio.create_task(configuration.reload(None))
        await startup.reading.has_begun.wait()
        stage.become(State.STARTING)
        startup.reading.let_go()
        # In its turn: what the other gave up by then.
        with pytest.raises(ConflictError, match="a start is under way"):
            await (await putting(configuration))
        assert not task.done()
        assert startup.documents.problems == ()
        assert work_mem(startup.settings) == "5MB"

        stage.become(State.RECOVERING)
        await task
        assert startup.written is not None
        assert work_mem(startup.settings) == startup.written.sha256 == "9MB"

    run(tmp_path, State.STOPPED, body)


def test_a_reload_that_comes_while_a_change_is_taken_back_is_done_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the storage hangs."""
    monkeypatch.setattr(applying, "_TAKING_BACK_SECONDS", 0.01)

    async def body(configuration: Configuration, startup: Staged, stage: Stage) -> None:
        del stage
        startup.writing.hold()
        first = await putting(configuration)
        await startup.writing.has_begun.wait()
        first.cancel()
        await asyncio.wait({first})
        task = asyncio.create_task(configuration.reload(None))
        with pytest.raises(ConflictError, match="still taken back"):
            await (await putting(configuration))
        await turns()
        assert not task.done()

        startup.writing.let_go()
        await task
        assert work_mem(startup.settings) == "9MB"

    run(tmp_path, State.RECOVERING, body)


@pytest.mark.parametrize("is_taken_back", [False, True])
def test_a_server_that_is_started_while_files_are_written_gets_no_signal_too_early(
    tmp_path: Path, *, is_taken_back: bool
) -> None:
    """Until it listens to signals, one ends it."""

    async def body(configuration: Configuration, startup: Staged, stage: Stage) -> None:
        startup.writing.hold()
        task = await putting(configuration)
        await startup.writing.has_begun.wait()
        if is_taken_back:
            startup.writing.has_begun.clear()
            task.cancel()
            await startup.writing.has_begun.wait()
        stage.become(State.STARTING)
        stage.postmaster = server = Server()
        startup.writing.let_go()
        await turns()
        assert server.signals == []
        assert not task.done()

        stage.become(State.RECOVERING)
        await asyncio.wait({task})
        assert task.cancelled() == is_taken_back
        assert server.signals == [signal.SIGHUP]
        assert work_mem(startup.settings) == ("5MB" if is_taken_back else "9MB")

    run(tmp_path, State.RECOVERING, body)


@pytest.mark.parametrize("state", [State.RESTARTING, State.RECOVERING])
def test_a_reload_that_meets_a_server_which_lets_nobody_in_any_more_is_done_by_what_follows(
    tmp_path: Path, state: State
) -> None:
    """One that is stopped, or recovers from a crash of one of its processes, refuses sessions."""

    async def body(configuration: Configuration, startup: Staged, stage: Stage) -> None:
        stage.postmaster = Server()
        startup.judging.error = UnresponsiveError("cannot ask the server")
        startup.judging.hold()
        task = asyncio.create_task(configuration.reload(None))
        await startup.judging.has_begun.wait()
        startup.judging.error = None
        startup.judging.let_go()
        await turns()
        assert not task.done()
        stage.become(state)
        await task
        assert work_mem(startup.settings) == "9MB"

    run(tmp_path, State.RUNNING, body)


def test_a_server_that_left_before_anybody_waited_for_it_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reload goes by the state, and not by the news of it alone."""
    monkeypatch.setattr(applying, "_ENDING_SECONDS", 0.01)

    async def body(configuration: Configuration, startup: Staged, stage: Stage) -> None:
        stage.postmaster = Child("postgres", 0, asyncio.get_running_loop().create_future())
        startup.judging.error = UnresponsiveError("cannot ask the server")

        async def missed() -> State:
            stage.state, startup.judging.error = State.RESTARTING, None
            return await asyncio.Future()

        monkeypatch.setattr(stage, "changed", missed)

        await configuration.reload(None)

        assert work_mem(startup.settings) == "9MB"

    run(tmp_path, State.RUNNING, body)
