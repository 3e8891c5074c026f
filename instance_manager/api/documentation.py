"""``/openapi.json`` and ``/docs``: the API's own description, for programs and for people.

Neither tells anything of the instance. Both are made once, in a thread, when somebody asks.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable

_POLICY: Final = "Content-Security-Policy"


DOCUMENT: Final[web.AppKey[Callable[[], bytes]]] = web.AppKey("document")
"""What makes the document: it is made of the routes, of which these handlers are two."""


async def show_openapi(request: web.Request) -> web.Response:
    """Answer with the OpenAPI document."""
    body = await asyncio.to_thread(request.app[DOCUMENT])
    return web.Response(body=body, content_type="application/json")


async def show_page(request: web.Request) -> web.Response:
    """Answer with a page that shows the same; it loads nothing and runs nothing."""
    page, policy = await asyncio.to_thread(_page, request.app[DOCUMENT])
    return web.Response(body=page, content_type="text/html", charset="utf-8", headers=policy)


@cache
def _page(document: Callable[[], bytes]) -> tuple[bytes, dict[str, str]]:
    from instance_manager.api.docs_page import STYLE, page

    # The one thing that the page may use is its own style, told by its hash.
    digest = b64encode(sha256(STYLE.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    )
    return page(json.loads(document())).encode(), {_POLICY: policy}
