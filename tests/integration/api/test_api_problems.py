"""Every way in which a request fails is answered with a problem document."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.integration.api.conftest import Answer, Serving

JSON = {"Content-Type": "application/json"}


def problem_of(answer: Answer) -> dict[str, Any]:
    """Return the problem that an answer carries, having checked its form."""
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Server"] == "instance-manager"
    problem: dict[str, Any] = json.loads(answer.body)
    assert problem["status"] == answer.status
    assert problem["type"] == f"urn:instance-manager:problem:{problem['code']}"
    return problem


async def test_an_unknown_path_is_not_found(serving: Serving) -> None:
    """Its name is in the answer."""
    async with serving() as served:
        problem = problem_of(await served.ask("GET", "/v1/nothing"))

    assert (problem["status"], problem["code"]) == (404, "not-found")
    assert problem["detail"] == "there is nothing at '/v1/nothing'"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v1/status", "GET,HEAD"),
        ("GET", "/v1/postgres/stop", "POST"),
        ("PUT", "/v1/operations/op-1", "DELETE,GET,HEAD"),
        ("PATCH", "/readyz", "GET,HEAD"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(
    serving: Serving, method: str, path: str, allowed: str
) -> None:
    """In the Allow header, as the standard wants it."""
    async with serving() as served:
        answer = await served.ask(method, path)

    assert problem_of(answer)["code"] == "method-not-allowed"
    assert answer.headers["Allow"] == allowed


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", JSON, 400, "malformed-request"),
        (b'{"mode": "fast", "mode": "smart"}', JSON, 400, "malformed-request"),
        (b'{"mode": "\xff"}', JSON, 400, "malformed-request"),
        (b'{"mode": "gentle"}', JSON, 422, "invalid-input"),
        (b'{"modus": "fast"}', JSON, 422, "invalid-input"),
        (b"mode=fast", {}, 415, "unsupported-media-type"),
        (b"mode=fast", {"Content-Type": "text/plain"}, 415, "unsupported-media-type"),
        (b'{"mode": "' + b"x" * 70_000 + b'"}', JSON, 413, "body-too-large"),
        (b"{}", {**JSON, "Content-Encoding": "gzip"}, 415, "unsupported-media-type"),
    ],
)
async def test_a_bad_body_is_refused_before_anything_is_done(
    serving: Serving, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    """Each kind of badness has its status and its code."""
    async with serving() as served:
        problem = problem_of(await served.ask("POST", "/v1/postgres/stop", body, headers=headers))

        assert (problem["status"], problem["code"]) == (status, code)
        assert served.instance.calls == []
        assert served.instance.operations.recent() == ()


async def test_invalid_input_says_where_it_is_wrong(serving: Serving) -> None:
    """Each error has the path of its member."""
    async with serving() as served:
        problem = problem_of(
            await served.ask("POST", "/v1/postgres/stop", b'{"mode": "gentle"}', headers=JSON)
        )

    (error,) = problem["errors"]
    assert error["path"] == "mode"
    assert "'fast'" in error["message"]


async def test_a_body_where_none_belongs_is_refused(serving: Serving) -> None:
    """A start has no mode; an empty object is nothing."""
    async with serving() as served:
        served.instance.release.set()
        refused = await served.ask("POST", "/v1/postgres/start", b'{"mode": "fast"}', headers=JSON)
        accepted = await served.ask("POST", "/v1/postgres/start", b"{}", headers=JSON)

    assert problem_of(refused)["code"] == "invalid-input"
    assert accepted.status == 200


async def test_a_body_in_broken_chunks_is_malformed(serving: Serving) -> None:
    """The framing is part of the request."""
    async with serving() as served:
        raw = await served.raw(
            b"POST /v1/postgres/stop HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
        )

        assert b" 400 " in raw.partition(b"\r\n")[0]
        assert served.instance.calls == []


@pytest.mark.parametrize(
    "request_text",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 9_000 + b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n" + b"X: y\r\n" * 500 + b"\r\n",
        b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_told_so_and_let_go(
    serving: Serving, request_text: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    """A problem without versions or traceback, and nothing in the log."""
    async with serving() as served:
        raw = await served.raw(request_text, port=served.health_port)

    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
    assert b"Server: instance-manager\r\n" in head
    assert b"aiohttp" not in raw
    assert json.loads(body)["code"] == "malformed-request"
    assert capfd.readouterr() == ("", "")


async def test_a_client_that_goes_away_in_the_middle_is_no_fault(
    serving: Serving, capfd: pytest.CaptureFixture[str]
) -> None:
    """A body that never ends with its connection: nothing is done, nothing is logged."""
    async with serving() as served:
        _, writer = await asyncio.open_unix_connection(served.socket)
        writer.write(
            b"POST /v1/postgres/stop HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        await writer.drain()
        await served.ask("GET", "/livez")
        writer.close()
        await writer.wait_closed()
        await served.ask("GET", "/livez")

        assert served.instance.calls == []
    assert capfd.readouterr() == ("", "")


async def test_an_unexpected_error_is_answered_without_its_text(serving: Serving) -> None:
    """It may hold anything; the log has it."""
    async with serving() as served:

        def fail() -> Any:
            raise ValueError("password=hunter2")

        served.instance.status = fail  # type: ignore[method-assign]
        answer = await served.ask("GET", "/v1/status")

    assert problem_of(answer)["code"] == "internal"
    assert b"hunter2" not in answer.body
    assert b"Traceback" not in answer.body


async def test_an_answer_can_be_read_by_nobody_else_and_kept_by_nobody(serving: Serving) -> None:
    """The headers say so, on every listener and for errors too."""
    async with serving() as served:
        answers = [
            await served.ask("GET", "/v1/status"),
            await served.ask("GET", "/v1/nothing"),
            await served.ask("GET", "/livez", port=served.health_port),
            await served.ask("GET", "/v1/status", port=served.control_port),
        ]

    for answer in answers:
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Server"] == "instance-manager"
