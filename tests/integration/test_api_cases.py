"""The served OpenAPI document against its manager, in cases that nobody thought of."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.manager import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.manager import Manager

TOKEN = "hunter2"
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
UNAVAILABLE = frozenset({503, 507})
"""What may pass by itself, and is documented where it can be."""


@pytest.fixture
def asked(manager: Manager) -> Manager:
    """Start a manager that takes configurations and a token over TCP, and stops fast."""
    token = manager.directory / "token"
    token.write_text(f"{TOKEN}\n")
    token.chmod(0o600)
    owner = manager.directory.stat()
    os.chown(token, owner.st_uid, owner.st_gid)
    manager.trust().settings["control"]["token_file"] = str(token)
    manager.settings["configuration"] = {"source": "api"}
    manager.settings["shutdown"] = {"fast_seconds": 5, "immediate_seconds": 2}
    manager.settings["restart"] = {"maximum": 10000}
    return manager.start().until_ready()


def comes_back(manager: Manager) -> None:
    """Bring postgres back, whatever a case has done to it, and whatever is still under way."""

    def is_back() -> bool:
        manager.ask("POST", "/v1/postgres/unfence", Prefer="wait=30")
        manager.ask("POST", "/v1/postgres/start", Prefer="wait=30")
        return manager.probe("readyz")[0] == 200

    until(is_back, "the instance is ready")


def test_every_case_is_answered_as_the_document_says(
    asked: Manager, times: Callable[[int, int], int]
) -> None:
    """No fault of the server, no status and no form of an answer that is not documented."""
    base = f"http://127.0.0.1:{asked.control_port}"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    schema: Any = schemathesis.openapi.from_url(f"{base}/openapi.json", headers=headers)
    asked_for = 0
    each = times(5, 90)
    for result in schema.get_all_operations():
        operation = result.ok()
        asked_for += cases_of(operation, each, base, headers)
        if operation.method.upper() != "GET":
            comes_back(asked)

    assert asked_for >= each * 23


def cases_of(operation: Any, number: int, base: str, headers: dict[str, str]) -> int:
    """Ask in so many ways, good and bad; return how often."""
    count = 0
    strategy = operation.as_strategy(
        generation_mode=schemathesis.GenerationMode.POSITIVE
    ) | operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)

    @settings(
        max_examples=number,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def ask(case: Any) -> None:
        nonlocal count
        count += 1
        # Nobody waits for a minute here, nor for the end of a stream.
        case.headers.pop("Prefer", None)
        case.query.pop("follow", None)
        response = case.call(base_url=base, headers=headers, timeout=60)
        excluded = [not_a_server_error] if response.status_code in UNAVAILABLE else []
        case.validate_response(response, checks=CHECKS, excluded_checks=excluded)

    ask()
    return count
