"""Rehearses the update of an extension: it is done, looked at, and rolled back.

All goes to the server in one message, whose first statement is the update: libraries that must not
have been loaded before are content, and the statements form one transaction. Source: the manual,
"Multiple Statements in a Simple Query". The locks that an update takes are really taken meanwhile.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from instance_manager.databases import observing
from instance_manager.databases.sessions import SqlError, SqlFailure

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from psycopg import AsyncConnection, AsyncCursor
    from psycopg.errors import Diagnostic
    from psycopg.sql import Composed

    from instance_manager.databases.sessions import Limits, Sessions
    from instance_manager.databases.updating import UpdatePlan

LOCKS_SHOWN: Final = 100
NOTICES_SHOWN: Final = 100
_NO_TRANSACTION: Final = "25P01"
"""The server warns of our ROLLBACK: the transaction was never begun by name."""
_REMARK_LOCKS: Final = (
    "the locks were really held until the rollback: whoever wanted what they exclude has waited"
)
_REMARKS: Final = {
    "25001": "postgres runs update scripts in a transaction: the real update would fail too",
    "55P03": "somebody holds a lock that the update needs: try later, or wait longer with"
    " lock_timeout_seconds",
    "57014": "the time was up, or somebody cancelled it: a longer timeout_seconds shows more",
}

_SECONDS: Final = "SELECT extract(epoch FROM clock_timestamp() - statement_timestamp())::float8"
_LOCKS: Final = """
SELECT l.mode, coalesce(l.classid, 'pg_class'::regclass)::int8, coalesce(l.objid, l.relation)::int8
  FROM pg_locks l
 WHERE l.pid = pg_backend_pid() AND l.granted AND l.locktype IN ('relation', 'object')
       -- what looking at the locks itself takes
   AND NOT (l.mode = 'AccessShareLock' AND l.locktype = 'relation' AND l.relation < 16384)
 ORDER BY array_position(ARRAY['AccessExclusiveLock', 'ExclusiveLock', 'ShareRowExclusiveLock',
                               'ShareLock', 'ShareUpdateExclusiveLock', 'RowExclusiveLock',
                               'RowShareLock', 'AccessShareLock'], l.mode)
 LIMIT 10000
"""
"""The strongest first: the manual, "Table-Level Locks"."""
_NAMES: Final = """
SELECT mode, name FROM (
       SELECT position, mode, pg_describe_object(class::oid, object::oid, 0) AS name
         FROM unnest(%s::text[], %s::int8[], %s::int8[])
              WITH ORDINALITY AS locks (mode, class, object, position)) AS named
 WHERE name IS NOT NULL ORDER BY position
"""

_Row = tuple[Any, ...]
Outcome = Literal["succeeded", "failed", "not-reached", "unknown"]


@dataclass(frozen=True, slots=True)
class Step:
    """One script of the path."""

    from_version: str
    to_version: str
    outcome: Outcome
    """``unknown``: the server did not say which of the scripts failed."""
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock on something that was there before, in the server's words."""

    mode: str
    object: str


