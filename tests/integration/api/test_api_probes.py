"""Probes over the health listener, as the kubelet and people ask them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from instance_manager.supervision.states import Phase

if TYPE_CHECKING:
    from tests.integration.api.conftest import Served, Serving


@pytest.mark.parametrize("path", ["/livez", "/healthz", "/startupz", "/readyz"])
async def test_a_good_probe_answers_ok(serving: Serving, path: str) -> None:
    """Two letters, not to be kept by anybody on the way."""
    async with serving() as served:
        answer = await served.ask("GET", path, port=served.health_port)

    assert (answer.status, answer.body) == (200, b"ok\n")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"


async def test_a_verbose_probe_lists_its_checks(serving: Serving) -> None:
    """In the form of the Kubernetes API server."""
    async with serving() as served:
        answer = await served.ask("GET", "/readyz?verbose", port=served.health_port)

    assert answer.body == (b"[+]postgres ok\n[+]lag ok\n[+]shutdown ok\nreadyz check passed\n")


async def test_healthz_calls_itself_healthz(serving: Serving) -> None:
    """It is the same probe as livez under its old name."""
    async with serving() as served:
        answer = await served.ask("GET", "/healthz?verbose", port=served.health_port)

    assert answer.body == b"[+]heartbeat ok\nhealthz check passed\n"


async def test_a_bad_probe_answers_503_and_withholds_why(serving: Serving) -> None:
    """Without being asked to be verbose, and on the control socket with the reason."""
    async with serving() as served:
        served.instance.ready = False
        public = await served.ask("GET", "/readyz", port=served.health_port)
        local = await served.ask("GET", "/readyz")

    assert public.status == local.status == 503
    assert public.body.startswith(b"[-]postgres failed: reason withheld\n")
    assert public.body.endswith(b"\nreadyz check failed\n")
    assert local.body.startswith(b"[-]postgres failed: the postmaster is silent\n")


async def test_checks_can_be_excluded_one_by_one(serving: Serving) -> None:
    """The parameter is repeatable."""
    async with serving() as served:
        served.instance.phase = Phase.STOPPING
        one = await served.ask("GET", "/readyz?exclude=postgres", port=served.health_port)
        both = await served.ask(
            "GET", "/readyz?exclude=postgres&exclude=shutdown", port=served.health_port
        )

    assert (one.status, both.status, both.body) == (503, 200, b"ok\n")


async def test_one_check_can_be_asked_alone(serving: Serving) -> None:
    """By its name behind the probe's; the others don't count."""
    async with serving() as served:
        served.instance.ready = False
        bad = await served.ask("GET", "/readyz/postgres", port=served.health_port)
        good = await served.ask("GET", "/readyz/lag", port=served.health_port)

    assert (bad.status, good.status, good.body) == (503, 200, b"ok\n")
    assert bad.body == b"[-]postgres failed: reason withheld\nreadyz check failed\n"


async def test_an_unknown_check_is_not_found(serving: Serving) -> None:
    """The answer names those that exist."""
    async with serving() as served:
        answer = await served.ask("GET", "/readyz/etcd", port=served.health_port)

    problem = json.loads(answer.body)
    assert (answer.status, problem["code"]) == (404, "not-found")
    assert problem["hint"] == "the checks are: postgres, lag, shutdown"


async def test_json_is_answered_to_those_who_accept_it(serving: Serving) -> None:
    """A document with the same content, reasons withheld."""
    async with serving() as served:
        served.instance.ready = False
        answer = await served.ask(
            "GET",
            "/readyz",
            port=served.health_port,
            headers={"Accept": "application/json"},
        )

    assert answer.status == 503
    assert json.loads(answer.body) == {
        "status": "failed",
        "checks": [
            {
                "name": "postgres",
                "status": "failed",
                "observed_seconds_ago": 0.0,
                "message": None,
            },
            {"name": "lag", "status": "ok", "observed_seconds_ago": None, "message": None},
            {"name": "shutdown", "status": "ok", "observed_seconds_ago": 0.0, "message": None},
        ],
    }


@pytest.mark.parametrize("ready", [True, False])
async def test_head_says_the_same_without_a_body(serving: Serving, ready: bool) -> None:
    """For load balancers that ask no more."""
    async with serving() as served:
        served.instance.ready = ready
        answer = await served.ask("HEAD", "/readyz", port=served.health_port)

    assert (answer.status, answer.body) == (200 if ready else 503, b"")
    assert int(answer.headers["Content-Length"]) > 0


async def test_the_health_listener_serves_nothing_else(serving: Serving) -> None:
    """The control API is not there, and nothing can be written."""
    async with serving() as served:
        status = await served.ask("GET", "/v1/status", port=served.health_port)
        stop = await served.ask("POST", "/v1/postgres/stop", port=served.health_port)
        post = await served.ask("POST", "/readyz", port=served.health_port)

    assert (status.status, stop.status, post.status) == (404, 404, 405)
    assert post.headers["Allow"] == "GET,HEAD"
    assert served.instance.calls == []


async def test_a_connection_is_kept_for_the_next_probe(serving: Serving) -> None:
    """Two requests, one after the other, on one connection."""
    request = b"GET /livez HTTP/1.1\r\nHost: x\r\n"
    async with serving() as served:
        raw = await served.raw(
            request + b"\r\n" + request + b"Connection: close\r\n\r\n", port=served.health_port
        )

    assert raw.count(b"HTTP/1.1 200 OK") == 2


async def test_probe_answers_are_counted(serving: Serving) -> None:
    """The metrics tell how often a probe failed."""
    async with serving() as served:
        await served.ask("GET", "/readyz", port=served.health_port)
        served.instance.ready = False
        await served.ask("GET", "/readyz", port=served.health_port)
        answer = await served.ask("GET", "/metrics", port=served.health_port)

    text = answer.body.decode()
    assert 'instance_manager_probe_results_total{probe="readyz",result="success"} 1.0' in text
    assert 'instance_manager_probe_results_total{probe="readyz",result="failure"} 1.0' in text


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", "text/plain"),
        ("application/openmetrics-text;version=1.0.0,*/*;q=0.1", "application/openmetrics-text"),
    ],
)
async def test_metrics_come_in_the_form_that_is_asked_for(
    serving: Serving, accept: str, content_type: str
) -> None:
    """Prometheus sends a list; others nothing."""
    async with serving() as served:
        answer = await served.ask(
            "GET", "/metrics", port=served.health_port, headers={"Accept": accept}
        )

    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith(content_type)
    assert b'instance_manager_phase{phase="running"} 1.0' in answer.body


PLAIN = ["/livez", "/healthz", "/startupz", "/readyz", "/readyz?verbose", "/livez?verbose"]


async def both_ways(served: Served, request: bytes) -> list[list[bytes]]:
    """Return the answers to a plain request and to one that is not; headers have no order."""
    answers: list[list[bytes]] = []
    for rest in (b"\r\n", b"Content-Length: 0\r\n\r\n"):
        raw = await served.raw(request + rest, port=served.health_port)
        head, _, body = raw.partition(b"\r\n\r\n")
        status, *headers = head.split(b"\r\n")
        answers.append([status, *sorted(headers), body])
    return answers


def date_of(answer: list[bytes]) -> bytes:
    """Return the line of an answer that tells the second."""
    return next(line for line in answer if line.startswith(b"Date: "))


@pytest.mark.parametrize("path", PLAIN)
@pytest.mark.parametrize("ready", [True, False])
async def test_the_short_way_answers_as_the_long_one(
    serving: Serving, path: str, ready: bool
) -> None:
    """The status, every header, and the body."""
    async with serving() as served:
        served.instance.ready = ready
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".encode()
        async with asyncio.timeout(30):
            plain, stack = await both_ways(served, request)
            while date_of(plain) != date_of(stack):  # the second has changed in between
                plain, stack = await both_ways(served, request)
        counted = dict(served.instance.measurements.probe_results())

    assert plain == stack
    assert sum(counted.values()) >= 2


@pytest.mark.parametrize(
    "request_text",
    [
        b"GET /nothing HTTP/1.1\r\nHost: x\r\n",
        b"GET /readyz/etcd HTTP/1.1\r\nHost: x\r\n",
        b"GET /readyz?exclude=postgres HTTP/1.1\r\nHost: x\r\n",
        b"GET /readyz HTTP/1.1\r\nHost: x\r\nAccept: text/html, application/json\r\n",
        b"HEAD /readyz HTTP/1.1\r\nHost: x\r\n",
        b"POST /readyz HTTP/1.1\r\nHost: x\r\n",
        b"GET /readyz HTTP/1.0\r\nHost: x\r\n",
        b"GET /readyz HTTP/1.1\r\nHost: x\r\nbad header\r\n",
        b"GET /readyz HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 3000 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n",
    ],
)
async def test_what_is_not_plain_is_answered_by_the_stack(
    serving: Serving, request_text: bytes
) -> None:
    """In one piece, or byte by byte: the short way takes nothing from it."""
    async with serving() as served:
        whole = await served.raw(
            request_text + b"Connection: close\r\n\r\n", port=served.health_port
        )
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", served.health_port)
            for start in range(0, len(request_text), 100):
                writer.write(request_text[start : start + 100])
                await asyncio.sleep(0)
            writer.write(b"Connection: close\r\n\r\n")
            pieces = await reader.read()
            writer.close()

    # The status, and the body where there is one.
    assert whole.split(b"\r\n")[0] == pieces.split(b"\r\n")[0]
    assert whole.partition(b"\r\n\r\n")[2] == pieces.partition(b"\r\n\r\n")[2]
    assert whole.startswith(b"HTTP/1.")


async def test_plain_requests_are_answered_on_one_connection_and_then_others(
    serving: Serving,
) -> None:
    """A connection that is kept may ask for anything next."""
    async with serving() as served, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.health_port)
        for path in (b"/readyz", b"/livez", b"/readyz/lag", b"/metrics"):
            writer.write(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert len(await reader.readexactly(length)) == length
        writer.close()


async def test_connections_that_say_nothing_are_closed_with_the_listener(
    serving: Serving,
) -> None:
    """Before a request and after one; the end of serving waits for none of them."""
    async with serving() as served, asyncio.timeout(10):
        silent, silent_writer = await asyncio.open_connection("127.0.0.1", served.health_port)
        kept, kept_writer = await asyncio.open_connection("127.0.0.1", served.health_port)
        kept_writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        await kept.readuntil(b"ok\n")
    async with asyncio.timeout(10):
        assert await silent.read() == b""
        assert await kept.read() == b""
    silent_writer.close()
    kept_writer.close()


async def test_who_says_nothing_is_closed_after_a_while(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one who has asked before; nothing is set up behind for him."""
    monkeypatch.setattr("instance_manager.api.server.KEEPALIVE_SECONDS", 0.3)
    monkeypatch.setattr("instance_manager.api.server.Connection", None)
    async with serving() as served, asyncio.timeout(10):
        silent, writer = await asyncio.open_connection("127.0.0.1", served.health_port)
        assert await silent.read() == b""
        writer.close()


async def test_the_time_of_the_handler_is_measured(serving: Serving) -> None:
    """On both ways, by probe."""
    async with serving() as served:
        for request in ("/readyz", "/readyz?exclude=lag"):
            await served.ask("GET", request, port=served.health_port)
        answer = await served.ask("GET", "/metrics", port=served.health_port)

    assert b'instance_manager_probe_handler_seconds_count{probe="readyz"} 2.0' in answer.body
