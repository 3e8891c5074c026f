"""The real applications on real sockets, over an instance that lives in memory."""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from instance_manager.api.listeners import Listeners
from instance_manager.api.models import InstanceIdentity, PostgresStatus, Status
from instance_manager.api.operations import document_of as operation_of
from instance_manager.api.server import Credentials, serve
from instance_manager.configuration.plan import Action, Change, Plan
from instance_manager.databases.answers import databases_of, extensions_of
from instance_manager.databases.facts import (
    Available,
    Database,
    Installed,
    Inventory,
    Library,
    Reading,
    Update,
)
from instance_manager.databases.models import DatabaseExtensions, Databases
from instance_manager.databases.rehearsal import Rehearsal
from instance_manager.databases.sessions import Limits
from instance_manager.databases.updating import NotThereError, UpdatePlan, VersionError
from instance_manager.errors import Problem, SettingsError, StaleTagError
from instance_manager.extensions.models import Composed, ExtensionsReport, State, Volume
from instance_manager.health.verdicts import Facts, Probe
from instance_manager.observability.events import Events
from instance_manager.observability.metrics import Measurements, MetricFacts, PostgresFacts
from instance_manager.settings import Settings
from instance_manager.settings.configuration_document import document_of, tag_of
from instance_manager.supervision.operations import Operations, Progress
from instance_manager.supervision.states import Desired, Phase

if TYPE_CHECKING:
    from instance_manager.supervision.shutdown import StopMode

NOW = 1000.0
NO_CREDENTIALS = Credentials()
REQUEST_SECONDS = 60
READING = Reading(
    Inventory(
        "2026-01-01T00:00:00+00:00",
        (
            Database(
                "app",
                16384,
                (Installed("vector", "0.8.0", "public"),),
                (Library("$libdir/vector", "vector", ("hnsw",)),),
            ),
        ),
    ),
    (Available("vector", "0.8.1", ("0.8.0", "0.8.1")),),
    {("vector", "0.8.0"): (Update("0.8.1", ("0.8.0", "0.8.1")),)},
)


def _now() -> datetime:
    return datetime.now(UTC)


def _ids() -> Callable[[], str]:
    numbers = count(1)
    return lambda: f"op-{next(numbers)}"


@dataclass
class MemoryUpdates:
    """Database ``app`` has extension ``toy`` in version 1.0, which leads to 1.1 and 1.2."""

    do: Callable[..., Awaitable[None]]

    async def plan(
        self, database: str, extension: str, version: str | None, *, rehearsed: bool
    ) -> UpdatePlan:
        """Return the plan, or say what there is."""
        del rehearsed
        if (database, extension) != ("app", "toy"):
            raise NotThereError(f"there is no {extension!r} in {database!r}", "it has: toy")
        wanted = version or "1.2"
        if wanted not in {"1.0", "1.1", "1.2"}:
            raise VersionError(f"it has no version {wanted!r}")
        path = {"1.0": ("1.0",), "1.1": ("1.0", "1.1"), "1.2": ("1.0", "1.1", "1.2")}[wanted]
        return UpdatePlan(database, extension, "1.0", wanted, path)

    async def rehearse(self, plan: UpdatePlan, limits: Limits, actor: str) -> Rehearsal:
        """Return a rehearsal in which nothing happened."""
        del limits, actor
        return Rehearsal(
            plan.database, plan.extension, plan.from_version, plan.to_version, plan.path
        )

    async def update(
        self, plan: UpdatePlan, limits: Limits, actor: str, progress: Progress
    ) -> None:
        """Write it down and wait for *release*."""
        del actor
        await self.do("update", plan.to_version, limits, progress=progress)


