"""``POST /v1/postgres/…``: the life of the server, each verb an operation.

A handler begins the operation and answers; the work goes on in a task of the register, whatever
becomes of the connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from instance_manager.api import documents, idempotency
from instance_manager.api.audit import AUDIT
from instance_manager.api.callers import CALLER
from instance_manager.api.models import EmptyRequest, StartRequest, StopRequest
from instance_manager.api.operations import accept
from instance_manager.supervision.operations import Kind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web
    from pydantic import BaseModel

    from instance_manager.supervision.operations import Progress


async def start(request: web.Request) -> web.Response:
    """Begin to start postgres."""
    body = await documents.read(request, StartRequest)
    ignore, instance = body.ignore_inventory, documents.instance_of(request)
    return await _begin(
        request, body, Kind.START, lambda progress: instance.start(ignore, progress)
    )


async def stop(request: web.Request) -> web.Response:
    """Begin to stop postgres; takes over from a start or a restart."""
    body = await documents.read(request, StopRequest)
    instance = documents.instance_of(request)
    return await _begin(
        request, body, Kind.STOP, lambda progress: instance.stop(body.mode, progress)
    )


async def restart(request: web.Request) -> web.Response:
    """Begin to restart postgres."""
    body = await documents.read(request, StopRequest)
    instance = documents.instance_of(request)
    return await _begin(
        request, body, Kind.RESTART, lambda progress: instance.restart(body.mode, progress)
    )


async def reload(request: web.Request) -> web.Response:
    """Begin to apply what needs no restart; other operations don't hinder it."""
    body = await documents.read(request, EmptyRequest)
    action = documents.instance_of(request).reload
    return await _begin(request, body, Kind.RELOAD, action, exclusive=False)


async def checkpoint(request: web.Request) -> web.Response:
    """Begin a checkpoint; other operations don't hinder it."""
    body = await documents.read(request, EmptyRequest)
    action = documents.instance_of(request).checkpoint
    return await _begin(request, body, Kind.CHECKPOINT, action, exclusive=False)


async def fence(request: web.Request) -> web.Response:
    """Begin to stop postgres and to keep it so; takes over from a start or a restart."""
    body = await documents.read(request, StopRequest)
    instance = documents.instance_of(request)
    return await _begin(
        request, body, Kind.FENCE, lambda progress: instance.fence(body.mode, progress)
    )


async def unfence(request: web.Request) -> web.Response:
    """Begin to start postgres where it was fenced."""
    body = await documents.read(request, EmptyRequest)
    return await _begin(request, body, Kind.UNFENCE, documents.instance_of(request).unfence)


async def _begin(
    request: web.Request,
    body: BaseModel,
    kind: Kind,
    action: Callable[[Progress], Awaitable[None]],
    *,
    exclusive: bool = True,
) -> web.Response:
    instance = documents.instance_of(request)
    claim = idempotency.claim_of(request, body)
    if (known := idempotency.find(request, claim)) is not None:
        return await accept(request, known.id)
    action = request.app[AUDIT].of_operation(f"{kind} of postgres", action)
    # Refused where another one runs, by an error; then nothing is recorded as requested.
    operation = instance.operations.begin(kind, action, exclusive=exclusive, claim=claim)
    instance.events.record(
        f"{kind.capitalize()}Requested",
        f"{kind} of postgres was asked for",
        actor=CALLER.get().name,
        details={"operation": operation.id},
    )
    return await accept(request, operation.id)
