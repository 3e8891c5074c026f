"""The composition root: what ``run`` is made of, in the order in which it comes to life.

Settings, account, sockets; then the loop with its handlers, and every room in one task group. What
only a running server needs is imported while postgres starts. No other module knows all rooms.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import random
import signal
import time
import uuid
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from instance_manager import log, termination_log
from instance_manager.api import listeners as sockets
from instance_manager.configuration.hba import host_auth_warning
from instance_manager.errors import Exit, UncleanStopError, VolumesUnansweringError
from instance_manager.health.snapshot import Observer, Target
from instance_manager.health.storage import Storage
from instance_manager.instance import Identity, Instance, Records, Rooms, policy_of
from instance_manager.journal import Journal
from instance_manager.observability.events import Events, EventType
from instance_manager.observability.log_pipe import PostgresLog
from instance_manager.observability.metrics import Measurements
from instance_manager.postgres.connection import Answer
from instance_manager.proofs import Proofs
from instance_manager.shutdown import Shutdown
from instance_manager.startup import Startup
from instance_manager.supervision import signals
from instance_manager.supervision.children import Children
from instance_manager.supervision.operations import Kind, Operations
from instance_manager.supervision.orphans import OrphanLog
from instance_manager.supervision.restart import RestartBudget
from instance_manager.supervision.shutdown import Rung
from instance_manager.supervision.states import Event, State
from instance_manager.supervision.supervisor import Supervisor
from instance_manager.supervision.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator
    from types import ModuleType

    from instance_manager.surroundings import Surroundings

_log: Final = log.get_logger()
_HEARTBEAT_SECONDS: Final = 1.0
_FAULT_PAUSE_SECONDS: Final = 1.0
_PATIENCE_SECONDS: Final = 0.25
"""How long what is imported late waits for the start of postgres, which it would slow down."""
_BEFORE_ACCEPTING: Final = frozenset(
    {State.PREPARING, State.INITIALIZING, State.STARTING, State.RECOVERING}
)
_VOLUMES_SECONDS: Final = 60.0
_CONDITIONS_SECONDS: Final = 1.0
_MEANINGLESS: Final = frozenset(
    {
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGALRM,
        signal.SIGVTALRM,
        signal.SIGPROF,
        signal.SIGPOLL,
        signal.SIGPWR,
        signal.SIGSTKFLT,
        *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
    }
)
"""What would end an ordinary process and says nothing to us: a stray one must not leave postgres
behind alone. PID 1 is safe from them by itself."""
_OBSERVED: Final = frozenset({State.RUNNING, State.RECOVERING})
_AS_WANTED: Final = frozenset({State.RUNNING, State.STOPPED, State.FENCED})
"""What went wrong before has passed."""


def run(surroundings: Surroundings) -> int:
    """Run the manager until it may end and return its exit code."""
    settings = surroundings.settings
    with ExitStack() as ends:
        # Before the sockets: a broken certificate ends the start before anything is touched.
        proofs = Proofs(settings.control)
        listening = sockets.bind_all(settings, ends, surroundings.control_group)
        sink = log.configure(settings.log.level, settings.log.format)
        ends.callback(sink.close)
        if warning := host_auth_warning(settings.postgres.host_auth_method):
            _log.warning(warning)
        if surroundings.was_root and not surroundings.is_settled:
            _log.warning(
                "the data directory was not given to the account of postgres: its storage did not"
                " answer",
                hint="see the storage; if the directory is refused then, start the manager again",
            )
        with asyncio.Runner() as runner:
            return runner.run(_Manager(surroundings, listening, proofs, sink).run())


@dataclass(frozen=True, slots=True)
class _Manager:
    """One run of the manager: its surroundings, its bound sockets, its log."""

    surroundings: Surroundings
    listening: sockets.Listeners
    proofs: Proofs
    sink: log.Sink

    async def run(self) -> int:
        """Supervise and serve; return the exit code."""
        place, settings = self.surroundings.place, self.surroundings.settings
        records = Records(
            operations=Operations(now=_now, new_id=lambda: uuid.uuid4().hex),
            events=Events(now=_now, run=uuid.uuid4().hex[:12]),
            measurements=Measurements(),
        )
        observer = Observer(
            Target(
                settings.postgres.socket_directory,
                settings.postgres.port,
                settings.bootstrap.superuser,
            ),
            clock=time.monotonic,
            period_seconds=settings.health.period_seconds,
            needs_query=settings.health.needs_query,
        )
        with Children(OrphanLog()) as children, PostgresLog(place.log_directory) as postgres_log:
            startup = Startup(
                self.surroundings,
                children,
                observer,
                postgres_log,
                clock=time.monotonic,
                journal=Journal(
                    records.measurements.startup_steps.observe,
                    records.events.record,
                    partial(records.events.record, kind=EventType.WARNING),
                ),
            )
            shutdown = Shutdown(startup, observer, postgres_log)
            # The lock of the data directory is given back when no child is left that uses it.
            with contextlib.closing(startup):
                rooms = Rooms(
                    startup=startup,
                    supervisor=self._supervisor(startup, shutdown),
                    observer=observer,
                    children=children,
                    storage=Storage({"data": lambda: startup.place.data_directory}),
                    sink=self.sink,
                    shutdown=shutdown,
                    log=postgres_log,
                )
                return await self._live(rooms, records)

    def _supervisor(self, startup: Startup, shutdown: Shutdown) -> Supervisor:
        settings = self.surroundings.settings
        return Supervisor(
            startup,
            shutdown,
            policy_of(settings),
            RestartBudget(settings.restart.maximum, settings.restart.window_seconds),
            clock=time.monotonic,
            chance=random.random,
        )

    async def _live(self, rooms: Rooms, records: Records) -> int:
        instance = Instance(
            Identity(self.surroundings.name, str(uuid.uuid4()), _now()),
            rooms,
            records,
            clock=time.monotonic,
            now=_now,
        )
        supervisor = rooms.supervisor
        supervisor.on_change = _Changes(rooms, instance).follow
        eternal: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "heartbeat": lambda: _beat(instance),
            "observer": lambda: rooms.observer.run(
                lambda: supervisor.state in _OBSERVED, lambda answer: _tell(supervisor, answer)
            ),
            "storage": rooms.storage.run,
            "conditions": lambda: _judge(rooms.supervisor, instance),
            "databases": lambda: _reconcile(rooms, instance),
            "volumes": lambda: _watch_volumes(rooms),
            "proofs": lambda: self.proofs.watch(
                partial(records.events.record, "CredentialsRead"),
                partial(records.events.record, "CredentialsRejected", kind=EventType.WARNING),
            ),
            "settings file": lambda: _watch_settings(rooms, instance),
            "last good configuration": lambda: _remember_good(rooms, instance),
            "custody": lambda: _watch_over(rooms, records.events),
            "inventory": lambda: _take_inventory(rooms, instance),
            "serving": lambda: self._serve(instance, supervisor),
        }
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_guard(name, make), name=name) for name, make in eternal.items()
            ]
            # Not before the supervisor stands: the signals are blocked until then, and none is
            # lost.
            with _handled_signals(supervisor, instance):
                try:
                    code = await supervisor.run()
                finally:
                    # Whatever ended this: postgres must not be left behind alone.
                    await _end(supervisor)
            # Before the listeners end: who waits for an operation is still told how it ended.
            await instance.operations.close()
            for task in tasks:
                task.cancel()
        if supervisor.failure is not None:
            termination_log.write(supervisor.failure, instance.said_before(supervisor.failure))
        elif code == Exit.UNCLEAN:
            termination_log.write(UncleanStopError("postgres was stopped, but not cleanly"))
        else:
            termination_log.clear()
        _log.info("the manager ends", exit_code=code)
        return code

    async def _serve(self, instance: Instance, supervisor: Supervisor) -> None:
        """Answer on the listeners, as soon as it doesn't keep postgres from its start."""
        await _start_is_over(supervisor)
        # In a thread, so that the loop sees postgres come up meanwhile.
        server = await in_thread("import", _import_server)
        # All that was imported stays: it need not be looked at again, ever.
        gc.freeze()
        gc.enable()
        credentials = server.Credentials(
            group=self.surroundings.control_group,
            token=self.proofs.token,
            tls=self.proofs.contexts,
        )
        async with server.serve(instance, self.listening, credentials):
            await asyncio.Future()


