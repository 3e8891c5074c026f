"""Taking the connections of the control listeners: each with the TLS context in force.

Our own loop of accept(2), since a server of asyncio's keeps the context that it was made with. A
handshake takes a place as a connection does, so that those which never finish are bounded too.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from instance_manager.log import get_logger

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Generator

    from instance_manager.api.places import Places
    from instance_manager.api.tls import Contexts

HANDSHAKE_SECONDS: Final = 10.0
_AT_ONCE: Final = 64
"""Then the loop has its turn: the heartbeat must not wait for a flood."""
_PAUSE_SECONDS: Final = 1.0
_log: Final = get_logger("instance_manager.api")


class Arriving:
    """A connection on its way in: nobody has asked anything yet."""

    is_idle = True

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.task: asyncio.Task[None] | None = None

    def abort(self) -> None:
        """Give it up."""
        if self.task is not None:
            self.task.cancel()
        self._connection.close()


class Accepting:
    """Takes the connections of one listener; *connect* makes what talks with each."""

    def __init__(
        self,
        connect: Callable[[], asyncio.Protocol],
        listener: socket.socket,
        tls: Contexts | None,
        places: Places,
    ) -> None:
        self._connect = connect
        self._listener = listener
        self._tls = tls
        self._places = places
        self._arriving: set[Arriving] = set()

    @contextmanager
    def while_open(self) -> Generator[None]:
        """Accept while the context lasts; then close the listener. Connections are left alone."""
        self._listener.setblocking(False)
        self._go_on()
        try:
            yield
        finally:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            for one in tuple(self._arriving):
                one.abort()

    def _go_on(self) -> None:
        if self._listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(_AT_ONCE):
            try:
                connection = self._listener.accept()[0]
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # No descriptor is free, most likely: it waits in the kernel's queue.
                _log.warning("cannot accept a connection", error=str(error))
                loop.remove_reader(self._listener)
                loop.call_later(_PAUSE_SECONDS, self._go_on)
                return
            # accept(2) does not pass the listener's flag on.
            connection.setblocking(False)
            arriving = Arriving(connection)
            # Before the handshake: who opens connections and says nothing is bounded as well.
            self._places.take(arriving)
            self._arriving.add(arriving)
            # Kept, since the loop itself holds a task by a weak reference only.
            arriving.task = loop.create_task(self._let_in(connection, arriving))

    async def _let_in(self, connection: socket.socket, arriving: Arriving) -> None:
        # Asked for each connection, so that a renewed certificate counts for the next one.
        context = self._tls.current if self._tls else None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._connect,
                connection,
                ssl=context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS if context else None,
            )
        except (OSError, ssl.SSLError, TimeoutError):
            # Who does not come through the door is nobody's news.
            with contextlib.suppress(OSError):
                connection.close()
        finally:
            self._places.leave(arriving)
            self._arriving.discard(arriving)
