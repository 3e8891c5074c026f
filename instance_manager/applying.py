"""One configuration after another: judged, written, loaded by the server, or taken back.

Whoever wants another one, over HTTP, by a signal or by the settings file, waits for the one that
is being applied. What the server would not take does not reach it; what it does not take all the
same is taken back, so that it goes on with what it had.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from instance_manager import log
from instance_manager.errors import (
    ConflictError,
    InstanceManagerError,
    Problem,
    SettingsError,
    StaleTagError,
    UnresponsiveError,
    beside_server,
)
from instance_manager.judge import Judge, Judged
from instance_manager.last_good import LastGood
from instance_manager.observability.events import EventType
from instance_manager.settings.configuration_document import (
    document_of,
    in_document,
    tag_of,
)
from instance_manager.settings_watch import SettingsFile
from instance_manager.supervision.states import Event, State

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
    from pathlib import Path

    from instance_manager.configuration.plan import Plan
    from instance_manager.health.snapshot import Observer
    from instance_manager.observability.events import Events
    from instance_manager.settings.models import DatabaseSettings, Settings
    from instance_manager.startup import Candidate, Startup
    from instance_manager.supervision.children import Child
    from instance_manager.supervision.operations import Progress
    from instance_manager.supervision.supervisor import Supervisor

_log: Final = log.get_logger()
_ALIVE: Final = frozenset({State.STARTING, State.RECOVERING, State.RUNNING})
_BETWEEN: Final = frozenset({State.PREPARING, State.INITIALIZING})
_SETTLED: Final = frozenset(State) - _BETWEEN - {State.STARTING}
"""No start goes by what is in force just now; and a server that runs listens to signals."""
_WITHOUT_SERVER: Final = frozenset({State.BACKOFF, State.STOPPED, State.FENCED, State.FAILED})
_START_SECONDS: Final = 20.0
"""So long a change waits for a start, which is not the time that a server needs to recover."""
_ENDING_SECONDS: Final = 1.0
_RELOAD_SECONDS: Final = 30.0
_RELOAD_POLL_SECONDS: Final = 0.05
_LOADING_BACK_SECONDS: Final = 5.0
_TAKING_BACK_SECONDS: Final = 20.0
"""With a look at volumes that do not answer."""
_SHOWN: Final = 10
_CHANGE: Final = "apply the configuration"


class _NotNowError(ConflictError):
    """What a change waits for has not ended in time: it can be made later."""


class _Change(NamedTuple):
    """What an application under way has put into force, and in whose place."""

    before: Settings
    after: Settings


class Configuration:
    """Applies configurations to one instance.

    *use* takes what the manager itself goes by; *hurry* tells that databases may need more now.
    """

    def __init__(
        self,
        startup: Startup,
        supervisor: Supervisor,
        observer: Observer,
        events: Events,
        *,
        use: Callable[[Settings], None],
        hurry: Callable[[], None],
    ) -> None:
        self._startup = startup
        self._supervisor = supervisor
        self._observer = observer
        self._events = events
        self._use = use
        self._hurry = hurry
        self._judge = Judge(startup, supervisor, observer)
        self._good = LastGood(startup, supervisor, observer)
        self._turn = asyncio.Lock()
        self._change: _Change | None = None
        """Not over: it may be taken back."""
        self._taking_back: asyncio.Task[None] | None = None
        path = startup.documents.settings_file
        digest = startup.documents.settings_digest
        self._file = None if path is None else SettingsFile(path, digest)
        self._begun = 0
        """How many reloads have begun."""
        self._ended = 0
        """Which of them was the last that has ended, and was not given up."""
        self._failed: InstanceManagerError | None = None
        """Why the last one has."""

    def document(self) -> dict[str, Any]:
        """Return the document in force, with its secrets."""
        return document_of(self._startup.settings)

    @property
    def databases(self) -> Sequence[DatabaseSettings]:
        """What is declared of the databases: of a change, only when it is sure to stay."""
        change, settings = self._change, self._startup.settings
        if change is not None and settings is change.after:
            return change.before.databases
        return settings.databases

    @property
    def settings_file(self) -> Path | None:
        """The settings file; None where there is none."""
        return None if self._file is None else self._file.path

    @property
    def is_from_file(self) -> bool:
        """Whether the settings file is the truth."""
        return self._startup.settings.configuration.source == "file"

    async def rehearse(self, document: Mapping[str, Any]) -> tuple[str, Plan]:
        """Judge a document; return its tag, and what it would change. Nothing is changed.

        Raises:
            SettingsError: with all that is wrong with it.
            InstanceManagerError: it can't be judged, or the volumes forbid it.
        """
        async with self._turn:
            judged = await self._judge.judge(await self._read(document), _CHANGE)
            return tag_of(document_of(judged.candidate.settings)), judged.plan

    async def put(
        self, document: Mapping[str, Any], tags: frozenset[str] | None, actor: str
    ) -> tuple[str, Plan]:
        """Apply a document and keep it as the accepted one; return its tag, and what has changed.

        Args:
            document: with its secrets.
            tags: one of them must be the tag of the one in force; None: any will do.
            actor: who asked for it.

        Raises:
            StaleTagError: it isn't.
            SettingsError: with all that is wrong with it.
            InstanceManagerError: it can't be applied; the one before is in force.
        """
        async with self._turn, self._or_as_before():
            if tags is not None and tag_of(self.document()) not in tags:
                raise StaleTagError(
                    "the configuration was changed since it was read",
                    hint="read it again, and send your change with the new ETag",
                )
            if self._supervisor.state in _BETWEEN:
                raise _a_start_is_under_way()
            judged = await self._judged(await self._read(document), _CHANGE)
            # Before anything is changed: it is what a start could fall back on.
            await self._good.keep_now()
            overridden = await self._apply(judged.candidate, None)
            # Last: only what the server has taken comes back after a new start of the manager.
            await self._startup.documents.accept(judged.candidate.settings)
            # Of what was accepted: the server may have ended with it since, and fallen back.
            tag = tag_of(document_of(judged.candidate.settings))
            self._events.record(
                "ConfigurationAccepted",
                f"a configuration was accepted: {_summary(judged.plan)}",
                actor=actor,
                details={"etag": tag, "action": str(judged.plan.action)},
            )
            return tag, replace(judged.plan, overridden=tuple(sorted(overridden)))

    async def reload(self, progress: Progress | None) -> None:
        """Read the settings and the volumes again, and wait until the server has loaded them.

        Without a server that runs, the next start does; one that had failed is tried again.

        Raises:
            InstanceManagerError: they can't be applied; those before are in force.
        """
        begun = self._begun
        while self._ended <= begun:
            async with self._turn_between_starts():
                # Else another one began since this was asked for: it has read what this would.
                if self._ended <= begun:
                    # Nobody would ask again: where it can't be now, others have their turn, and
                    # this waits on.
                    with suppress(_NotNowError):
                        await self._reload_noted(progress)
        if self._failed is not None:
            # All who waited raise it: the way through one of them is not the next one's.
            raise self._failed.with_traceback(None)

    async def _reload_noted(self, progress: Progress | None) -> None:
        self._begun += 1
        failed: InstanceManagerError | None = None
        try:
            await self._reload_beside_ends(progress)
        except _NotNowError:
            raise
        except InstanceManagerError as error:
            self._note(error)
            failed = error
        self._failed, self._ended = failed, self._begun

    async def _reload_beside_ends(self, progress: Progress | None) -> None:
        """Reload; again where the server that was asked lets nobody in any more.

        Nobody would come back to it: a settings file is read when it changes, and the next start
        goes by what was read before.
        """
        while True:
            server = self._supervisor.postmaster
            try:
                async with self._or_as_before():
                    return await self._reload(progress)
            except UnresponsiveError:
                if server is None or not await self._has_left(server):
                    raise

    async def _has_left(self, server: Child) -> bool:
        """Say whether a server that did not answer does not run any more; wait until all know it.

        It has ended, is being stopped, or recovers from a crash of one of its processes.
        """
        # What is seen of a crash once a period would be seen too late.
        self._observer.hurry()
        try:
            # It stops listening a moment before its end is seen.
            async with asyncio.timeout(_ENDING_SECONDS):
                while self._runs(server) and server.status is None:
                    await self._news_of(server)
            async with asyncio.timeout(_START_SECONDS):
                while self._runs(server):
                    await self._supervisor.changed()
        except TimeoutError:
            # News may come before anybody waits for them: what is so now counts.
            return not self._runs(server)
        return True

    def _runs(self, server: Child) -> bool:
        """Say whether a server is the one that lets people in, as far as anybody knows."""
        return self._supervisor.state is State.RUNNING and self._supervisor.postmaster is server

    async def _news_of(self, server: Child) -> None:
        """Wait until the state changes, or the server ends."""
        news = [asyncio.create_task(each) for each in (server.wait(), self._supervisor.changed())]
        try:
            await asyncio.wait(news, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in news:
                task.cancel()

    @asynccontextmanager
    async def _turn_between_starts(self) -> AsyncGenerator[None]:
        """Wait for the turn where no start is being prepared: it may have read what was before.

        Nor is a change before taken back.
        """
        while True:
            if self._taking_back is not None:
                await asyncio.wait({self._taking_back})
            await self._supervisor.until(_SETTLED)
            async with self._turn:
                if self._supervisor.state in _SETTLED:
                    yield
                    return

    async def _reload(self, progress: Progress | None) -> None:
        _report(progress, "reading the settings")
        if self._file is not None:
            # Before it is read: a change in between is seen as one by the watch.
            await self._file.note()
        settings = await self._startup.reread_settings()
        await self._until_settled()
        if self._supervisor.state in _ALIVE:
            _report(progress, "judging the configuration")
            # A server that runs must not be led to a configuration with which it could not start
            # again.
            judged = await self._judged(settings, "reload")
            await self._good.keep_now()
            await self._apply(judged.candidate, progress)
        else:
            self._take(settings)
        self._succeed()

    async def _read(self, document: Mapping[str, Any]) -> Settings:
        try:
            return await self._startup.reread_settings(document)
        except SettingsError as error:
            raise SettingsError(map(in_document, error.problems)) from error

    async def _judged(self, settings: Settings, doing: str) -> Judged:
        """Judge *settings* to put them into force; blame them for no trial that others end.

        Raises:
            InstanceManagerError: something speaks against them, or they can't be judged.
        """
        server = self._supervisor.postmaster
        try:
            return await self._judge.judge(settings, doing)
        except SettingsError as error:
            # What is left of a server is ended with it, and before a start: a trial of ours, too.
            if server is not None and server.status is not None:
                raise UnresponsiveError(
                    "cannot judge the configuration: the server has ended meanwhile",
                    hint="send it again when the server runs",
                ) from error
            if server is None and self._supervisor.state not in _WITHOUT_SERVER:
                raise _a_start_is_under_way() from error
            raise

    def _take(self, settings: Settings) -> None:
        """Have the next start use *settings*; one that had failed is tried with them."""
        fault = settings.extensions.catalogue_fault
        if fault and fault != self._startup.settings.extensions.catalogue_fault:
            self._events.record("CatalogueRejected", fault, kind=EventType.WARNING)
        self._change = _Change(self._startup.settings, settings)
        self._startup.settings = settings
        self._use(settings)
        if self._supervisor.state is State.FAILED:
            self._supervisor.handle(Event.CAUSE_GONE)

    async def _apply(self, candidate: Candidate, progress: Progress | None) -> frozenset[str]:
        """Return the parameters that count all the same as something else has set them."""
        await self._until_settled()
        self._take(candidate.settings)
        if self._supervisor.state not in _ALIVE:
            return frozenset()
        # What is missing is so without a reload, too; and it may change what is urgent.
        with beside_server("reload"):
            await self._startup.look_at_volumes(ignore_inventory=True)
        overridden = await self._load(progress)
        if self._startup.settings is not candidate.settings:
            raise SettingsError(
                [Problem("", "the server was started again meanwhile, and could not with it")],
                hint="it runs with the last good configuration: see ConfigurationFellBack",
            )
        return overridden

    async def _until_settled(self) -> None:
        """Wait for the end of a start that has begun meanwhile: it has read what was before.

        Raises:
            _NotNowError: it takes long.
        """
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._supervisor.until(_SETTLED)
        except TimeoutError as error:
            raise _a_start_is_under_way() from error

    async def _load(self, progress: Progress | None) -> frozenset[str]:
        """Write what was decided, wait until the server has taken it, and say what does not count.

        Raises:
            SettingsError: it does not take it.
            UnresponsiveError: it does not say.
        """
        _report(progress, "writing the configuration")
        await self._observer.read_facts()
        # As the server runs with it now, which may be other than what was written last.
        seen = self._observer.facts
        await self._startup.configure(seen.dynamic_library_path or "" if seen else "")
        # Another one may have been started since, which does not listen to signals yet.
        await self._until_settled()
        postmaster = self._supervisor.postmaster
        if postmaster is None:
            return frozenset()
        _report(progress, "loading")
        postmaster.signal(signal.SIGHUP)
        try:
            await self._until_loaded(_RELOAD_SECONDS)
        except TimeoutError as error:
            await self._judge.require_taken()
            raise UnresponsiveError(
                f"cannot reload: the server did not load the configuration within"
                f" {_RELOAD_SECONDS:g} s",
                hint="its log says why: it keeps the old values where a file has an error",
            ) from error
        if overridden := await self._judge.require_taken():
            _log.warning(
                "parameters count as something else has set them",
                parameters=sorted(overridden),
                hint="see pg_file_settings; ALTER SYSTEM RESET takes one back",
            )
        return overridden

    async def _until_loaded(self, seconds: float) -> None:
        async with asyncio.timeout(seconds):
            while await self._is_loading():  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(_RELOAD_POLL_SECONDS)

    async def _is_loading(self) -> bool:
        """Whether a server that runs has not loaded what was written last.

        A restart may have written after the one that asks.
        """
        written = self._startup.written
        if written is None or self._supervisor.state is not State.RUNNING:
            return False
        return not await self._observer.has_loaded(written.sha256)

    @asynccontextmanager
    async def _or_as_before(self) -> AsyncGenerator[None]:
        """Bring back what was in force, if what is done in the context fails or is given up."""
        if self._taking_back is not None:
            # Else what this puts into force would be mixed with what was before.
            _, late = await asyncio.wait({self._taking_back}, timeout=_TAKING_BACK_SECONDS)
            if late:
                raise _NotNowError(
                    "cannot change the configuration: the change before is still taken back",
                    hint="see whether the storage of data and volumes answers",
                )
        try:
            yield
        # A cancellation, too: whoever gives up a change must not leave half of it in force.
        except BaseException:
            if self._change is not None:
                # A task of its own: it goes on if the change is given up, or the storage hangs.
                self._taking_back = asyncio.create_task(self._take_back(self._change))
                await asyncio.wait({self._taking_back}, timeout=_TAKING_BACK_SECONDS)
            raise
        self._change = None
        self._hurry()

    async def _take_back(self, change: _Change) -> None:
        """Put what was before a change into force again, and have the server load it."""
        await self._supervisor.until(_SETTLED)
        self._change = None
        # A start may have fallen back meanwhile: what it took is not ours to take back.
        if self._startup.settings is not change.after:
            return
        self._startup.settings = change.before
        self._use(change.before)
        if self._supervisor.state not in _ALIVE:
            return
        try:
            # The last look was at the volumes as the other settings have them.
            await self._startup.rescan()
            await self._startup.configure()
        except (InstanceManagerError, OSError) as error:
            _log.error("the configuration before could not be written back", reason=str(error))
            return
        await self._supervisor.until(_SETTLED)
        if self._supervisor.postmaster is None:
            return
        self._supervisor.postmaster.signal(signal.SIGHUP)
        # Whoever reads the answer finds the server as it was; one that hangs keeps nobody.
        with suppress(TimeoutError):
            await self._until_loaded(_LOADING_BACK_SECONDS)

    def _succeed(self) -> None:
        self._startup.documents.problems = ()

    def _note(self, error: InstanceManagerError) -> None:
        """Remember what is wrong with the configuration that is not in force."""
        _log.error(error.message, code=error.code, hint=error.hint)
        problems = error.problems if isinstance(error, SettingsError) else ()
        self._startup.documents.problems = problems or (Problem("", error.message),)
        self._events.record(
            "ConfigurationRejected",
            error.message,
            kind=EventType.WARNING,
            details={"code": error.code},
        )

    async def watch_file(self, begin_reload: Callable[[], object]) -> None:
        """Begin a reload when the settings file has changed; for ever."""
        file = self._file
        if file is None:
            return await asyncio.Future()

        def changed() -> None:
            self._events.record("SettingsChanged", f"the settings file {file.path} has changed")
            begin_reload()

        return await file.watch(changed)

    async def remember_good(self) -> None:
        """Keep what a server has taken whole as the last good configuration; for ever."""
        await self._good.keep(self._is_changing)

    def _is_changing(self) -> bool:
        is_taking_back = self._taking_back is not None and not self._taking_back.done()
        return self._turn.locked() or is_taking_back


def _a_start_is_under_way() -> _NotNowError:
    return _NotNowError(
        "cannot change the configuration: a start is under way", hint="wait until it is over"
    )


def _summary(plan: Plan) -> str:
    """Say what changes, by name: values may be secrets."""
    names = [change.name for change in plan.changes]
    shown = [*names[:_SHOWN], *([f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else [])]
    changed = ", ".join((*plan.sections, *shown))
    return f"{changed} ({plan.action})" if changed else "nothing changes"


def _report(progress: Progress | None, step: str) -> None:
    if progress is not None:
        progress.report(step)