@dataclass
class MemoryConfiguration:
    """One document, which is changed at once and by everybody; work_mem needs a reload."""

    current: dict[str, Any] = field(default_factory=lambda: document_of(Settings()))
    settings_file: Path | None = None
    is_from_file: bool = False

    def document(self) -> dict[str, Any]:
        """Return it."""
        return self.current

    async def rehearse(self, document: Mapping[str, Any]) -> tuple[str, Plan]:
        """Say that one parameter would change."""
        parameters = document.get("parameters", {})
        if "nonsense" in parameters:
            raise SettingsError([Problem("parameters.nonsense", "there is no such parameter")])
        changes = [
            Change(name, self.current["parameters"].get(name), value, Action.RELOAD)
            for name, value in parameters.items()
        ]
        return tag_of({**self.current, **document}), Plan(tuple(changes), (), Action.RELOAD)

    async def put(
        self, document: Mapping[str, Any], tags: frozenset[str] | None, actor: str
    ) -> tuple[str, Plan]:
        """Take it."""
        del actor
        if tags is not None and tag_of(self.current) not in tags:
            raise StaleTagError("it was changed")
        tag, plan = await self.rehearse(document)
        self.current = {**self.current, **document}
        return tag, plan


@dataclass
class MemoryInstance:
    """An instance without a postgres: what is asked of it is written down in *calls*."""

    events: Events = field(default_factory=lambda: Events(now=_now))
    operations: Operations = field(default_factory=lambda: Operations(now=_now, new_id=_ids()))
    measurements: Measurements = field(default_factory=Measurements)
    phase: Phase = Phase.RUNNING
    ready: bool = True
    name: str = "pg-0"
    calls: list[tuple[object, ...]] = field(default_factory=list)
    outcome: BaseException | None = None
    configuration: MemoryConfiguration = field(default_factory=MemoryConfiguration)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set: something was asked for."""
    release: asyncio.Event = field(default_factory=asyncio.Event)
    """Set: what is asked for is done."""

    @property
    def extension_updates(self) -> MemoryUpdates:
        """Return updates of one extension that exists in the mind only."""
        return MemoryUpdates(self._do)

    def status(self) -> Status:
        """Return what is made up of the fields."""
        current = self.operations.current()
        return Status(
            instance=InstanceIdentity(
                name=self.name,
                session_id="session",
                manager_version="0.1.0",
                pid=1,
                started_at=datetime(2026, 1, 1, tzinfo=UTC),
            ),
            phase=self.phase,
            desired=Desired.RUNNING,
            postgres=PostgresStatus(data_directory="/data", port=5432),
            operation=operation_of(current) if current else None,
        )

    def extensions(self) -> ExtensionsReport:
        """Return one volume that is ready."""
        volume = Volume(
            name="pgvector",
            path="/extensions/pgvector",
            state=State.READY,
            read_only=True,
            content_sha256=None,
            extensions=(),
            libraries=(),
            findings=(),
        )
        composed = Composed(
            extension_control_path="$system:/extensions/pgvector/share",
            dynamic_library_path="$libdir:/extensions/pgvector/lib",
            shared_preload_libraries="",
            ld_library_path="",
            path="/usr/bin",
            env={},
        )
        return ExtensionsReport(
            root="/extensions",
            scan_seconds=0.04,
            volumes=(volume,),
            findings=(),
            composed=composed,
        )

    async def rescan(self) -> ExtensionsReport:
        """Write it down and return the one volume."""
        self.calls.append(("rescan",))
        return self.extensions()

    def facts(self) -> Facts:
        """Return facts that are always fresh."""
        probe = Probe(self.ready, "" if self.ready else "the postmaster is silent", NOW)
        return Facts(
            now=NOW,
            heartbeat_at=NOW,
            phase=self.phase,
            desired=Desired.RUNNING,
            first_start_over=True,
            probe=probe,
        )

    def metrics(self) -> MetricFacts:
        """Return what is made up of the fields."""
        return MetricFacts(
            version="0.1.0", phase=self.phase, postgres=PostgresFacts(up=self.ready)
        )

    def databases(self) -> Databases:
        """Return one database."""
        return databases_of(READING)

    def database_extensions(self, database: str) -> DatabaseExtensions | None:
        """Return the extensions of that one."""
        return extensions_of(READING, database)

    async def start(self, ignore_inventory: bool, progress: Progress) -> None:
        """Write it down and wait for *release*."""
        ignored = ("ignore inventory",) if ignore_inventory else ()
        await self._do("start", *ignored, progress=progress)

    async def stop(self, mode: StopMode | None, progress: Progress) -> None:
        """Write it down and wait for *release*."""
        await self._do("stop", mode, progress=progress)

    async def restart(self, mode: StopMode | None, progress: Progress) -> None:
        """Write it down and wait for *release*."""
        await self._do("restart", mode, progress=progress)

    async def reload(self, progress: Progress) -> None:
        """Write it down and wait for *release*."""
        await self._do("reload", progress=progress)

    async def checkpoint(self, progress: Progress) -> None:
        """Write it down and wait for *release*."""
        await self._do("checkpoint", progress=progress)

    async def fence(self, mode: StopMode | None, progress: Progress) -> None:
        """Write it down and wait for *release*."""
        await self._do("fence", mode, progress=progress)

    async def unfence(self, progress: Progress) -> None:
        """Write it down and wait for *release*."""
        await self._do("unfence", progress=progress)

    async def _do(self, *call: object, progress: Progress) -> None:
        self.calls.append(call)
        self.asked.set()
        progress.report("waiting", "for the test")
        await self.release.wait()
        if self.outcome is not None:
            raise self.outcome


@dataclass
class Answer:
    """What came back over a raw connection."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Served:
    """Where the listeners are, and who answers behind them."""

    instance: MemoryInstance
    socket: Path
    health_port: int
    control_port: int

    async def raw(self, request: bytes, *, port: int | None = None) -> bytes:
        """Send bytes to the unix socket, or to *port*, and return all that comes back."""
        async with asyncio.timeout(REQUEST_SECONDS):
            if port is None:
                reader, writer = await asyncio.open_unix_connection(self.socket)
            else:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(request)
                await writer.drain()
                return await reader.read()
            finally:
                writer.close()

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        port: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request as plain text, and read the one answer."""
        given = {"Host": "localhost", "Connection": "close", **(headers or {})}
        if body:
            given.setdefault("Content-Length", str(len(body)))
        lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        request = f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body
        return parse_answer(await self.raw(request, port=port))


def parse_answer(raw: bytes) -> Answer:
    """Return the parts of an answer in HTTP/1.1 that has a length."""
    head, _, body = raw.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(": ") for line in lines)
    return Answer(int(status.split()[1]), {name: value for name, _, value in pairs}, body)


Serving = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
def serving(tmp_path: Path) -> Serving:
    """Return a context manager that serves a new instance, or the given one."""

    @asynccontextmanager
    async def served(
        credentials: Credentials = NO_CREDENTIALS,
        *,
        host: str = "127.0.0.1",
        directory: Path = tmp_path,
    ) -> AsyncGenerator[Served]:
        path = directory / "control.sock"
        with (
            socket.create_server(("127.0.0.1", 0)) as health,
            socket.create_server((host, 0)) as tcp,
            socket.socket(socket.AF_UNIX) as unix,
        ):
            unix.bind(str(path))
            unix.listen()
            instance = MemoryInstance()
            try:
                async with serve(instance, Listeners(health, unix, tcp), credentials):
                    yield Served(instance, path, health.getsockname()[1], tcp.getsockname()[1])
            finally:
                await instance.operations.close()

    return served


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine function in a loop of its own."""
    function: Callable[..., Any] = pyfuncitem.obj
    if not inspect.iscoroutinefunction(function):
        return None
    names = inspect.signature(function).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    asyncio.run(_within_deadline(function, arguments))
    return True


async def _within_deadline(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    await function(**arguments)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"tasks were left behind: {left}"


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    """Fail a test that leaves a descriptor open."""
    before = _open_descriptors()
    yield
    assert _open_descriptors() <= before


def _open_descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}
