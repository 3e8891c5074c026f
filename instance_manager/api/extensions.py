"""``/v1/extensions``: the volumes, what they hold, and what was composed of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from instance_manager.api import documents
from instance_manager.api.callers import CALLER
from instance_manager.api.models import EmptyRequest
from instance_manager.api.problems import RequestCode, RequestError

if TYPE_CHECKING:
    from aiohttp import web


async def show(request: web.Request) -> web.Response:
    """Answer with the whole report."""
    return documents.answer(documents.instance_of(request).extensions())


async def show_volume(request: web.Request) -> web.Response:
    """Answer with one volume of the report."""
    wanted = request.match_info["volume"]
    volumes = documents.instance_of(request).extensions().volumes
    for volume in volumes:
        if volume.name == wanted:
            return documents.answer(volume)
    known = ", ".join(volume.name for volume in volumes) or "none"
    raise RequestError(
        RequestCode.NOT_FOUND, f"there is no volume {wanted!r}", hint=f"the volumes are: {known}"
    )


async def rescan(request: web.Request) -> web.Response:
    """Look at the volumes again, and answer with the whole report."""
    await documents.read(request, EmptyRequest)
    instance = documents.instance_of(request)
    instance.events.record(
        "RescanRequested",
        "a look at the extension volumes was asked for",
        actor=CALLER.get().name,
    )
    return documents.answer(await instance.rescan())
