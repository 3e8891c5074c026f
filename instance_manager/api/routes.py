"""The whole API on one screen: method, path, handler, and who may call on the control listeners.

A path that is read with GET answers HEAD too. The health listener serves the first table and is
open to everyone; the control listeners serve both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from instance_manager.api import (
    configuration,
    databases,
    documentation,
    events,
    extensions,
    metrics,
    operations,
    postgres,
    status,
)
from instance_manager.api.authentication import Access
from instance_manager.api.extension_updates import update as update_extension
from instance_manager.api.probes import probe

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp import web
    from aiohttp.typedefs import Handler

READER: Final = Access.READER
OPERATOR: Final = Access.OPERATOR


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the table."""

    method: str
    path: str
    handler: Handler
    access: Access


HEALTH_ROUTES: Final = (
    Route("GET", "/livez", probe("livez"), OPERATOR),
    Route("GET", "/livez/{check}", probe("livez"), OPERATOR),
    Route("GET", "/healthz", probe("livez", "healthz"), OPERATOR),
    Route("GET", "/healthz/{check}", probe("livez", "healthz"), OPERATOR),
    Route("GET", "/startupz", probe("startupz"), OPERATOR),
    Route("GET", "/startupz/{check}", probe("startupz"), OPERATOR),
    Route("GET", "/readyz", probe("readyz"), OPERATOR),
    Route("GET", "/readyz/{check}", probe("readyz"), OPERATOR),
    Route("GET", "/metrics", metrics.show, OPERATOR),
)

CONTROL_ROUTES: Final = (
    Route("GET", "/v1/status", status.show, READER),
    Route("GET", "/v1/events", events.show_all, READER),
    Route("GET", "/v1/extensions", extensions.show, READER),
    Route("POST", "/v1/extensions/rescan", extensions.rescan, OPERATOR),
    Route("GET", "/v1/extensions/{volume}", extensions.show_volume, READER),
    Route("GET", "/v1/databases", databases.show_all, OPERATOR),
    Route("GET", "/v1/databases/{name}/extensions", databases.show_extensions, OPERATOR),
    Route("GET", "/v1/configuration", configuration.show, OPERATOR),
    Route("PUT", "/v1/configuration", configuration.put, OPERATOR),
    Route("POST", "/v1/postgres/start", postgres.start, OPERATOR),
    Route("POST", "/v1/postgres/stop", postgres.stop, OPERATOR),
    Route("POST", "/v1/postgres/restart", postgres.restart, OPERATOR),
    Route("POST", "/v1/postgres/reload", postgres.reload, OPERATOR),
    Route("POST", "/v1/postgres/checkpoint", postgres.checkpoint, OPERATOR),
    Route("POST", "/v1/postgres/fence", postgres.fence, OPERATOR),
    Route("POST", "/v1/postgres/unfence", postgres.unfence, OPERATOR),
    Route("GET", "/openapi.json", documentation.show_openapi, READER),
    Route("GET", "/docs", documentation.show_page, READER),
    Route("GET", "/v1/operations", operations.show_all, OPERATOR),
    Route("GET", "/v1/operations/{id}", operations.show, OPERATOR),
    Route("DELETE", "/v1/operations/{id}", operations.cancel, OPERATOR),
    Route(
        "POST",
        "/v1/databases/{name}/extensions/{extension}/update",
        update_extension,
        OPERATOR,
    ),
)


def add_routes(
    router: web.UrlDispatcher, routes: Iterable[Route]
) -> dict[web.AbstractRoute, Access]:
    """Add *routes* to a router and return what a caller needs for each."""
    access_of: dict[web.AbstractRoute, Access] = {}
    for route in routes:
        # The router gives the last resource again for the same path, so that rows which follow
        # each other share it, and a wrong method is told all the right ones.
        resource = router.add_resource(route.path)
        # RFC 9110, 9.1: a server must support both.
        for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
            access_of[resource.add_route(method, route.handler)] = route.access
    return access_of
