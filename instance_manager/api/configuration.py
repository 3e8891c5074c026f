"""``/v1/configuration``: read it, try another one, and put that into force."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import hdrs

from instance_manager.api import documents
from instance_manager.api.callers import CALLER
from instance_manager.api.configuration_models import (
    ConfigurationDocument,
    ConfigurationResult,
    ParameterChange,
)
from instance_manager.api.models import FieldProblem
from instance_manager.api.problems import RequestCode, RequestError
from instance_manager.configuration.masking import (
    mask_document,
    mask_problems,
    mask_value,
    unmask_document,
)
from instance_manager.errors import ConflictError, StaleTagError
from instance_manager.settings.configuration_document import tag_of

if TYPE_CHECKING:
    from aiohttp import web

    from instance_manager.configuration.plan import Plan

LIMIT_BYTES: Final = 1 << 20
"""As large as a settings file may be."""

_TAGS: Final = re.compile(r'\s*(?:(?:W/)?"[^"]*"|\*)\s*(?:,\s*(?:(?:W/)?"[^"]*"|\*)\s*)*')
_STRONG: Final = re.compile(r'(?<!W/)"([^"]*)"')


async def show(request: web.Request) -> web.Response:
    """Answer with the document in force, its secrets masked."""
    document = documents.instance_of(request).configuration.document()
    return documents.answer(
        ConfigurationDocument.model_validate(mask_document(document)),
        headers={hdrs.ETAG: f'"{tag_of(document)}"'},
    )


async def put(request: web.Request) -> web.Response:
    """Put another document into force; with ``?dry_run=true``, only say what that would change."""
    configuration = documents.instance_of(request).configuration
    dry_run = _is_dry_run(request)
    # Before the body: nothing in it could change this answer.
    if not dry_run and configuration.is_from_file:
        file = _shown(configuration.settings_file)
        raise ConflictError(
            f"the configuration is that of the settings file {file}",
            hint="change that file, which is applied at once; or set configuration.source: api",
        )
    tags = _tags(request, required=not dry_run)
    current = configuration.document()
    if tags is not None and tag_of(current) not in tags:
        raise _stale(tag_of(current))
    # With the document that the tag was compared with: the masks are of that one.
    document = unmask_document(await _read(request), current)
    if problems := list(mask_problems(document)):
        errors = [FieldProblem(path=each.path, message=each.message) for each in problems]
        raise RequestError(RequestCode.INVALID, "the body does not fit", errors=errors)
    if dry_run:
        tag, plan = await configuration.rehearse(document)
        return documents.answer(_result(tag, plan, dry_run=True))
    actor = CALLER.get().name
    try:
        # The tags go along: another change may come while this one is being judged.
        tag, plan = await configuration.put(document, tags, actor)
    except StaleTagError as error:
        raise _stale(tag_of(configuration.document())) from error
    return documents.answer(_result(tag, plan, dry_run=False), headers={hdrs.ETAG: f'"{tag}"'})


def _shown(file: object) -> str:
    return repr(str(file)) if file is not None else "(there is none: defaults and variables)"


def _is_dry_run(request: web.Request) -> bool:
    given = request.query.getall("dry_run", ["false"])
    # Anything else is refused: a slip in "true" would put the document into force.
    if len(given) == 1 and given[0] in ("true", "false"):
        return given[0] == "true"
    raise RequestError(
        RequestCode.INVALID,
        "the query does not fit",
        errors=[FieldProblem(path="dry_run", message="must be true or false")],
    )


def _tags(request: web.Request, *, required: bool) -> frozenset[str] | None:
    """Return the tags of ``If-Match`` (RFC 9110, 13.1.1); None for ``*`` and for none.

    Weak ones never match.
    """
    headers = request.headers.getall(hdrs.IF_MATCH, [])
    if not headers:
        if required:
            raise RequestError(
                RequestCode.PRECONDITION_REQUIRED,
                "a change of the configuration needs the header If-Match",
                hint="read the configuration, and send its ETag; or * for whatever there is",
            )
        return None
    # Several headers of one name are one list (RFC 9110, 5.3).
    text = ",".join(headers)
    if not _TAGS.fullmatch(text):
        raise RequestError(
            RequestCode.MALFORMED, f"If-Match is {text!r}, which is no list of quoted tags"
        )
    if text.strip() == "*":
        return None
    return frozenset(_STRONG.findall(text))


def _stale(tag: str) -> RequestError:
    return RequestError(
        RequestCode.PRECONDITION_FAILED,
        "the configuration was changed since it was read",
        hint="read it again, and send your change with the new ETag",
        headers={hdrs.ETAG: f'"{tag}"'},
    )


async def _read(request: web.Request) -> dict[str, Any]:
    """Return the body, an object; its content is judged with the settings' own rules."""
    # A document may be as large as a settings file, which other bodies may not.
    body = await documents.read_json(request.clone(client_max_size=LIMIT_BYTES))
    if isinstance(body, dict):
        return cast("dict[str, Any]", body)
    raise RequestError(
        RequestCode.INVALID,
        "the body does not fit",
        errors=[FieldProblem(path="", message="must be an object")],
    )


def _result(tag: str, plan: Plan, *, dry_run: bool) -> ConfigurationResult:
    return ConfigurationResult(
        etag=tag,
        dry_run=dry_run,
        changes=tuple(
            ParameterChange(
                name=change.name,
                old=_masked(change.name, change.old),
                new=_masked(change.name, change.new),
                action=change.action,
            )
            for change in plan.changes
        ),
        sections=plan.sections,
        action=plan.action,
        overridden=plan.overridden,
    )


def _masked(name: str, value: str | None) -> str | None:
    return None if value is None else mask_value(name, value)
