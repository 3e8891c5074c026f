"""Brings the declared extensions about in a running primary, and sees drift again and again.

Each database is looked at when the server has come up, after each reload of the settings, and
once a minute. Each action is a statement of its own in a session of its own, with limits: it never
waits for ever behind somebody's lock. What is not declared is not touched.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from instance_manager.databases import desired, observing, troubles
from instance_manager.databases.desired import DEFAULT_SCHEMA, Create, Drop, Move, Update
from instance_manager.databases.sessions import Limits, SqlError
from instance_manager.databases.troubles import Retry, Trouble
from instance_manager.errors import ConflictError
from instance_manager.log import get_logger
from instance_manager.observability.events import EventType
from instance_manager.supervision.states import State

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from instance_manager.databases.desired import Action
    from instance_manager.databases.sessions import Sessions
    from instance_manager.databases.troubles import Verdict
    from instance_manager.databases.turns import Turns
    from instance_manager.observability.events import Events
    from instance_manager.settings.models import DatabaseSettings

_log: Final = get_logger()
PERIOD_SECONDS: Final = 60.0
_SHORTEST_PAUSE_SECONDS: Final = 1.0
_AT_A_TIME: Final = 4
_LIMITS: Final = Limits(lock_seconds=5.0, statement_seconds=600.0)


class Supervised(Protocol):
    """Tells whether the server runs: the supervisor."""

    @property
    def state(self) -> State:
        """The state now."""
        ...

    async def until(self, states: Collection[State]) -> State:
        """Wait until the state is one of *states*."""
        ...

    async def changed(self) -> State:
        """Wait until the state changes."""
        ...


class Reconciler:
    """Keeps the databases of one server as declared; :meth:`run` for ever."""

    def __init__(
        self,
        supervisor: Supervised,
        sessions: Sessions,
        declared: Callable[[], Sequence[DatabaseSettings]],
        turns: Turns,
        events: Events,
        *,
        clock: Callable[[], float],
    ) -> None:
        self.period_seconds = PERIOD_SECONDS
        self._supervisor = supervisor
        self._sessions = sessions
        self._declared = declared
        self._turns = turns
        self._events = events
        self._clock = clock
        self._due = asyncio.Event()
        self._looked_at: Sequence[DatabaseSettings] | None = None
        self._in_recovery = False
        self._troubles: dict[tuple[str, str], Trouble] = {}
        self._retries: dict[tuple[str, str], Retry] = {}

    def verdict(self) -> Verdict:
        """Return whether the databases are as declared, as it was seen last."""
        declared = self._declared()
        if self._supervisor.state is not State.RUNNING:
            return troubles.NOT_RUNNING
        if not declared:
            return troubles.NOTHING_DECLARED
        if self._looked_at != declared:
            return troubles.NOT_LOOKED_YET
        if self._in_recovery:
            return troubles.IN_RECOVERY
        return troubles.judge(self._troubles.values(), [one.name for one in declared])

    def hurry(self) -> None:
        """Have everything looked at and tried again at once."""
        self._retries.clear()
        self._due.set()

    async def run(self) -> None:
        """Reconcile whenever the server runs; nothing of it outlives the start of a stop."""
        while True:
            await self._supervisor.until({State.RUNNING})
            work = asyncio.create_task(self._work(), name="reconciling")
            gone = asyncio.create_task(self._until_gone(), name="reconciling: until it stops")
            try:
                await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                work.cancel()
                gone.cancel()
                # A statement that is given up ends before the next server's begin.
                await asyncio.wait({work, gone})
                self._looked_at = None
            # Else its fault would be lost, and nobody would begin it anew.
            if not work.cancelled():
                work.result()

    async def _until_gone(self) -> None:
        while self._supervisor.state is State.RUNNING:
            await self._supervisor.changed()

    async def _work(self) -> None:
        while True:
            # Before the look: whoever hurries during it is served by another one.
            self._due.clear()
            declared = self._declared()
            await self._look_at_all(declared)
            self._looked_at = declared
            await self._pause()

    async def _pause(self) -> None:
        now = self._clock()
        # One that is past its time was not tried: something else is in its way.
        due = [retry.at - now for retry in self._retries.values() if retry.at > now]
        pause = min([*(max(one, _SHORTEST_PAUSE_SECONDS) for one in due), self.period_seconds])
        try:
            async with asyncio.timeout(pause):
                await self._due.wait()
        except TimeoutError:
            return

    async def _look_at_all(self, declared: Sequence[DatabaseSettings]) -> None:
        """Look at some at a time: a script that lasts does not hold up the others."""
        names = {one.name for one in declared}
        # What is not declared any more can't be lacking.
        for name in {key[0] for key in self._troubles} - names:
            self._replace_troubles(name, {})
        slots = asyncio.Semaphore(_AT_A_TIME)

        async def look(database: DatabaseSettings) -> bool:
            async with slots:
                found = await self._look_at(database)
            self._replace_troubles(database.name, found or {})
            self._look_again(found or {})
            return found is None

        async with asyncio.TaskGroup() as group:
            looks = [group.create_task(look(database)) for database in declared]
        self._in_recovery = any(one.result() for one in looks)

    async def _look_at(self, database: DatabaseSettings) -> dict[str, Trouble] | None:
        """Bring one database to what is declared; return what it lacks still, by extension.

        None where the server is in recovery: nothing is done then.
        """
        try:
            async with self._sessions.open(database.name) as connection:
                facts = await observing.observe(connection, database.extensions)
        except SqlError as error:
            return {"": await self._trouble_of_database(database.name, error)}
        if facts.in_recovery:
            return None
        plan = desired.plan(database.extensions, facts)
        found = {
            problem.extension: Trouble(database.name, problem.extension, problem.message)
            for problem in plan.problems
        }
        failed: set[str] = set()
        for action in plan.actions:
            # A second step on one that is not where the first should have brought it would
            # mislead.
            if action.extension in failed:
                continue
            trouble = await self._try(database.name, action, found)
            if trouble is not None:
                failed.add(action.extension)
                found.setdefault(action.extension, trouble)
        return found

    async def _trouble_of_database(self, database: str, error: SqlError) -> Trouble:
        if await self._sessions.lack(database):
            return Trouble(database, "", "there is no such database", hint="make it")
        failure = error.failure
        return Trouble(database, "", failure.message, failure.sqlstate, failure.hint)

    async def _try(
        self, database: str, action: Action, found: dict[str, Trouble]
    ) -> Trouble | None:
        """Do one action, where what it needs is there and it is due; return why not, else."""
        key = database, action.extension
        lacking = [name for name in action.needs if name in found]
        if lacking:
            return Trouble(database, action.extension, f"it waits for extension {lacking[0]!r}")
        before = self._retries.get(key)
        # Another action is tried at once: somebody has changed what is declared, or what is there.
        if before is not None and before.action == action and self._clock() < before.at:
            return before.trouble
        try:
            with self._turns.hold(*key, "what the settings declare"):
                await self._do(database, action)
        except ConflictError as error:
            # Somebody is at it just now, and it is not as declared: a look soon sees the outcome.
            return Trouble(*key, error.message, hint=error.hint)
        except SqlError as error:
            failure = error.failure
            trouble = Trouble(*key, failure.message, failure.sqlstate, failure.hint)
            self._retries[key] = troubles.retry_after(action, trouble, before, self._clock())
            return trouble
        # A later failure begins with the short pause again.
        self._retries.pop(key, None)
        self._tell_done(database, action)
        return None

    async def _do(self, database: str, action: Action) -> None:
        from instance_manager.databases.statements import statement_of

        # What it requires is created where the session is, if its control file fixes its schema.
        path = DEFAULT_SCHEMA if isinstance(action, Create) else ""
        # A session for each: some extensions refuse to be changed once their library is loaded.
        async with self._sessions.open(database, _LIMITS, search_path=path) as connection:
            await connection.execute(statement_of(action))

    def _tell_done(self, database: str, action: Action) -> None:
        reason, words = _told(action)
        message = f"{words}, as declared: extension {action.extension!r} of database {database!r}"
        _log.info(message, database=database, extension=action.extension)
        details = {"database": database, "extension": action.extension}
        self._events.record(reason, message, details=details)

    def _replace_troubles(self, database: str, found: dict[str, Trouble]) -> None:
        """Remember what a database lacks, and tell what is new of it."""
        for memory in (self._troubles, self._retries):
            for key in [key for key in memory if key[0] == database and key[1] not in found]:
                del memory[key]
        for extension, trouble in found.items():
            # Told once for as long as it stays the same, and not at each look.
            if self._troubles.get((database, extension)) != trouble:
                self._troubles[database, extension] = trouble
                self._tell_trouble(trouble)

    def _look_again(self, found: dict[str, Trouble]) -> None:
        """Have a look soon at what no action was tried about: what it needs may be made."""
        now = self._clock()
        for trouble in found.values():
            key = trouble.database, trouble.extension
            before = self._retries.get(key)
            if before is None or before.at <= now:
                self._retries[key] = troubles.retry_after(None, trouble, before, now)

    def _tell_trouble(self, trouble: Trouble) -> None:
        reason = "ExtensionFailed" if trouble.extension else "DatabaseFailed"
        details = {"database": trouble.database, "sqlstate": trouble.sqlstate}
        if trouble.extension:
            details["extension"] = trouble.extension
        if trouble.hint:
            details["hint"] = trouble.hint
        _log.warning("a database is not as declared", reason=str(trouble), hint=trouble.hint)
        self._events.record(reason, str(trouble), kind=EventType.WARNING, details=details)


def _told(action: Action) -> tuple[str, str]:
    """Return the event's reason and what was done."""
    match action:
        case Create():
            return "ExtensionCreated", f"created in version {action.version!r}"
        case Update():
            return (
                "ExtensionUpdated",
                f"updated from version {action.from_version!r} to {action.version!r}",
            )
        case Move():
            return (
                "ExtensionMoved",
                f"moved from schema {action.from_schema!r} to {action.schema!r}",
            )
        case Drop():
            return "ExtensionDropped", f"dropped (it was version {action.version!r})"
