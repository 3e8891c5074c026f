"""``GET /v1/databases``: what each database uses, and what it could."""

from __future__ import annotations

from typing import TYPE_CHECKING

from instance_manager.api import documents
from instance_manager.api.problems import RequestCode, RequestError

if TYPE_CHECKING:
    from aiohttp import web


async def show_all(request: web.Request) -> web.Response:
    """Answer with every database that was read; none before the first reading."""
    return documents.answer(documents.instance_of(request).databases())


async def show_extensions(request: web.Request) -> web.Response:
    """Answer with the extensions of one database."""
    name, instance = request.match_info["name"], documents.instance_of(request)
    found = instance.database_extensions(name)
    if found is not None:
        return documents.answer(found)
    databases = instance.databases()
    known = ", ".join(each.name for each in databases.items) or "none"
    hint = f"the databases are: {known}"
    # Else the name would seem to be wrong.
    if databases.read_at is None:
        hint = "no database was read yet: they are read once postgres runs"
    raise RequestError(RequestCode.NOT_FOUND, f"there is no database {name!r}", hint=hint)
