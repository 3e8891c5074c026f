"""The typed client against the real server: every endpoint, and every kind of failure."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from instance_manager import client as its_module
from instance_manager.api.descriptions import DESCRIPTIONS
from instance_manager.api.problems import RequestCode, problem_of
from instance_manager.api.routes import CONTROL_ROUTES, HEALTH_ROUTES
from instance_manager.api.server import Credentials
from instance_manager.client import (
    ANY_TAG,
    AnswerError,
    Client,
    ConfigurationDocument,
    InvalidRequestError,
    NotFoundError,
    OperationConflictError,
    RefusedError,
    UnreachableError,
)
from instance_manager.databases.sessions import Limits
from instance_manager.errors import ErrorCode, Exit
from instance_manager.field_texts import models_below

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from tests.integration.api.conftest import Serving


@asynccontextmanager
async def answering(directory: Path, answer: bytes) -> AsyncGenerator[Client]:
    """Yield a client of a server that gives *answer* to everything."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    path = directory / "other.sock"
    server = await asyncio.start_unix_server(reply, path)
    async with server, Client.unix(path) as client:
        yield client


CALLS: dict[tuple[str, str], Callable[[Client], Awaitable[object]]] = {
    ("GET", "/livez"): lambda client: client.probe("livez"),
    ("GET", "/startupz"): lambda client: client.probe("startupz"),
    ("GET", "/readyz"): lambda client: client.probe("readyz"),
    ("GET", "/metrics"): lambda client: client.metrics(),
    ("GET", "/v1/status"): lambda client: client.status(),
    ("GET", "/v1/events"): lambda client: client.events(),
    ("GET", "/v1/extensions"): lambda client: client.extensions(),
    ("GET", "/v1/extensions/{volume}"): lambda client: client.extension_volume("pgvector"),
    ("POST", "/v1/databases/{name}/extensions/{extension}/update"): lambda client: (
        client.update_extension("app", "toy", version="1.1")
    ),
    ("GET", "/openapi.json"): lambda client: client.openapi(),
    ("GET", "/v1/configuration"): lambda client: client.configuration(),
    ("PUT", "/v1/configuration"): lambda client: client.put_configuration(
        ConfigurationDocument(), ANY_TAG
    ),
    ("GET", "/v1/databases"): lambda client: client.databases(),
    ("GET", "/v1/databases/{name}/extensions"): lambda client: client.database_extensions("app"),
    ("POST", "/v1/extensions/rescan"): lambda client: client.rescan(),
    ("POST", "/v1/postgres/start"): lambda client: client.start(),
    ("POST", "/v1/postgres/stop"): lambda client: client.stop(mode="fast"),
    ("POST", "/v1/postgres/restart"): lambda client: client.restart(mode="smart"),
    ("POST", "/v1/postgres/reload"): lambda client: client.reload(),
    ("POST", "/v1/postgres/checkpoint"): lambda client: client.checkpoint(),
    ("POST", "/v1/postgres/fence"): lambda client: client.fence(mode="immediate"),
    ("POST", "/v1/postgres/unfence"): lambda client: client.unfence(),
    ("GET", "/v1/operations"): lambda client: client.operations(),
    ("GET", "/v1/operations/{id}"): lambda client: client.operation("op-1"),
    ("DELETE", "/v1/operations/{id}"): lambda client: client.cancel("op-1"),
}


@pytest.mark.parametrize("route", sorted(CALLS))
async def test_the_client_has_a_method_for_each_route(
    serving: Serving, route: tuple[str, str]
) -> None:
    """And reads what it answers."""
    async with serving() as served, Client.unix(served.socket) as client:
        begun = await client.start()
        if route[0] == "POST":
            # The slot is free for the verb; the other routes look at what still runs.
            await client.cancel(begun.id, wait_seconds=10)

        assert await CALLS[route](client) is not None


def test_no_route_is_without_a_method_of_the_client() -> None:
    """But a single check, healthz, which is livez, and the page for people."""
    routes = {
        (route.method, route.path)
        for route in HEALTH_ROUTES + CONTROL_ROUTES
        if "{check}" not in route.path and route.path not in {"/healthz", "/docs"}
    }

    assert set(CALLS) == routes


