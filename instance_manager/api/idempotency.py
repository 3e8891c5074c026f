"""``Idempotency-Key``: a request that is sent again begins no second operation.

The rules are those of the IETF's draft: the same key with another request is 422, one that is
malformed 400. Where the draft would refuse a repetition that comes while the first one is under
way, ours is answered with the same operation: that is what an operation is for. A request that was
refused has begun nothing, so its key is free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from instance_manager.api import documents
from instance_manager.api.problems import RequestCode, RequestError
from instance_manager.supervision.operations import Claim, ReusedKeyError

if TYPE_CHECKING:
    from aiohttp import web
    from pydantic import BaseModel

    from instance_manager.supervision.operations import Operation

HEADER: Final = "Idempotency-Key"
LONGEST_KEY: Final = 255


def claim_of(request: web.Request, body: BaseModel) -> Claim | None:
    """Return what the request claims; None without a key.

    Raises:
        RequestError: the key is malformed.
    """
    given = request.headers.getall(HEADER, [])
    if not given:
        return None
    key = parse_key(given)
    if key is None:
        raise RequestError(
            RequestCode.MALFORMED,
            f"{HEADER} is not one key of 1 to {LONGEST_KEY} visible ASCII characters",
            hint="a random UUID is a good one",
        )
    # The path and the body too: a key that is used for something else is a mistake of the
    # caller's.
    return Claim(key, f"{request.method} {request.rel_url.raw_path}\n{body.model_dump_json()}")


def parse_key(headers: list[str]) -> str | None:
    """Return the key, with or without the quotes that the draft wants; None for what is none."""
    if len(headers) != 1:
        return None
    key = headers[0].strip()
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]
    visible = all("!" <= character <= "~" and character not in '"\\' for character in key)
    return key if key and len(key) <= LONGEST_KEY and visible else None


def find(request: web.Request, claim: Claim | None) -> Operation | None:
    """Return the operation that the same request has begun before.

    Raises:
        RequestError: another request has used the key.
    """
    if claim is None:
        return None
    try:
        return documents.instance_of(request).operations.claimed(claim)
    except ReusedKeyError as error:
        raise RequestError(RequestCode.KEY_REUSED, error.message, hint=error.hint) from error