def _import_server() -> ModuleType:
    """Import what only a running manager needs, the observer's library too."""
    importlib.import_module("psycopg")
    return importlib.import_module("instance_manager.api.server")


@dataclass(frozen=True, slots=True)
class _Changes:
    """What the rooms do about each new state."""

    rooms: Rooms
    instance: Instance

    def follow(self, state: State) -> None:
        """Note the state, and wake who waits for it."""
        self.rooms.observer.hurry()
        if self.rooms.supervisor.postmaster is None:
            # What an ended server said must not make the next one ready.
            self.rooms.observer.forget()
            self.rooms.startup.prover.end()
        failure = self.rooms.supervisor.failure
        if state in _AS_WANTED:
            termination_log.clear()
        if state is State.RUNNING:
            self.rooms.startup.trial.succeed()
            _log.info(
                "postgres accepts connections", port=self.rooms.startup.settings.postgres.port
            )
        if state is State.FENCED:
            _log.warning(
                "the instance is fenced: postgres is not started",
                hint="instance-manager unfence",
            )
        if state is State.BACKOFF:
            self._tell_end()
        if state is State.FAILED and failure is not None:
            termination_log.write(failure, self.instance.said_before(failure))
            self.instance.events.record(
                "Failed",
                failure.message,
                kind=EventType.WARNING,
                details={"code": failure.code, "hint": failure.hint},
            )
        else:
            self.instance.events.record("StateChanged", f"the state is {state}")

    def _tell_end(self) -> None:
        """Tell that a postmaster ended which nobody had asked to."""
        last = self.rooms.supervisor.last_exit
        if last is not None:
            self.instance.events.record(
                "PostgresEnded", str(last), kind=EventType.WARNING, details={"cause": last.cause}
            )


