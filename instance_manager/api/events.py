"""``GET /v1/events``: what happened to the instance, newest last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from instance_manager.api import documents
from instance_manager.api.models import Event, Items

if TYPE_CHECKING:
    from aiohttp import web


async def show_all(request: web.Request) -> web.Response:
    """Answer with the events that are remembered."""
    events = documents.instance_of(request).events.recent()
    items = tuple(Event.model_validate(event) for event in events)
    return documents.answer(Items[Event](items=items))
