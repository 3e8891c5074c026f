"""What this room finds in settings, to be told with all other problems of theirs. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from instance_manager.configuration import hba, parameters
from instance_manager.errors import Problem
from instance_manager.settings.checks import Check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from instance_manager.settings.models import Settings


def _parameters(settings: Settings) -> Iterator[Problem]:
    yield from parameters.problems(settings.postgres.parameters)


def _hba(settings: Settings) -> Iterator[Problem]:
    yield from hba.line_problems(settings.postgres.hba, "postgres.hba")


def _ident(settings: Settings) -> Iterator[Problem]:
    yield from hba.line_problems(settings.postgres.ident, "postgres.ident")


def _host_auth_method(settings: Settings) -> Iterator[Problem]:
    if fault := hba.host_auth_problem(settings.postgres.host_auth_method):
        yield Problem("POSTGRES_HOST_AUTH_METHOD", fault)


CHECKS: Final = (
    Check(("postgres.parameters",), _parameters),
    Check(("postgres.hba",), _hba),
    Check(("postgres.ident",), _ident),
    Check(("postgres.host_auth_method",), _host_auth_method),
)
