"""The configuration over HTTP: tags, limits and answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from instance_manager.api.configuration_models import ConfigurationDocument
from instance_manager.client import Client, InvalidRequestError, StaleTagError

if TYPE_CHECKING:
    from tests.integration.api.conftest import Serving

JSON = {"Content-Type": "application/json"}
PATH = "/v1/configuration"


async def test_the_document_comes_with_its_tag(serving: Serving) -> None:
    """All keys, and a strong tag."""
    async with serving() as served:
        answer = await served.ask("GET", PATH)

    document: dict[str, Any] = json.loads(answer.body)
    assert set(document) == set(ConfigurationDocument.model_fields)
    assert answer.headers["Etag"].strip('"').isalnum()


@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        (JSON, b"{}", 428, "precondition-required"),
        (JSON | {"If-Match": '"old"'}, b"{}", 412, "precondition-failed"),
        (JSON | {"If-Match": 'W/"old", "other"'}, b"{}", 412, "precondition-failed"),
        (JSON | {"If-Match": "old"}, b"{}", 400, "malformed-request"),
        (JSON | {"If-Match": "*"}, b"{", 400, "malformed-request"),
        (JSON | {"If-Match": "*"}, b'{"hba": [], "hba": []}', 400, "malformed-request"),
        (JSON | {"If-Match": "*"}, b"\xff", 400, "malformed-request"),
        (JSON | {"If-Match": "*"}, b"[]", 422, "invalid-input"),
        ({"Content-Type": "text/plain", "If-Match": "*"}, b"{}", 415, "unsupported-media-type"),
        (JSON | {"If-Match": "*"}, b'{"x": "' + b"x" * (1 << 20) + b'"}', 413, "body-too-large"),
        (JSON | {"If-Match": "*"}, b'{"hba": ["********"]}', 422, "invalid-input"),
    ],
)
async def test_what_does_not_fit_is_refused(
    serving: Serving, headers: dict[str, str], body: bytes, status: int, code: str
) -> None:
    """And nothing is changed by it."""
    async with serving() as served:
        answer = await served.ask("PUT", PATH, body, headers=headers)
        after = await served.ask("GET", PATH)

    assert (answer.status, json.loads(answer.body)["code"]) == (status, code)
    assert json.loads(after.body)["hba"] == []


async def test_a_large_document_is_taken(serving: Serving) -> None:
    """Rules may be many; other bodies keep the smaller limit."""
    lines = [f"host all u{number} 10.0.0.0/8 scram-sha-256" for number in range(5000)]
    body = json.dumps({"hba": lines}).encode()
    async with serving() as served:
        answer = await served.ask("PUT", PATH, body, headers=JSON | {"If-Match": "*"})

    assert len(body) > 1 << 16
    assert answer.status == 200


async def test_a_change_over_the_client_needs_the_present_tag(serving: Serving) -> None:
    """The second of two that know the same tag has to read again."""
    async with serving() as served, Client.unix(served.socket) as client:
        document, tag = await client.configuration()
        wanted = document.model_copy(update={"parameters": {"work_mem": "8MB"}})

        plan = await client.rehearse_configuration(wanted)
        done = await client.put_configuration(wanted, tag)
        with pytest.raises(StaleTagError):
            await client.put_configuration(wanted, tag)

        assert (plan.dry_run, done.dry_run) == (True, False)
        assert plan.etag == done.etag == (await client.configuration())[1]
        assert plan.changes == done.changes


async def test_all_that_is_wrong_reaches_the_client(serving: Serving) -> None:
    """By its place in the document."""
    wrong = ConfigurationDocument(parameters={"nonsense": "1"})
    async with serving() as served, Client.unix(served.socket) as client:
        with pytest.raises(InvalidRequestError) as caught:
            await client.rehearse_configuration(wrong)

    assert [each.path for each in caught.value.problem.errors or ()] == ["parameters.nonsense"]


async def test_where_the_file_is_the_truth_only_a_dry_run_is_answered(serving: Serving) -> None:
    """The problem says which file."""
    async with serving() as served:
        served.instance.configuration.is_from_file = True
        refused = await served.ask("PUT", PATH, b"{}", headers=JSON | {"If-Match": "*"})
        tried = await served.ask("PUT", f"{PATH}?dry_run=true", b"{}", headers=JSON)
        slip = await served.ask("PUT", f"{PATH}?dry_run=yes", b"{}", headers=JSON)

    assert (refused.status, tried.status, slip.status) == (409, 200, 422)
