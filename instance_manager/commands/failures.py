"""What ``--output json`` prints where there is nothing to answer: ``{"error": {…}}``.

The member has the name and the form of an operation's own ``error``, so that programs look in one
place for what went wrong.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from instance_manager.client_errors import AnswerError, UnreachableError
from instance_manager.errors import SettingsError

if TYPE_CHECKING:
    from instance_manager.errors import InstanceManagerError


def document_of(error: InstanceManagerError) -> str:
    """Return the document for an error, on one line."""
    return _document(_members(error))


def document_of_interruption(command: str) -> str:
    """Return the document for a request whose answer was not waited for."""
    detail = f"interrupted; whether the {command} has begun is not known"
    return _document({"code": "interrupted", "detail": detail})


def _document(members: dict[str, Any]) -> str:
    return json.dumps({"error": members}, ensure_ascii=False)


def _members(error: InstanceManagerError) -> dict[str, Any]:
    if isinstance(error, AnswerError):
        return error.problem.model_dump(mode="json", exclude_none=True)
    code = "unreachable" if isinstance(error, UnreachableError) else str(error.code)
    members: dict[str, Any] = {"code": code, "detail": error.message}
    if error.hint:
        members["hint"] = error.hint
    if isinstance(error, SettingsError):
        members["errors"] = [{"path": one.path, "message": one.message} for one in error.problems]
    return members
