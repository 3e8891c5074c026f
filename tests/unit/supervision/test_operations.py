"""The register of operations, with a clock and ids that are made up."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING

import pytest

from instance_manager.errors import ConflictError, ErrorCode, StartError
from instance_manager.supervision.operations import (
    Kind,
    Operation,
    Operations,
    OperationState,
    Progress,
    Step,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Clock:
    """A clock that goes on by one second at each look."""

    ticks: count[int] = field(default_factory=count)

    def __call__(self) -> datetime:
        """Return the next second."""
        return EPOCH + timedelta(seconds=next(self.ticks))


def make(keep: int = 100) -> Operations:
    """Return a register whose ids are op-1, op-2 and so on."""
    numbers = count(1)
    return Operations(now=Clock(), new_id=lambda: f"op-{next(numbers)}", keep=keep)


@dataclass
class Job:
    """An action that ends when it is told to, and remembers what was done to it."""

    outcome: Exception | None = None
    slow_to_cancel: bool = False
    release: asyncio.Event = field(default_factory=asyncio.Event)
    log: list[str] = field(default_factory=list)

    async def __call__(self, progress: Progress) -> None:
        """Say where it is, and wait for *release*."""
        self.log.append("began")
        progress.report("waiting", "for the test", 50)
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.log.append("cancelled")
            if self.slow_to_cancel:
                await self.release.wait()
            raise
        finally:
            self.log.append("ended")
        if self.outcome is not None:
            raise self.outcome


async def at_once(progress: Progress) -> None:
    """Do what already holds."""


def run(scenario: Callable[[Operations], Awaitable[None]], keep: int = 100) -> None:
    """Run *scenario* with a new register, and close that after it."""

    async def whole() -> None:
        operations = make(keep)
        try:
            await scenario(operations)
        finally:
            await operations.close()

    asyncio.run(whole())


async def end(operations: Operations, operation: Operation, job: Job) -> Operation:
    """Let *job* end and return the operation as it is then."""
    job.release.set()
    return await operations.wait(operation.id, 5)


def test_an_operation_goes_through_its_states() -> None:
    """Pending when it is begun, then running, then succeeded, each with its time."""

    async def scenario(operations: Operations) -> None:
        job = Job()
        begun = operations.begin(Kind.RESTART, job, exclusive=True)
        running = await operations.wait(begun.id, 0)
        done = await end(operations, begun, job)

        assert begun == Operation("op-1", Kind.RESTART, OperationState.PENDING, EPOCH)
        assert running.state is OperationState.RUNNING
        assert running.started_at == EPOCH + timedelta(seconds=1)
        assert running.progress == Step("waiting", "for the test", 50)
        assert done.state is OperationState.SUCCEEDED
        assert done.finished_at == EPOCH + timedelta(seconds=2)
        assert not running.finished
        assert done.finished

    run(scenario)


def test_what_already_holds_succeeds_at_once() -> None:
    """An action that has nothing to wait for has ended when a wait of no seconds returns."""

    async def scenario(operations: Operations) -> None:
        begun = operations.begin(Kind.START, at_once, exclusive=True)

        assert (await operations.wait(begun.id, 0)).state is OperationState.SUCCEEDED
        assert operations.current() is None

    run(scenario)


def test_a_known_error_becomes_the_operations_error() -> None:
    """Code, message and hint of our own errors are kept."""

    async def scenario(operations: Operations) -> None:
        job = Job(outcome=StartError("cannot start postgres: no memory", hint="give it more"))
        begun = operations.begin(Kind.START, job, exclusive=True)
        failed = await end(operations, begun, job)

        assert failed.state is OperationState.FAILED
        assert failed.error is not None
        assert failed.error.code is ErrorCode.START_FAILED
        assert failed.error.message == "cannot start postgres: no memory"
        assert failed.error.hint == "give it more"

    run(scenario)


def test_an_unexpected_error_keeps_its_text_to_the_log() -> None:
    """The text of an error that nobody expected may hold a secret."""

    async def scenario(operations: Operations) -> None:
        job = Job(outcome=ValueError("password=hunter2"))
        begun = operations.begin(Kind.RELOAD, job, exclusive=False)
        failed = await end(operations, begun, job)

        assert failed.error is not None
        assert failed.error.code is ErrorCode.INTERNAL
        assert failed.error.message == "unexpected ValueError; the log says where"

    run(scenario)


def test_a_second_lifecycle_operation_is_refused_with_the_id_of_the_first() -> None:
    """One at a time; the refusal names who is in the way."""

    async def scenario(operations: Operations) -> None:
        first = operations.begin(Kind.RESTART, Job(), exclusive=True)
        with pytest.raises(ConflictError, match="'op-1' is under way") as caught:
            operations.begin(Kind.START, Job(), exclusive=True)

        assert caught.value.context["operation"] == first.id
        assert operations.recent() == (operations.current(),)

    run(scenario)


def test_the_slot_is_free_again_when_its_holder_has_ended() -> None:
    """Success, failure and the next operation follow each other."""

    async def scenario(operations: Operations) -> None:
        for outcome in (None, StartError("cannot start"), None):
            job = Job(outcome=outcome)
            await end(operations, operations.begin(Kind.RESTART, job, exclusive=True), job)

        assert operations.current() is None

    run(scenario)


def test_a_reload_takes_no_slot() -> None:
    """It may run beside a restart, and a restart beside it."""

    async def scenario(operations: Operations) -> None:
        restart = operations.begin(Kind.RESTART, Job(), exclusive=True)
        job = Job()
        reload = operations.begin(Kind.RELOAD, job, exclusive=False)
        done = await end(operations, reload, job)

        current = operations.current()
        assert done.state is OperationState.SUCCEEDED
        assert current is not None
        assert current.id == restart.id

    run(scenario)


@pytest.mark.parametrize("kind", [Kind.STOP, Kind.FENCE])
@pytest.mark.parametrize("running", [Kind.START, Kind.RESTART])
def test_stop_and_fence_take_over_from_a_start(kind: Kind, running: Kind) -> None:
    """The running one is cancelled and says by whom; the new one then runs."""

    async def scenario(operations: Operations) -> None:
        old_job = Job()
        old = operations.begin(running, old_job, exclusive=True)
        await operations.wait(old.id, 0)
        job = Job()
        new = operations.begin(kind, job, exclusive=True)
        done = await end(operations, new, job)
        cancelled = operations.find(old.id)

        assert old_job.log == ["began", "cancelled", "ended"]
        assert cancelled is not None
        assert cancelled.state is OperationState.CANCELLED
        assert cancelled.progress == Step("cancelling", f"by {kind} 'op-2'")
        assert cancelled.finished_at is not None
        assert done.state is OperationState.SUCCEEDED

    run(scenario)


def test_a_takeover_waits_until_the_old_action_has_let_go() -> None:
    """Two actions never drive the same server at the same time."""

    async def scenario(operations: Operations) -> None:
        old_job = Job(slow_to_cancel=True)
        old = operations.begin(Kind.RESTART, old_job, exclusive=True)
        await operations.wait(old.id, 0)
        job = Job()
        new = operations.begin(Kind.STOP, job, exclusive=True)
        waiting = await operations.wait(new.id, 0.01)

        assert waiting.state is OperationState.PENDING
        assert job.log == []

        await end(operations, old, old_job)
        await end(operations, new, job)

        assert old_job.log[-1] == "ended"
        assert job.log == ["began", "ended"]

    run(scenario)


def test_an_operation_that_is_cancelled_before_its_first_step_is_cancelled() -> None:
    """Begun and taken over in the same turn of the loop: it never runs, and its end is known."""

    async def scenario(operations: Operations) -> None:
        old_job, job = Job(), Job()
        old = operations.begin(Kind.START, old_job, exclusive=True)
        new = operations.begin(Kind.STOP, job, exclusive=True)
        await end(operations, new, job)
        cancelled = operations.find(old.id)

        assert old_job.log == []
        assert cancelled is not None
        assert cancelled.state is OperationState.CANCELLED

    run(scenario)


def test_a_stop_does_not_take_over_from_a_stop() -> None:
    """What can't be called back keeps its slot."""

    async def scenario(operations: Operations) -> None:
        operations.begin(Kind.STOP, Job(), exclusive=True)
        for kind in (Kind.STOP, Kind.FENCE, Kind.START):
            with pytest.raises(ConflictError):
                operations.begin(kind, Job(), exclusive=True)

    run(scenario)


