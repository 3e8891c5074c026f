"""Callers that are slow, silent, many or hostile: each has an end, and nobody else waits."""

from __future__ import annotations

import asyncio
import json
import select
from typing import TYPE_CHECKING

import pytest

from instance_manager.api import connection, documents, server
from instance_manager.api.places import Places

if TYPE_CHECKING:
    from tests.integration.api.conftest import Served, Serving

DEADLINE_SECONDS = 30.0
SHORT_SECONDS = 0.2
HEAD = b"POST /v1/postgres/stop HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture
def few_places(monkeypatch: pytest.MonkeyPatch) -> int:
    """Let each listener have a few connections only; return how many."""
    monkeypatch.setattr(server, "Places", lambda _: Places(8))
    return 8


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    """Return all that comes until the other end closes the connection."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


async def until_hung_up(writer: asyncio.StreamWriter) -> None:
    """Wait until the other end has closed the connection, and take nothing of what it sent."""
    poll = select.poll()
    poll.register(writer.get_extra_info("socket"), 0)
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not poll.poll(0):
            await asyncio.sleep(0.01)


async def test_a_body_that_does_not_come_is_not_waited_for(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller is told, and the connection ends."""
    monkeypatch.setattr(documents, "BODY_SECONDS", SHORT_SECONDS)
    async with serving() as served:
        reader, writer = await asyncio.open_unix_connection(served.socket)
        writer.write(HEAD + b"Content-Length: 100\r\n\r\n{")
        answer = await until_closed(reader)
        writer.close()

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "request-timeout"
    assert served.instance.calls == []


async def test_an_answer_that_nobody_takes_is_given_up(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large it is; the handler does not wait for ever."""
    monkeypatch.setattr(connection, "ANSWER_SECONDS", SHORT_SECONDS)
    async with serving() as served:
        for number in range(500):
            served.instance.events.record("Filler", f"{number} {'x' * 20_000}")
        reader, writer = await asyncio.open_unix_connection(served.socket)
        writer.write(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        # The buffers are full long before, and it is cut off in the middle.
        await until_hung_up(writer)
        taken = await until_closed(reader)
        writer.close()

    assert 0 < len(taken) < 9_000_000


@pytest.mark.parametrize("listener", ["health", "socket", "tcp"])
async def test_idle_connections_keep_nobody_out(
    serving: Serving, few_places: int, listener: str
) -> None:
    """The oldest of them give way, and those who ask are answered."""
    async with serving() as served:
        opened = [await _open(served, listener) for _ in range(5 * few_places)]
        status = await _ask(served, listener)
        gone = await asyncio.gather(*(_is_closed(reader) for reader, _ in opened))
        for _, writer in opened:
            writer.close()

    assert status == 200
    assert sum(gone) >= 4 * few_places
    assert gone[0]


async def _open(
    served: Served, listener: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if listener == "socket":
        return await asyncio.open_unix_connection(served.socket)
    port = served.health_port if listener == "health" else served.control_port
    return await asyncio.open_connection("127.0.0.1", port)


async def _ask(served: Served, listener: str) -> int:
    if listener == "health":
        return (await served.ask("GET", "/livez", port=served.health_port)).status
    port = None if listener == "socket" else served.control_port
    return (await served.ask("GET", "/v1/status", port=port)).status


async def _is_closed(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(0.5):
            return await reader.read(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


HOSTILE: dict[str, bytes] = {
    "many headers": b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n"
    + b"".join(b"X-%d: y\r\n" % number for number in range(500))
    + b"\r\n",
    "a long header": b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nX: "
    + b"y" * 100_000
    + b"\r\n\r\n",
    "a long path": b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "bytes that are no text": b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a length and chunks": HEAD
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
    "a negative length": HEAD + b"Content-Length: -1\r\n\r\n",
    "broken chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "connect": b"CONNECT example.com:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "trace": b"TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a folded header": b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n",
    "a header without a name": b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n: x\r\n\r\n",
    "no version": b"GET /v1/status\r\n\r\n",
    "another protocol": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@pytest.mark.parametrize("request_", HOSTILE.values(), ids=list(HOSTILE))
async def test_what_is_no_good_request_is_refused_or_ends_its_connection(
    serving: Serving, request_: bytes
) -> None:
    """With a problem where an answer is possible; nothing was done, and others are served."""
    async with serving() as served:
        reader, writer = await asyncio.open_unix_connection(served.socket)
        writer.write(request_)
        writer.write_eof()
        answer = await until_closed(reader)
        writer.close()
        after = await served.ask("GET", "/v1/status")

    assert not answer or answer.startswith(b"HTTP/1.1 4"), answer[:80]
    assert b"Traceback" not in answer
    assert served.instance.calls == []
    assert after.status == 200


async def test_ten_megabytes_are_refused_before_they_are_read(serving: Serving) -> None:
    """By the length that is announced, or where it passes the limit."""
    async with serving() as served:
        reader, writer = await asyncio.open_unix_connection(served.socket)
        writer.write(HEAD + b"Content-Length: 10485760\r\n\r\n")
        writer.write(b" " * 200_000)
        answer = await until_closed(reader)
        writer.close()

    assert answer.startswith(b"HTTP/1.1 413 ")
