"""The register of operations: what was asked for, how far it is, how it ended.

Knows nothing of HTTP, nor of postgres: an operation is a name and a coroutine function. One
lifecycle operation holds the slot at a time; stop and fence may take it from a start or a restart.
The clock and the source of ids are arguments. All methods belong to the loop's thread.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from instance_manager.errors import ConflictError, ErrorCode, InstanceManagerError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

KEEP: Final = 100
"""How many operations are remembered; those that still run are never forgotten."""


class Kind(StrEnum):
    """What an operation does: the words of the API's paths."""

    START = "start"
    STOP = "stop"
    RESTART = "restart"
    RELOAD = "reload"
    CHECKPOINT = "checkpoint"
    FENCE = "fence"
    UNFENCE = "unfence"
    UPDATE_EXTENSION = "update-extension"


class OperationState(StrEnum):
    """How far an operation is."""

    PENDING = "pending"
    """Its turn has not come."""
    RUNNING = "running"
    """It is being done."""
    SUCCEEDED = "succeeded"
    """It was done."""
    FAILED = "failed"
    """It was not done; ``error`` says why."""
    CANCELLED = "cancelled"
    """It was called back, or a stop took over."""


_CANCELLABLE: Final = frozenset(
    {Kind.START, Kind.RESTART, Kind.UNFENCE, Kind.CHECKPOINT, Kind.UPDATE_EXTENSION}
)
"""A signal to stop can't be called back; waiting for a start can be given up at any time."""
# A start that never comes up must not keep anybody from ending it.
_TAKES_THE_SLOT: Final = frozenset({Kind.STOP, Kind.FENCE})
_FINISHED: Final = frozenset(
    {OperationState.SUCCEEDED, OperationState.FAILED, OperationState.CANCELLED}
)


@dataclass(frozen=True, slots=True)
class Step:
    """Where a running operation is."""

    step: str
    message: str = ""
    percent: float | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """What makes the repetition of a request known: the caller's key, and what it asked for."""

    key: str
    request: str