def test_a_start_can_be_cancelled_by_request() -> None:
    """Cancelling is asked for, and its end comes; a second request changes nothing."""

    async def scenario(operations: Operations) -> None:
        begun = operations.begin(Kind.START, Job(), exclusive=True)
        asked = operations.cancel(begun.id, "by somebody")
        done = await operations.wait(begun.id, 5)

        assert asked.progress == Step("cancelling", "by somebody")
        assert done.state is OperationState.CANCELLED
        assert done.error is None
        assert operations.cancel(begun.id) == done

    run(scenario)


@pytest.mark.parametrize("kind", [Kind.STOP, Kind.RELOAD, Kind.FENCE])
def test_what_cannot_be_called_back_is_not_cancelled(kind: Kind) -> None:
    """A signal to stop was sent already."""

    async def scenario(operations: Operations) -> None:
        begun = operations.begin(kind, Job(), exclusive=False)
        with pytest.raises(ConflictError, match="it can't be called back"):
            operations.cancel(begun.id)

    run(scenario)


def test_what_has_ended_cannot_be_cancelled() -> None:
    """The refusal says how it ended."""

    async def scenario(operations: Operations) -> None:
        begun = operations.begin(Kind.START, at_once, exclusive=True)
        await operations.wait(begun.id, 5)
        with pytest.raises(ConflictError, match="cannot cancel start 'op-1': it has succeeded"):
            operations.cancel(begun.id)

    run(scenario)


