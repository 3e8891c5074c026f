"""Who asked for what, from where, and what came of it: each request that is no reading.

One line of the log for each, accepted or refused, and an event for each refusal; handlers record
what they accept, with what it becomes. Refusals are held back where they become many: a scanner
must not push the events of others out.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

from instance_manager.api import documents
from instance_manager.api.authentication import origin_of
from instance_manager.api.callers import CALLER
from instance_manager.api.problems import RequestError
from instance_manager.log import get_logger
from instance_manager.observability.events import EventType
from instance_manager.supervision.flood import Flood

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler, Middleware

_log: Final = get_logger("instance_manager.api.audit")
# The safe methods of RFC 9110, 9.2.1: they change nothing that anybody would have to answer for.
_READINGS: Final = frozenset({hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS})
_REFUSALS: Final = 20
_WINDOW_SECONDS: Final = 60.0
_BAD: Final = 400
_LONGEST_PATH: Final = 200


def audit() -> Middleware:
    """Return the middleware, for one listener; it stands around the one that asks who it is."""
    # For each listener: a scanner over TCP must not hide a refusal on the unix socket.
    flood = Flood(_REFUSALS, _WINDOW_SECONDS)

    @web.middleware
    async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method in _READINGS:
            return await handler(request)
        try:
            answer = await handler(request)
        except RequestError as error:
            _note(request, error.problem.status, flood)
            raise
        except web.HTTPException as error:
            _note(request, error.status, flood)
            raise
        _note(request, answer.status, flood)
        return answer

    return note


def _note(request: web.Request, status: int, flood: Flood) -> None:
    caller = CALLER.get(None)
    actor = caller.name if caller else f"unknown{origin_of(request)}"
    # The path alone: a query may hold anything.
    what = f"{request.method} {request.path[:_LONGEST_PATH]}"
    # What was accepted is an event already, recorded by who accepted it.
    if status < _BAD:
        _log.info("accepted", request=what, actor=actor, status=status)
        return
    now = monotonic()
    if flood.passes(now):
        _log.warning("refused", request=what, actor=actor, status=status)
        documents.instance_of(request).events.record(
            "ChangeRefused",
            f"{what} was refused",
            kind=EventType.WARNING,
            actor=actor,
            details={"status": status},
        )
    elif flood.seconds_left(now) == 0:
        _log.warning("refused requests were not told one by one", number=flood.settle(now))