async def _end(supervisor: Supervisor) -> None:
    if supervisor.state is not State.GONE:
        supervisor.request(Event.LEAVE_REQUESTED, Rung.IMMEDIATE)
        await supervisor.until({State.GONE})


def _tell(supervisor: Supervisor, answer: Answer) -> None:
    """Give the supervisor what the observer saw of a server that was running."""
    # Silence is no event: an end is seen by the parent, and a server that hangs is left alone.
    event = {Answer.ACCEPTS: Event.ACCEPTED, Answer.STARTING: Event.RECOVERY_SEEN}.get(answer)
    if event is not None:
        supervisor.handle(event)


async def _start_is_over(supervisor: Supervisor) -> None:
    """Wait until postgres accepts, or can't, or takes its time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while supervisor.state in _BEFORE_ACCEPTING:
                await supervisor.changed()


async def _judge(supervisor: Supervisor, instance: Instance) -> None:
    """Judge the conditions whether somebody asks or not: they say since when they hold."""
    await _start_is_over(supervisor)
    for name in ("status", "applying", "databases.service"):
        await in_thread("import", importlib.import_module, f"instance_manager.{name}")
    while True:
        instance.judge()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CONDITIONS_SECONDS):
                await supervisor.changed()


async def _reconcile(rooms: Rooms, instance: Instance) -> None:
    """Bring the declared extensions about, as soon as it doesn't delay the start."""
    await _start_is_over(rooms.supervisor)
    for name in ("applying", "databases.service"):
        await in_thread("import", importlib.import_module, f"instance_manager.{name}")
    await instance.extension_updates.reconciler.run()


async def _watch_settings(rooms: Rooms, instance: Instance) -> None:
    """Reload when the settings file changes, as soon as it doesn't delay the start."""
    await _start_is_over(rooms.supervisor)
    await in_thread("import", importlib.import_module, "instance_manager.applying")
    await instance.configuration.watch_file(
        lambda: instance.operations.begin(Kind.RELOAD, instance.reload, exclusive=False)
    )


async def _remember_good(rooms: Rooms, instance: Instance) -> None:
    """Keep the configurations that work."""
    await rooms.supervisor.until({State.RUNNING})
    await in_thread("import", importlib.import_module, "instance_manager.applying")
    await instance.configuration.remember_good()


