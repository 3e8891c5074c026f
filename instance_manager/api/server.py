"""Serving: applications for the listeners, on sockets that were bound before anything else began.

The sockets come from outside and listen already; here they only get someone who answers. Nothing
is installed in the process: no signal handler, no access log.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, cast

from aiohttp import hdrs, web

from instance_manager.api import documents, following, problems
from instance_manager.api.authentication import OpenGate, SocketGate, TcpGate, authenticate
from instance_manager.api.probe_front import Front
from instance_manager.api.probes import WITHHOLD_REASONS
from instance_manager.api.problems import RequestCode
from instance_manager.api.routes import CONTROL_ROUTES, HEALTH_ROUTES, add_routes
from instance_manager.errors import ErrorCode
from instance_manager.log import get_logger

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncGenerator, Callable, Iterable

    from instance_manager.api.authentication import Gate
    from instance_manager.api.instance import Instance
    from instance_manager.api.listeners import Listeners
    from instance_manager.api.routes import Route
    from instance_manager.api.tls import Contexts

BODY_LIMIT_BYTES: Final = 1 << 16
"""Documents of people are smaller; a larger one is a mistake or worse."""

KEEPALIVE_SECONDS: Final = 75.0
"""Longer than the usual scrape interval of a minute, so that scrapers keep their connection."""

HANDSHAKE_SECONDS: Final = 10.0
SHUTDOWN_SECONDS: Final = 0.5
"""For a request in flight when serving ends: postgres is gone then, and nothing is left to say."""

_TURNS: Final = 3
BACKLOG: Final = 512
"""Callers that the kernel lets wait while the loop is busy."""

_NO_ACCESS_LOG: Final = logging.Logger("no access log", logging.CRITICAL + 1)
"""Attached to nothing: the connection then keeps no times either."""

_HEADERS: Final = {
    hdrs.SERVER: "instance-manager",  # and no version: scanners need not know it
    hdrs.CACHE_CONTROL: "no-store",
    "X-Content-Type-Options": "nosniff",
}


def _no_token() -> str | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What callers of the control listeners must show."""

    group: int | None = None
    """Whose members may use the unix socket."""
    token: Callable[[], str | None] = _no_token
    """Asked at each request over TCP, so that it may change; None where none is set."""
    tls: Contexts | None = None
    """For TCP; client certificates count where they ask for them."""


@asynccontextmanager
async def serve(
    instance: Instance, listeners: Listeners, credentials: Credentials
) -> AsyncGenerator[None]:
    """Answer on all listeners while the context lasts, then close their sockets."""
    control = HEALTH_ROUTES + CONTROL_ROUTES
    async with AsyncExitStack() as stack:
        open_to_all = build_application(instance, HEALTH_ROUTES, OpenGate())
        await stack.enter_async_context(_listening(open_to_all, listeners.health))
        local = build_application(
            instance, control, SocketGate({0, os.geteuid()}, credentials.group)
        )
        await stack.enter_async_context(_listening(local, listeners.control_unix))
        if listeners.control_tcp is not None:
            gate = _tcp_gate(listeners.control_tcp, credentials)
            remote = build_application(instance, control, gate)
            await stack.enter_async_context(
                _listening(remote, listeners.control_tcp, credentials.tls)
            )
        yield


def build_application(instance: Instance, routes: Iterable[Route], gate: Gate) -> web.Application:
    """Return the application that answers *routes* to those whom *gate* admits."""
    application = web.Application(client_max_size=BODY_LIMIT_BYTES)
    application[documents.INSTANCE] = instance
    application[WITHHOLD_REASONS] = isinstance(gate, OpenGate)
    following.install(application)
    access_of = add_routes(application.router, routes)
    # The first is the outermost: refusals of the gate are answered as problems too.
    application.middlewares.append(problems.answer_with_problems)
    application.middlewares.append(authenticate(gate, access_of))
    application.on_response_prepare.append(_set_headers)
    return application