async def test_a_rehearsal_is_read_as_one(serving: Serving) -> None:
    """It changes nothing, so it is no operation."""
    async with serving() as served, Client.unix(served.socket) as client:
        report = await client.rehearse_update("app", "toy", version="1.2", timeout_seconds=5)

    assert (report.outcome, report.path) == ("succeeded", ("1.0", "1.1", "1.2"))
    assert served.instance.operations.recent() == ()


async def test_an_update_takes_its_limits_with_it(serving: Serving) -> None:
    """For each lock, and for each statement; what is out of range is not sent."""
    async with serving() as served, Client.unix(served.socket) as client:
        served.instance.release.set()
        done = await client.update_extension(
            "app", "toy", lock_timeout_seconds=2, timeout_seconds=30, wait_seconds=10
        )
        for limit in (0, 3601, float("nan")):
            with pytest.raises(ValueError, match="timeout_seconds"):
                await client.update_extension("app", "toy", timeout_seconds=limit)

    assert done.state == "succeeded"
    assert served.instance.calls == [("update", "1.2", Limits(2, 30))]


def test_a_configuration_is_never_put_over_another_one_by_omission() -> None:
    """Without a tag there is no call; the tag of whatever there is has a name."""
    parameter = inspect.signature(Client.put_configuration).parameters["etag"]

    assert parameter.default is inspect.Parameter.empty
    assert parameter.annotation == "str"
    assert its_module.ANY_TAG == "*"


def test_all_that_the_client_returns_can_be_imported_from_it() -> None:
    """A program needs no other module of ours for its annotations."""
    returned = {
        model.__name__.partition("[")[0]
        for description in DESCRIPTIONS.values()
        for answer in description.answers.values()
        if answer is not None
        for model in models_below(*(answer if isinstance(answer, tuple) else (answer,)))
    }

    assert returned - {"Items"} <= set(its_module.__all__)
    assert all(hasattr(its_module, name) for name in its_module.__all__)


async def test_a_wait_ends_with_the_operation(serving: Serving) -> None:
    """The method returns when the thing is done."""
    async with serving() as served, Client.unix(served.socket) as client:
        asyncio.get_running_loop().call_later(0.05, served.instance.release.set)
        operation = await client.restart(mode="fast", wait_seconds=10)

    assert operation.state == "succeeded"
    assert served.instance.calls == [("restart", "fast")]


async def test_a_wait_that_is_over_returns_what_still_runs(serving: Serving) -> None:
    """It can be waited for again by its id."""
    async with serving() as served, Client.unix(served.socket) as client:
        running = await client.stop(wait_seconds=1)
        served.instance.release.set()
        done = await client.operation(running.id, wait_seconds=10)

    assert (running.state, done.state) == ("running", "succeeded")
    assert running.progress is not None
    assert running.progress.step == "waiting"


async def test_a_running_operation_can_be_cancelled(serving: Serving) -> None:
    """And the caller can wait for its end."""
    async with serving() as served, Client.unix(served.socket) as client:
        running = await client.start()
        cancelled = await client.cancel(running.id, wait_seconds=10)

    assert cancelled.state == "cancelled"


async def test_a_conflict_has_its_own_type_and_exit_code(serving: Serving) -> None:
    """And names the operation in the way."""
    async with serving() as served, Client.unix(served.socket) as client:
        running = await client.restart()
        with pytest.raises(OperationConflictError) as caught:
            await client.restart()

    assert caught.value.problem.operation == running.id
    assert caught.value.problem.code == "conflict"
    assert caught.value.exit_code == Exit.CONFLICT


async def test_what_is_not_there_is_not_found(serving: Serving) -> None:
    """A name is one segment of the path, whatever is in it."""
    async with serving() as served, Client.unix(served.socket) as client:
        for name in ("postgis", "a/b", "a b", "é", "?x=1", "%2e"):
            with pytest.raises(NotFoundError, match=f"no volume '{name}'".replace("?", r"\?")):
                await client.extension_volume(name)


