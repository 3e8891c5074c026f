"""``GET /metrics``: Prometheus text, or OpenMetrics where the scraper prefers it."""

from __future__ import annotations

import asyncio
import importlib
import sys
from typing import TYPE_CHECKING, Final

from aiohttp import web

from instance_manager.api import documents
from instance_manager.observability import metrics

if TYPE_CHECKING:
    from types import ModuleType

_LIBRARY: Final = "prometheus_client"


async def show(request: web.Request) -> web.Response:
    """Answer with the facts as they are known now; the first scrape loads the library."""
    if _LIBRARY not in sys.modules:
        # Not on the loop: an import reads files, and the heartbeat must not wait for a disk.
        await asyncio.to_thread(_load)
    instance = documents.instance_of(request)
    body, content_type = metrics.render(
        instance.metrics(), instance.measurements, request.headers.get("Accept", "")
    )
    return web.Response(body=body, headers={"Content-Type": content_type})


def _load() -> ModuleType:
    return importlib.import_module(_LIBRARY)
