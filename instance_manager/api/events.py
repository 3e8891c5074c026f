"""``GET /v1/events``: what happened to the instance, newest last; once, or as a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from instance_manager.api import documents, event_stream
from instance_manager.api.following import follow
from instance_manager.api.models import Event, Items

if TYPE_CHECKING:
    from aiohttp import web


async def show_all(request: web.Request) -> web.StreamResponse:
    """Answer with the events that are remembered; with ``?follow``, with what comes as well."""
    if is_followed(request.query.get("follow"), request.headers.get("Accept", "")):
        return await follow(request)
    events = documents.instance_of(request).events.recent()
    items = tuple(Event.model_validate(event) for event in events)
    return documents.answer(Items[Event](items=items))


def is_followed(parameter: str | None, accept: str) -> bool:
    """Return whether a stream is asked for: by the parameter, else by the ``Accept`` header."""
    if parameter is not None:
        return parameter.lower() not in {"false", "0", "no"}
    kinds = (part.partition(";")[0].strip().lower() for part in accept.split(","))
    return event_stream.CONTENT_TYPE in kinds
