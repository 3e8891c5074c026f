"""``GET /v1/status``: the whole instance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from instance_manager.api import documents

if TYPE_CHECKING:
    from aiohttp import web


async def show(request: web.Request) -> web.Response:
    """Answer with the instance as it is known now."""
    return documents.answer(documents.instance_of(request).status())
