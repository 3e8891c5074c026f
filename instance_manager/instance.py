"""The instance as its callers see it: what the rooms below know, put into the API's words.

Reads memory only. The lifecycle methods ask the supervisor and wait; it is the one that acts.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

from instance_manager import __version__, log
from instance_manager.errors import (
    ConflictError,
    Exit,
    InstanceManagerError,
    PreflightError,
    beside_server,
)
from instance_manager.extensions import drift
from instance_manager.extensions.models import Composed, ExtensionsReport
from instance_manager.health.verdicts import Facts
from instance_manager.observability.events import EventType
from instance_manager.postgres import process
from instance_manager.supervision.shutdown import Ladder, Rung
from instance_manager.supervision.states import Desired, Event, State, phase_of
from instance_manager.supervision.work import Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from datetime import datetime

    from instance_manager.api import models
    from instance_manager.applying import Configuration
    from instance_manager.databases.models import DatabaseExtensions, Databases
    from instance_manager.databases.service import ExtensionKeeper
    from instance_manager.health.snapshot import Observer
    from instance_manager.health.storage import Storage
    from instance_manager.inventory_watch import InventoryWatch
    from instance_manager.log import Sink
    from instance_manager.observability.events import Events
    from instance_manager.observability.log_pipe import PostgresLog
    from instance_manager.observability.metrics import Measurements, MetricFacts
    from instance_manager.settings.models import Settings
    from instance_manager.shutdown import Shutdown
    from instance_manager.startup import Startup
    from instance_manager.status import Conditions
    from instance_manager.supervision.children import Children
    from instance_manager.supervision.operations import Operations, Progress
    from instance_manager.supervision.shutdown import StopMode
    from instance_manager.supervision.stopping import Stop
    from instance_manager.supervision.supervisor import Supervisor

_log: Final = log.get_logger()
_NOT_STARTED: Final = frozenset(
    {State.FAILED, State.STOPPED, State.FENCED, State.LEAVING, State.GONE}
)
_STARTED: Final = frozenset({State.RUNNING})
_ALIVE: Final = frozenset({State.STARTING, State.RECOVERING, State.RUNNING})
_LOOKING: Final = frozenset({State.PREPARING, State.INITIALIZING})
_PROGRESSING: Final = frozenset({State.INITIALIZING, State.RECOVERING})
_ENDS_OF_POSTGRES: Final = frozenset({Exit.NOT_STARTED, Exit.CRASH_LOOP, Exit.DISK_SPACE})
_RELOAD_SECONDS: Final = 30.0
_RELOAD_POLL_SECONDS: Final = 0.05


def policy_of(settings: Settings) -> Policy:
    """Return the part of the settings that the supervisor goes by."""
    return Policy(
        ladder=Ladder.of(settings.shutdown),
        stay_when_failed=settings.failure == "stay",
        restart_when_ended=settings.restart.policy == "restart",
    )


def _not_looked_yet(startup: Startup) -> ExtensionsReport:
    return ExtensionsReport(
        root=str(startup.settings.extensions.root),
        scan_seconds=0,
        volumes=(),
        findings=(),
        composed=drift.NOTHING,
    )


def _doing(stop: Stop | None) -> str:
    """Return what a stop is at: how hard it is, and what it waits for."""
    if stop is None:
        return ""
    return f"{stop.rung}: {stop.awaited}" if stop.awaited else str(stop.rung)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this run of the manager is."""

    name: str
    session_id: str
    started_at: datetime


@dataclass(frozen=True, slots=True)
class Rooms:
    """What an instance is made of."""

    startup: Startup
    supervisor: Supervisor
    observer: Observer
    children: Children
    storage: Storage
    sink: Sink
    shutdown: Shutdown
    log: PostgresLog


@dataclass(frozen=True, slots=True)
class Records:
    """What is remembered of this run."""

    operations: Operations
    events: Events
    measurements: Measurements


