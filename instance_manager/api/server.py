"""Serving: applications for the listeners, on sockets that were bound before anything else began.

The sockets come from outside and listen already; here they only get someone who answers. Nothing
is installed in the process: no signal handler, no access log.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, cast

from aiohttp import web

from instance_manager.api import documentation, documents, following, problems
from instance_manager.api.accepting import Accepting
from instance_manager.api.audit import AUDIT, Audit, audit
from instance_manager.api.authentication import OpenGate, SocketGate, TcpGate, authenticate
from instance_manager.api.connection import (
    HEADERS,
    KEEPALIVE_SECONDS,
    Connection,
    count_asked,
)
from instance_manager.api.places import Places, descriptors, fair_share
from instance_manager.api.probe_front import Front
from instance_manager.api.probes import WITHHOLD_REASONS
from instance_manager.api.routes import CONTROL_ROUTES, HEALTH_ROUTES, add_routes

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

SHUTDOWN_SECONDS: Final = 0.5
"""For a request in flight when serving ends: postgres is gone then, and nothing is left to say."""

BACKLOG: Final = 512
"""Callers that the kernel lets wait while the loop is busy."""


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


def _document() -> bytes:
    # Most managers are never asked, and it takes what no other answer needs.
    from instance_manager.api.openapi import served

    return served()


def build_application(instance: Instance, routes: Iterable[Route], gate: Gate) -> web.Application:
    """Return the application that answers *routes* to those whom *gate* admits."""
    application = web.Application(client_max_size=BODY_LIMIT_BYTES)
    application[documents.INSTANCE] = instance
    application[AUDIT] = Audit(instance.events)
    application[documentation.DOCUMENT] = _document
    application[WITHHOLD_REASONS] = isinstance(gate, OpenGate)
    following.install(application)
    access_of = add_routes(application.router, routes)
    # The first is the outermost: refusals of the gate are answered as problems too.
    application.middlewares.append(count_asked)
    application.middlewares.append(audit)
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
    # Signals are the manager's own: aiohttp's handlers would end the loop at SIGTERM.
    runner = web.AppRunner(application, handle_signals=False, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        connections = cast("web.Server", runner.server)  # setup() has made it

        places = Places(fair_share(descriptors()))

        def connect() -> asyncio.Protocol:
            return Connection(connections, places, loop=loop)

        listener.listen(BACKLOG)
        if application[WITHHOLD_REASONS]:
            # Only there needs nobody to be asked who he is.
            front = Front(
                application[documents.INSTANCE], connect, HEADERS, KEEPALIVE_SECONDS, places
            )
            with front.listening(listener):
                yield
        else:
            with Accepting(connect, listener, tls, places).while_open():
                yield
    finally:
        await runner.cleanup()


async def _set_headers(request: web.Request, response: web.StreamResponse) -> None:
    del request
    response.headers.update(HEADERS)
