"""The control API over the unix socket: status, extensions, operations and events."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from instance_manager.errors import StartError

if TYPE_CHECKING:
    from tests.integration.api.conftest import Serving

JSON = {"Content-Type": "application/json"}


async def test_the_status_is_told(serving: Serving) -> None:
    """The whole instance, as JSON."""
    async with serving() as served:
        answer = await served.ask("GET", "/v1/status")

    status = json.loads(answer.body)
    assert answer.headers["Content-Type"] == "application/json"
    assert (status["phase"], status["desired"], status["operation"]) == (
        "running",
        "running",
        None,
    )


async def test_the_extensions_are_told(serving: Serving) -> None:
    """All of them, one of them, and what there is where one is missing."""
    async with serving() as served:
        whole = json.loads((await served.ask("GET", "/v1/extensions")).body)
        one = json.loads((await served.ask("GET", "/v1/extensions/pgvector")).body)
        missing = await served.ask("GET", "/v1/extensions/postgis")

    assert whole["composed"]["extension_control_path"] == "$system:/extensions/pgvector/share"
    assert whole["running"] == {}
    assert whole["volumes"] == [one]
    assert missing.status == 404
    assert json.loads(missing.body)["hint"] == "the volumes are: pgvector"


async def test_the_databases_are_told(serving: Serving) -> None:
    """All of them, the extensions of one, and which there are where one is missing."""
    async with serving() as served:
        whole = json.loads((await served.ask("GET", "/v1/databases")).body)
        one = json.loads((await served.ask("GET", "/v1/databases/app/extensions")).body)
        missing = await served.ask("GET", "/v1/databases/shop/extensions")

    assert whole["items"][0]["libraries"][0]["access_methods"] == ["hnsw"]
    assert one["items"] == [
        {
            "name": "vector",
            "installed_version": "0.8.0",
            "schema": "public",
            "default_version": "0.8.1",
            "versions": ["0.8.0", "0.8.1"],
            "updates": [{"target": "0.8.1", "path": ["0.8.0", "0.8.1"]}],
        }
    ]
    assert missing.status == 404
    assert json.loads(missing.body)["hint"] == "the databases are: app"


@pytest.mark.parametrize(
    ("verb", "body", "call"),
    [
        ("start", b"", ("start",)),
        ("start", b'{"ignore_inventory": false}', ("start",)),
        ("start", b'{"ignore_inventory": true}', ("start", "ignore inventory")),
        ("reload", b"", ("reload",)),
        ("checkpoint", b"", ("checkpoint",)),
        ("fence", b"", ("fence", None)),
        ("fence", b'{"mode": "fast"}', ("fence", "fast")),
        ("unfence", b"", ("unfence",)),
        ("stop", b"", ("stop", None)),
        ("stop", b'{"mode": "immediate"}', ("stop", "immediate")),
        ("restart", b'{"mode": null}', ("restart", None)),
        ("restart", b'{"mode": "smart"}', ("restart", "smart")),
    ],
)
async def test_a_verb_begins_an_operation(
    serving: Serving, verb: str, body: bytes, call: tuple[object, ...]
) -> None:
    """202, and a place where its progress and its end are told."""
    async with serving() as served:
        answer = await served.ask("POST", f"/v1/postgres/{verb}", body, headers=JSON)
        running = json.loads((await served.ask("GET", answer.headers["Location"])).body)
        served.instance.release.set()
        done = await served.ask("GET", answer.headers["Location"], headers={"Prefer": "wait=10"})

        assert answer.status == 202
        assert json.loads(answer.body)["kind"] == verb
        assert running["state"] == "running"
        assert running["progress"] == {
            "step": "waiting",
            "message": "for the test",
            "percent": None,
        }
        assert json.loads(done.body)["state"] == "succeeded"
        assert served.instance.calls == [call]


async def test_what_is_done_within_the_preferred_wait_is_answered_as_done(
    serving: Serving,
) -> None:
    """200 with the end of the operation, and the preference said to be applied."""
    async with serving() as served:
        asyncio.get_running_loop().call_later(0.05, served.instance.release.set)
        answer = await served.ask("POST", "/v1/postgres/restart", headers={"Prefer": "wait=10"})

    assert answer.status == 200
    assert answer.headers["Preference-Applied"] == "wait=10"
    assert answer.headers["Location"] == "/v1/operations/op-1"
    assert json.loads(answer.body)["state"] == "succeeded"


async def test_what_takes_longer_than_the_preferred_wait_is_accepted(serving: Serving) -> None:
    """202 after that time; the operation goes on."""
    async with serving() as served:
        answer = await served.ask("POST", "/v1/postgres/restart", headers={"Prefer": "wait=1"})

    assert answer.status == 202
    assert json.loads(answer.body)["state"] == "running"


async def test_what_already_holds_is_answered_as_done_at_once(serving: Serving) -> None:
    """Nobody needs to wait for what need not be done."""
    async with serving() as served:
        served.instance.release.set()
        answer = await served.ask("POST", "/v1/postgres/start")

    assert answer.status == 200
    assert json.loads(answer.body)["state"] == "succeeded"
    assert "Preference-Applied" not in answer.headers


async def test_a_failed_operation_is_answered_with_its_problem(serving: Serving) -> None:
    """The request succeeded: the operation is what failed."""
    async with serving() as served:
        served.instance.outcome = StartError("cannot start postgres: no memory", hint="add some")
        served.instance.release.set()
        answer = await served.ask("POST", "/v1/postgres/start", headers={"Prefer": "wait=10"})

    operation = json.loads(answer.body)
    assert (answer.status, operation["state"]) == (200, "failed")
    assert operation["error"]["code"] == "start-failed"
    assert operation["error"]["detail"] == "cannot start postgres: no memory"
    assert operation["error"]["hint"] == "add some"


async def test_two_restarts_at_once_are_one_and_a_conflict(serving: Serving) -> None:
    """The second is told the id of the first; the status shows it."""
    async with serving() as served:
        first, second = await asyncio.gather(
            served.ask("POST", "/v1/postgres/restart"), served.ask("POST", "/v1/postgres/restart")
        )
        status = json.loads((await served.ask("GET", "/v1/status")).body)

    refused, accepted = sorted((first, second), key=lambda answer: answer.status, reverse=True)
    problem = json.loads(refused.body)
    running = json.loads(accepted.body)["id"]
    assert (accepted.status, refused.status, problem["code"]) == (202, 409, "conflict")
    assert problem["operation"] == running == status["operation"]["id"]
    assert running in problem["detail"]


async def test_a_stop_takes_over_from_a_restart(serving: Serving) -> None:
    """The restart ends cancelled, the stop runs."""
    async with serving() as served:
        restart = await served.ask("POST", "/v1/postgres/restart")
        stop = await served.ask("POST", "/v1/postgres/stop")
        served.instance.release.set()
        stopped = await served.ask("GET", stop.headers["Location"], headers={"Prefer": "wait=10"})
        cancelled = json.loads((await served.ask("GET", restart.headers["Location"])).body)

    assert stop.status == 202
    assert json.loads(stopped.body)["state"] == "succeeded"
    assert cancelled["state"] == "cancelled"
    assert cancelled["progress"]["message"] == "by stop 'op-2'"
    assert cancelled["error"] is None


async def test_a_restart_can_be_cancelled(serving: Serving) -> None:
    """Deleting it twice is the same as once; what is gone can't be found."""
    async with serving() as served:
        begun = await served.ask("POST", "/v1/postgres/restart")
        first = await served.ask(
            "DELETE", begun.headers["Location"], headers={"Prefer": "wait=10"}
        )
        again = await served.ask("DELETE", begun.headers["Location"])
        missing = await served.ask("DELETE", "/v1/operations/op-9")

    assert (first.status, again.status, missing.status) == (200, 200, 404)
    assert json.loads(first.body)["state"] == json.loads(again.body)["state"] == "cancelled"


