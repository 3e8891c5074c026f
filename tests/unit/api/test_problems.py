"""Errors as documents."""

from __future__ import annotations

import json

import pytest

from instance_manager.api.problems import (
    STATUSES,
    RequestCode,
    answer,
    problem_of,
    problem_of_error,
)
from instance_manager.errors import (
    ConflictError,
    ErrorCode,
    InstanceManagerError,
    Problem,
    SettingsError,
    StartError,
)


def test_every_code_has_a_status() -> None:
    """A new code without one would be answered as a fault of ours."""
    assert set(STATUSES) == {*ErrorCode, *RequestCode}


def test_every_status_is_an_error() -> None:
    """No problem is answered as a success."""
    assert all(400 <= status < 600 for status in STATUSES.values())


def test_a_problem_carries_what_programs_and_people_need() -> None:
    """Type, title, status and code belong to the code; detail and hint to the case."""
    problem = problem_of(RequestCode.NOT_FOUND, "there is no volume 'x'", hint="look again")

    assert problem.model_dump(exclude_none=True) == {
        "type": "urn:instance-manager:problem:not-found",
        "title": "Not found",
        "status": 404,
        "detail": "there is no volume 'x'",
        "code": "not-found",
        "hint": "look again",
    }


def test_a_conflict_names_the_operation_in_the_way() -> None:
    """Programs need not read the sentence."""
    problem = problem_of_error(ConflictError("cannot start: …", operation="op-1"))

    assert (problem.status, problem.operation) == (409, "op-1")


def test_invalid_settings_are_listed_one_by_one() -> None:
    """Each with its path."""
    error = SettingsError([Problem("postgres.port", "too large"), Problem("log.level", "unknown")])

    problem = problem_of_error(error)

    assert problem.errors is not None
    assert [(one.path, one.message) for one in problem.errors] == [
        ("postgres.port", "too large"),
        ("log.level", "unknown"),
    ]


@pytest.mark.parametrize(
    ("error", "status"),
    [(StartError("cannot start postgres: …"), 503), (InstanceManagerError("?"), 500)],
)
def test_our_own_errors_have_the_status_of_their_code(
    error: InstanceManagerError, status: int
) -> None:
    """Context for the log is not told."""
    assert problem_of_error(error).status == status


def test_the_response_is_problem_json_without_empty_members() -> None:
    """Absent members are absent, not null (RFC 9457, 3.1)."""
    response = answer(problem_of(RequestCode.FORBIDDEN, "no"), {"X-Test": "1"})

    assert response.status == 403
    assert response.content_type == "application/problem+json"
    assert response.headers["X-Test"] == "1"
    assert isinstance(response.body, bytes)
    assert response.body.endswith(b"}\n")
    assert set(json.loads(response.body)) == {"type", "title", "status", "detail", "code"}
