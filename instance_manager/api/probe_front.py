"""The shortest way to a probe: plain requests on the health listener, answered without the stack.

Probes are asked when the host is busiest, and an answer that is late counts as a bad one. So a
connection that has sent its request already is answered in the turn of the loop in which it is
accepted; any other one gets a small protocol. A whole request for a probe, as the kubelet and load
balancers send it, is answered here, as the stack behind would answer it. With anything else the
connection is handed over to that stack, with what was read. Who says nothing stays here, where it
costs least: a crowd that is handed over at once would keep the loop from its probes.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from contextlib import contextmanager
from email.utils import formatdate
from time import perf_counter, time
from typing import TYPE_CHECKING, Final, cast

from instance_manager.api.probes import describe
from instance_manager.health.verdicts import PROBES
from instance_manager.log import get_logger

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Generator, Mapping

    from instance_manager.api.instance import Instance
    from instance_manager.api.places import Places

_NAMES: Final = {
    b"/livez": ("livez", "livez"),
    b"/healthz": ("livez", "healthz"),
    b"/startupz": ("startupz", "startupz"),
    b"/readyz": ("readyz", "readyz"),
}
"""The probe behind each path, and what it calls itself."""

_LONGEST_BYTES: Final = 2048
# As strict as the stack behind, or stricter: what does not fit is handed over to it, never
# refused.
_REQUEST: Final = re.compile(
    rb"GET (/[a-z]+)(\?verbose)? HTTP/1\.1\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e]*\r\n){1,24})\r\n"
)
_NOT_PLAIN: Final = re.compile(
    rb"^(?:content-length|transfer-encoding|expect|upgrade):|^accept:.*json|^connection:.*,",
    re.IGNORECASE | re.MULTILINE,
)
"""Headers that change what is answered, or what follows: the stack behind knows what they mean."""
_CLOSE: Final = re.compile(rb"^connection:[\t ]*close[\t ]*\r$", re.IGNORECASE | re.MULTILINE)

_CLOSING: Final = "Connection: close\r\n"

_UNREAD_BYTES: Final = 1 << 16
_ACCEPTED_AT_ONCE: Final = 64
"""Then the loop has its turn: the heartbeat must not wait for a flood."""
_PAUSE_SECONDS: Final = 1.0

_log: Final = get_logger("instance_manager.api")


class Front:
    """The small protocols of one listener; *behind* makes what they hand over to."""

    def __init__(
        self,
        instance: Instance,
        behind: Callable[[], asyncio.Protocol],
        headers: Mapping[str, str],
        keepalive_seconds: float,
        places: Places,
    ) -> None:
        self.behind = behind
        self.keepalive_seconds = keepalive_seconds
        self.places = places
        self.open: set[ProbeConnection] = set()
        self._instance = instance
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.is_closed = False
        self._date = (0, "")
        self._adopting: set[asyncio.Task[None]] = set()

    @contextmanager
    def listening(self, listener: socket.socket) -> Generator[None]:
        """Take the connections of *listener* while the context lasts, and close it then.

        Those that were not handed over are closed with it.
        """
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        loop.add_reader(listener, self._accept, listener)
        try:
            yield
        finally:
            loop.remove_reader(listener)
            listener.close()
            self.is_closed = True
            for connection in tuple(self.open):
                connection.close()

    def _accept(self, listener: socket.socket) -> None:
        """Take who waits. On a busy host the request is there by then, and one turn answers it."""
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connection = listener.accept()[0]
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # No descriptor is free, most likely: it waits in the kernel's queue.
                _log.warning("cannot accept a connection", error=str(error))
                self._pause(listener)
                return
            connection.setblocking(False)
            self._take(connection)

    def _pause(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)

        def go_on() -> None:
            if listener.fileno() >= 0:
                loop.add_reader(listener, self._accept, listener)

        loop.call_later(_PAUSE_SECONDS, go_on)

    def _take(self, connection: socket.socket) -> None:
        """Answer what is there already; adopt the connection where there is more to it."""
        try:
            # No bytes are the end of what the peer sends; nothing yet is a BlockingIOError.
            data = connection.recv(_LONGEST_BYTES)
        except BlockingIOError:
            self._adopt(connection, b"")
            return
        except OSError:
            data = b""
        # One that is to be kept needs a transport.
        answer = self.answer(data) if is_last(data) else None
        if data and answer is None:
            self._adopt(connection, data)
            return
        if answer is not None:
            with contextlib.suppress(OSError):
                # A new connection's buffer is empty: all of it fits.
                connection.send(answer[0])
        connection.close()

    def _adopt(self, connection: socket.socket, first: bytes) -> None:
        task = asyncio.get_running_loop().create_task(self._adopted(connection, first))
        # Kept, since the loop itself holds a task by a weak reference only.
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)

    async def _adopted(self, connection: socket.socket, first: bytes) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: ProbeConnection(self, first), connection)
        except OSError:
            connection.close()

    def answer(self, request: bytes) -> tuple[bytes, bool] | None:
        """Return the answer and whether the connection is kept; None for what is not plain."""
        began = perf_counter()
        found = _REQUEST.fullmatch(request) if len(request) <= _LONGEST_BYTES else None
        names = _NAMES.get(found[1]) if found else None
        if found is None or names is None or _NOT_PLAIN.search(found[3]):
            return None
        name, shown_as = names
        verdict = PROBES[name](self._instance.facts())
        body = "ok\n"
        if found[2] or not verdict.ok:
            # This listener is open to everybody.
            body = describe(shown_as, verdict, (), withhold=True)
        is_kept = not is_last(found[3])
        answer = (
            f"HTTP/1.1 {'200 OK' if verdict.ok else '503 Service Unavailable'}\r\n"
            f"Content-Type: text/plain; charset=utf-8\r\n{self._headers}"
            f"Content-Length: {len(body)}\r\nDate: {self._now()}\r\n"
            f"{'' if is_kept else _CLOSING}\r\n{body}"
        ).encode()
        measurements = self._instance.measurements
        measurements.count_probe(name, verdict.ok)
        measurements.probe_handlers.observe(name, perf_counter() - began)
        return answer, is_kept

    def _now(self) -> str:
        second = int(time())
        # Once a second, which is as fine as the header is.
        if self._date[0] != second:
            self._date = second, formatdate(second, usegmt=True)
        return self._date[1]


def is_last(request: bytes) -> bool:
    """Return whether the connection is to be closed after the answer."""
    return _CLOSE.search(request) is not None


class ProbeConnection(asyncio.Protocol):
    """One connection, until it says something that is no plain request for a probe."""

    def __init__(self, front: Front, first: bytes) -> None:
        self._front = front
        self._first = first
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for a request."""
        self._transport = cast("asyncio.Transport", transport)
        # It was on its way in when serving ended.
        if self._front.is_closed:
            self.close()
            return
        self._front.open.add(self)
        self._front.places.take(self)
        self._wait(self._front.keepalive_seconds, self.close)
        if self._first:
            self.data_received(self._first)

    def data_received(self, data: bytes) -> None:
        """Answer, or hand over."""
        # In pieces it is no whole request, and the stack behind waits for the rest of it.
        answer = self._front.answer(data)
        if answer is None:
            self._hand_over(data)
            return
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(answer[0])
        # Who asks again and again and reads nothing fills our memory.
        if not answer[1] or transport.get_write_buffer_size() > _UNREAD_BYTES:
            self.close()
        else:
            self._wait(self._front.keepalive_seconds, self.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        del exc
        self._leave()

    def close(self) -> None:
        """Close the connection once all is sent."""
        if self._transport is not None:
            self._transport.close()

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for an answer: each is given at once."""
        return True

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, then)

    def _hand_over(self, data: bytes) -> None:
        transport = self._transport
        self._leave()
        if transport is None or transport.is_closing():
            return
        behind = self._front.behind()
        transport.set_protocol(behind)
        # By hand: set_protocol() tells the new protocol nothing.
        behind.connection_made(transport)
        behind.data_received(data)

    def _leave(self) -> None:
        self._front.open.discard(self)
        self._front.places.leave(self)
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
