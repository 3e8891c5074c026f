"""A typed client of the control API: what the command line, operators and tests use.

It shares the documents with the server and nothing else. Every failure is an
``InstanceManagerError``: of the way there, or an answer with its problem document.

    async with Client.unix(Path("/run/instance-manager/control.sock")) as client:
        operation = await client.restart(mode="fast", wait_seconds=60)

With an ``idempotency_key`` a verb can be repeated where its answer was lost: it begins one
operation.
"""

from __future__ import annotations

import asyncio
import json
import math
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

from instance_manager.api import event_stream
from instance_manager.api.configuration_models import (
    ConfigurationDocument,
    ConfigurationResult,
)
from instance_manager.api.models import (
    Event,
    Items,
    Operation,
    ProbeReport,
    StartRequest,
    Status,
    StopRequest,
    StreamNotice,
)
from instance_manager.api.update_models import Rehearsal, UpdateRequest
from instance_manager.client_errors import (
    AnswerError,
    ClientError,
    InvalidRequestError,
    NotFoundError,
    OperationConflictError,
    RefusedError,
    StaleTagError,
    UnreachableError,
    error_of,
    parsed,
)
from instance_manager.client_tls import client_context
from instance_manager.databases.models import DatabaseExtensions, Databases
from instance_manager.event_follower import SILENCE_SECONDS, follow
from instance_manager.extensions.models import ExtensionsReport, Volume

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
    from pathlib import Path
    from types import TracebackType

    from pydantic import BaseModel

    from instance_manager.errors import InstanceManagerError
    from instance_manager.supervision.shutdown import StopMode

__all__ = [
    "AnswerError",
    "Client",
    "ClientError",
    "InvalidRequestError",
    "NotFoundError",
    "OperationConflictError",
    "RefusedError",
    "StaleTagError",
    "UnreachableError",
    "client_context",
]

TIMEOUT_SECONDS: Final = 10.0
"""For an answer that needs no waiting; what the server is asked to wait comes on top."""

LONGEST_WAIT_SECONDS: Final = 60
"""As long as the server lets one request wait; a longer wait is several requests."""

CONFIGURATION_SECONDS: Final = 120
"""For a configuration to be judged and loaded, behind one that is just being applied."""

_OK: Final = frozenset({200, 202})
_UNAVAILABLE: Final = 503
_SERVER_ERROR: Final = 500
_KEY_HEADER: Final = "Idempotency-Key"