async def test_a_bad_probe_is_an_answer(serving: Serving) -> None:
    """Over the control socket, with its reasons."""
    async with serving() as served, Client.unix(served.socket) as client:
        served.instance.ready = False
        whole = await client.probe("readyz")
        one = await client.probe("readyz", check="lag")
        without = await client.probe("readyz", exclude=["postgres", "lag"])

    assert whole.status == "failed"
    assert whole.checks[0].message == "the postmaster is silent"
    assert [check.name for check in one.checks] == ["lag"]
    assert [check.status for check in without.checks] == ["excluded", "excluded", "ok"]


async def test_the_token_is_sent(serving: Serving) -> None:
    """With each request; without it, the refusal has its own type."""
    async with serving(Credentials(token=lambda: "hunter2")) as served:
        url = f"http://127.0.0.1:{served.control_port}/"
        async with Client.tcp(url, token="hunter2") as client:
            await client.status()
        async with Client.tcp(url) as client:
            with pytest.raises(RefusedError) as caught:
                await client.status()

    assert caught.value.problem.status == 401
    assert caught.value.exit_code == Exit.FAILED


async def test_nobody_there_is_unreachable(tmp_path: Path) -> None:
    """The error names the socket."""
    path = tmp_path / "nobody.sock"
    async with Client.unix(path) as client:
        with pytest.raises(UnreachableError, match=r"nobody\.sock") as caught:
            await client.status()

    assert caught.value.exit_code == Exit.FAILED


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<html",
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\n\r\n<html",
        b"HTTP/1.1 302 Found\r\nLocation: http://evil.example/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{",
        b"nonsense\r\n\r\n",
        b"",
    ],
)
async def test_another_server_is_not_taken_for_an_instance(tmp_path: Path, answer: bytes) -> None:
    """Whatever it answers, the failure is one of ours, and no redirect is followed."""
    async with answering(tmp_path, answer) as client:
        with pytest.raises(UnreachableError):
            await client.status()


async def test_a_server_without_tls_is_not_taken_for_a_manager_that_is_gone(
    serving: Serving,
) -> None:
    """The hint is about TLS."""
    async with (
        serving() as served,
        Client.tcp(f"https://127.0.0.1:{served.control_port}") as client,
    ):
        with pytest.raises(UnreachableError) as caught:
            await client.status()

    assert caught.value.hint.startswith("does it answer with TLS there")


async def test_a_client_that_is_not_open_says_so(tmp_path: Path) -> None:
    """It is a context manager, and nothing before and after."""
    client = Client.unix(tmp_path / "control.sock")

    with pytest.raises(UnreachableError, match="not open"):
        await client.status()


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (RequestCode.UNAUTHENTICATED, RefusedError),
        (RequestCode.FORBIDDEN, RefusedError),
        (RequestCode.NOT_FOUND, NotFoundError),
        (ErrorCode.CONFLICT, OperationConflictError),
        (RequestCode.INVALID, InvalidRequestError),
        (RequestCode.TOO_LARGE, AnswerError),
        (ErrorCode.INTERNAL, AnswerError),
    ],
)
async def test_each_problem_has_its_error(
    tmp_path: Path, code: ErrorCode | RequestCode, error: type[AnswerError]
) -> None:
    """By its status; a status without a type of its own keeps its code."""
    problem = problem_of(code, "why", hint="do this")
    body = problem.model_dump_json().encode()
    head = f"HTTP/1.1 {problem.status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    async with answering(tmp_path, head + body) as client:
        with pytest.raises(error) as caught:
            await client.status()

    assert type(caught.value) is error
    assert caught.value.problem == problem
    assert (caught.value.message, caught.value.hint) == ("why", "do this")


def test_the_client_loads_nothing_of_the_server() -> None:
    """An operator's program imports it, and not what serves."""
    program = "import sys, instance_manager.client; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    ).stdout.split()

    ours = {name for name in modules if name.startswith("instance_manager.api")}
    documents = {
        "instance_manager.api.configuration_models",
        "instance_manager.api.event_stream",
        "instance_manager.api.models",
        "instance_manager.api.update_models",
    }
    assert ours == {"instance_manager.api"} | documents
    servers = {"aiohttp.web", "psycopg", "prometheus_client", "psutil", "structlog", "yaml"}
    assert not servers & set(modules)