def test_a_wait_ends_with_its_time() -> None:
    """A wait that is over returns the operation as it is, and leaves it alone."""

    async def scenario(operations: Operations) -> None:
        job = Job()
        begun = operations.begin(Kind.RESTART, job, exclusive=True)
        waited = await operations.wait(begun.id, 0.001)
        done = await end(operations, begun, job)

        assert waited.state is OperationState.RUNNING
        assert done.state is OperationState.SUCCEEDED

    run(scenario)


def test_a_waiter_that_is_cancelled_leaves_the_operation_alone() -> None:
    """A caller who hangs up does not undo what was asked for."""

    async def scenario(operations: Operations) -> None:
        job = Job()
        begun = operations.begin(Kind.RESTART, job, exclusive=True)
        waiter = asyncio.create_task(operations.wait(begun.id, 60))
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.wait({waiter})

        assert (await end(operations, begun, job)).state is OperationState.SUCCEEDED

    run(scenario)


def test_the_last_operations_are_remembered_newest_last() -> None:
    """The oldest are forgotten, but none that still runs."""

    async def scenario(operations: Operations) -> None:
        eternal = operations.begin(Kind.RESTART, Job(), exclusive=True)
        for _ in range(5):
            begun = operations.begin(Kind.RELOAD, at_once, exclusive=False)
            await operations.wait(begun.id, 5)

        assert [one.id for one in operations.recent()] == [eternal.id, "op-5", "op-6"]
        assert operations.find("op-2") is None

    run(scenario, keep=3)


def test_an_unknown_operation_is_a_key_error() -> None:
    """Waiting for, or cancelling, what never was."""

    async def scenario(operations: Operations) -> None:
        with pytest.raises(KeyError):
            await operations.wait("op-9", 0)
        with pytest.raises(KeyError):
            operations.cancel("op-9")

    run(scenario)


def test_closing_ends_what_still_runs() -> None:
    """No task is left behind, whatever its kind."""

    async def scenario(operations: Operations) -> None:
        stop, reload = Job(), Job()
        operations.begin(Kind.STOP, stop, exclusive=True)
        operations.begin(Kind.RELOAD, reload, exclusive=False)
        await asyncio.sleep(0)
        await operations.close()

        assert {one.state for one in operations.recent()} == {OperationState.CANCELLED}
        assert stop.log == reload.log == ["began", "cancelled", "ended"]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(scenario)


def test_every_task_is_named_after_its_operation() -> None:
    """A dump of the tasks can be read."""

    async def scenario(operations: Operations) -> None:
        operations.begin(Kind.RESTART, Job(), exclusive=True)

        assert "operation restart op-1" in {task.get_name() for task in asyncio.all_tasks()}

    run(scenario)


def test_one_operation_at_a_time_is_about_a_subject() -> None:
    """The second one is told the first one's id; another subject, or a later time, is free."""

    async def scenario(operations: Operations) -> None:
        job = Job()
        first = operations.begin(Kind.UPDATE_EXTENSION, job, exclusive=False, subject="toy")
        with pytest.raises(ConflictError, match="is at toy already") as caught:
            operations.begin(Kind.UPDATE_EXTENSION, Job(), exclusive=False, subject="toy")
        assert caught.value.context["operation"] == first.id
        other = operations.begin(Kind.UPDATE_EXTENSION, at_once, exclusive=False, subject="vector")
        slot = operations.begin(Kind.START, at_once, exclusive=True)
        assert (await operations.wait(other.id, 5)).state is OperationState.SUCCEEDED
        assert (await operations.wait(slot.id, 5)).state is OperationState.SUCCEEDED
        await end(operations, first, job)
        operations.begin(Kind.UPDATE_EXTENSION, at_once, exclusive=False, subject="toy")

    run(scenario)
