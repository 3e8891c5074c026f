"""Requests that are sent again because their answer was lost."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from instance_manager.client import AnswerError, Client, InvalidRequestError

if TYPE_CHECKING:
    from tests.integration.api.conftest import Answer, Served, Serving

VERBS = ("start", "stop", "restart", "reload", "checkpoint", "fence", "unfence")
UPDATE = "/v1/databases/app/extensions/toy/update"


async def post(served: Served, path: str, key: str, body: bytes = b"", **more: str) -> Answer:
    headers = {"Content-Type": "application/json", "Idempotency-Key": key, **more}
    return await served.ask("POST", path, body, headers=headers)


@pytest.mark.parametrize("path", [*(f"/v1/postgres/{verb}" for verb in VERBS), UPDATE])
async def test_a_repeated_request_is_the_same_operation(serving: Serving, path: str) -> None:
    """While it runs and once it has ended: the same id and place, begun and told once."""
    async with serving() as served:
        first = await post(served, path, "key-1")
        second = await post(served, path, "key-1")
        served.instance.release.set()
        third = await post(served, path, '"key-1"', b"{}", Prefer="wait=10")
        fourth = await post(served, path, "key-2", Prefer="wait=10")
        calls, events = len(served.instance.calls), served.instance.events.recent()

    assert [one.status for one in (first, second, third, fourth)] == [202, 202, 200, 200]
    ids = [json.loads(one.body)["id"] for one in (first, second, third, fourth)]
    assert ids[0] == ids[1] == ids[2] != ids[3]
    assert {one.headers["Location"] for one in (first, second, third)} == {
        f"/v1/operations/{ids[0]}"
    }
    assert (calls, len(events)) == (2, 2)


@pytest.mark.parametrize("path", ["/v1/postgres/restart", UPDATE])
async def test_repetitions_at_once_begin_one_operation(serving: Serving, path: str) -> None:
    """Whoever comes first begins it; all are told its id."""
    async with serving() as served:
        answers = await asyncio.gather(*(post(served, path, "key") for _ in range(20)))
        calls = len(served.instance.calls)

    assert {one.status for one in answers} == {202}
    assert len({json.loads(one.body)["id"] for one in answers}) == 1
    assert calls == 1


async def test_two_restarts_at_once_without_the_same_key_are_one_and_a_conflict(
    serving: Serving,
) -> None:
    """The refused one has begun nothing: its key works once the other is over."""
    async with serving() as served:
        one, two = await asyncio.gather(
            post(served, "/v1/postgres/restart", "a"), post(served, "/v1/postgres/restart", "b")
        )
        begun, refused = (one, two) if one.status == 202 else (two, one)
        key = "b" if begun is one else "a"
        served.instance.release.set()
        await served.ask(
            "GET",
            f"/v1/operations/{json.loads(begun.body)['id']}",
            headers={"Prefer": "wait=10"},
        )
        again = await post(served, "/v1/postgres/restart", key)

    assert (begun.status, refused.status, again.status) == (202, 409, 200)
    assert json.loads(refused.body)["operation"] == json.loads(begun.body)["id"]
    assert json.loads(again.body)["id"] != json.loads(begun.body)["id"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/postgres/stop", b'{"mode": "fast"}'),
        ("/v1/postgres/restart", b""),
        ("/v1/postgres/restart", b'{"mode": "immediate"}'),
        (UPDATE, b""),
    ],
)
async def test_a_key_is_for_one_request_only(serving: Serving, path: str, body: bytes) -> None:
    """Another path, or another body, is refused with the operation that has the key."""
    async with serving() as served:
        first = await post(served, "/v1/postgres/restart", "key", b'{"mode": "fast"}')
        same = await post(served, "/v1/postgres/restart", "key", b'{ "mode":\n"fast" }')
        other = await post(served, path, "key", body)
        calls = len(served.instance.calls)

    problem = json.loads(other.body)
    assert (same.status, other.status, problem["code"]) == (202, 422, "idempotency-key-reused")
    assert json.loads(first.body)["id"] in problem["detail"]
    assert calls == 1


@pytest.mark.parametrize("key", ["", '""', "two words", 'a"b', "k" * 256, "\u00e9", "\\"])
async def test_a_malformed_key_is_refused_and_begins_nothing(serving: Serving, key: str) -> None:
    """Before anything is done: a key that was cut would take two requests for one."""
    async with serving() as served:
        answer = await post(served, "/v1/postgres/stop", key)
        longest = await post(served, "/v1/postgres/stop", "k" * 255)
        calls = len(served.instance.calls)

    assert (answer.status, json.loads(answer.body)["code"]) == (400, "malformed-request")
    assert (longest.status, calls) == (202, 1)


async def test_two_keys_in_one_request_are_refused(serving: Serving) -> None:
    """Nobody can know which is meant."""
    async with serving() as served:
        raw = await served.raw(
            b"POST /v1/postgres/stop HTTP/1.1\r\nHost: x\r\nIdempotency-Key: a\r\n"
            b"Idempotency-Key: b\r\nConnection: close\r\n\r\n"
        )
        assert served.instance.calls == []

    assert raw.startswith(b"HTTP/1.1 400 ")


async def test_a_key_is_forgotten_with_its_operation(serving: Serving) -> None:
    """As many are remembered as operations: there is no second memory to fill."""
    async with serving() as served:
        served.instance.release.set()
        first = await post(served, "/v1/postgres/reload", "first", Prefer="wait=10")
        for number in range(100):
            await post(served, "/v1/postgres/reload", f"k{number}", Prefer="wait=10")
        again = await post(served, "/v1/postgres/reload", "first")
        kept = await post(served, "/v1/postgres/reload", "k99")

    assert json.loads(again.body)["id"] != json.loads(first.body)["id"]
    assert len(served.instance.calls) == 102
    assert kept.status in (200, 202)


async def test_a_rehearsal_is_no_operation_and_takes_no_key(serving: Serving) -> None:
    """It can be repeated anyway; the key stays free for the update."""
    async with serving() as served:
        rehearsed = await post(served, UPDATE, "key", b'{"dry_run": true}')
        update = await post(served, UPDATE, "key")

    assert (rehearsed.status, update.status) == (200, 202)


async def test_the_client_repeats_with_its_key(serving: Serving) -> None:
    """Every verb takes one; a misuse is an error of its own."""
    async with serving() as served, Client.unix(served.socket) as client:
        first = await client.restart(mode="fast", idempotency_key="key")
        again = await client.restart(mode="fast", idempotency_key="key")
        with pytest.raises(InvalidRequestError, match="belongs to another request"):
            await client.restart(mode="smart", idempotency_key="key")

    assert first.id == again.id


async def test_the_client_does_not_take_an_empty_key_for_none(serving: Serving) -> None:
    """Whoever has lost the key in a variable that is empty is told before it matters."""
    async with serving() as served, Client.unix(served.socket) as client:
        with pytest.raises(AnswerError) as caught:
            await client.restart(idempotency_key="")
        calls = len(served.instance.calls)

    assert caught.value.problem.code == "malformed-request"
    assert calls == 0
