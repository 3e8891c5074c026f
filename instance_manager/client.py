"""A typed client of the control API: what the command line, operators and tests use.

It shares the documents with the server and nothing else. Every failure is an
``InstanceManagerError``: of the way there, or an answer with its problem document.

    async with Client.unix(Path("/run/instance-manager/control.sock")) as client:
        operation = await client.restart(mode="fast", wait_seconds=60)

With an ``idempotency_key`` a verb can be repeated where its answer was lost: it begins one
operation.
"""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlencode

import aiohttp

from instance_manager.api import event_stream
from instance_manager.api.configuration_models import (
    ConfigurationDocument,
    ConfigurationResult,
    ParameterChange,
)
from instance_manager.api.models import (
    CheckReport,
    Condition,
    ConfigurationStatus,
    Event,
    ExtensionsStatus,
    FieldProblem,
    InstanceIdentity,
    Items,
    LastExit,
    Operation,
    OperationProgress,
    PendingRestart,
    PhaseFailure,
    PostgresStatus,
    ProbeReport,
    Problem,
    Status,
    Stopping,
    StorageStatus,
    StreamNotice,
    WalPositions,
)
from instance_manager.api.update_models import (
    Rehearsal,
    RehearsedLock,
    RehearsedNotice,
    RehearsedStep,
    SqlFailure,
    UpdateRequest,
)
from instance_manager.client_errors import (
    AnswerError,
    ClientError,
    InvalidRequestError,
    NotFoundError,
    OperationConflictError,
    RefusedError,
    StaleTagError,
    UnreachableError,
    parsed,
)
from instance_manager.client_operations import OperationCalls, path_of
from instance_manager.client_tls import client_context
from instance_manager.client_transport import OK, Transport, is_address
from instance_manager.configuration.plan import Action
from instance_manager.databases.models import (
    DatabaseExtension,
    DatabaseExtensions,
    DatabaseInUse,
    Databases,
    InstalledExtension,
    LibraryInUse,
    ParameterOverride,
    UpdatePath,
)
from instance_manager.event_follower import follow
from instance_manager.extensions.models import (
    Composed,
    Extension,
    ExtensionsReport,
    Finding,
    Library,
    NotRunning,
    PendingAction,
    Severity,
    Volume,
)
from instance_manager.observability.events import EventType
from instance_manager.supervision.operations import OperationState
from instance_manager.supervision.states import Desired, Phase

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, Iterable
    from pathlib import Path
    from types import TracebackType

    from instance_manager.errors import InstanceManagerError

__all__ = [
    "ANY_TAG",
    "Action",
    "AnswerError",
    "CheckReport",
    "Client",
    "ClientError",
    "Composed",
    "Condition",
    "ConfigurationDocument",
    "ConfigurationResult",
    "ConfigurationStatus",
    "DatabaseExtension",
    "DatabaseExtensions",
    "DatabaseInUse",
    "Databases",
    "Desired",
    "Event",
    "EventType",
    "Extension",
    "ExtensionsReport",
    "ExtensionsStatus",
    "FieldProblem",
    "Finding",
    "InstalledExtension",
    "InstanceIdentity",
    "InvalidRequestError",
    "LastExit",
    "Library",
    "LibraryInUse",
    "NotFoundError",
    "NotRunning",
    "Operation",
    "OperationConflictError",
    "OperationProgress",
    "OperationState",
    "ParameterChange",
    "ParameterOverride",
    "PendingAction",
    "PendingRestart",
    "Phase",
    "PhaseFailure",
    "PostgresStatus",
    "ProbeReport",
    "Problem",
    "RefusedError",
    "Rehearsal",
    "RehearsedLock",
    "RehearsedNotice",
    "RehearsedStep",
    "Severity",
    "SqlFailure",
    "StaleTagError",
    "Status",
    "Stopping",
    "StorageStatus",
    "StreamNotice",
    "UnreachableError",
    "UpdatePath",
    "Volume",
    "WalPositions",
    "client_context",
]

ANY_TAG: Final = "*"
"""Stands for the tag of whatever configuration there is: what others have changed is lost."""

CONFIGURATION_SECONDS: Final = 120
"""For a configuration to be judged and loaded, behind one that is just being applied."""

_UNAVAILABLE: Final = 503
_SERVER_ERROR: Final = 500