def _tcp_gate(listener: socket.socket, credentials: Credentials) -> TcpGate:
    tls = credentials.tls
    return TcpGate(
        token=credentials.token,
        loopback=ip_address(listener.getsockname()[0]).is_loopback,
        trusts=tls.trusts if tls and tls.current.verify_mode is not ssl.CERT_NONE else None,
    )


@asynccontextmanager
async def _listening(
    application: web.Application, listener: socket.socket, tls: Contexts | None = None
) -> AsyncGenerator[None]:
    loop = asyncio.get_running_loop()
    runner = web.AppRunner(application, handle_signals=False, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        connections = cast("web.Server", runner.server)  # setup() has made it

        def connect() -> asyncio.Protocol:
            return Connection(connections, loop=loop)

        if application[WITHHOLD_REASONS]:
            # Only there needs nobody to be asked who he is.
            front = Front(application[documents.INSTANCE], connect, _HEADERS, KEEPALIVE_SECONDS)
            listener.listen(BACKLOG)
            with front.listening(listener):
                yield
            return
        accepting = _Accepting(connect, listener, tls)
        async with accepting.while_open():
            yield
    finally:
        await runner.cleanup()


class _Accepting:
    """Takes the connections of one listener, with the TLS context in force."""

    def __init__(
        self,
        connect: Callable[[], asyncio.Protocol],
        listener: socket.socket,
        tls: Contexts | None,
    ) -> None:
        self._connect = connect
        self._listener = listener
        self._tls = tls
        self._used: ssl.SSLContext | None = None

    @asynccontextmanager
    async def while_open(self) -> AsyncGenerator[None]:
        """Accept while the context lasts; then close the listener. Connections are left alone."""
        server = await self._serve()
        swapping = asyncio.create_task(self._swap(server), name="TLS contexts")
        try:
            yield
        finally:
            swapping.cancel()
            await asyncio.wait({swapping})
            self._listener.close()

    async def _serve(self) -> asyncio.Server:
        self._used = self._tls.current if self._tls else None
        # A copy of the descriptor: whoever closes a server closes what it listens on.
        return await asyncio.get_running_loop().create_server(
            self._connect,
            sock=self._listener.dup(),
            backlog=BACKLOG,
            ssl=self._used,
            ssl_handshake_timeout=HANDSHAKE_SECONDS if self._tls else None,
        )

    async def _swap(self, server: asyncio.Server) -> None:
        """Take new connections with each new context; nobody is refused, or cut off, meanwhile."""
        try:
            while True:
                if self._tls is None:
                    await asyncio.Future[None]()
                elif self._tls.current is self._used:
                    await self._tls.changed()
                before, server = server, await self._serve()
                await _retire(before)
        finally:
            server.close()


async def _retire(server: asyncio.Server) -> None:
    """Have *server* accept nobody any more, and close it once nobody is on the way in.

    Whom it has accepted gets a transport a turn of the loop later, which a closed one refuses.
    """
    loop = asyncio.get_running_loop()
    for listener in server.sockets:
        loop.remove_reader(listener.fileno())
    for _ in range(_TURNS):
        await asyncio.sleep(0)
    server.close()


class Connection(web.RequestHandler):
    """One connection; what can't even be read as HTTP is answered as a problem too."""

    __slots__ = ()

    def __init__(self, connections: web.Server, *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            connections, loop=loop, keepalive_timeout=KEEPALIVE_SECONDS, access_log=_NO_ACCESS_LOG
        )

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what never reached a handler; the connection is closed after it.

        The library would tell its version and log a traceback for every scanner that comes by.
        """
        del message
        if isinstance(exc, ConnectionError) or request.writer.output_size > 0:
            raise ConnectionError("the client is gone, or has the beginning of an answer")
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            get_logger("instance_manager.api").error("cannot answer a request", error=repr(exc))
            problem = problems.problem_of(ErrorCode.INTERNAL, "an unexpected error")
        else:
            problem = problems.problem_of(RequestCode.MALFORMED, "this is not a request in HTTP")
        response = problems.answer(problem, _HEADERS)
        response.force_close()
        return response


async def _set_headers(request: web.Request, response: web.StreamResponse) -> None:
    del request
    response.headers.update(_HEADERS)
