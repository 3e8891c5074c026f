"""What speaks against a configuration: before the server has it, and when it has read it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from instance_manager import log
from instance_manager.configuration.access_rules import hba_problems, ident_problems
from instance_manager.configuration.masking import mask_text
from instance_manager.configuration.plan import Plan, changed_sections, plan
from instance_manager.configuration.rendering import without
from instance_manager.errors import (
    ConflictError,
    DataDirectoryError,
    InstanceManagerError,
    Problem,
    SettingsError,
    UnresponsiveError,
    beside_server,
)
from instance_manager.postgres import judging, standby
from instance_manager.postgres.connection import connect
from instance_manager.settings.configuration_document import document_of
from instance_manager.supervision.states import State
from instance_manager.supervision.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection

    from psycopg import AsyncConnection

    from instance_manager.configuration.values import Parameter
    from instance_manager.health.snapshot import Observer
    from instance_manager.settings.models import Settings
    from instance_manager.startup import Candidate, Startup
    from instance_manager.supervision.supervisor import Supervisor

_log: Final = log.get_logger()
_ROUNDS: Final = 2


class Judged(NamedTuple):
    """A configuration that nothing speaks against, and what it would change."""

    candidate: Candidate
    plan: Plan


class Judge:
    """Judges configurations for one instance; changes nothing."""

    def __init__(self, startup: Startup, supervisor: Supervisor, observer: Observer) -> None:
        self._startup = startup
        self._supervisor = supervisor
        self._observer = observer

    async def judge(self, settings: Settings, doing: str) -> Judged:
        """Find what speaks against *settings*, all at once.

        Raises:
            SettingsError: something does.
            PreflightError: the volumes forbid it.
        """
        startup = self._startup
        if not startup.tenancy.holds or startup.version is None:
            raise ConflictError(
                "cannot judge a configuration: the data directory is not ours",
                hint="see the failure in the status",
            )
        candidate = await startup.candidate(settings)
        with beside_server(doing):
            if candidate.refusal is not None:
                raise candidate.refusal
        major, postgres = startup.version.major, settings.postgres
        problems = [
            *hba_problems(postgres.hba, "hba", major),
            *ident_problems(postgres.ident, "ident", major),
        ]
        # For units and contexts: only a running server can tell them, of libraries' parameters
        # too.
        known = await self._parameters()
        before = startup.render() if startup.examination is not None else ""
        # Not where nothing changes: what the server runs with need not be proven to it again.
        if candidate.configuration != before:
            problems += await self._try(candidate, known or {})
            problems += await self._too_little_for_a_standby(before, candidate.configuration)
            problems += await startup.trial.certificates(candidate.configuration)
        if problems:
            raise SettingsError(problems)
        sections = changed_sections(document_of(startup.settings), document_of(settings))
        return Judged(candidate, plan(before, candidate.configuration, known, sections))

    async def _try(self, candidate: Candidate, known: Collection[str]) -> tuple[Problem, ...]:
        """Have the server's program read the candidate, where there is a cluster to do it with."""
        text = candidate.configuration
        told: tuple[Problem, ...] = ()
        try:
            # It looks at no value as long as there is a name that it does not know.
            for _ in range(_ROUNDS):
                failed = await self._startup.trial.judge(
                    text, candidate.environment, candidate.loading
                )
                if failed is None:
                    break
                found = await in_thread("judging", judging.problems_of, failed, known)
                told = (*told, *found)
                unknown = judging.unknown_names(failed)
                if not unknown:
                    break
                text = without(text, unknown)
        except (OSError, DataDirectoryError) as error:
            _log.warning("the configuration was not tried before", reason=str(error))
        return told

    async def _too_little_for_a_standby(self, before: str, after: str) -> tuple[Problem, ...]:
        try:
            required = await self._startup.trial.required_of_standby()
        except (OSError, InstanceManagerError) as error:
            _log.warning("what the primary has is not known", reason=str(error))
            return ()
        return tuple(standby.problems(before, after, required))

    async def _parameters(self) -> dict[str, Parameter] | None:
        """Return what the running server says of its parameters; None without one."""
        if self._supervisor.state is not State.RUNNING:
            return None
        async with self._connection() as connection:
            return await judging.parameters(connection)

    @asynccontextmanager
    async def _connection(self) -> AsyncGenerator[AsyncConnection[tuple[Any, ...]]]:
        import psycopg

        target = self._observer.target
        try:
            # Whatever the database or the role prefers: this is the superuser's own business.
            connection = await connect(
                target.socket_directory, target.port, target.user, parameters={"role": "none"}
            )
            async with connection:
                yield connection
        except psycopg.Error as error:
            raise UnresponsiveError(
                f"cannot ask the server about its configuration: {mask_text(str(error).strip())}",
                hint="see whether it accepts connections of its superuser, then try again",
            ) from error

    async def require_taken(self) -> frozenset[str]:
        """Ask the running server whether it took what was written.

        Returns:
            the parameters of ours that something else overrides: ALTER SYSTEM, or another file.

        Raises:
            SettingsError: it rejects something.
            UnresponsiveError: it does not say.
        """
        version = self._startup.version
        if version is None or self._supervisor.state is not State.RUNNING:
            return frozenset()
        async with self._connection() as connection:
            problems = await judging.rejected(connection, version.major)
            overridden = await judging.overridden(connection, self._startup.files.configuration)
        if problems:
            raise SettingsError(
                problems, hint="mend it; the server goes on with the configuration before"
            )
        return overridden