async def _watch_over(rooms: Rooms, events: Events) -> None:
    """Watch over the data directory and its server, as soon as it doesn't delay the start."""
    await _start_is_over(rooms.supervisor)
    module = await in_thread("import", importlib.import_module, "instance_manager.custody")
    custody = module.Custody(rooms.startup, rooms.supervisor, rooms.log, events)
    rooms.log.on_crash = custody.take_crash
    await custody.run()


async def _take_inventory(rooms: Rooms, instance: Instance) -> None:
    """Read what the databases use, as soon as it doesn't delay the start."""
    await _start_is_over(rooms.supervisor)
    module = await in_thread("import", importlib.import_module, "instance_manager.inventory_watch")
    watch = instance.watch = module.InventoryWatch(
        rooms.startup, rooms.supervisor, rooms.observer, clock=time.monotonic
    )
    rooms.shutdown.before_stop = watch.before_stop
    await watch.run()


async def _watch_volumes(rooms: Rooms) -> None:
    """Complete each look at the volumes once postgres runs, and see what changes under it."""
    supervisor, startup = rooms.supervisor, rooms.startup
    while True:
        await supervisor.until({State.RUNNING})
        await _without_an_answer(startup.prover.complete())
        await startup.prover.next_look(_VOLUMES_SECONDS)
        if supervisor.postmaster is not None and supervisor.state is State.RUNNING:
            await _without_an_answer(startup.see_changes(supervisor.postmaster.pid))


async def _without_an_answer(look: Awaitable[None]) -> None:
    """Await a look at the volumes of a running server, to which their silence is no harm."""
    try:
        await look
    except VolumesUnansweringError as error:
        _log.warning(error.message, code=error.code, hint=error.hint)


async def _beat(instance: Instance) -> None:
    while True:
        instance.beat()
        await asyncio.sleep(_HEARTBEAT_SECONDS)


async def _guard(name: str, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run what must never end, and again after a fault: postgres must not go down with it."""
    while True:
        try:
            # A new coroutine each time: one that has failed can't be awaited again.
            await make()
        except Exception as error:  # noqa: BLE001 - the task guard
            _log.error("a fault of the manager", task=name, exc_info=error)
        # Else a fault that lasts would keep the loop busy, and fill the log.
        await asyncio.sleep(_FAULT_PAUSE_SECONDS)


@contextmanager
def _handled_signals(supervisor: Supervisor, instance: Instance) -> Generator[None]:
    """Install the handlers of the contract, then let the signals through that waited for them."""
    leaving = _Leaving(supervisor)
    handlers: dict[signal.Signals, Callable[[], object]] = {
        signal.SIGTERM: leaving.politely,
        signal.SIGINT: lambda: leaving.at_once(Rung.FAST),
        signal.SIGQUIT: lambda: leaving.at_once(Rung.IMMEDIATE),
        signal.SIGHUP: lambda: instance.operations.begin(
            Kind.RELOAD, instance.reload, exclusive=False
        ),
    }
    for number in _MEANINGLESS:
        # Children get every disposition back by posix_spawn: an ignored signal outlives exec.
        signal.signal(number, signal.SIG_IGN)
    for number, handler in handlers.items():
        signals.catch(number, handler)
    # Only now: what came before is pending, and is handled at this moment.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, handlers)
    try:
        yield
    finally:
        # Postgres is gone: whoever still signals finds nothing left to stop.
        # Before the handlers go: by default, the next TERM would change the exit code.
        signal.pthread_sigmask(signal.SIG_BLOCK, handlers)
        for number in handlers:
            signals.release(number)


class _Leaving:
    """What the signals ask of the supervisor that are to end the manager."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._was_asked_politely = False

    def politely(self) -> None:
        """Begin the ladder where the settings say; the second time, go one rung down."""
        _log.info("asked to end", again=self._was_asked_politely)
        if self._was_asked_politely:
            self._supervisor.escalate()
        else:
            self._was_asked_politely = True
            self._supervisor.request(Event.LEAVE_REQUESTED)

    def at_once(self, rung: Rung) -> None:
        """Begin at *rung*: who asks so wants no checkpoint first."""
        _log.info("asked to end at once", mode=str(rung))
        self._supervisor.request(Event.LEAVE_REQUESTED, rung, at_once=True)


def _now() -> datetime:
    return datetime.now(UTC)