async def test_a_stop_cannot_be_cancelled(serving: Serving) -> None:
    """The signal was sent."""
    async with serving() as served:
        begun = await served.ask("POST", "/v1/postgres/stop")
        refused = await served.ask("DELETE", begun.headers["Location"])

    assert refused.status == 409
    assert json.loads(refused.body)["operation"] == "op-1"


async def test_operations_are_listed_newest_last(serving: Serving) -> None:
    """In the form of all lists."""
    async with serving() as served:
        served.instance.release.set()
        for verb in ("start", "reload"):
            await served.ask("POST", f"/v1/postgres/{verb}")
        listed: dict[str, Any] = json.loads((await served.ask("GET", "/v1/operations")).body)

    assert [one["kind"] for one in listed["items"]] == ["start", "reload"]


async def test_a_change_leaves_an_event_that_says_who(serving: Serving) -> None:
    """What was asked for, from where, and which operation it became."""
    async with serving() as served:
        await served.ask("POST", "/v1/postgres/restart")
        (event,) = json.loads((await served.ask("GET", "/v1/events")).body)["items"]

    assert (event["type"], event["reason"]) == ("Normal", "RestartRequested")
    assert event["actor"].startswith("uid=")
    assert event["details"] == {"operation": "op-1"}


async def test_a_client_that_hangs_up_does_not_undo_what_it_asked_for(serving: Serving) -> None:
    """The operation belongs to the register, not to the connection."""
    async with serving() as served:
        _, writer = await asyncio.open_unix_connection(served.socket)
        writer.write(
            b"POST /v1/postgres/restart HTTP/1.1\r\nHost: localhost\r\nPrefer: wait=60\r\n\r\n"
        )
        await writer.drain()
        await served.instance.asked.wait()
        writer.close()
        await writer.wait_closed()
        served.instance.release.set()
        done = await served.ask("GET", "/v1/operations/op-1", headers={"Prefer": "wait=10"})

    assert json.loads(done.body)["state"] == "succeeded"


