"""Updates of one extension that somebody asks for: what it would be, and doing it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from instance_manager.databases import observing
from instance_manager.databases.desired import no_path
from instance_manager.databases.sessions import SqlError
from instance_manager.errors import ConflictError, ExtensionUpdateError, UnresponsiveError
from instance_manager.settings.models import NAME_LIMIT_BYTES
from instance_manager.supervision.cleanup import undisturbed

if TYPE_CHECKING:
    from typing import Any

    from psycopg import AsyncConnection

    from instance_manager.databases.holdings import Installed
    from instance_manager.databases.sessions import Limits, Sessions
    from instance_manager.databases.turns import Turns


class NotThereError(Exception):
    """There is no such database, or it does not have the extension."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class VersionError(Exception):
    """The extension can't be updated to that version; the text says to which it can."""


@dataclass(frozen=True, slots=True)
class UpdatePlan:
    """An update that the server has a path for; *path* holds both ends, or one version."""

    database: str
    extension: str
    from_version: str
    to_version: str
    path: tuple[str, ...]

    @property
    def steps(self) -> tuple[tuple[str, str], ...]:
        """The versions of each step."""
        return tuple(zip(self.path, self.path[1:], strict=False))


async def plan_update(
    sessions: Sessions, database: str, extension: str, version: str | None
) -> UpdatePlan:
    """Return the update of an installed extension to *version*, default: the default version.

    Raises:
        NotThereError: no such database or extension.
        VersionError: no such version, or no path leads there.
        ConflictError: the server is in recovery, or no volume offers the extension any more.
        UnresponsiveError: the server refuses, or does not answer.
    """
    # Servers cut longer names off, and would open a database that nobody asked for.
    if "\0" in database or not 1 <= len(database.encode(errors="replace")) <= NAME_LIMIT_BYTES:
        raise NotThereError(f"there is no database {database!r}")
    try:
        async with sessions.open(database) as connection:
            have = await _installed(connection, database, extension)
            offered = (await observing.read_available(connection, [extension])).get(extension)
            if offered is None:
                raise ConflictError(
                    f"cannot update extension {extension!r}: no volume offers it any more",
                    hint="mount the volume that holds it, and reload",
                )
            wanted = version or offered.default_version or have.version
            # The server knows no path from a version to itself.
            if wanted == have.version:
                return UpdatePlan(database, extension, wanted, wanted, (wanted,))
            paths = await observing.read_paths(connection, extension, have.version)
    except SqlError as error:
        raise await _why_not(sessions, database, error) from error
    if wanted not in paths:
        raise VersionError(no_path(have.version, wanted, offered.versions, paths))
    return UpdatePlan(database, extension, have.version, wanted, paths[wanted])


async def _installed(
    connection: AsyncConnection[tuple[Any, ...]], database: str, extension: str
) -> Installed:
    facts = await observing.read_installed(connection)
    if facts.in_recovery:
        raise ConflictError(
            f"cannot update extension {extension!r}: the server is in recovery",
            hint="ask the primary",
        )
    if extension not in facts.installed:
        known = ", ".join(sorted(facts.installed)) or "none"
        raise NotThereError(
            f"database {database!r} does not have extension {extension!r}", f"it has: {known}"
        )
    return facts.installed[extension]


async def _why_not(sessions: Sessions, database: str, error: SqlError) -> Exception:
    # Asked in another database: a refused login does not say whether this one exists.
    if await sessions.lack(database):
        return NotThereError(f"there is no database {database!r}")
    return UnresponsiveError(
        f"cannot look at database {database!r}: {error.failure}", hint=error.failure.hint
    )


async def update(sessions: Sessions, turns: Turns, plan: UpdatePlan, limits: Limits) -> None:
    """Update as planned, in a transaction of its own; does nothing where that holds already.

    One that is given up after the server has done it was done.

    Raises:
        ExtensionUpdateError: the server refuses; nothing was changed.
        UnresponsiveError: nobody knows what became of it.
        ConflictError: the extension is being changed already.
    """
    from instance_manager.databases import statements

    with turns.hold(plan.database, plan.extension, "an update"):
        if plan.from_version == plan.to_version:
            return
        try:
            async with sessions.open(plan.database, limits) as connection:
                await connection.execute(statements.update(plan.extension, plan.to_version))
        except asyncio.CancelledError:
            if not await undisturbed(_is_done(sessions, plan)):
                raise
        except SqlError as error:
            # An error of the server's own undoes all. A session that ends without one may have
            # committed, and waited for a standby to have it, too.
            if error.failure.sqlstate:
                raise _failed(plan, error) from error
            if not await _is_done(sessions, plan):
                raise UnresponsiveError(
                    f"cannot tell what became of the update of extension {plan.extension!r} of"
                    f" database {plan.database!r}: {error.failure}",
                    hint="see which version it has when the server answers",
                ) from error


async def _is_done(sessions: Sessions, plan: UpdatePlan) -> bool:
    """Whether the server says that the extension has the version of the plan."""
    try:
        async with sessions.open(plan.database) as connection:
            facts = await observing.read_installed(connection)
    except SqlError:
        return False
    have = facts.installed.get(plan.extension)
    return have is not None and have.version == plan.to_version


def _failed(plan: UpdatePlan, error: SqlError) -> ExtensionUpdateError:
    failure = error.failure
    where = f", in {failure.script} near line {failure.line}" if failure.script else ""
    return ExtensionUpdateError(
        f"cannot update extension {plan.extension!r} of database {plan.database!r} from version"
        f" {plan.from_version!r} to {plan.to_version!r}: {failure}{where}",
        hint=failure.hint or "rehearse it with dry_run; nothing was changed",
    )