@dataclass(frozen=True, slots=True)
class Notice:
    """What a script said."""

    severity: str
    sqlstate: str
    message: str


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What came of it; *rolled_back* is what a look at the catalog said afterwards."""

    database: str
    extension: str
    from_version: str
    to_version: str
    path: tuple[str, ...]
    outcome: Literal["succeeded", "failed"] = "succeeded"
    steps: tuple[Step, ...] = ()
    failure: SqlFailure | None = None
    locks: tuple[Lock, ...] | None = ()
    """None where nobody knows: the locks of a transaction that failed are gone."""
    locks_left_out: int = 0
    notices: tuple[Notice, ...] = ()
    notices_left_out: int = 0
    duration_seconds: float = 0.0
    rolled_back: bool = True
    remarks: tuple[str, ...] = ()


class _Notices:
    """Collects what the scripts say, as much as is shown."""

    def __init__(self) -> None:
        self.heard: list[Notice] = []
        self.left_out = 0

    def take(self, said: Diagnostic) -> None:
        if said.sqlstate == _NO_TRANSACTION:
            return
        if len(self.heard) == NOTICES_SHOWN:
            self.left_out += 1
            return
        message = (said.message_primary or "")[:1000]
        severity = said.severity_nonlocalized or said.severity or ""
        self.heard.append(Notice(severity, said.sqlstate or "", message))


async def rehearse(sessions: Sessions, plan: UpdatePlan, limits: Limits) -> Rehearsal:
    """Run the update as planned, roll it back, and return what came of it.

    Raises:
        SqlError: the server could not be asked afterwards.
    """
    report = Rehearsal(
        plan.database, plan.extension, plan.from_version, plan.to_version, plan.path
    )
    if not plan.steps:
        return replace(report, remarks=("there is nothing to update",))
    notices, locks, begun = _Notices(), list[_Row](), time.monotonic()
    try:
        async with sessions.open(plan.database, limits) as connection:
            connection.add_notice_handler(notices.take)
            steps, locks = await _run(connection, plan)
            report = replace(report, steps=steps, remarks=(_REMARK_LOCKS,))
    except SqlError as error:
        report = _failed(report, plan, error.failure)
    report = replace(
        report,
        duration_seconds=round(time.monotonic() - begun, 6),
        notices=tuple(notices.heard),
        notices_left_out=notices.left_out,
    )
    return await _look_after(sessions, plan, locks, report)


async def _run(
    connection: AsyncConnection[_Row], plan: UpdatePlan
) -> tuple[tuple[Step, ...], list[_Row]]:
    """Return the steps with their times, and the locks at the end."""
    # By the simple protocol, which alone takes several statements in one message.
    cursor = await connection.execute(_script(plan), prepare=False)
    *seconds, locks = [rows async for rows in _results(cursor)]
    # All of them count from the arrival of the message, which is what statement_timestamp() tells.
    ends = [0.0, *(float(rows[0][0]) for rows in seconds)]
    steps = tuple(
        Step(*versions, "succeeded", round(end - start, 6))
        for versions, start, end in zip(plan.steps, ends, ends[1:], strict=False)
    )
    return steps, locks


async def _look_after(
    sessions: Sessions, plan: UpdatePlan, locks: list[_Row], report: Rehearsal
) -> Rehearsal:
    """Name the locks, and look whether all is as it was: in another session.

    That of the rehearsal may be of no use: it has libraries loaded of a version that isn't there.
    Locks on what the update itself has made have no name any more, and are nobody's concern.
    """
    async with sessions.open(plan.database) as connection:
        facts = await observing.read_installed(connection)
        columns = [[row[column] for row in locks] for column in range(3)]
        named = await (await connection.execute(_NAMES, columns)).fetchall()
    have = facts.installed.get(plan.extension)
    report = replace(report, rolled_back=have is not None and have.version == plan.from_version)
    if report.locks is None:
        return report
    found = [Lock(*row) for row in dict.fromkeys(named)]
    left_out = len(found[LOCKS_SHOWN:])
    return replace(report, locks=tuple(found[:LOCKS_SHOWN]), locks_left_out=left_out)


def _script(plan: UpdatePlan) -> Composed:
    """Return the update step by step, each followed by the time it took, the locks, the end."""
    from psycopg.sql import SQL

    from instance_manager.databases import statements

    parts = [
        part
        for _, version in plan.steps
        # Step by step, since UPDATE TO the last version tells no times of its own.
        for part in (statements.update(plan.extension, version), SQL(_SECONDS))
    ]
    return SQL("; ").join([*parts, SQL(_LOCKS), SQL("ROLLBACK")])


async def _results(cursor: AsyncCursor[_Row]) -> AsyncGenerator[list[_Row]]:
    while True:
        if cursor.description is not None:
            yield await cursor.fetchall()
        if not cursor.nextset():
            return


def _failed(report: Rehearsal, plan: UpdatePlan, failure: SqlFailure) -> Rehearsal:
    remark = _REMARKS.get(failure.sqlstate)
    return replace(
        report,
        outcome="failed",
        steps=_steps_of(plan, failure.script),
        failure=failure,
        locks=None,
        remarks=(*([remark] if remark else []), _REMARK_LOCKS),
    )


def _steps_of(plan: UpdatePlan, script: str) -> tuple[Step, ...]:
    """Return the steps of an update that failed in *script*, as far as that tells."""
    scripts = [f"{plan.extension}--{before}--{after}.sql" for before, after in plan.steps]
    if len(scripts) == 1:
        return (Step(*plan.steps[0], "failed"),)
    # Servers before PostgreSQL 18 name no script.
    if script not in scripts:
        return tuple(Step(*versions, "unknown") for versions in plan.steps)
    at = scripts.index(script)
    return tuple(
        Step(*versions, "succeeded" if place < at else "failed" if place == at else "not-reached")
        for place, versions in enumerate(plan.steps)
    )
