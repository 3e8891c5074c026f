"""``POST /v1/postgres/…``: the life of the server, each verb an operation.

A handler begins the operation and answers; the work goes on in a task of the register, whatever
becomes of the connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from instance_manager.api import documents
from instance_manager.api.models import EmptyRequest, StartRequest, StopRequest
from instance_manager.api.operations import accept
from instance_manager.supervision.operations import Kind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    from instance_manager.supervision.operations import Progress


async def start(request: web.Request) -> web.Response:
    """Begin to start postgres."""
    ignore = (await documents.read(request, StartRequest)).ignore_inventory
    instance = documents.instance_of(request)
    return await _begin(request, Kind.START, lambda progress: instance.start(ignore, progress))


async def stop(request: web.Request) -> web.Response:
    """Begin to stop postgres; takes over from a start or a restart."""
    mode = (await documents.read(request, StopRequest)).mode
    instance = documents.instance_of(request)
    return await _begin(request, Kind.STOP, lambda progress: instance.stop(mode, progress))


async def restart(request: web.Request) -> web.Response:
    """Begin to restart postgres."""
    mode = (await documents.read(request, StopRequest)).mode
    instance = documents.instance_of(request)
    return await _begin(request, Kind.RESTART, lambda progress: instance.restart(mode, progress))


async def reload(request: web.Request) -> web.Response:
    """Begin to apply what needs no restart; other operations don't hinder it."""
    await documents.read(request, EmptyRequest)
    action = documents.instance_of(request).reload
    return await _begin(request, Kind.RELOAD, action, exclusive=False)


async def checkpoint(request: web.Request) -> web.Response:
    """Begin a checkpoint; other operations don't hinder it."""
    await documents.read(request, EmptyRequest)
    action = documents.instance_of(request).checkpoint
    return await _begin(request, Kind.CHECKPOINT, action, exclusive=False)


async def fence(request: web.Request) -> web.Response:
    """Begin to stop postgres and to keep it so; takes over from a start or a restart."""
    mode = (await documents.read(request, StopRequest)).mode
    instance = documents.instance_of(request)
    return await _begin(request, Kind.FENCE, lambda progress: instance.fence(mode, progress))


async def unfence(request: web.Request) -> web.Response:
    """Begin to start postgres where it was fenced."""
    await documents.read(request, EmptyRequest)
    return await _begin(request, Kind.UNFENCE, documents.instance_of(request).unfence)


async def _begin(
    request: web.Request,
    kind: Kind,
    action: Callable[[Progress], Awaitable[None]],
    *,
    exclusive: bool = True,
) -> web.Response:
    instance = documents.instance_of(request)
    operation = instance.operations.begin(kind, action, exclusive=exclusive)
    instance.events.record(
        f"{kind.capitalize()}Requested",
        f"{kind} of postgres was asked for",
        actor=documents.CALLER.get().name,
        details={"operation": operation.id},
    )
    return await accept(request, operation.id)