class ReusedKeyError(InstanceManagerError):
    """The key was given before, with another request."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an operation failed: the stable code, the words, and the way out."""

    code: ErrorCode
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation as it stands now; later states are later objects."""

    id: str
    kind: Kind
    state: OperationState
    requested_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    progress: Step | None = None
    error: Failure | None = None

    @property
    def finished(self) -> bool:
        """Whether its state is final."""
        return self.state in _FINISHED


@dataclass(slots=True)
class _Entry:
    """The one mutable record of an operation, and its task."""

    operation: Operation
    subject: str = ""
    claim: Claim | None = None
    task: asyncio.Task[None] = field(init=False)


class Progress:
    """Given to the action, so that it can say where it is."""

    def __init__(self, entry: _Entry) -> None:
        self._entry = entry

    @property
    def operation(self) -> str:
        """The id of the operation."""
        return self._entry.operation.id

    def report(self, step: str, message: str = "", percent: float | None = None) -> None:
        """Say what is being done now; *percent* is 0 to 100, or None where nobody knows."""
        self._entry.operation = replace(
            self._entry.operation, progress=Step(step, message, percent)
        )


class Operations:
    """Begins operations, remembers the last ones, and holds the lifecycle's one slot."""

    def __init__(
        self, *, now: Callable[[], datetime], new_id: Callable[[], str], keep: int = KEEP
    ) -> None:
        self._now = now
        self._new_id = new_id
        self._keep = keep
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._slot: _Entry | None = None

    def begin(
        self,
        kind: Kind,
        action: Callable[[Progress], Awaitable[None]],
        *,
        exclusive: bool,
        subject: str = "",
        claim: Claim | None = None,
    ) -> Operation:
        """Start *action* as a task of its own and return the operation at once.

        Args:
            kind: what the action does; decides what it may take the slot from.
            action: finishes when the thing is done, or raises.
            exclusive: whether it needs the lifecycle's slot.
            subject: what it is about, where only one operation at a time may be.
            claim: by which :meth:`claimed` finds it, as long as it is remembered.

        Raises:
            ConflictError: another lifecycle operation holds the slot, or another one is about the
                same subject; its id is named.
        """
        self._require_idle(kind, subject)
        predecessor = self._claim_slot(kind) if exclusive else None
        operation = Operation(self._new_id(), kind, OperationState.PENDING, self._now())
        entry = _Entry(operation, subject, claim)
        if exclusive:
            self._slot = entry
        self._entries[entry.operation.id] = entry
        entry.task = asyncio.get_running_loop().create_task(
            self._run(entry, action, predecessor), name=f"operation {kind} {entry.operation.id}"
        )
        # A task that is cancelled before its first step never enters its body, so the end is
        # written down by a callback, which is called in every case.
        entry.task.add_done_callback(lambda _: self._finish(entry))
        if predecessor is not None:
            self._cancel(predecessor, f"by {kind} {entry.operation.id!r}")
        self._forget_old()
        return entry.operation

    def find(self, operation_id: str) -> Operation | None:
        """Return the operation of that id; None if it never was, or is forgotten."""
        entry = self._entries.get(operation_id)
        return entry.operation if entry else None

    def claimed(self, claim: Claim) -> Operation | None:
        """Return the operation that was begun with the claim; None if none was, or is remembered.

        Raises:
            ReusedKeyError: one was begun with its key, by another request.
        """
        for entry in self._entries.values():
            if entry.claim is not None and entry.claim.key == claim.key:
                if entry.claim != claim:
                    raise ReusedKeyError(
                        f"the key {claim.key!r} belongs to another request, which began"
                        f" {entry.operation.kind} {entry.operation.id!r}",
                        hint="give each request a key of its own, and repeat it unchanged",
                        operation=entry.operation.id,
                    )
                return entry.operation
        return None

    def recent(self) -> tuple[Operation, ...]:
        """Return the remembered operations, newest last."""
        return tuple(entry.operation for entry in self._entries.values())

    def current(self) -> Operation | None:
        """Return the lifecycle operation that holds the slot, if any does."""
        return self._slot.operation if self._slot else None

    def cancel(self, operation_id: str, by: str = "by request") -> Operation:
        """Ask the operation to end without being done; its end comes later.

        What is cancelled already stays so. A start that is given up leaves postgres as it is.

        Raises:
            KeyError: no operation has that id.
            ConflictError: it has ended otherwise, or is of a kind that can't be called back.
        """
        entry = self._entries[operation_id]
        operation = entry.operation
        if operation.state is OperationState.CANCELLED:
            return operation
        if operation.finished or operation.kind not in _CANCELLABLE:
            reason = (
                f"it has {operation.state}" if operation.finished else "it can't be called back"
            )
            raise ConflictError(
                f"cannot cancel {operation.kind} {operation.id!r}: {reason}",
                operation=operation.id,
            )
        self._cancel(entry, by)
        return entry.operation

    async def wait(self, operation_id: str, seconds: float) -> Operation:
        """Wait until the operation has finished, at most *seconds*, and return it as it is then.

        With 0 seconds an action that has nothing to wait for is still given its turn, so that
        what already holds is seen to succeed at once.

        Raises:
            KeyError: no operation has that id.
        """
        entry = self._entries[operation_id]
        if seconds > 0:
            # Not wait_for(): whoever has waited long enough must not cancel the operation by it.
            await asyncio.wait({entry.task}, timeout=seconds)
        else:
            await asyncio.sleep(0)  # the action's first step
            await asyncio.sleep(0)  # the callback that writes its end down
        return entry.operation

    async def close(self) -> None:
        """Cancel what still runs, whatever its kind, and wait until it has ended."""
        running = [entry for entry in self._entries.values() if not entry.operation.finished]
        for entry in running:
            self._cancel(entry, "by the end of the manager")
        if running:
            await asyncio.wait({entry.task for entry in running})

    def _require_idle(self, kind: Kind, subject: str) -> None:
        for entry in self._entries.values():
            if subject and entry.subject == subject and not entry.operation.finished:
                raise ConflictError(
                    f"cannot {kind}: {entry.operation.id!r} is at {subject} already",
                    hint="wait for that operation, or cancel it",
                    operation=entry.operation.id,
                )

    def _claim_slot(self, kind: Kind) -> _Entry | None:
        """Return whom *kind* takes the slot from; None if it is free."""
        holder = self._slot
        if holder is None:
            return None
        running = holder.operation
        if kind in _TAKES_THE_SLOT and running.kind in _CANCELLABLE:
            return holder
        raise ConflictError(
            f"cannot {kind}: {running.kind} {running.id!r} is under way",
            hint="wait for that operation, or cancel it"
            if running.kind in _CANCELLABLE
            else "wait for that operation: it can't be called back",
            operation=running.id,
        )

    async def _run(
        self,
        entry: _Entry,
        action: Callable[[Progress], Awaitable[None]],
        predecessor: _Entry | None,
    ) -> None:
        if predecessor is not None:
            # Two actions must never drive the same server: the old one may need time to let go.
            await asyncio.wait({predecessor.task})
        entry.operation = replace(
            entry.operation, state=OperationState.RUNNING, started_at=self._now()
        )
        await action(Progress(entry))

    def _cancel(self, entry: _Entry, by: str) -> None:
        Progress(entry).report("cancelling", by)
        entry.task.cancel()

    def _finish(self, entry: _Entry) -> None:
        """Write the end of a task down; the border where what nobody expected is caught."""
        error = None if entry.task.cancelled() else entry.task.exception()
        entry.operation = replace(
            entry.operation,
            state=_state_after(entry.task, error),
            error=_failure_of(error) if error else None,
            finished_at=self._now(),
        )
        # A stop may have taken it over while this one came to its end.
        if self._slot is entry:
            self._slot = None
        # One that was kept over the limit, because it ran, may go now.
        self._forget_old()
        if error is not None and not isinstance(error, InstanceManagerError):
            _log_unexpected(entry.operation, error)

    def _forget_old(self) -> None:
        """Forget the oldest operations over the limit, but none that still runs."""
        surplus = len(self._entries) - self._keep
        ended = [key for key, entry in self._entries.items() if entry.operation.finished]
        for key in ended[: max(surplus, 0)]:
            del self._entries[key]


def _state_after(task: asyncio.Task[None], error: BaseException | None) -> OperationState:
    if task.cancelled():
        return OperationState.CANCELLED
    return OperationState.FAILED if error else OperationState.SUCCEEDED


def _failure_of(error: BaseException) -> Failure:
    if isinstance(error, InstanceManagerError):
        return Failure(error.code, error.message, error.hint)
    # The text of an unexpected error may hold anything, secrets included: it goes to the log only.
    return Failure(ErrorCode.INTERNAL, f"unexpected {type(error).__name__}; the log says where")


def _log_unexpected(operation: Operation, error: BaseException) -> None:
    # Here, so that the client, which shares the words of this module, needs no library for logs.
    from instance_manager.log import get_logger

    get_logger("instance_manager.operations").error(
        f"{operation.kind} {operation.id!r} ended with an unexpected error",
        operation=operation.id,
        traceback="".join(traceback.format_exception(error)),
    )
