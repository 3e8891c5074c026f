"""Who asked for what, from where, and what came of it: each request that is no reading.

One line of the log for each, accepted or refused, and an event for each refusal; handlers record
what they accept, with what it becomes. Refusals are held back where they become many: a scanner
must not push the events of others out.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

from instance_manager.api.authentication import origin_of
from instance_manager.api.callers import CALLER
from instance_manager.api.problems import ProblemResponse
from instance_manager.errors import ConflictError, ErrorCode
from instance_manager.log import get_logger
from instance_manager.observability.events import EventType
from instance_manager.supervision.flood import Flood

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aiohttp.typedefs import Handler

    from instance_manager.api.models import Problem
    from instance_manager.observability.events import Events
    from instance_manager.supervision.operations import Progress

_log: Final = get_logger("instance_manager.api.audit")
# The safe methods of RFC 9110, 9.2.1: they change nothing that anybody would have to answer for.
_READINGS: Final = frozenset({hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS})
_REFUSALS: Final = 20
_WINDOW_SECONDS: Final = 60.0
_BAD: Final = 400
_LONGEST_PATH: Final = 200


class Audit:
    """Tells what was refused on one listener.

    For each its own: a scanner over TCP must not hide a refusal on the unix socket; nor, on the
    same listener, one of somebody who has shown who he is.
    """

    def __init__(self, events: Events) -> None:
        self._events = events
        self._of_callers = Flood(_REFUSALS, _WINDOW_SECONDS)
        self._of_strangers = Flood(_REFUSALS, _WINDOW_SECONDS)

    def answered(self, request: web.Request, answer: web.StreamResponse) -> None:
        """Tell what became of a request."""
        caller = CALLER.get(None)
        actor = caller.name if caller else f"unknown{origin_of(request)}"
        # The path alone: a query may hold anything.
        what = f"{request.method} {request.path[:_LONGEST_PATH]}"
        # What was accepted is an event already, recorded by who accepted it.
        if answer.status < _BAD:
            _log.info("accepted", request=what, actor=actor, status=answer.status)
            return
        details: dict[str, object] = {"status": answer.status}
        if isinstance(answer, ProblemResponse):
            details |= _details(answer.problem)
        # What nobody expected may have come halfway.
        is_fault = details.get("code") == ErrorCode.INTERNAL
        # Behind the gate, too, there are strangers where readings are open.
        flood = self._of_callers if caller and caller.is_proven else self._of_strangers
        why = str(details.get("code", answer.status))
        self._tell(flood, what, actor, why, details, is_fault=is_fault)

    def of_operation(
        self, what: str, action: Callable[[Progress], Awaitable[None]]
    ) -> Callable[[Progress], Awaitable[None]]:
        """Return the *action* of an operation, which tells that the state forbids it.

        It was answered as accepted: what the state forbids shows only here.
        """

        async def act(progress: Progress) -> None:
            try:
                await action(progress)
            except ConflictError as error:
                details = {"code": error.code, "operation": progress.operation}
                self._tell(self._of_callers, what, CALLER.get().name, error.message, details)
                raise

        return act

    def _tell(
        self,
        flood: Flood,
        what: str,
        actor: str,
        why: str,
        details: Mapping[str, object],
        *,
        is_fault: bool = False,
    ) -> None:
        now = monotonic()
        if flood.passes(now):
            _log.warning("failed" if is_fault else "refused", request=what, actor=actor, **details)
            self._events.record(
                "ChangeFailed" if is_fault else "ChangeRefused",
                f"{what} {'failed' if is_fault else 'was refused'}: {why}",
                kind=EventType.WARNING,
                actor=actor,
                details=details,
            )
        elif flood.seconds_left(now) == 0:
            _log.warning("refused requests were not told one by one", number=flood.settle(now))


AUDIT: Final = web.AppKey("audit", Audit)


@web.middleware
async def audit(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Note what is no reading; stands around what makes problems of errors, to see them all."""
    answer = await handler(request)
    if request.method not in _READINGS:
        request.app[AUDIT].answered(request, answer)
    return answer


def _details(problem: Problem) -> dict[str, object]:
    # Not the sentence, which may hold what the caller has sent.
    in_the_way = {} if problem.operation is None else {"operation": problem.operation}
    return {"code": problem.code, **in_the_way}
