"""``POST /v1/databases/{name}/extensions/{extension}/update``: rehearsed, or for real."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from instance_manager.api import documents, idempotency
from instance_manager.api.audit import AUDIT
from instance_manager.api.callers import CALLER
from instance_manager.api.models import FieldProblem
from instance_manager.api.operations import accept
from instance_manager.api.problems import RequestCode, RequestError
from instance_manager.api.update_models import Rehearsal, UpdateRequest
from instance_manager.databases.sessions import Limits
from instance_manager.databases.updating import NotThereError, VersionError
from instance_manager.supervision.operations import Kind

if TYPE_CHECKING:
    from aiohttp import web

    from instance_manager.databases.updating import UpdatePlan
    from instance_manager.supervision.operations import Claim

_REHEARSAL_SECONDS: Final = 60.0
_UPDATE_SECONDS: Final = 600.0


async def update(request: web.Request) -> web.Response:
    """Answer with what a rehearsal has shown; or begin the update as an operation."""
    asked = await documents.read(request, UpdateRequest)
    # A rehearsal changes nothing that must not be done twice.
    claim = None if asked.dry_run else idempotency.claim_of(request, asked)
    # Before the plan: what was done already would be planned otherwise.
    if (known := idempotency.find(request, claim)) is not None:
        return await accept(request, known.id)
    plan = await _planned(request, asked)
    default = _REHEARSAL_SECONDS if asked.dry_run else _UPDATE_SECONDS
    limits = Limits(asked.lock_timeout_seconds, asked.timeout_seconds or default)
    if asked.dry_run:
        updates = documents.instance_of(request).extension_updates
        report = await updates.rehearse(plan, limits, CALLER.get().name)
        return documents.answer(Rehearsal.model_validate(report))
    return await _begin(request, plan, limits, claim)


async def _planned(request: web.Request, asked: UpdateRequest) -> UpdatePlan:
    database, extension = request.match_info["name"], request.match_info["extension"]
    updates = documents.instance_of(request).extension_updates
    try:
        return await updates.plan(database, extension, asked.version, rehearsed=asked.dry_run)
    except NotThereError as error:
        raise RequestError(RequestCode.NOT_FOUND, error.message, hint=error.hint) from error
    except VersionError as error:
        raise RequestError(
            RequestCode.INVALID,
            f"extension {extension!r} can't be updated so",
            errors=[FieldProblem(path="version", message=str(error))],
        ) from error


async def _begin(
    request: web.Request, plan: UpdatePlan, limits: Limits, claim: Claim | None
) -> web.Response:
    # The same request may have come while this one was planned.
    if (known := idempotency.find(request, claim)) is not None:
        return await accept(request, known.id)
    instance, actor = documents.instance_of(request), CALLER.get().name
    action = request.app[AUDIT].of_operation(
        f"update of extension {plan.extension!r} of database {plan.database!r}",
        lambda progress: instance.extension_updates.update(plan, limits, actor, progress),
    )
    operation = instance.operations.begin(
        Kind.UPDATE_EXTENSION,
        action,
        # It takes no turn in the life of the server; what hinders it is an update of the same
        # extension.
        exclusive=False,
        subject=f"extension {plan.extension!r} of database {plan.database!r}",
        claim=claim,
    )
    instance.events.record(
        "ExtensionUpdateRequested",
        f"update of extension {plan.extension!r} of database {plan.database!r} from version"
        f" {plan.from_version!r} to {plan.to_version!r} was asked for",
        actor=actor,
        details={
            "operation": operation.id,
            "database": plan.database,
            "extension": plan.extension,
            "version": plan.to_version,
        },
    )
    return await accept(request, operation.id)
