"""One question to a unix socket, and servers of every kind behind it."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from instance_manager.postgres.connection import Answer, ask

Serve = Callable[[socket.socket], None]
PATIENCE = 30.0
SHORT = 0.2


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def error(state: bytes) -> bytes:
    return message(b"E", b"SFATAL\0VFATAL\0C" + state + b"\0Mno\0\0")


READY = message(b"R", struct.pack("!I", 0))


class Server:
    """Speaks with one peer after the other in a thread, as *serve* says."""

    def __init__(self, path: Path, serve: Serve) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._serve = serve
        self._thread = threading.Thread(target=self._accept)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                with peer, suppress(OSError):
                    peer.settimeout(PATIENCE)
                    self._serve(peer)


def says(*parts: bytes, hangs_up: bool = False) -> Serve:
    """Return what reads the packet and says these bytes, and then waits until the peer goes."""

    def serve(peer: socket.socket) -> None:
        peer.recv(4096)
        for part in parts:
            peer.sendall(part)
        while not hangs_up and peer.recv(4096):
            pass

    return serve


def asked(path: Path, serve: Serve, seconds: float = PATIENCE) -> tuple[Answer, float]:
    """Serve the socket and ask it once; return the answer and how long it took."""
    with Server(path, serve):
        begun = time.monotonic()
        answer = asyncio.run(ask(path, deadline_seconds=seconds))
        return answer, time.monotonic() - begun


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (READY, Answer.ACCEPTS),
        (message(b"R", struct.pack("!I", 10) + b"SCRAM-SHA-256\0\0"), Answer.ACCEPTS),
        (error(b"57P03"), Answer.STARTING),
        (error(b"53300"), Answer.ACCEPTS),
        (error(b"28000"), Answer.ACCEPTS),
        (READY + message(b"S", b"server_version\x0018.6\0"), Answer.ACCEPTS),
        (message(b"v", b"\0" * 8), Answer.SILENT),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", Answer.SILENT),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Answer.SILENT),
    ],
)
def test_the_first_message_decides(tmp_path: Path, said: bytes, answer: Answer) -> None:
    """What the server says first is all that is needed."""
    assert asked(tmp_path / "s", says(said))[0] is answer


def test_an_answer_in_single_bytes_is_put_together(tmp_path: Path) -> None:
    """A stream has no messages of its own."""
    parts = [bytes([byte]) for byte in error(b"57P03")]

    assert asked(tmp_path / "s", says(*parts))[0] is Answer.STARTING


@pytest.mark.parametrize("length", [0, 3, 8193, 1 << 20, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_length_that_no_server_sends_is_no_answer(tmp_path: Path, length: int) -> None:
    """Neither memory nor time is spent on a lie."""
    answer, seconds = asked(tmp_path / "s", says(b"R" + struct.pack("!I", length)))

    assert answer is Answer.SILENT
    assert seconds < PATIENCE / 2


@pytest.mark.parametrize("said", [b"", b"R", READY[:5], READY[:-1]])
def test_a_server_that_stalls_is_silent_after_the_deadline(tmp_path: Path, said: bytes) -> None:
    """Half an answer is none, and the deadline is kept."""
    answer, seconds = asked(tmp_path / "s", says(said), SHORT)

    assert answer is Answer.SILENT
    assert SHORT * 0.9 <= seconds < PATIENCE


@pytest.mark.parametrize("said", [b"", b"R", READY[:-1]])
def test_a_server_that_hangs_up_is_silent_at_once(tmp_path: Path, said: bytes) -> None:
    """A postmaster that just ended closes its connections; nobody waits for more."""
    answer, seconds = asked(tmp_path / "s", says(said, hangs_up=True))

    assert answer is Answer.SILENT
    assert seconds < PATIENCE / 2


@contextmanager
def listening(path: Path, backlog: int) -> Iterator[socket.socket]:
    """Listen without ever accepting, as a stopped process does."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(backlog)
        yield listener


def test_a_stopped_postmaster_is_silent(tmp_path: Path) -> None:
    """The kernel connects on its behalf; nothing comes."""
    with listening(tmp_path / "s", 5):
        assert asyncio.run(ask(tmp_path / "s", deadline_seconds=SHORT)) is Answer.SILENT


def test_a_full_queue_does_not_block_the_loop(tmp_path: Path) -> None:
    """Even a connection that can't be made is given up at the deadline."""
    path = tmp_path / "s"
    with listening(path, 0), socket.socket(socket.AF_UNIX) as first:
        first.connect(str(path))
        begun = time.monotonic()
        answers = asyncio.run(_ask_twice(path))

        assert answers == [Answer.SILENT, Answer.SILENT]
        assert time.monotonic() - begun < PATIENCE


async def _ask_twice(path: Path) -> list[Answer]:
    return await asyncio.gather(*(ask(path, deadline_seconds=SHORT) for _ in range(2)))


@pytest.mark.parametrize("kind", ["nothing", "file", "directory", "dead socket", "too long"])
def test_where_nobody_listens_nobody_answers(tmp_path: Path, kind: str) -> None:
    """Whatever lies at the path, it is no error."""
    path = tmp_path / "s"
    match kind:
        case "file":
            path.write_text("")
        case "directory":
            path.mkdir()
        case "dead socket":
            with listening(path, 1):
                pass
        case "too long":
            path = tmp_path / ("s" * 200)
        case _:
            pass

    assert asyncio.run(ask(path, deadline_seconds=PATIENCE)) is Answer.SILENT


def test_questions_leave_no_descriptor_open(tmp_path: Path) -> None:
    """One each second for months must cost nothing, whatever is answered."""
    path = tmp_path / "s"

    async def ask_often() -> None:
        await ask(path, deadline_seconds=SHORT / 4)
        before = descriptors()
        for _ in range(5):
            await ask(path, deadline_seconds=SHORT / 4)
        async with asyncio.timeout(PATIENCE):
            while descriptors() > before:
                await asyncio.sleep(0.005)

    for serve in (says(READY), says(error(b"57P03")), says(b"xx"), says(b"R")):
        path.unlink(missing_ok=True)
        with Server(path, serve):
            asyncio.run(ask_often())


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted, not walked


def test_a_question_says_who_asks_and_says_goodbye(tmp_path: Path) -> None:
    """The server's log names us, and sees no connection that broke off."""
    path, seen = tmp_path / "s", bytearray()

    def serve(peer: socket.socket) -> None:
        seen.extend(peer.recv(4096))
        peer.sendall(READY)
        while part := peer.recv(4096):
            seen.extend(part)

    with Server(path, serve):
        assert asyncio.run(ask(path, deadline_seconds=PATIENCE, user="me")) is Answer.ACCEPTS

    assert b"user\0me\0application_name\0instance-manager\0" in seen
    assert seen.endswith(b"X\x00\x00\x00\x04")