class Client:
    """Talks to one instance; an asynchronous context manager. Make it with a class method."""

    def __init__(
        self,
        base: str,
        target: str,
        connector: Callable[[], aiohttp.BaseConnector],
        *,
        token: str | None = None,
    ) -> None:
        self._base = base
        self._target = target
        self._connector = connector
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    def unix(cls, path: Path) -> Client:
        """Return a client for a control socket on this machine."""
        return cls("http://localhost", str(path), lambda: aiohttp.UnixConnector(str(path)))

    @classmethod
    def tcp(
        cls, url: str, *, token: str | None = None, tls: ssl.SSLContext | None = None
    ) -> Client:
        """Return a client for ``http://HOST:PORT`` or ``https://HOST:PORT``.

        Args:
            url: without a path.
            token: sent as a bearer token.
            tls: for https, made by :func:`client_context`; default: the system's authorities.
        """
        return cls(
            url.rstrip("/"),
            url,
            lambda: aiohttp.TCPConnector(ssl=tls if tls is not None else True),
            token=token,
        )

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=self._connector(), headers=self._headers, raise_for_status=False
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

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
        content, headers = await self._exchange("GET", "/v1/configuration")
        return parsed(content, ConfigurationDocument), headers.get("ETag", "").strip('"')

    async def put_configuration(
        self, document: ConfigurationDocument, etag: str | None
    ) -> ConfigurationResult:
        """Put a document into force, if *etag* is still the tag of the present one.

        Without a tag, whatever the present one is.

        Raises:
            StaleTagError: it isn't: read again, and decide again.
            InvalidRequestError: ``problem.errors`` says what is wrong.
        """
        match = "*" if etag is None else f'"{etag}"'
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
        async with aclosing(follow(self._stream, last_event_id, _passes)) as messages:
            async for message in messages:
                data = message.data.encode()
                if message.type == event_stream.MISSED:
                    yield parsed(data, StreamNotice)
                else:
                    yield parsed(data, Event)

    async def operations(self) -> tuple[Operation, ...]:
        """Return the remembered operations, newest last."""
        return parsed(await self._ask("GET", "/v1/operations"), Items[Operation]).items

    async def operation(self, operation_id: str, *, wait_seconds: float = 0) -> Operation:
        """Return an operation; once it has finished, or after *wait_seconds* as it is then."""
        return await self._wait_on(path_of("v1", "operations", operation_id), wait_seconds)

    async def cancel(self, operation_id: str, *, wait_seconds: float = 0) -> Operation:
        """Cancel an operation and return it as :meth:`operation` does."""
        path = path_of("v1", "operations", operation_id)
        return await self._operate("DELETE", path, None, wait_seconds)

    async def start(
        self,
        *,
        ignore_inventory: bool = False,
        wait_seconds: float = 0,
        idempotency_key: str | None = None,
    ) -> Operation:
        """Start postgres; wait for it at most *wait_seconds*.

        With *ignore_inventory*, this once whatever databases need by the last inventory.
        """
        body = StartRequest(ignore_inventory=True) if ignore_inventory else None
        return await self._operate(
            "POST", "/v1/postgres/start", body, wait_seconds, idempotency_key
        )

    async def stop(
        self,
        *,
        mode: StopMode | None = None,
        wait_seconds: float = 0,
        idempotency_key: str | None = None,
    ) -> Operation:
        """Stop postgres and keep it stopped; without a mode, as the settings say."""
        body = StopRequest(mode=mode)
        return await self._operate(
            "POST", "/v1/postgres/stop", body, wait_seconds, idempotency_key
        )

    async def restart(
        self,
        *,
        mode: StopMode | None = None,
        wait_seconds: float = 0,
        idempotency_key: str | None = None,
    ) -> Operation:
        """Restart postgres."""
        body = StopRequest(mode=mode)
        return await self._operate(
            "POST", "/v1/postgres/restart", body, wait_seconds, idempotency_key
        )

    async def reload(
        self, *, wait_seconds: float = 0, idempotency_key: str | None = None
    ) -> Operation:
        """Apply what needs no restart."""
        return await self._operate(
            "POST", "/v1/postgres/reload", None, wait_seconds, idempotency_key
        )

    async def checkpoint(
        self, *, wait_seconds: float = 0, idempotency_key: str | None = None
    ) -> Operation:
        """Have the server make a checkpoint."""
        return await self._operate(
            "POST", "/v1/postgres/checkpoint", None, wait_seconds, idempotency_key
        )

    async def fence(
        self,
        *,
        mode: StopMode | None = None,
        wait_seconds: float = 0,
        idempotency_key: str | None = None,
    ) -> Operation:
        """Stop postgres and keep it stopped, over restarts of the manager too."""
        body = StopRequest(mode=mode)
        return await self._operate(
            "POST", "/v1/postgres/fence", body, wait_seconds, idempotency_key
        )

    async def unfence(
        self, *, wait_seconds: float = 0, idempotency_key: str | None = None
    ) -> Operation:
        """Start postgres again where it was fenced."""
        return await self._operate(
            "POST", "/v1/postgres/unfence", None, wait_seconds, idempotency_key
        )

    async def update_extension(
        self,
        database: str,
        extension: str,
        *,
        version: str | None = None,
        wait_seconds: float = 0,
        idempotency_key: str | None = None,
    ) -> Operation:
        """Update an extension; without a version, to the declared or the default one."""
        path = path_of("v1", "databases", database, "extensions", extension, "update")
        body = UpdateRequest(version=version)
        return await self._operate("POST", path, body, wait_seconds, idempotency_key)

    async def rehearse_update(
        self,
        database: str,
        extension: str,
        *,
        version: str | None = None,
        timeout_seconds: float = 60,
    ) -> Rehearsal:
        """Have an update run and rolled back; it takes the update's locks while it lasts."""
        path = path_of("v1", "databases", database, "extensions", extension, "update")
        body = UpdateRequest(version=version, dry_run=True, timeout_seconds=timeout_seconds)
        answer = await self._ask("POST", path, body=body, wait=timeout_seconds)
        return parsed(answer, Rehearsal)

    async def probe(
        self, name: str, *, check: str | None = None, exclude: Iterable[str] = ()
    ) -> ProbeReport:
        """Return the answer of ``livez``, ``startupz`` or ``readyz``; a bad one is no error."""
        path = path_of(name, check) if check else path_of(name)
        query = urlencode([("exclude", one) for one in exclude])
        answer = await self._ask("GET", f"{path}?{query}", ok=_OK | {_UNAVAILABLE})
        return parsed(answer, ProbeReport)

    async def openapi(self) -> dict[str, Any]:
        """Return the API's own description, an OpenAPI document."""
        found: dict[str, Any] = json.loads(await self._ask("GET", "/openapi.json"))
        return found

    async def metrics(self) -> str:
        """Return the metrics as Prometheus text."""
        return (await self._ask("GET", "/metrics")).decode()

    async def _operate(
        self,
        method: str,
        path: str,
        body: BaseModel | None,
        wait_seconds: float,
        key: str | None = None,
    ) -> Operation:
        first = min(wait_seconds, LONGEST_WAIT_SECONDS)
        headers = {_KEY_HEADER: key} if key else None
        answer = await self._ask(method, path, body=body, wait=first, headers=headers)
        operation = parsed(answer, Operation)
        rest = wait_seconds - first
        if operation.finished or rest <= 0:
            return operation
        return await self.operation(operation.id, wait_seconds=rest)

    async def _wait_on(self, path: str, seconds: float) -> Operation:
        """Ask until the operation has finished, or the time is up by the clock of the loop."""
        clock = asyncio.get_running_loop().time
        end = clock() + seconds
        while True:
            wait = min(max(end - clock(), 0), LONGEST_WAIT_SECONDS)
            operation = parsed(await self._ask("GET", path, wait=wait), Operation)
            if operation.finished or clock() >= end:
                return operation

    async def _stream(self, last: str | None) -> AsyncGenerator[event_stream.Message]:
        """Yield the messages of one connection; what cuts it is an UnreachableError."""
        headers = {"Accept": event_stream.CONTENT_TYPE} | ({"Last-Event-ID": last} if last else {})
        parser = event_stream.Parser(last or "")
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=TIMEOUT_SECONDS, sock_read=SILENCE_SECONDS
        )
        try:
            async with self._opened().get(
                URL(self._base + "/v1/events?follow", encoded=True),
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                if response.status not in _OK:
                    raise error_of(response.status, await response.read(), self._target)
                async for piece in response.content.iter_any():
                    for message in parser.feed(piece):
                        yield message
        except (aiohttp.ClientError, OSError, TimeoutError, event_stream.StreamError) as error:
            raise self._unreachable(error) from error

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise UnreachableError(f"cannot ask {self._target!r}: the client is not open")
        return self._session

    def _unreachable(self, error: Exception) -> UnreachableError:
        refused = getattr(error, "os_error", None)
        reason = (refused and refused.strerror) or str(error) or "no answer in time"
        return UnreachableError(
            f"cannot reach {self._target!r}: {reason}", hint="is the manager running?"
        )

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        body: BaseModel | None = None,
        wait: float = 0,
        ok: frozenset[int] = _OK,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """Send one request and return the body of its answer."""
        content, _ = await self._exchange(
            method, path, body=body, wait=wait, ok=ok, headers=headers
        )
        return content

    async def _exchange(
        self,
        method: str,
        path: str,
        *,
        body: BaseModel | None = None,
        wait: float = 0,
        ok: frozenset[int] = _OK,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[bytes, Mapping[str, str]]:
        """Send one request and return the body and the headers of its answer."""
        session = self._opened()
        sent = {"Accept": "application/json", **(headers or {})}
        # Whole seconds by RFC 7240; rounding up never cuts a wait short.
        if wait > 0:
            sent["Prefer"] = f"wait={math.ceil(wait)}"
        if body is not None:
            sent["Content-Type"] = "application/json"
        try:
            async with session.request(
                method,
                URL(self._base + path, encoded=True),
                headers=sent,
                data=body.model_dump_json(exclude_none=True).encode() if body else None,
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS + wait),
                allow_redirects=False,
            ) as response:
                content = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unreachable(error) from error
        if response.status not in ok:
            raise error_of(response.status, content, self._target)
        return content, response.headers


def path_of(*segments: str) -> str:
    """Return the path of these segments; a slash inside one is not a separator."""
    return "".join(f"/{quote(segment, safe='')}" for segment in segments)


def _passes(error: InstanceManagerError) -> bool:
    """Return whether what ended a stream may pass by itself."""
    return isinstance(error, UnreachableError) or (
        isinstance(error, AnswerError) and error.problem.status >= _SERVER_ERROR
    )
