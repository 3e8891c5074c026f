"""Preferences, and operations as documents."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instance_manager.api.operations import document_of, preferred_wait
from instance_manager.errors import ErrorCode
from instance_manager.supervision.operations import (
    Failure,
    Kind,
    Operation,
    OperationState,
    Step,
)

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], None),
        (["wait=10"], 10),
        (["Wait = 10"], 10),
        (['wait="10"'], 10),
        (["respond-async, wait=10"], 10),
        (["respond-async", "wait=10"], 10),
        (["wait=10; foo=bar"], 10),
        (["wait=0"], 0),
        (["wait=10, wait=20"], 10),
        (["wait=3600"], 60),
        (["wait=" + "9" * 10_000], 60),
        (["wait"], None),
        (["wait=soon"], None),
        (["wait=-1"], None),
        (["wait=1.5"], None),
        (["wait=٣"], None),
        (["waiting=10"], None),
    ],
)
def test_the_wait_that_is_preferred(headers: list[str], seconds: int | None) -> None:
    """Capped; what is not understood is as if it were not there."""
    assert preferred_wait(headers) == seconds


@given(st.lists(st.text()))
def test_any_header_is_read_without_an_error(headers: list[str]) -> None:
    """A preference is never a reason to fail."""
    wait = preferred_wait(headers)

    assert wait is None or 0 <= wait <= 60


def test_a_failed_operation_carries_a_problem() -> None:
    """The error of an operation has the form of every other error."""
    operation = Operation(
        "op-1",
        Kind.START,
        OperationState.FAILED,
        NOON,
        NOON,
        NOON,
        Step("waiting", "for recovery", 12.5),
        Failure(ErrorCode.START_FAILED, "cannot start postgres: …", "look at the log"),
    )

    document = document_of(operation)

    assert document.error is not None
    assert document.error.code == "start-failed"
    assert document.error.hint == "look at the log"
    assert document.progress is not None
    assert document.progress.percent == 12.5
    assert document.finished


def test_times_are_written_in_utc() -> None:
    """RFC 3339 with a Z, wherever the clock stands."""
    there = timezone(timedelta(hours=2))
    operation = Operation("op-1", Kind.STOP, OperationState.PENDING, NOON.astimezone(there))

    assert '"requested_at":"2026-01-01T12:00:00Z"' in document_of(operation).model_dump_json()