class Client(OperationCalls):
    """Talks to one instance; an asynchronous context manager. Make it with a class method."""

    @classmethod
    def unix(cls, path: Path) -> Client:
        """Return a client for a control socket on this machine."""
        transport = Transport(
            "http://localhost", str(path), lambda: aiohttp.UnixConnector(str(path))
        )
        return cls(transport)

    @classmethod
    def tcp(
        cls, url: str, *, token: str | None = None, tls: ssl.SSLContext | None = None
    ) -> Client:
        """Return a client for ``http://HOST:PORT`` or ``https://HOST:PORT``.

        Args:
            url: without a path.
            token: sent as a bearer token.
            tls: for https, made by :func:`client_context`; default: the system's authorities.

        Raises:
            ValueError: *url* is no such address; or *token* is empty, or has white space around
                it (the end of its line in a file), or control characters.
        """
        if not is_address(url):
            raise ValueError(f"not an address: {url!r}; use http://HOST:PORT or https://HOST:PORT")
        # Sent so, it would be another token, or no header at all: the answer would only say that
        # it is wrong.
        if token is not None and not (token and token == token.strip() and token.isprintable()):
            raise ValueError(
                "the token is empty, or has white space around it or control characters"
            )
        transport = Transport(
            url.rstrip("/"),
            url,
            lambda: aiohttp.TCPConnector(ssl=tls if tls is not None else True),
            token=token,
        )
        return cls(transport)

    async def __aenter__(self) -> Self:
        self._transport.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._transport.close()

    async def status(self) -> Status:
        """Return the whole instance."""
        return parsed(await self._ask("GET", "/v1/status"), Status)

    async def extensions(self) -> ExtensionsReport:
        """Return what the volumes hold, and what is composed of them."""
        return parsed(await self._ask("GET", "/v1/extensions"), ExtensionsReport)

    async def rescan(self) -> ExtensionsReport:
        """Have the manager look at the volumes again; its ``pending_action`` says what to do."""
        return parsed(await self._ask("POST", "/v1/extensions/rescan"), ExtensionsReport)

    async def extension_volume(self, name: str) -> Volume:
        """Return one volume."""
        return parsed(await self._ask("GET", path_of("v1", "extensions", name)), Volume)

    async def databases(self) -> Databases:
        """Return what every database uses, as it was read last."""
        return parsed(await self._ask("GET", "/v1/databases"), Databases)

    async def database_extensions(self, database: str) -> DatabaseExtensions:
        """Return what one database has installed, what is available, and update paths."""
        path = path_of("v1", "databases", database, "extensions")
        return parsed(await self._ask("GET", path), DatabaseExtensions)

    async def events(self) -> tuple[Event, ...]:
        """Return the remembered events, newest last."""
        return parsed(await self._ask("GET", "/v1/events"), Items[Event]).items

    async def configuration(self) -> tuple[ConfigurationDocument, str]:
        """Return the configuration document in force, secrets masked, and its tag."""
        content, headers = await self._transport.exchange("GET", "/v1/configuration")
        # Without the quotes, as the models have it; they are put back when it is sent.
        return parsed(content, ConfigurationDocument), headers.get("ETag", "").strip('"')

    async def put_configuration(
        self, document: ConfigurationDocument, etag: str
    ) -> ConfigurationResult:
        """Put a document into force, if *etag* is still the tag of the present one.

        Args:
            document: the whole of it; what it leaves out is empty.
            etag: as :meth:`configuration` gave it; or :data:`ANY_TAG`, whatever there is.

        Raises:
            StaleTagError: it isn't: read again, and decide again.
            InvalidRequestError: ``problem.errors`` says what is wrong.
        """
        match = etag if etag == ANY_TAG else f'"{etag}"'
        content = await self._ask(
            "PUT",
            "/v1/configuration",
            body=document,
            headers={"If-Match": match},
            wait=CONFIGURATION_SECONDS,
        )
        return parsed(content, ConfigurationResult)

    async def rehearse_configuration(self, document: ConfigurationDocument) -> ConfigurationResult:
        """Have a document judged, and return what it would change."""
        content = await self._ask(
            "PUT",
            "/v1/configuration?dry_run=true",
            body=document,
            wait=CONFIGURATION_SECONDS,
        )
        return parsed(content, ConfigurationResult)

    async def follow_events(
        self, last_event_id: str | None = None
    ) -> AsyncGenerator[Event | StreamNotice]:
        """Yield the remembered events, or those after *last_event_id*, then what comes, for ever.

        Comes back by itself where the stream was cut, also by a new start of the manager. A
        notice says that something was missed before the next event. Close it (``aclose``) where
        you leave it early.

        Raises:
            ClientError: the first connection can't be made, or a later one is refused for good.
        """
        # An asynchronous generator that is left early is closed by the garbage collector, some
        # time later.
        async with aclosing(follow(self._transport.stream, last_event_id, _passes)) as messages:
            async for message in messages:
                data = message.data.encode()
                if message.type == event_stream.MISSED:
                    yield parsed(data, StreamNotice)
                else:
                    yield parsed(data, Event)

    async def rehearse_update(
        self,
        database: str,
        extension: str,
        *,
        version: str | None = None,
        lock_timeout_seconds: float = 5,
        timeout_seconds: float = 60,
    ) -> Rehearsal:
        """Have an update run and rolled back; it takes the update's locks while it lasts.

        The limits are those of :meth:`update_extension`.
        """
        path = path_of("v1", "databases", database, "extensions", extension, "update")
        body = UpdateRequest(
            version=version,
            dry_run=True,
            lock_timeout_seconds=lock_timeout_seconds,
            timeout_seconds=timeout_seconds,
        )
        answer = await self._ask("POST", path, body=body, wait=timeout_seconds)
        return parsed(answer, Rehearsal)

    async def probe(
        self, name: str, *, check: str | None = None, exclude: Iterable[str] = ()
    ) -> ProbeReport:
        """Return the answer of ``livez``, ``startupz`` or ``readyz``; a bad one is no error."""
        path = path_of(name, check) if check else path_of(name)
        query = urlencode([("exclude", one) for one in exclude])
        # A failed probe is 503, with the report that was asked for.
        answer = await self._ask("GET", f"{path}?{query}", ok=OK | {_UNAVAILABLE})
        return parsed(answer, ProbeReport)

    async def openapi(self) -> dict[str, Any]:
        """Return the API's own description, an OpenAPI document."""
        found: dict[str, Any] = json.loads(await self._ask("GET", "/openapi.json"))
        return found

    async def metrics(self) -> str:
        """Return the metrics as Prometheus text."""
        return (await self._ask("GET", "/metrics")).decode()


def _passes(error: InstanceManagerError) -> bool:
    """Return whether what ended a stream may pass by itself."""
    return isinstance(error, UnreachableError) or (
        isinstance(error, AnswerError) and error.problem.status >= _SERVER_ERROR
    )
