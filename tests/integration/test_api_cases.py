"""The served OpenAPI document against its manager, in cases that nobody thought of."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
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
from tests.support.sql_extensions import own_root, write

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.manager import Manager

TOKEN = "hunter2"
EXTENSION = {"1.0": "CREATE TABLE toy (id int);", "1.0--1.1": "ALTER TABLE toy ADD more int;"}
PLACES = {"name": "postgres", "extension": "toy"}
CHECKS_OF = {"livez": "heartbeat", "healthz": "heartbeat", "startupz": "start", "readyz": "lag"}
UPDATES = ({"dry_run": True}, {"version": "1.1"})
MODED = frozenset({"stop", "restart", "fence"})
WAIT = re.compile(r"wait", re.IGNORECASE)
UNFOLLOWED = ("false", "0", "no")
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
    volumes = own_root(manager)
    write(volumes, "toy", EXTENSION, default_version="1.1")
    manager.start().until_ready()
    manager.query("CREATE EXTENSION toy VERSION '1.0'")
    manager.ask("POST", "/v1/postgres/reload", Prefer="wait=60")
    until(lambda: manager.ask("GET", "/v1/databases")[1]["read_at"], "databases are read")
    return manager


def comes_back(manager: Manager) -> None:
    """Bring postgres back, whatever a case has done to it, and whatever is still under way."""

    def is_back() -> bool:
        manager.ask("POST", "/v1/postgres/unfence", Prefer="wait=60")
        manager.ask("POST", "/v1/postgres/start", Prefer="wait=60")
        return manager.probe("readyz")[0] == 200

    until(is_back, "the instance is ready")


class Reality:
    """Puts what there is at its place in every other case, which made-up ones hardly ever name."""

    def __init__(self, manager: Manager) -> None:
        self.manager = manager
        self.answered: dict[str, set[int]] = {}
        """The statuses that cases with real names got, by operation."""
        self.sessions = ExitStack()

    def enter(self, case: Any, number: int) -> None:
        """Change one case; the *number* of the case chooses where there is a choice."""
        for operation in self._operations():
            if operation["finished_at"] is None:
                # Its answer would be that of what a made-up case began.
                path = f"/v1/operations/{operation['id']}"
                self.manager.ask("GET", path, Prefer="wait=60")
        if case.method == "DELETE":
            self.restart_that_waits()
        for place in case.path_parameters or ():
            case.path_parameters[place] = self._place(place, case.path)
        if case.method == "PUT":
            _, case.body = self.manager.ask("GET", "/v1/configuration")
            case.body["parameters"]["work_mem"] = f"{number % 8 + 1}MB"
            case.headers["If-Match"] = "*"
            case.query = {"dry_run": "true"} if number % 2 else {}
        if case.method == "POST":
            case.headers["Prefer"] = "wait=1"
            case.body = _body(case.path.rpartition("/")[2], number)
            if number % 2:
                # Always the same request: the first one's operation is the answer.
                case.headers["Idempotency-Key"] = f'"{case.path}"'

    def restart_that_waits(self) -> None:
        """Begin what can be called back: it waits for a session."""
        comes_back(self.manager)
        self.sessions.enter_context(self.manager.sql())
        code, answer = self.manager.ask("POST", "/v1/postgres/restart", {"mode": "smart"})
        assert code == 202, answer

    def left(self, case: Any, response: Any) -> None:
        """Note what a case got, and end what was begun for it."""
        name = case.operation.definition.raw["operationId"]
        self.answered.setdefault(name, set()).add(response.status_code)
        self.sessions.close()

    def _operations(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.manager.ask("GET", "/v1/operations")[1]["items"]
        return found

    def _place(self, name: str, path: str) -> str:
        match name:
            case "id":
                return str(self._operations()[-1]["id"])
            case "volume":
                return str(self.manager.ask("GET", "/v1/extensions")[1]["volumes"][0]["name"])
            case "check":
                return CHECKS_OF[path.split("/")[1]]
            case _:
                return PLACES[name]


def _body(what: str, number: int) -> dict[str, Any]:
    if what == "update":
        return UPDATES[number % 2]
    return {"mode": ("fast", "immediate")[number % 2]} if what in MODED else {}


def made_harmless(case: Any, number: int) -> None:
    """Nobody waits for a minute here, nor for the end of a stream."""
    if WAIT.search(str(case.headers.get("Prefer", ""))):
        case.headers["Prefer"] = "wait=1"
    if "follow" in case.query:
        case.query["follow"] = UNFOLLOWED[number % len(UNFOLLOWED)]


def test_every_case_is_answered_as_the_document_says(
    asked: Manager, times: Callable[[int, int], int]
) -> None:
    """No fault of the server, no status and no form of an answer that is not documented."""
    base = f"http://127.0.0.1:{asked.control_port}"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    schema: Any = schemathesis.openapi.from_url(f"{base}/openapi.json", headers=headers)
    reality = Reality(asked)
    asked_for = 0
    each = times(6, 90)
    for result in schema.get_all_operations():
        operation = result.ok()
        asked_for += cases_of(operation, each, base, headers, reality)
        if operation.method.upper() != "GET":
            comes_back(asked)

    assert asked_for >= each * 23
    for name, statuses in reality.answered.items():
        assert statuses & {200, 202}, (name, statuses)
    assert len(reality.answered) > 20


def cases_of(
    operation: Any, number: int, base: str, headers: dict[str, str], reality: Reality
) -> int:
    """Ask in so many ways, about what there is and what there isn't; return how often."""
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
        made_harmless(case, count)
        is_real = count % 2 == 0
        if is_real:
            reality.enter(case, count // 2)
        response = case.call(base_url=base, headers=headers, timeout=60)
        excluded = [not_a_server_error] if response.status_code in UNAVAILABLE else []
        case.validate_response(response, checks=CHECKS, excluded_checks=excluded)
        if is_real:
            reality.left(case, response)

    ask()
    return count
