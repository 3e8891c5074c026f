"""How calls of the API fail, as the client's callers see it."""

from __future__ import annotations

from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from instance_manager.api.models import Problem
from instance_manager.errors import Exit, InstanceManagerError

DocumentT = TypeVar("DocumentT", bound=BaseModel)


class ClientError(InstanceManagerError):
    """A call of the API did not succeed."""


class UnreachableError(ClientError):
    """Nobody answered, not in time, or not as this API does."""


class AnswerError(ClientError):
    """The server answered with a problem; programs match ``problem.code``."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail, hint=problem.hint or "", problem=problem.code)
        self.problem = problem


class RefusedError(AnswerError):
    """The credential is missing or wrong, or does not allow this (401, 403)."""


class NotFoundError(AnswerError):
    """What was asked for does not exist (404)."""


class OperationConflictError(AnswerError):
    """The state of the instance does not allow it now (409)."""

    exit_code = Exit.CONFLICT


class StaleTagError(AnswerError):
    """What is to be changed was changed since it was read (412)."""

    exit_code = Exit.CONFLICT


class InvalidRequestError(AnswerError):
    """The request does not fit; ``problem.errors`` says where (422)."""

    exit_code = Exit.USAGE


_ERRORS: Final[dict[int, type[AnswerError]]] = {
    401: RefusedError,
    403: RefusedError,
    404: NotFoundError,
    409: OperationConflictError,
    412: StaleTagError,
    422: InvalidRequestError,
}


def error_of(status: int, content: bytes, target: str) -> ClientError:
    """Return the error for an answer that is none of those that were hoped for."""
    try:
        problem = Problem.model_validate_json(content)
    except ValidationError:
        # A proxy's page of HTML, or another server on that port.
        return UnreachableError(f"cannot read the answer of {target!r}: HTTP status {status}")
    return _ERRORS.get(status, AnswerError)(problem)


def parsed(content: bytes, model: type[DocumentT]) -> DocumentT:
    """Return an answer as its document.

    Raises:
        UnreachableError: it is none.
    """
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise UnreachableError(
            f"cannot read the answer as {model.__name__}: {error.error_count()} problems",
            hint="is this the control API of an instance manager of a fitting version?",
        ) from error