class Instance:
    """Implements :class:`instance_manager.api.instance.Instance` over the rooms."""

    def __init__(
        self,
        identity: Identity,
        rooms: Rooms,
        records: Records,
        *,
        clock: Callable[[], float],
        now: Callable[[], datetime],
    ) -> None:
        self.operations = records.operations
        self.events = records.events
        self.measurements = records.measurements
        self.heartbeat_at = clock()
        self.watch: InventoryWatch | None = None
        """Reads the databases; None until its module was imported."""
        self._environment: tuple[int, dict[str, str]] = (0, {})
        self._identity = identity
        self._rooms = rooms
        self._clock = clock
        self._now = now

    @cached_property
    def _conditions(self) -> Conditions:
        # Made at the first question: its module belongs to the API, which is imported late.
        from instance_manager.status import Conditions

        return Conditions(self._now)

    @cached_property
    def extension_updates(self) -> ExtensionKeeper:
        """What brings the declared extensions about, and updates those that are asked for."""
        from instance_manager.databases.service import ExtensionKeeper

        startup = self._rooms.startup
        return ExtensionKeeper(
            self._rooms.supervisor,
            self._rooms.observer.target,
            lambda: startup.version.number if startup.version else 0,
            lambda: self.configuration.databases,
            self.events,
            clock=self._clock,
        )

    @cached_property
    def configuration(self) -> Configuration:
        """What applies configurations."""
        from instance_manager.applying import Configuration

        return Configuration(
            self._rooms.startup,
            self._rooms.supervisor,
            self._rooms.observer,
            self.events,
            use=self._use,
            hurry=self.extension_updates.reconciler.hurry,
        )

    def beat(self) -> None:
        """Say that the loop runs; the only input of liveness."""
        self.heartbeat_at = self._clock()

    def facts(self) -> Facts:
        """Return what the probes judge."""
        supervisor, observer = self._rooms.supervisor, self._rooms.observer
        settings = self._rooms.startup.settings
        return Facts(
            now=self._clock(),
            heartbeat_at=self.heartbeat_at,
            phase=phase_of(supervisor.state),
            desired=supervisor.desired,
            first_start_over=supervisor.first_start_is_over,
            progress_at=self._progress_at(),
            probe=observer.probe,
            query=observer.query,
            stream=observer.stream,
            readiness=settings.health.readiness,
            lag=observer.lag,
            maximum_lag_bytes=settings.health.maximum_lag_bytes,
            period_seconds=settings.health.period_seconds,
            stopping=supervisor.stop is not None,
        )

    def _progress_at(self) -> float | None:
        """Initialisation and recovery get on by themselves for as long as their processes live.

        So does a trial of the start, which has a deadline.
        """
        is_trying = self._rooms.startup.trial.is_running
        if is_trying or self._rooms.supervisor.state in _PROGRESSING:
            return self._clock()
        return None

    def said_before(self, failure: InstanceManagerError) -> tuple[str, ...]:
        """Return what the postmaster said last, where a failure is about its end."""
        return self._rooms.log.tail() if failure.exit_code in _ENDS_OF_POSTGRES else ()

    def extensions(self) -> ExtensionsReport:
        """Return the last look at the volumes, and what the running server uses."""
        report = self._rooms.startup.report or _not_looked_yet(self._rooms.startup)
        return drift.with_running(report, self._running())

    def _running(self) -> Composed | None:
        """Return what the live postmaster says that it runs with; None before it has spoken."""
        postmaster, seen = self._rooms.supervisor.postmaster, self._rooms.observer.facts
        if postmaster is None or seen is None:
            return None
        # Read once for each server: what a process was started with does not change.
        if self._environment[0] != postmaster.pid:
            given = process.environment_of_process(postmaster.pid)
            self._environment = postmaster.pid, given
        loader, path, added = drift.volume_environment(
            self._environment[1], self._rooms.startup.names_of_ours
        )
        return Composed(
            extension_control_path=seen.extension_control_path or "",
            dynamic_library_path=seen.dynamic_library_path,
            shared_preload_libraries=seen.shared_preload_libraries,
            ld_library_path=loader,
            path=path,
            env=added,
        )

    def databases(self) -> Databases:
        """Return what every database uses, as it was read last."""
        from instance_manager.databases import answers

        return answers.databases_of(self.watch.reading if self.watch else None)

    def database_extensions(self, database: str) -> DatabaseExtensions | None:
        """Return the extensions of one database; None where it is not known."""
        from instance_manager.databases import answers

        return answers.extensions_of(self.watch.reading if self.watch else None, database)

    def judge(self) -> ExtensionsReport:
        """Judge the conditions anew; return the report on the volumes that they were judged by."""
        from instance_manager import status

        report = self.extensions()
        self._conditions.update(
            self.facts(),
            report,
            status.is_loaded(self._rooms.observer, self._rooms.startup),
            self.extension_updates.reconciler.verdict(),
            self._rooms.startup.documents.problems,
        )
        return report

    def status(self) -> models.Status:
        """Return the whole instance as it is known now."""
        from instance_manager import status
        from instance_manager.api import models
        from instance_manager.api.operations import document_of

        supervisor, startup = self._rooms.supervisor, self._rooms.startup
        report, current = self.judge(), self.operations.current()
        return models.Status(
            instance=models.InstanceIdentity(
                name=self._identity.name,
                session_id=self._identity.session_id,
                manager_version=__version__,
                pid=os.getpid(),
                started_at=self._identity.started_at,
            ),
            phase=phase_of(supervisor.state),
            desired=supervisor.desired,
            stopping=status.stopping_of(supervisor),
            failure=self._failure(),
            postgres=status.postgres_of(supervisor, startup, self._rooms.observer),
            configuration=status.configuration_of(startup, self._rooms.observer),
            extensions=status.extensions_of(report),
            storage=tuple(map(models.StorageStatus.model_validate, self._rooms.storage.places)),
            operation=document_of(current) if current else None,
            conditions=self._conditions.all(),
        )

    def _failure(self) -> models.PhaseFailure | None:
        from instance_manager import status

        failure = status.in_phase_failed(self._rooms.supervisor)
        return status.failure_of(failure, self.said_before(failure)) if failure else None

    def metrics(self) -> MetricFacts:
        """Return what the metrics show."""
        from instance_manager.observability.metrics import MetricFacts, PostgresFacts

        supervisor, observer = self._rooms.supervisor, self._rooms.observer
        seen, report = observer.facts, self.extensions()
        return MetricFacts(
            version=__version__,
            phase=phase_of(supervisor.state),
            postgres=PostgresFacts(
                up=observer.probe is not None and observer.probe.accepting,
                in_recovery=seen.in_recovery if seen else None,
                start_time_seconds=seen.started_at.timestamp() if seen else None,
                timeline=seen.timeline if seen else None,
                connections=seen.connections if seen else None,
                connections_limit=seen.connections_limit if seen else None,
                replay_lag_bytes=seen.lag_bytes if seen else None,
                since_checkpoint_bytes=seen.since_checkpoint_bytes if seen else None,
                crashes=self._rooms.log.crashes,
            ),
            restarts=supervisor.restarts,
            orphans_reaped=self._rooms.children.orphans_reaped,
            log_lines_dropped=self._rooms.sink.dropped,
            findings=Counter(finding.code for finding in report.all_findings())
            + (self.watch.findings() if self.watch else Counter()),
            inventory_age_seconds=self.watch.age_seconds if self.watch else None,
            volumes=Counter(str(volume.state) for volume in report.volumes),
        )

    async def start(self, ignore_inventory: bool, progress: Progress) -> None:
        """Start postgres and wait until it accepts connections."""
        supervisor = self._rooms.supervisor
        # A server that lives is not started by this, and its next restart must not go by it.
        is_a_start = supervisor.state not in _ALIVE
        # First: what is refused must not count for a start that somebody else asks for.
        supervisor.request(Event.START_REQUESTED)
        if is_a_start:
            # It holds for restarts that nobody asks for, too.
            self._rooms.startup.inventory.is_ignored = ignore_inventory
        await self._until_started(progress)

    async def stop(self, mode: StopMode | None, progress: Progress) -> None:
        """Stop postgres and keep it stopped."""
        supervisor = self._rooms.supervisor
        supervisor.request(Event.STOP_REQUESTED, Rung(mode) if mode else None)
        # A fenced server is stopped, too.
        await self._until_stopped({State.STOPPED, State.FENCED}, progress)

    async def fence(self, mode: StopMode | None, progress: Progress) -> None:
        """Stop postgres and keep it stopped, over restarts of the manager and the container."""
        supervisor = self._rooms.supervisor
        # The stop first: it must not wait for a disk that may be the reason for the fence.
        supervisor.request(Event.FENCE_REQUESTED, Rung(mode) if mode else None)
        await self._rooms.startup.fence.put_up()
        await self._until_stopped({State.FENCED}, progress)

    async def unfence(self, progress: Progress) -> None:
        """Take the fence away, and start postgres where it was fenced."""
        supervisor = self._rooms.supervisor
        # It may find a fence of an earlier manager, or have found it.
        while supervisor.state is State.PREPARING:
            progress.report(str(supervisor.state), self._rooms.startup.step)
            await supervisor.changed()
        if self._rooms.startup.tenancy.holds or supervisor.desired is not Desired.FENCED:
            # Else none was kept, and the next start looks for one anyway.
            await self._rooms.startup.fence.take_down()
        if supervisor.desired is Desired.FENCED:
            supervisor.request(Event.UNFENCE_REQUESTED)
            await self._until_started(progress)

    async def checkpoint(self, progress: Progress) -> None:
        """Have the server make a checkpoint."""
        state = self._rooms.supervisor.state
        if state is not State.RUNNING:
            raise ConflictError(
                f"cannot make a checkpoint: the instance is {phase_of(state)}",
                hint="unfence it first" if state is State.FENCED else "start postgres first",
            )
        progress.report("checkpoint", "waiting for the server")
        await self._rooms.shutdown.checkpoint()

    async def _until_stopped(self, wanted: Collection[State], progress: Progress) -> None:
        supervisor = self._rooms.supervisor
        while (state := supervisor.state) not in _NOT_STARTED:
            progress.report(str(state), _doing(supervisor.stop))
            await supervisor.changed()
        if state not in wanted:
            raise ConflictError(f"cannot stop postgres: the instance is {phase_of(state)}")

    async def restart(self, mode: StopMode | None, progress: Progress) -> None:
        """Stop postgres, and start it again."""
        supervisor = self._rooms.supervisor
        if supervisor.state is State.RUNNING:
            # What is wrong is told while there is still a server that can go on.
            progress.report("rehearsal")
            await self._rehearse()
        supervisor.request(Event.RESTART_REQUESTED, Rung(mode) if mode else None)
        # Not before: where this was refused, the server that goes on keeps what it was given.
        self._rooms.startup.inventory.is_ignored = False
        await self._until_started(progress)

    async def _rehearse(self) -> None:
        if self.watch is not None:
            # What a database used a moment ago may be dropped by now.
            await self.watch.before_stop()
        try:
            with beside_server("restart postgres"):
                await self._rooms.startup.rehearse()
        except InstanceManagerError as error:
            _log.error(error.message, code=error.code, hint=error.hint)
            self.events.record("RestartRefused", error.message, kind=EventType.WARNING)
            raise

    async def rescan(self) -> ExtensionsReport:
        """Look at the volumes again, and return what the running server would need.

        A start that was refused for them is tried again where it would not be any more.
        """
        startup, supervisor = self._rooms.startup, self._rooms.supervisor
        if supervisor.state in _LOOKING:
            raise ConflictError(
                "cannot look at the volumes: a start is under way, and looks itself",
                hint="wait until it is over",
            )
        await startup.rescan()
        if supervisor.postmaster is not None:
            await startup.prover.compare(supervisor.postmaster.pid)
            # What runs is to be as fresh as what was found.
            await self._rooms.observer.read_facts()
        is_refused = isinstance(supervisor.failure, PreflightError)
        if supervisor.state is State.FAILED and is_refused and startup.refusal() is None:
            # As if it had been retried: the reason of the refusal is known to be gone.
            supervisor.handle(Event.CAUSE_GONE)
        return self.extensions()

    async def _until_started(self, progress: Progress) -> None:
        supervisor = self._rooms.supervisor
        while (state := supervisor.state) not in _STARTED | _NOT_STARTED:
            # A restart stops first, and that may take the longest.
            progress.report(str(state), _doing(supervisor.stop) or self._rooms.startup.step)
            await supervisor.changed()
        if state in _STARTED:
            return
        if supervisor.failure is not None:
            # The operation ends with what the status shows, code and hint included.
            raise supervisor.failure
        raise ConflictError(f"cannot start postgres: the instance is {phase_of(state)}")

    async def reload(self, progress: Progress) -> None:
        """Read the settings and the volumes again, and wait until the server has loaded them."""
        await self.configuration.reload(progress)

    def _use(self, settings: Settings) -> None:
        """Go by other settings from now on."""
        supervisor = self._rooms.supervisor
        supervisor.policy = policy_of(settings)
        supervisor.budget = replace(
            supervisor.budget,
            maximum=settings.restart.maximum,
            window_seconds=settings.restart.window_seconds,
        )
        self._rooms.observer.needs_query = settings.health.needs_query
        log.set_level(settings.log.level)
