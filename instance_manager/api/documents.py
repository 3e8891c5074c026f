"""Reading and writing the JSON documents of requests and answers."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from aiohttp import hdrs, web
from pydantic import BaseModel, ValidationError

from instance_manager.api.models import FieldProblem, Request
from instance_manager.api.problems import RequestCode, RequestError
from instance_manager.settings.layers import as_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from instance_manager.api.instance import Instance

INSTANCE: Final[web.AppKey[Instance]] = web.AppKey("instance")
"""Whom the handlers of an application ask."""

BODY_SECONDS: Final = 15.0
"""For the whole body of a request."""

_HALF: Final = b"\\ud"
"""How half of a character begins, if it is not a whole one's."""
_DEEPEST: Final = 50
"""Far beyond what any document needs."""

RequestT = TypeVar("RequestT", bound=Request)


def instance_of(request: web.Request) -> Instance:
    """Return the instance that the request is about."""
    return request.app[INSTANCE]


def answer(
    document: BaseModel, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return a response that carries *document* as JSON, a line of its own on a terminal."""
    return web.Response(
        status=status,
        headers=headers,
        body=f"{document.model_dump_json(by_alias=True)}\n".encode(),
        content_type="application/json",
    )


async def read(request: web.Request, model: type[RequestT]) -> RequestT:
    """Return the body as a *model*; no body at all is the model with its defaults.

    Raises:
        RequestError: 415 for another media type, 400 for what is not JSON, 422 for JSON that does
            not fit, with all its problems.
    """
    body = await _read_bytes(request)
    if not body:
        return model()
    _require_json(request)
    return parse(body, model)


async def read_json(request: web.Request) -> object:
    """Return the body, whatever JSON it is; numbers are text, true and false are on and off.

    Raises:
        RequestError: 415 for another media type, 400 for what is not JSON.
    """
    body = await _read_bytes(request)
    _require_json(request)
    return as_text(_loaded(body, str))


def _require_json(request: web.Request) -> None:
    # Unpacked, a small body may fill the memory.
    if hdrs.CONTENT_ENCODING in request.headers:
        raise RequestError(
            RequestCode.UNSUPPORTED_MEDIA_TYPE, "the body is compressed: send it as it is"
        )
    # A web page may send a form to any address (CSRF), but JSON only where the server lets it
    # (CORS).
    if request.content_type != "application/json":
        raise RequestError(
            RequestCode.UNSUPPORTED_MEDIA_TYPE,
            f"the body is {request.content_type!r}",
            hint="send JSON with the header Content-Type: application/json",
        )


def parse(body: bytes, model: type[RequestT]) -> RequestT:
    """Return *body*, a JSON text, as a *model*. Duplicate keys are refused.

    Raises:
        RequestError: as :func:`read` says.
    """
    document = _loaded(body, None)
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise RequestError(
            RequestCode.INVALID, "the body does not fit", errors=_problems_of(error)
        ) from error


def _loaded(body: bytes, number: Callable[[str], Any] | None) -> Any:
    try:
        return _checked(body, number)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RequestError(
            RequestCode.MALFORMED, f"cannot read the body as JSON: {reason}"
        ) from error


def _checked(body: bytes, number: Callable[[str], Any] | None) -> Any:
    document = json.loads(
        # As bytes, other encodings would be taken too, and halves of characters (RFC 8259, 8.1).
        body.decode("utf-8-sig"),
        object_pairs_hook=_object_of,
        parse_constant=_refuse_constant,
        parse_int=number,
        parse_float=number,
    )
    _require_text(body, document)
    _require_shallow(document)
    return document


def _require_text(body: bytes, document: Any) -> None:
    """Refuse halves of characters: no answer, file or log could hold them."""
    if _HALF in body.lower():
        try:
            json.dumps(document, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("it holds half of a character (a lone surrogate)") from error


def _require_shallow(document: Any) -> None:
    # Level by level, and not recursive: depth is what is not trusted here.
    level = [document]
    for _ in range(_DEEPEST):
        level = [item for one in level for item in _items(one)]
        if not level:
            return
    raise ValueError(f"it is nested more than {_DEEPEST} deep")


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return cast("dict[str, Any]", value).values()
    return [*value] if isinstance(value, list) else ()


async def _read_bytes(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except TimeoutError as error:
        # The rest of it may come for hours.
        request.protocol.close()
        raise RequestError(
            RequestCode.TIMEOUT, f"the body did not come within {BODY_SECONDS:.0f} s"
        ) from error
    except web.RequestPayloadError as error:
        raise RequestError(RequestCode.MALFORMED, "cannot read the body: it is broken") from error


def _object_of(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object, as JSON readers do that don't let the last of two equal keys win."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"duplicate key {key!r}")
        found[key] = value
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _problems_of(error: ValidationError) -> list[FieldProblem]:
    return [
        FieldProblem(path=".".join(map(str, one["loc"])), message=one["msg"])
        for one in error.errors(include_url=False, include_context=False, include_input=False)
    ]
