"""``/v1/operations``: what was asked for, how far it is, how it ended; waiting and cancelling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from instance_manager.api import documents
from instance_manager.api.callers import CALLER
from instance_manager.api.models import Items, Operation, OperationProgress
from instance_manager.api.problems import RequestCode, RequestError, problem_of

if TYPE_CHECKING:
    from aiohttp import web

    from instance_manager.supervision import operations

MAXIMUM_WAIT_SECONDS: Final = 60
"""A caller that wants to wait longer asks again: proxies give up on silence after a minute."""


async def show_all(request: web.Request) -> web.Response:
    """Answer with the operations that are remembered, newest last."""
    recent = documents.instance_of(request).operations.recent()
    return documents.answer(Items[Operation](items=tuple(map(document_of, recent))))


async def show(request: web.Request) -> web.Response:
    """Answer with one operation; with ``Prefer: wait``, once it has finished or the time is up."""
    operation = _find(request)
    seconds = preferred_wait(request.headers.getall("Prefer", []))
    if seconds:
        operation = await documents.instance_of(request).operations.wait(operation.id, seconds)
    return documents.answer(document_of(operation), headers=_applied(seconds))


async def cancel(request: web.Request) -> web.Response:
    """Cancel one operation: 200 if it has ended, 202 if its end is still to come."""
    operation = _find(request)
    who = CALLER.get().name
    instance = documents.instance_of(request)
    # First: what can't be cancelled is refused here, and is no event.
    instance.operations.cancel(operation.id, f"by {who}")
    instance.events.record(
        "CancelRequested",
        f"the end of {operation.kind} was asked for",
        actor=who,
        details={"operation": operation.id},
    )
    return await accept(request, operation.id)


async def accept(request: web.Request, operation_id: str) -> web.Response:
    """Answer a request that began, or ended, an operation.

    200 if it has finished within the ``Prefer: wait`` of the request (RFC 7240), else 202; both
    say where it is found.
    """
    seconds = preferred_wait(request.headers.getall("Prefer", []))
    # Also without a wish to wait: a verb that has nothing to do has finished by then.
    operation = await documents.instance_of(request).operations.wait(operation_id, seconds or 0)
    return documents.answer(
        document_of(operation),
        status=200 if operation.finished else 202,
        headers={"Location": f"/v1/operations/{operation_id}", **_applied(seconds)},
    )


def document_of(operation: operations.Operation) -> Operation:
    """Return the document of an operation."""
    error = operation.error
    progress = operation.progress
    return Operation(
        id=operation.id,
        kind=operation.kind,
        state=operation.state,
        requested_at=operation.requested_at,
        started_at=operation.started_at,
        finished_at=operation.finished_at,
        progress=OperationProgress.model_validate(progress) if progress else None,
        error=problem_of(error.code, error.message, hint=error.hint) if error else None,
    )


def preferred_wait(headers: list[str]) -> int | None:
    """Return the seconds that the ``Prefer`` headers ask to wait, at most the maximum.

    The first ``wait`` counts; what is not a number is as if it were not there (RFC 7240, 2).
    """
    for part in ",".join(headers).split(","):
        name, _, value = part.partition(";")[0].partition("=")
        seconds = value.strip().strip('"')
        if name.strip().lower() == "wait" and seconds.isascii() and seconds.isdecimal():
            # Long digit strings are cut first: converting them takes quadratic time.
            return min(int(seconds[:9]), MAXIMUM_WAIT_SECONDS)
    return None


def _find(request: web.Request) -> operations.Operation:
    wanted = request.match_info["id"]
    found = documents.instance_of(request).operations.find(wanted)
    if found is None:
        raise RequestError(
            RequestCode.NOT_FOUND,
            f"there is no operation {wanted!r}",
            hint="only the last ones are remembered, and none over a start of the manager",
        )
    return found


def _applied(seconds: int | None) -> dict[str, str]:
    return {} if seconds is None else {"Preference-Applied": f"wait={seconds}"}