async def test_the_end_of_serving_does_not_wait_for_a_patient_client(serving: Serving) -> None:
    """A request that waits for an operation is let go, its socket closed."""
    began = asyncio.get_running_loop().time()
    async with serving() as served:
        waiting = asyncio.create_task(
            served.raw(
                b"POST /v1/postgres/restart HTTP/1.1\r\nHost: localhost\r\nPrefer: wait=60\r\n\r\n"
            )
        )
        await served.instance.asked.wait()
    await waiting

    assert asyncio.get_running_loop().time() - began < 5


UPDATE = "/v1/databases/app/extensions/toy/update"


async def test_a_rehearsal_is_answered_and_an_update_is_an_operation(serving: Serving) -> None:
    """The first with 200 and what was seen, the second with 202 and its place; both are noted."""
    async with serving() as served:
        rehearsal = await served.ask("POST", UPDATE, b'{"dry_run": true}', headers=JSON)
        update = await served.ask("POST", UPDATE, b'{"version": "1.1"}', headers=JSON)
        second = await served.ask("POST", UPDATE, b'{"version": "1.2"}', headers=JSON)
        served.instance.release.set()
        done = await served.ask("GET", update.headers["Location"], headers={"Prefer": "wait=10"})
        events = served.instance.events.recent()

    report = json.loads(rehearsal.body)
    assert (rehearsal.status, report["path"]) == (200, ["1.0", "1.1", "1.2"])
    assert (update.status, json.loads(update.body)["kind"]) == (202, "update-extension")
    assert json.loads(done.body)["state"] == "succeeded"
    problem = json.loads(second.body)
    assert (second.status, problem["code"]) == (409, "conflict")
    assert problem["operation"] == json.loads(update.body)["id"]
    requested = [event for event in events if event.reason == "ExtensionUpdateRequested"]
    assert [event.details["version"] for event in requested] == ["1.1"]
    assert requested[0].actor != "manager"


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/databases/app/extensions/none/update", b"", 404, "not-found"),
        ("/v1/databases/none/extensions/toy/update", b"", 404, "not-found"),
        (UPDATE, b'{"version": "9"}', 422, "invalid-input"),
        (UPDATE, b'{"version": 1.1}', 422, "invalid-input"),
        (UPDATE, b'{"dry_run": 1}', 422, "invalid-input"),
        (UPDATE, b'{"lock_timeout_seconds": 0}', 422, "invalid-input"),
        (UPDATE, b'{"timeout_seconds": 3601}', 422, "invalid-input"),
        (UPDATE, b'{"force": true}', 422, "invalid-input"),
    ],
)
async def test_an_update_that_can_not_be_is_a_problem(
    serving: Serving, path: str, body: bytes, status: int, code: str
) -> None:
    """And no operation begins."""
    async with serving() as served:
        answer = await served.ask("POST", path, body, headers=JSON)

        assert (answer.status, json.loads(answer.body)["code"]) == (status, code)
        assert served.instance.operations.recent() == ()
