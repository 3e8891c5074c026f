"""How the client asks: one session, its requests and its streams, and how they fail."""

from __future__ import annotations

import math
import ssl
from typing import TYPE_CHECKING, Final

import aiohttp
from yarl import URL

from instance_manager.api import event_stream
from instance_manager.client_errors import UnreachableError, error_of
from instance_manager.event_follower import SILENCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from pydantic import BaseModel

TIMEOUT_SECONDS: Final = 10.0
"""For an answer that needs no waiting; what the server is asked to wait comes on top."""

OK: Final = frozenset({200, 202})


class Transport:
    """A way to one instance; :meth:`open` it before, and :meth:`close` it after."""

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

    def open(self) -> None:
        """Begin a session; it connects when it is first used."""
        self._session = aiohttp.ClientSession(
            # Made here, since a connector binds itself to the loop that runs.
            connector=self._connector(),
            headers=self._headers,
            raise_for_status=False,
        )

    async def close(self) -> None:
        """End the session, and its connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def exchange(
        self,
        method: str,
        path: str,
        *,
        body: BaseModel | None = None,
        wait: float = 0,
        ok: frozenset[int] = OK,
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
                # As it is: the library would quote it anew, in its own way.
                URL(self._base + path, encoded=True),
                headers=sent,
                # null means the same as absent here, and older servers refuse a field that they
                # don't know.
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

    async def stream(self, last: str | None) -> AsyncGenerator[event_stream.Message]:
        """Yield the messages of one connection; what cuts it is an UnreachableError."""
        headers = {"Accept": event_stream.CONTENT_TYPE} | ({"Last-Event-ID": last} if last else {})
        parser = event_stream.Parser(last or "")
        timeout = aiohttp.ClientTimeout(
            # A stream has no end to wait for; its silence has.
            total=None,
            sock_connect=TIMEOUT_SECONDS,
            sock_read=SILENCE_SECONDS,
        )
        try:
            async with self._opened().get(
                URL(self._base + "/v1/events?follow", encoded=True),
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                if response.status not in OK:
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
        # aiohttp wraps the error of the system, whose words are the plain ones.
        refused = getattr(error, "os_error", None)
        reason = (refused and refused.strerror) or str(error) or "no answer in time"
        return UnreachableError(f"cannot reach {self._target!r}: {reason}", hint=_hint_for(error))


def _hint_for(error: Exception) -> str:
    """Return what to look at first; of TLS or rights it is told where somebody is there."""
    if isinstance(error, ssl.SSLError | aiohttp.ClientSSLError):
        return "does it answer with TLS there, with a certificate of these authorities?"
    if isinstance(getattr(error, "os_error", error), PermissionError):
        return "the socket is for the manager's own user, root and members of control.group"
    return "is the manager running?"


def is_address(url: str) -> bool:
    """Return whether this is ``http://HOST:PORT`` or ``https://HOST:PORT``, and nothing more."""
    try:
        parts = URL(url)
    except ValueError:
        return False
    is_bare = parts.path in {"", "/"} and not (parts.query_string or parts.fragment or parts.user)
    return parts.scheme in {"http", "https"} and bool(parts.host) and is_bare
