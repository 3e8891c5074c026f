"""Errors as documents: every way in which a request fails ends here (RFC 9457).

Programs match ``code``. The status of each code is decided in this module alone. What nobody
expected is answered without its text, which may hold anything, and written to the log.
"""

from __future__ import annotations

import traceback
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import web

from instance_manager.api.models import FieldProblem, Problem
from instance_manager.errors import ErrorCode, InstanceManagerError, SettingsError
from instance_manager.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aiohttp.typedefs import Handler

CONTENT_TYPE: Final = "application/problem+json"


class RequestCode(StrEnum):
    """Stable names of what can be wrong with a request."""

    MALFORMED = "malformed-request"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not-found"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    TIMEOUT = "request-timeout"
    TOO_LARGE = "body-too-large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported-media-type"
    INVALID = "invalid-input"
    PRECONDITION_FAILED = "precondition-failed"
    PRECONDITION_REQUIRED = "precondition-required"
    KEY_REUSED = "idempotency-key-reused"
    TOO_MANY_STREAMS = "too-many-streams"


STATUSES: Final[Mapping[ErrorCode | RequestCode, int]] = {
    RequestCode.MALFORMED: 400,
    RequestCode.UNAUTHENTICATED: 401,
    RequestCode.FORBIDDEN: 403,
    RequestCode.NOT_FOUND: 404,
    RequestCode.METHOD_NOT_ALLOWED: 405,
    RequestCode.TIMEOUT: 408,
    RequestCode.TOO_LARGE: 413,
    RequestCode.UNSUPPORTED_MEDIA_TYPE: 415,
    RequestCode.INVALID: 422,
    RequestCode.PRECONDITION_FAILED: 412,
    RequestCode.PRECONDITION_REQUIRED: 428,
    RequestCode.KEY_REUSED: 422,
    RequestCode.TOO_MANY_STREAMS: 503,
    # What the instance is keeps the request from being done: a person must change that first.
    ErrorCode.CONFLICT: 409,
    ErrorCode.PREFLIGHT_REFUSED: 409,
    ErrorCode.CRASH_LOOP: 409,
    ErrorCode.DATA_DIRECTORY_UNUSABLE: 409,
    ErrorCode.DATA_DIRECTORY_IN_USE: 409,
    ErrorCode.DATA_DIRECTORY_OWNER: 409,
    ErrorCode.DATA_DIRECTORY_VERSION: 409,
    ErrorCode.DATA_DIRECTORY_DAMAGED: 409,
    ErrorCode.DATA_DIRECTORY_READ_ONLY: 409,
    ErrorCode.DATA_DIRECTORY_LOST: 409,
    ErrorCode.WAL_DIRECTORY_UNUSABLE: 409,
    ErrorCode.EXTENSION_UPDATE_FAILED: 409,
    ErrorCode.USAGE: 400,
    ErrorCode.SETTINGS_INVALID: 422,
    ErrorCode.INTERNAL: 500,
    # These may pass by themselves.
    ErrorCode.START_FAILED: 503,
    ErrorCode.UNRESPONSIVE: 503,
    ErrorCode.UNCLEAN_STOP: 503,
    ErrorCode.DISK_FULL: 507,
}

_HTTP_CODES: Final[Mapping[int, RequestCode]] = {
    404: RequestCode.NOT_FOUND,
    405: RequestCode.METHOD_NOT_ALLOWED,
    413: RequestCode.TOO_LARGE,
    415: RequestCode.UNSUPPORTED_MEDIA_TYPE,
}


class RequestError(Exception):
    """A request that can't be answered as its sender wishes, and why."""

    def __init__(
        self,
        code: RequestCode,
        detail: str,
        *,
        hint: str | None = None,
        errors: Iterable[FieldProblem] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.problem = problem_of(code, detail, hint=hint, errors=errors)
        self.headers = headers or {}


def problem_of(
    code: ErrorCode | RequestCode,
    detail: str,
    *,
    hint: str | None = None,
    errors: Iterable[FieldProblem] | None = None,
    operation: str | None = None,
) -> Problem:
    """Return the document for *code*; an empty hint is none."""
    return Problem(
        type=f"urn:instance-manager:problem:{code}",
        title=code.replace("-", " ").capitalize(),
        status=STATUSES.get(code, 500),
        detail=detail,
        code=code,
        # Absent in the document, and not an empty text.
        hint=hint or None,
        errors=None if errors is None else tuple(errors),
        operation=operation,
    )


def problem_of_error(error: InstanceManagerError) -> Problem:
    """Return the document for one of our own errors."""
    errors = None
    if isinstance(error, SettingsError):
        errors = [FieldProblem(path=one.path, message=one.message) for one in error.problems]
    operation = error.context.get("operation")
    return problem_of(
        error.code,
        error.message,
        hint=error.hint,
        errors=errors,
        operation=operation if isinstance(operation, str) else None,
    )


class ProblemResponse(web.Response):
    """The response that carries *problem*."""

    def __init__(self, problem: Problem, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(
            status=problem.status,
            headers=headers,
            body=f"{problem.model_dump_json(exclude_none=True)}\n".encode(),
            content_type=CONTENT_TYPE,
        )
        self.problem = problem


def answer(problem: Problem, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return the response that carries *problem*."""
    return ProblemResponse(problem, headers)


@web.middleware
async def answer_with_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever the inner handlers raise into a problem document."""
    try:
        return await handler(request)
    except RequestError as error:
        return answer(error.problem, error.headers)
    except web.HTTPException as error:
        return _answer_http(request, error)
    except InstanceManagerError as error:
        return answer(problem_of_error(error))
    except ConnectionError:
        # The client is gone: there is nobody to answer, and nothing is wrong with us.
        raise
    except Exception as error:  # noqa: BLE001 - the border: a fault of ours needs an answer
        get_logger("instance_manager.api").error(
            f"cannot answer {request.method} {request.path}: unexpected {type(error).__name__}",
            traceback="".join(traceback.format_exception(error)),
        )
        return answer(problem_of(ErrorCode.INTERNAL, "an unexpected error; the log says where"))


def _answer_http(request: web.Request, error: web.HTTPException) -> web.Response:
    """Answer what aiohttp itself refuses: an unknown path, a wrong method, a large body."""
    code = _HTTP_CODES.get(error.status, RequestCode.MALFORMED)
    details = {
        RequestCode.NOT_FOUND: f"there is nothing at {request.path!r}",
        RequestCode.METHOD_NOT_ALLOWED: f"{request.path!r} does not know {request.method}",
        RequestCode.TOO_LARGE: f"the body is larger than {request.client_max_size} bytes",
    }
    # RFC 9110, 15.5.6: a 405 must say which methods there are.
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    return answer(problem_of(code, details.get(code, HTTPStatus(error.status).phrase)), headers)
