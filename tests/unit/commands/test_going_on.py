from __future__ import annotations

import asyncio
import itertools
import shlex
from datetime import UTC, datetime
from pathlib import Path

import pytest

from instance_manager.api.models import Operation, OperationProgress
from instance_manager.commands.going_on import Place, doing, lines_about, unknown_lines
from instance_manager.errors import ConflictError
from instance_manager.supervision.operations import Kind, Operations, OperationState, Progress

PLACE = Place(Path("/run/instance-manager/control.sock"))
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def operation(kind: Kind, progress: OperationProgress | None = None) -> Operation:
    return Operation(
        id="1f",
        kind=str(kind),
        state=OperationState.RUNNING,
        requested_at=NOW,
        started_at=NOW,
        finished_at=None,
        progress=progress,
        error=None,
    )


async def can_be_cancelled(kind: Kind) -> bool:
    """Ask the register of the manager itself."""
    ids = map(str, itertools.count())
    operations = Operations(now=lambda: NOW, new_id=lambda: next(ids))

    async def wait(_: Progress) -> None:
        await asyncio.Event().wait()

    begun = operations.begin(kind, wait, exclusive=True)
    try:
        operations.cancel(begun.id)
    except ConflictError:
        return False
    else:
        return True
    finally:
        await operations.close()


@pytest.mark.parametrize("kind", set(Kind) - {Kind.UPDATE_EXTENSION}, ids=str)
def test_a_way_to_cancel_is_offered_where_the_manager_takes_it(kind: Kind) -> None:
    """What can't be called back is told as that."""
    offered = "-X DELETE" in "\n".join(lines_about(operation(kind), PLACE))

    assert offered is asyncio.run(can_be_cancelled(kind))


@pytest.mark.parametrize("kind", [Kind.RELOAD, Kind.CHECKPOINT])
def test_what_the_status_does_not_show_is_not_looked_for_there(kind: Kind) -> None:
    """The operation itself is asked for."""
    lines = list(lines_about(operation(kind), PLACE))

    assert not any("status" in line for line in lines)
    assert any(line.endswith("/v1/operations/1f") for line in lines)


def test_lines_can_be_copied_into_a_shell_whatever_the_paths_are() -> None:
    """Blanks and quotes in the path of the socket or of the settings do no harm."""
    place = Place(Path("/tmp/it's a/socket"), "/etc/my settings.yaml")
    lines = [*lines_about(operation(Kind.RESTART), place), *unknown_lines("stop", place)]
    commands = [shlex.split(line.partition(":")[2]) for line in lines if ":   " in line]

    assert ["instance-manager", "--config", "/etc/my settings.yaml", "status"] in commands
    curls = [words for words in commands if words[0] == "curl"]
    assert curls
    assert all(words[-2] == "/tmp/it's a/socket" for words in curls)


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (None, "running"),
        (OperationProgress(step="rehearsal", message="", percent=None), "rehearsal"),
        (
            OperationProgress(
                step="stopping", message="smart: waiting for 1 session", percent=41.6
            ),
            "stopping: smart: waiting for 1 session: 42 %",
        ),
    ],
    ids=["nothing told", "a step", "all of it"],
)
def test_what_an_operation_is_at_is_one_text(
    progress: OperationProgress | None, text: str
) -> None:
    """Step, message and percentage, as far as they are known."""
    assert doing(operation(Kind.STOP, progress)) == text
