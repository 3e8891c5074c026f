"""What a client asks, with plain sockets: so that the answer is timed, and not the client."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

POLL_SECONDS = 0.001
DEADLINE_SECONDS = 60.0
_CANNOT_CONNECT_NOW = b"C57P03"


class Server(Protocol):
    """Whom to ask."""

    health_port: int

    @property
    def postgres_socket(self) -> Path:
        """Where clients reach the server."""
        ...

    def lives(self) -> bool:
        """Return true; raise where the process has ended, which will never answer."""
        ...


def until_select(site: Server, user: str, database: str) -> float:
    """Return the time at which the server has answered its first ``SELECT 1``."""
    packet = _startup(user, database) + _message(b"Q", b"SELECT 1\0")
    return _until(
        lambda: site.lives() and _select(site.postgres_socket, packet), "no server answers"
    )


def _select(path: Path, packet: bytes) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE_SECONDS)
        client.connect(str(path))
        client.sendall(packet)
        for kind, body in _messages(client):
            if kind == b"D":
                return True
            if kind == b"E":
                if _CANNOT_CONNECT_NOW in body.split(b"\0"):
                    return False
                raise AssertionError(f"the server refuses: {body!r}")
    return False


def _startup(user: str, database: str) -> bytes:
    """Return the packet that opens a session: protocol 3.0, as the manual gives it."""
    body = struct.pack("!I", 196608) + f"user\0{user}\0database\0{database}\0\0".encode()
    return struct.pack("!I", len(body) + 4) + body


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def _messages(client: socket.socket) -> Iterator[tuple[bytes, bytes]]:
    with client.makefile("rb") as stream:
        while head := stream.read(5):
            kind, length = struct.unpack("!cI", head)
            yield kind, stream.read(length - 4)


def until_alive(site: Server) -> float:
    """Return the time at which the health listener has answered its first ``/livez``."""
    return _until(lambda: site.lives() and _is_alive(site.health_port), "nobody answers /livez")


def _is_alive(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), DEADLINE_SECONDS) as client:
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = client.recv(4096)
    if not answer.startswith(b"HTTP/1.1 200"):
        raise AssertionError(f"/livez answers {answer[:80]!r}")
    return True


def _until(ask: Callable[[], bool], late: str) -> float:
    """Ask again and again; return the time of the first yes."""
    end = time.perf_counter() + DEADLINE_SECONDS
    while time.perf_counter() < end:
        try:
            if ask():
                return time.perf_counter()
        except (FileNotFoundError, ConnectionError):
            pass
        time.sleep(POLL_SECONDS)
    raise AssertionError(late)
