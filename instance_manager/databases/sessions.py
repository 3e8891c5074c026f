"""Sessions in which extensions are looked at and changed, and what the server says of a failure.

Each statement gets a fresh session: some extensions refuse to be updated once their library is
loaded. All that a session needs stands in its startup packet, so that the first statement is free.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from instance_manager.postgres.connection import connect

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from psycopg import AsyncConnection

    from instance_manager.health.snapshot import Target

_EVENT_TRIGGERS_SINCE: Final = 170000
_GRACE_SECONDS: Final = 10.0
"""How much later than the server's own limit a session that does not answer is given up."""
_SCRIPT: Final = re.compile(r'extension script file "([^"]+)", near line (\d+)')
_DATABASE: Final = "SELECT 1 FROM pg_database WHERE datname = %s"
_TEXT_LIMIT: Final = 2000
"""Characters of one text of the server: a hostile script could make it as long as it likes."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a statement may wait for a lock, and last at all, in seconds."""

    lock_seconds: float = 5.0
    statement_seconds: float = 600.0


LOOKING: Final = Limits(lock_seconds=5.0, statement_seconds=15.0)
"""For questions to the catalogs."""


@dataclass(frozen=True, slots=True)
class SqlFailure:
    """What the server said; *sqlstate* is empty where it said nothing any more."""

    sqlstate: str
    message: str
    detail: str = ""
    hint: str = ""
    context: str = ""
    script: str = ""
    """The extension's script file that failed, where the server names it (since 18)."""
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.message} ({self.sqlstate})" if self.sqlstate else self.message


class SqlError(Exception):
    """A session could not be opened, or a statement failed; *failure* is all that is known."""

    def __init__(self, failure: SqlFailure) -> None:
        super().__init__(str(failure))
        self.failure = failure


class Sessions:
    """Opens sessions of the bootstrap superuser over the unix socket.

    *version* tells the server's ``server_version_num``. Where *search_path* is empty, sessions see
    nothing but the catalog.
    """

    def __init__(
        self, target: Target, version: Callable[[], int], *, search_path: str = ""
    ) -> None:
        self._target = target
        self._search_path = search_path
        self._version = version

    @asynccontextmanager
    async def open(
        self, database: str, limits: Limits = LOOKING, *, search_path: str = ""
    ) -> AsyncGenerator[AsyncConnection[tuple[Any, ...]]]:
        """Yield a session that has run no statement; it and its statements end in time.

        It may have a *search_path* of its own, from its start on: scripts may reset it to that.

        Raises:
            SqlError: the server refuses, goes away, or does not answer in time; also for what is
                done in the session.
        """
        import psycopg

        try:
            async with asyncio.timeout(limits.statement_seconds + _GRACE_SECONDS):
                connection = await connect(
                    self._target.socket_directory,
                    self._target.port,
                    self._target.user,
                    database=database,
                    parameters=self._parameters(limits, search_path or self._search_path),
                )
                async with connection:
                    yield connection
        except (psycopg.Error, OSError, TimeoutError, UnicodeError) as error:
            raise SqlError(failure_of(error)) from error

    async def lack(self, database: str) -> bool:
        """Whether the server says that it has no such database: a login does not tell why not."""
        try:
            async with self.open("postgres") as connection:
                found = await connection.execute(_DATABASE, (database,))
                return await found.fetchone() is None
        except SqlError:
            return False

    def _parameters(self, limits: Limits, search_path: str) -> dict[str, str]:
        # Those of the role or the database do not count then.
        parameters = {
            "lock_timeout": _milliseconds(limits.lock_seconds),
            "statement_timeout": _milliseconds(limits.statement_seconds),
            "role": "none",
            # As a replica, triggers that a script relies on would not fire.
            "session_replication_role": "origin",
        }
        if search_path:
            parameters["search_path"] = search_path
        if self._version() >= _EVENT_TRIGGERS_SINCE:
            parameters["event_triggers"] = "off"
        return parameters


def _milliseconds(seconds: float) -> str:
    # None at all would be no limit.
    return str(max(1, round(seconds * 1000)))


def failure_of(error: Exception) -> SqlFailure:
    """Return what an error of a session tells; its texts are cut to a length for people."""
    import psycopg

    if not isinstance(error, psycopg.Error):
        if isinstance(error, TimeoutError):
            return SqlFailure("", "the server did not answer in time")
        return SqlFailure("", str(error) or type(error).__name__)
    said = error.diag
    context = said.context or ""
    script = _SCRIPT.search(context)
    return SqlFailure(
        sqlstate=error.sqlstate or "",
        message=_cut(said.message_primary or str(error).strip() or type(error).__name__),
        detail=_cut(said.message_detail or ""),
        hint=_cut(said.message_hint or ""),
        context=_cut(context),
        script=script[1] if script else "",
        line=int(script[2]) if script else None,
    )


def _cut(text: str) -> str:
    return text if len(text) <= _TEXT_LIMIT else f"{text[:_TEXT_LIMIT]}…"
