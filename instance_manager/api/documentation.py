"""``/openapi.json`` and ``/docs``: the API's own description, for programs and for people.

Neither tells anything of the instance. Both are made once, in a thread, when somebody asks.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from functools import cache
from hashlib import sha256
from typing import Final

from aiohttp import web

_POLICY: Final = "Content-Security-Policy"


async def show_openapi(request: web.Request) -> web.Response:
    """Answer with the OpenAPI document."""
    del request
    body = await asyncio.to_thread(_openapi)
    return web.Response(body=body, content_type="application/json")


async def show_page(request: web.Request) -> web.Response:
    """Answer with a page that shows the same; it loads nothing and runs nothing."""
    del request
    page, policy = await asyncio.to_thread(_page)
    return web.Response(body=page, content_type="text/html", charset="utf-8", headers=policy)


def _openapi() -> bytes:
    from instance_manager.api.openapi import served

    return served()


@cache
def _page() -> tuple[bytes, dict[str, str]]:
    from instance_manager.api.docs_page import STYLE, page
    from instance_manager.api.openapi import served

    # The one thing that the page may use is its own style, told by its hash.
    digest = b64encode(sha256(STYLE.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    )
    return page(json.loads(served())).encode(), {_POLICY: policy}
