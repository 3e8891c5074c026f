"""The stream of events: resumed, bounded, and ended with the manager."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from instance_manager.api import following
from instance_manager.api.event_stream import Message, Parser
from instance_manager.api.models import Event, StreamNotice
from instance_manager.api.routes import HEALTH_ROUTES
from instance_manager.client import AnswerError, Client, UnreachableError
from instance_manager.observability.events import Events

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.api.conftest import Served, Serving

SECONDS = 20


class Follower:
    """A reader of the stream, with nothing of the client under test but the text's parser."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.head = b""
        self._parser = Parser()
        self._messages: list[Message] = []

    async def begin(self, path: str, **headers: str) -> Follower:
        lines = "".join(
            f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()
        )
        self.writer.write(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n{lines}\r\n".encode())
        async with asyncio.timeout(SECONDS):
            self.head = await self.reader.readuntil(b"\r\n\r\n")
        return self

    async def next(self) -> Message:
        async with asyncio.timeout(SECONDS):
            while not self._messages:
                piece = await self.reader.read(65536)
                assert piece, "the stream has ended"
                self._messages += self._parser.feed(piece)
        return self._messages.pop(0)

    async def rest(self) -> list[Message]:
        async with asyncio.timeout(SECONDS):
            while piece := await self.reader.read(65536):
                self._messages += self._parser.feed(piece)
        return self._messages


@asynccontextmanager
async def followed(
    served: Served, path: str = "/v1/events?follow", *, port: int | None = None, **headers: str
) -> AsyncGenerator[Follower]:
    if port is None:
        reader, writer = await asyncio.open_unix_connection(served.socket)
    else:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield await Follower(reader, writer).begin(path, **headers)
    finally:
        writer.close()


async def test_what_is_remembered_comes_first_then_what_happens(serving: Serving) -> None:
    """Each as a message with its id, and one line of JSON; on both control listeners."""
    async with serving() as served:
        events = served.instance.events
        events.record("First", "line one\nline two")
        async with followed(served) as local, followed(served, port=served.control_port) as tcp:
            for reader in (local, tcp):
                assert (await reader.next()).last_event_id == "0-1"
            events.record("Second", "x")
            messages = [await local.next(), await tcp.next()]

    assert b" 200 OK\r\n" in local.head
    assert b"Content-Type: text/event-stream\r\n" in local.head
    assert b"Cache-Control: no-store\r\n" in local.head
    assert {(one.type, one.last_event_id) for one in messages} == {("message", "0-2")}
    assert json.loads(messages[0].data)["reason"] == "Second"


async def test_a_reader_is_resumed_after_the_last_event_it_has_seen(serving: Serving) -> None:
    """Nothing twice, and nothing left out."""
    async with serving() as served:
        for number in range(5):
            served.instance.events.record("Counted", str(number))
        async with followed(served, Last_Event_ID="0-3") as reader:
            assert [(await reader.next()).last_event_id for _ in "ab"] == ["0-4", "0-5"]


@pytest.mark.parametrize("last", ["earlier-3", "0-77", "nonsense"])
async def test_a_reader_that_missed_something_is_told_so(serving: Serving, last: str) -> None:
    """After a new start of the manager too; then all that is remembered follows."""
    async with serving() as served:
        served.instance.events.record("Only", "one")
        async with followed(served, Last_Event_ID=last) as reader:
            missed, only = await reader.next(), await reader.next()

    assert (missed.type, missed.last_event_id) == ("missed", "")
    assert "reason" in json.loads(missed.data)
    assert only.last_event_id == "0-1"


async def test_who_accepts_a_stream_gets_one_and_head_gets_its_head(serving: Serving) -> None:
    """As browsers ask; ``follow=false`` is the list whatever is accepted."""
    async with serving() as served:
        served.instance.events.record("Only", "one")
        async with followed(served, "/v1/events", Accept="text/event-stream") as reader:
            assert (await reader.next()).last_event_id == "0-1"
        plain = await served.ask(
            "GET", "/v1/events?follow=false", headers={"Accept": "text/event-stream"}
        )
        head = await served.ask("HEAD", "/v1/events?follow")

    assert [one["id"] for one in json.loads(plain.body)["items"]] == ["0-1"]
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Type"] == "text/event-stream"


async def test_a_stream_where_nothing_happens_says_that_it_lives(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Comments, which no reader takes for a message."""
    monkeypatch.setattr(following, "PACE", following.Pace(heartbeat_seconds=0.01))
    async with serving() as served, followed(served) as reader, asyncio.timeout(SECONDS):
        assert await reader.reader.readuntil(b"\n\n") == b"retry: 2000\n\n"
        assert await reader.reader.readexactly(6) == b":\n\n" * 2


async def test_a_reader_that_takes_nothing_is_cut_off_and_can_resume(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its buffers fill, the events go on, and others don't notice."""
    monkeypatch.setattr(
        following, "PACE", following.Pace(patience_seconds=2, last_word_seconds=0.1)
    )
    async with serving() as served:
        events = served.instance.events
        async with followed(served) as idle, followed(served) as reader:
            idle.reader._transport.pause_reading()  # type: ignore[attr-defined]  # noqa: SLF001
            for _ in range(100):
                events.record("Large", "x" * 100_000)
                await reader.next()
            async with asyncio.timeout(SECONDS):
                while len(events._listeners) > 1:  # noqa: SLF001
                    await asyncio.sleep(0.01)
            idle.reader._transport.resume_reading()  # type: ignore[attr-defined]  # noqa: SLF001
            try:
                seen = await idle.rest()
            except ConnectionError:
                seen = idle._messages  # noqa: SLF001
            events.record("Small", "x")
            assert (await reader.next()).last_event_id == "0-101"
        last = next(one.last_event_id for one in reversed(seen) if one.type == "message")
        async with followed(served, Last_Event_ID=last) as again:
            number = int(last.rpartition("-")[2])
            assert (await again.next()).last_event_id == f"0-{number + 1}"


async def test_streams_are_limited_and_a_place_is_free_when_its_reader_hangs_up(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one is told to come later; other requests go on being answered."""
    monkeypatch.setattr(following, "MAXIMUM_STREAMS", 2)
    async with serving() as served:
        async with followed(served) as one, followed(served) as two:
            refused = await served.ask("GET", "/v1/events?follow")
            assert (await served.ask("GET", "/v1/events")).status == 200
            assert b" 200 " in one.head
            assert b" 200 " in two.head

        async def is_free() -> bool:
            async with followed(served) as reader:
                return b" 200 " in reader.head

        async with asyncio.timeout(SECONDS):
            while not await is_free():
                await asyncio.sleep(0.01)

    assert (refused.status, json.loads(refused.body)["code"]) == (503, "too-many-streams")
    assert refused.headers["Retry-After"] == "10"


async def test_a_stream_ends_with_serving_and_says_so(serving: Serving) -> None:
    """What happened last is told before, and the end doesn't wait for the reader."""
    ended: list[Message] = []

    async def read(served: Served, is_there: asyncio.Event) -> None:
        async with followed(served) as reader:
            is_there.set()
            ended.extend(await reader.rest())

    is_there = asyncio.Event()
    async with serving() as served:
        task = asyncio.create_task(read(served, is_there))
        await is_there.wait()
        served.instance.events.record("Last", "x")
    await task

    assert [one.type for one in ended] == ["message", "end"]
    assert json.loads(ended[1].data) == {"reason": "the manager ends"}


async def test_the_client_follows_over_a_new_start_and_tells_what_was_missed(
    serving: Serving, tmp_path: Path
) -> None:
    """It comes back by itself; the ids of the old run mean nothing to the new one."""
    seen: list[Event | StreamNotice] = []
    async with Client.unix(tmp_path / "control.sock") as client:
        async with asyncio.timeout(SECONDS):
            async with serving() as served:
                served.instance.events.record("Old", "x")
                stream = client.follow_events()
                seen.append(await anext(stream))
            (tmp_path / "control.sock").unlink()
            async with serving() as served:
                served.instance.events = Events(
                    now=lambda: seen[0].time if isinstance(seen[0], Event) else None,  # type: ignore[arg-type,return-value]
                    run="new",
                )
                served.instance.events.record("New", "x")
                seen += [await anext(stream), await anext(stream)]
                await stream.aclose()

    assert isinstance(seen[1], StreamNotice)
    assert [one.id for one in seen if isinstance(one, Event)] == ["0-1", "new-1"]


async def test_the_client_says_at_once_that_nobody_is_there_or_that_it_is_refused(
    serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a stream that was there once is waited for."""
    async with (
        Client.unix(tmp_path / "nobody.sock") as client,
        aclosing(client.follow_events()) as stream,
    ):
        with pytest.raises(UnreachableError):
            await anext(stream)
    monkeypatch.setattr(following, "MAXIMUM_STREAMS", 0)
    async with (
        serving() as served,
        Client.unix(served.socket) as client,
        aclosing(client.follow_events()) as stream,
    ):
        with pytest.raises(AnswerError, match="streams of events"):
            await anext(stream)


def test_nothing_of_the_streams_is_on_the_health_listener() -> None:
    """What happened is not for everybody."""
    assert all("events" not in route.path for route in HEALTH_ROUTES)
