"""Who asked for what, and what came of it: the events that changes leave, refused ones too."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from instance_manager.api.server import Credentials
from instance_manager.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.integration.api.conftest import Served, Serving

JSON = {"Content-Type": "application/json"}
ANY_TAG = {**JSON, "If-Match": "*"}
TOKEN = Credentials(token=lambda: "hunter2")
ME = f"uid={os.getuid()}"


def told(served: Served) -> list[tuple[str, str, str]]:
    """Return what was asked for and by whom, by the events; the caller's process has a number."""
    return [
        (event.reason, event.message, event.actor.partition(" pid=")[0])
        for event in served.instance.events.recent()
    ]


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        (
            lambda served: served.ask("POST", "/v1/extensions/rescan"),
            (
                "RescanRequested",
                "a look at the extension volumes was asked for",
                ME,
            ),
        ),
        (
            lambda served: served.ask("DELETE", "/v1/operations/none"),
            (
                "ChangeRefused",
                "DELETE /v1/operations/none was refused: not-found",
                ME,
            ),
        ),
        (
            lambda served: served.ask("POST", "/v1/postgres/stop", port=served.control_port),
            (
                "ChangeRefused",
                "POST /v1/postgres/stop was refused: forbidden",
                "unknown from 127.0.0.1",
            ),
        ),
    ],
)
async def test_every_change_that_is_asked_for_is_noted(
    serving: Serving, ask: Callable[[Served], Awaitable[object]], expected: tuple[str, str, str]
) -> None:
    """Also one that is refused, and one that is no operation; readings are not."""
    async with serving() as served:
        await served.ask("GET", "/v1/status")
        await ask(served)

    assert told(served) == [expected]


async def test_a_scanner_does_not_push_the_events_of_others_out(serving: Serving) -> None:
    """Its refusals are told up to a bound."""
    async with serving() as served:
        served.instance.events.record("Mine", "to be kept")
        for _ in range(100):
            await served.ask("POST", "/v1/nothing", port=served.control_port)

    assert len(told(served)) == 21
    assert told(served)[0][0] == "Mine"


async def test_whoever_shows_nothing_has_one_bound_whatever_he_asks(serving: Serving) -> None:
    """Some of it is refused at the gate, some behind it, where the open readings are."""
    async with serving() as served:
        for _ in range(15):
            await served.ask("POST", "/v1/nothing", port=served.control_port)
            await served.ask("POST", "/v1/postgres/stop", port=served.control_port)

    assert len(told(served)) == 20


async def two_restarts(served: Served) -> None:
    await served.ask("POST", "/v1/postgres/restart")
    await served.ask("POST", "/v1/postgres/restart")


async def change_of_the_files(served: Served) -> None:
    served.instance.configuration.is_from_file = True
    await served.ask("PUT", "/v1/configuration", b"{}", headers=ANY_TAG)


async def unknown_parameter(served: Served) -> None:
    body = b'{"parameters": {"nonsense": "1"}}'
    await served.ask("PUT", "/v1/configuration", body, headers=ANY_TAG)


async def reused_key(served: Served) -> None:
    await served.ask("POST", "/v1/postgres/start", headers={"Idempotency-Key": "k"})
    await served.ask("POST", "/v1/postgres/stop", headers={"Idempotency-Key": "k"})


@pytest.mark.parametrize(
    ("ask", "request_", "details"),
    [
        (
            two_restarts,
            "POST /v1/postgres/restart",
            {"status": 409, "code": "conflict", "operation": "op-1"},
        ),
        (change_of_the_files, "PUT /v1/configuration", {"status": 409, "code": "conflict"}),
        (unknown_parameter, "PUT /v1/configuration", {"status": 422, "code": "settings-invalid"}),
        (
            reused_key,
            "POST /v1/postgres/stop",
            {"status": 422, "code": "idempotency-key-reused"},
        ),
    ],
)
async def test_a_change_that_the_instance_refuses_is_noted(
    serving: Serving,
    ask: Callable[[Served], Awaitable[None]],
    request_: str,
    details: dict[str, object],
) -> None:
    """Who asked, for what, and by which code it was refused."""
    async with serving() as served:
        await ask(served)

    last = served.instance.events.recent()[-1]
    said = f"{request_} was refused: {details['code']}"
    assert told(served)[-1] == ("ChangeRefused", said, ME)
    assert (last.type, dict(last.details)) == ("Warning", details)


async def test_a_fault_of_the_manager_leaves_who_had_asked(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have come halfway, so it is not said to be refused."""

    async def fault() -> None:
        raise RuntimeError("unforeseen")

    async with serving() as served:
        monkeypatch.setattr(served.instance, "rescan", fault)
        answer = await served.ask("POST", "/v1/extensions/rescan")

    assert answer.status == 500
    assert told(served)[-1] == ("ChangeFailed", "POST /v1/extensions/rescan failed: internal", ME)


async def test_what_the_state_forbids_is_noted_with_its_operation(serving: Serving) -> None:
    """The operation is begun and answered, but its end tells nobody who reads the events."""
    async with serving() as served:
        served.instance.outcome = ConflictError("cannot restart: the instance is fenced")
        served.instance.release.set()
        await served.ask("POST", "/v1/postgres/restart", headers={"Prefer": "wait=10"})

    last = served.instance.events.recent()[-1]
    assert [one[0] for one in told(served)] == ["RestartRequested", "ChangeRefused"]
    assert told(served)[-1] == (
        "ChangeRefused",
        "restart of postgres was refused: cannot restart: the instance is fenced",
        ME,
    )
    assert dict(last.details) == {"code": "conflict", "operation": "op-1"}


async def test_an_update_that_is_forbidden_after_all_is_noted(serving: Serving) -> None:
    """Another one of the same extension has come first, since it was planned."""
    async with serving() as served:
        served.instance.outcome = ConflictError("somebody else is at it")
        served.instance.release.set()
        path = "/v1/databases/app/extensions/toy/update"
        await served.ask("POST", path, b"{}", headers={**JSON, "Prefer": "wait=10"})

    last = served.instance.events.recent()[-1]
    assert told(served)[-1] == (
        "ChangeRefused",
        "update of extension 'toy' of database 'app' was refused: somebody else is at it",
        ME,
    )
    assert dict(last.details) == {"code": "conflict", "operation": "op-1"}


async def test_a_scanner_does_not_hide_what_an_operator_is_refused(serving: Serving) -> None:
    """Who shows no credential has a bound of his own; who shows one has one, too."""
    operator = {"Authorization": "Bearer hunter2"}
    async with serving(TOKEN) as served:
        for _ in range(25):
            await served.ask("POST", "/v1/postgres/stop", port=served.control_port)
        for _ in range(25):
            await served.ask(
                "DELETE", "/v1/operations/none", port=served.control_port, headers=operator
            )

    actors = [actor for _, _, actor in told(served)]
    assert actors == ["unknown from 127.0.0.1"] * 20 + ["token from 127.0.0.1"] * 20
