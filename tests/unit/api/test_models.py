"""The documents, as their readers see them."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from instance_manager.api.models import (
    Condition,
    InstanceIdentity,
    Items,
    PendingRestart,
    PostgresStatus,
    Status,
    StopRequest,
    StorageStatus,
    WalPositions,
)
from instance_manager.supervision.states import Desired, Phase

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def make_status() -> Status:
    """Return the status of an instance of which little is known yet."""
    return Status(
        instance=InstanceIdentity(
            name="pg-0", session_id="s", manager_version="0.1.0", pid=1, started_at=NOON
        ),
        phase=Phase.STARTING,
        desired=Desired.RUNNING,
        postgres=PostgresStatus(data_directory="/data", port=5432),
    )


def test_the_status_has_all_its_members_from_the_beginning() -> None:
    """What is not known yet is null: readers need not ask whether a member is there."""
    document = json.loads(make_status().model_dump_json())

    assert list(document) == [
        "instance",
        "phase",
        "desired",
        "stopping",
        "failure",
        "postgres",
        "configuration",
        "extensions",
        "storage",
        "operation",
        "conditions",
    ]
    assert document["instance"] == {
        "name": "pg-0",
        "session_id": "s",
        "manager_version": "0.1.0",
        "pid": 1,
        "started_at": "2026-01-01T12:00:00Z",
    }
    assert document["postgres"] == {
        "version": None,
        "version_number": None,
        "pid": None,
        "started_at": None,
        "data_directory": "/data",
        "port": 5432,
        "system_identifier": None,
        "timeline": None,
        "role": None,
        "in_recovery": None,
        "lsn": {"current": None, "received": None, "replayed": None},
        "restarts": 0,
        "last_exit": None,
    }
    assert document["configuration"] == {
        "source": "file",
        "generation": 0,
        "etag": None,
        "loaded": False,
        "pending_restart": [],
        "errors": [],
    }
    assert document["extensions"] == {
        "volumes": 0,
        "ready": 0,
        "quarantined": 0,
        "pending_action": "none",
    }


def test_what_is_written_can_be_read() -> None:
    """The client gets back what the server had."""
    status = make_status()

    assert Status.model_validate_json(status.model_dump_json()) == status


def test_an_old_client_reads_a_new_server() -> None:
    """Members that it does not know are ignored."""
    document = json.loads(make_status().model_dump_json()) | {"novelty": 1}

    assert Status.model_validate(document) == make_status()


def test_a_request_refuses_what_it_does_not_know() -> None:
    """A slip must not be silently without effect."""
    with pytest.raises(ValidationError):
        StopRequest.model_validate({"mod": "fast"})


def test_documents_are_frozen() -> None:
    """An answer that was built is not changed by others."""
    with pytest.raises(ValidationError):
        make_status().phase = Phase.RUNNING  # type: ignore[misc]


def test_a_time_without_a_zone_is_refused() -> None:
    """Nobody could say which moment it is."""
    with pytest.raises(ValidationError, match="timezone"):
        Condition(
            type="Ready",
            status="True",
            reason="R",
            message="",
            last_transition_time=datetime(2026, 1, 1),  # noqa: DTZ001 - the fault under test
        )


@pytest.mark.parametrize("lsn", ["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF", "0/0016B374"])
def test_positions_are_in_postgres_form(lsn: str) -> None:
    """Both forms: PostgreSQL 19 writes leading zeros."""
    assert WalPositions(current=lsn).current == lsn


@pytest.mark.parametrize("lsn", ["", "0", "0/", "0/g", "0/123456789", "0/1\n"])
def test_what_is_no_position_is_refused(lsn: str) -> None:
    """A number or a broken text is a bug of ours."""
    with pytest.raises(ValidationError):
        WalPositions(current=lsn)


def test_lists_have_one_form() -> None:
    """An object with items, so that members can be added."""
    storage = StorageStatus(purpose="data", path="/data", size_bytes=2, free_bytes=1)

    assert json.loads(Items[StorageStatus](items=(storage,)).model_dump_json()) == {
        "items": [{"purpose": "data", "path": "/data", "size_bytes": 2, "free_bytes": 1}]
    }


def test_a_parameter_without_a_value_is_null() -> None:
    """Removed from the configuration, it has none there."""
    waiting = PendingRestart(name="shared_buffers", running="128MB", configured=None)

    assert json.loads(waiting.model_dump_json())["configured"] is None
