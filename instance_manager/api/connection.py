"""One connection of HTTP, with its limits.

What can't even be read as HTTP is answered as a problem too; the library would tell its version
and log a traceback for every scanner that comes by.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

from instance_manager.api import problems
from instance_manager.api.problems import RequestCode
from instance_manager.errors import ErrorCode
from instance_manager.log import get_logger

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

    from instance_manager.api.places import Places

KEEPALIVE_SECONDS: Final = 75.0
"""Longer than the usual scrape interval of a minute, so that scrapers keep their connection."""

ANSWER_SECONDS: Final = 30.0
"""For the caller to take an answer."""

LINGERING_SECONDS: Final = 1.0
READ_BYTES: Final = 1 << 15
"""Of a body, before the sender has to wait for its reader."""

HEADERS: Final = {
    hdrs.SERVER: "instance-manager",  # and no version: scanners need not know it
    # An answer is true at its moment alone.
    hdrs.CACHE_CONTROL: "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}

_NO_ACCESS_LOG: Final = logging.Logger("no access log", logging.CRITICAL + 1)
"""Attached to nothing: the connection then keeps no times either."""


class Connection(web.RequestHandler):
    """One connection; it takes a place for as long as it lasts."""

    __slots__ = ("_places", "asked")

    def __init__(
        self, connections: web.Server, places: Places, *, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(
            connections,
            loop=loop,
            keepalive_timeout=KEEPALIVE_SECONDS,
            access_log=_NO_ACCESS_LOG,
            # A small body that becomes a large one is nothing that anybody here sends.
            auto_decompress=False,
            read_bufsize=READ_BYTES,
            # For the rest of a body that was refused.
            lingering_time=LINGERING_SECONDS,
        )
        self._places = places
        self.asked = 0
        """How many requests are being answered."""

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for an answer."""
        return self.asked == 0

    def abort(self) -> None:
        """Close the connection at once, whatever was still to be sent."""
        transport = self.transport
        self.force_close()
        if transport is not None:
            transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place."""
        # Before anything is read: the oldest idle one goes if all places are taken.
        self._places.take(self)
        if hasattr(transport, "max_size"):
            # Of asyncio: it reads a quarter of a megabyte at once, and the parser takes it all.
            setattr(transport, "max_size", READ_BYTES)  # noqa: B010 - no attribute of the base
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Leave it."""
        self._places.leave(self)
        super().connection_lost(exc)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer, as long as somebody takes it."""
        try:
            # Who asks for much and reads nothing would hold the answer in memory.
            async with asyncio.timeout(ANSWER_SECONDS):
                finished = await super().finish_response(request, resp, start_time)
                # What the library has put into the buffer is not sent yet.
                await request.writer.drain()
                return finished
        except TimeoutError:
            self.abort()
            return resp, True
        except ConnectionError:
            return resp, True

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what never reached a handler; the connection is closed after it."""
        del message
        # A second status line within a body would be read as a part of it.
        if isinstance(exc, ConnectionError) or request.writer.output_size > 0:
            raise ConnectionError("the client is gone, or has the beginning of an answer")
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            get_logger("instance_manager.api").error("cannot answer a request", error=repr(exc))
            problem = problems.problem_of(ErrorCode.INTERNAL, "an unexpected error")
        else:
            problem = problems.problem_of(RequestCode.MALFORMED, "this is not a request in HTTP")
        response = problems.answer(problem, HEADERS)
        response.force_close()
        return response


@web.middleware
async def count_asked(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count a request as being answered, for the connection that it came by."""
    connection = request.protocol
    if not isinstance(connection, Connection):
        return await handler(request)
    connection.asked += 1
    try:
        return await handler(request)
    finally:
        connection.asked -= 1
