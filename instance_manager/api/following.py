"""``GET /v1/events?follow``: the events as a stream that goes on and can be resumed.

The ring of events is the buffer of every stream: a stream holds no more than the id of the last
event that it has sent, so a slow reader costs no memory, and is told where the ring was faster.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from aiohttp import web

from instance_manager.api import documents, event_stream
from instance_manager.api.models import Event, StreamNotice
from instance_manager.api.problems import RequestCode, RequestError

if TYPE_CHECKING:
    from collections.abc import Generator

    from instance_manager.observability.events import Events

MAXIMUM_STREAMS: Final = 32
"""For each listener: so that readers over TCP never shut out those on the unix socket."""

RETRY_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Pace:
    """The times of a stream."""

    heartbeat_seconds: float = 15.0
    """Proxies cut what is silent for a minute, or for half of one."""
    patience_seconds: float = 30.0
    """For a reader that takes nothing while its buffers are full."""
    last_word_seconds: float = 5.0


PACE = Pace()


@dataclass(slots=True)
class Streams:
    """The streams of one listener."""

    open: dict[asyncio.Event, web.Request] = field(
        default_factory=dict[asyncio.Event, web.Request]
    )
    is_ending: bool = False

    @contextmanager
    def place(self, request: web.Request) -> Generator[asyncio.Event]:
        """Yield what is set when the stream shall look again.

        Raises:
            RequestError: there are as many streams as there may be.
        """
        # Those whose reader has hung up see it at their next heartbeat only.
        transports = [one.transport for one in self.open.values()]
        alive = [one for one in transports if one is not None and not one.is_closing()]
        if len(alive) >= MAXIMUM_STREAMS or self.is_ending:
            raise RequestError(
                RequestCode.TOO_MANY_STREAMS,
                f"there are {len(alive)} streams of events already",
                hint="end one of them, or read /v1/events without following",
                headers={"Retry-After": "10"},
            )
        due = asyncio.Event()
        self.open[due] = request
        try:
            yield due
        finally:
            del self.open[due]

    async def end(self, _: web.Application) -> None:
        """Have all streams say their last word: the manager ends."""
        self.is_ending = True
        for due in self.open:
            due.set()


STREAMS: Final[web.AppKey[Streams]] = web.AppKey("streams")


def install(application: web.Application) -> None:
    """Give an application its streams, which end with it."""
    streams = application[STREAMS] = Streams()
    application.on_shutdown.append(streams.end)


async def follow(request: web.Request) -> web.StreamResponse:
    """Stream the events after ``Last-Event-ID``, or all that are remembered, then what comes."""
    response = web.StreamResponse(
        # nginx would buffer the stream, and its reader would see nothing for minutes.
        headers={"Content-Type": event_stream.CONTENT_TYPE, "X-Accel-Buffering": "no"}
    )
    # A HEAD would keep a place for ever, with nothing to send.
    if request.method == "HEAD":
        await response.prepare(request)
        return response
    last = request.headers.get("Last-Event-ID") or None
    streams, events = request.app[STREAMS], documents.instance_of(request).events
    # Announced before the first look: what happens in between is not missed.
    with streams.place(request) as due, events.announced_to(due.set):
        await response.prepare(request)
        stream = _Stream(response, events, last)
        try:
            await stream.run(streams, due)
        except ConnectionError:
            pass  # the reader is gone
        except TimeoutError:
            if request.transport is not None:
                # What it has not taken by now is dropped; closing would wait for it for ever.
                request.transport.abort()
    return response


@dataclass(slots=True)
class _Stream:
    """One reader, and how far it is."""

    response: web.StreamResponse
    events: Events
    last: str | None

    async def run(self, streams: Streams, due: asyncio.Event) -> None:
        """Send what is there, and what comes, until serving ends or the reader is too slow.

        Raises:
            TimeoutError: it did not even take its last word.
            ConnectionError: it is gone.
        """
        why = "the manager ends"
        try:
            await self._write(event_stream.render_retry(RETRY_SECONDS))
            while True:
                # Before the look: what comes during it sets the flag again.
                due.clear()
                await self._send()
                if streams.is_ending:
                    break
                await self._wait(due)
        except TimeoutError:
            why = f"nothing was taken for {PACE.patience_seconds:g} s"
        async with asyncio.timeout(PACE.last_word_seconds):
            await self.response.write(_notice(event_stream.END, why))
            await self.response.write_eof()

    async def _wait(self, due: asyncio.Event) -> None:
        while not due.is_set():
            try:
                async with asyncio.timeout(PACE.heartbeat_seconds):
                    await due.wait()
            except TimeoutError:
                await self._write(event_stream.HEARTBEAT)

    async def _send(self) -> None:
        """Send what is new, and again what came meanwhile."""
        while True:
            found = self.events.after(self.last)
            if not found.is_complete:
                self.last = None
                await self._write(_notice(event_stream.MISSED, "earlier events are forgotten"))
            if not found.events:
                return
            for event in found.events:
                line = Event.model_validate(event).model_dump_json()
                self.last = event.id
                await self._write(event_stream.render(event_stream.MESSAGE, line, event.id))

    async def _write(self, data: bytes) -> None:
        async with asyncio.timeout(PACE.patience_seconds):
            await self.response.write(data)


def _notice(kind: str, reason: str) -> bytes:
    return event_stream.render(kind, StreamNotice(reason=reason).model_dump_json())
