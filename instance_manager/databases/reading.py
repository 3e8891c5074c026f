"""Reads from the running server what each database uses, and what it could use.

Each fact by itself: one broken control file makes ``pg_available_extensions`` fail, one vanished
library makes every query of a database fail, and neither must hide the rest. No code of a database
owner's runs: names mean those of ``pg_catalog``, libraries and event triggers of a login are off.
Each connection is short: ``DROP DATABASE`` waits five seconds for others to leave.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from psycopg import Error
from psycopg.adapt import Loader

from instance_manager.databases.facts import (
    Available,
    Database,
    Installed,
    Inventory,
    Library,
    Override,
    Reading,
    Update,
)
from instance_manager.postgres.connection import connect

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path

    from psycopg import AsyncConnection
    from psycopg.abc import Buffer

    Connection = AsyncConnection[tuple[Any, ...]]
    Rows = list[tuple[Any, ...]]
    Updates = dict[tuple[str, str], tuple[Update, ...] | None]

T = TypeVar("T")

MAINTENANCE_DATABASES: Final = ("postgres", "template1")
"""Where to ask what is the same everywhere."""
_STATEMENT_SECONDS: Final = 2.0
_DATABASE_SECONDS: Final = 4.0
_REST_SHARE: Final = 4
"""For each second of reading, so many of rest: a thousand databases must not cost a core."""
_LONGEST_REST_SECONDS: Final = 1.0
"""What took longer was waiting."""
_LIMIT_ROWS: Final = 5000
"""The limit in the queries: more than any database has, unless somebody is after our memory."""
_FIRST_MAJOR_WITH_LOGIN_TRIGGERS: Final = 17

_DATABASES: Final = """
SELECT datname, oid::int8 FROM pg_database
WHERE datallowconn AND datconnlimit <> -2 ORDER BY datname"""
"""-2 marks one whose DROP was interrupted: nobody can connect to it."""

_OVERRIDES: Final = """
SELECT split_part(c.setting, '=', 1), substr(c.setting, strpos(c.setting, '=') + 1),
       d.datname, r.rolname
FROM pg_db_role_setting s CROSS JOIN unnest(s.setconfig) AS c(setting)
LEFT JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole
WHERE lower(split_part(c.setting, '=', 1)) IN ('extension_control_path', 'dynamic_library_path',
      'session_preload_libraries', 'local_preload_libraries')
ORDER BY 3, 4, 1 LIMIT 5000"""

_EXTENSIONS: Final = """
SELECT e.extname, e.extversion, n.nspname
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
ORDER BY 1 LIMIT 5000"""

_LIBRARIES: Final = """
SELECT p.probin, e.extname,
       array_remove(array_agg(DISTINCT a.amname::text), NULL),
       array_remove(array_agg(DISTINCT l.lanname::text), NULL)
FROM pg_proc p
LEFT JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
     AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
LEFT JOIN pg_extension e ON e.oid = d.refobjid
LEFT JOIN pg_am a ON a.amhandler = p.oid
LEFT JOIN pg_language l ON p.oid IN (l.lanplcallfoid, l.laninline, l.lanvalidator)
WHERE p.probin IS NOT NULL AND (p.oid >= 16384 OR e.oid IS NOT NULL)
GROUP BY 1, 2 ORDER BY 1, 2 LIMIT 5000"""
"""Without what initdb made: ``FirstNormalObjectId``, transam.h. That is the server's own."""

_AVAILABLE: Final = "SELECT name, default_version FROM pg_available_extensions ORDER BY 1"
_VERSIONS: Final = """
SELECT name, array_agg(version ORDER BY version)
FROM pg_available_extension_versions GROUP BY 1"""
_UPDATES: Final = """
SELECT target, string_to_array(path, '--') FROM pg_extension_update_paths(%s)
WHERE source = %s AND path IS NOT NULL ORDER BY 1"""


class Place(NamedTuple):
    """Where the server answers, as whom to ask it, and its major version."""

    socket_directory: Path
    port: int
    user: str
    major: int

    def session(self) -> dict[str, str]:
        """Return what keeps a session from running what is not the server's own."""
        parameters = {
            "session_preload_libraries": "",
            "local_preload_libraries": "",
            # Whoever locks a catalog for long must not hold up the reading of all databases.
            "lock_timeout": "1000",
        }
        if self.major >= _FIRST_MAJOR_WITH_LOGIN_TRIGGERS:
            parameters["event_triggers"] = "off"
        return parameters


class _Paths(NamedTuple):
    """What was read of the paths from one version: when, and how long that took."""

    updates: tuple[Update, ...] | None
    problems: tuple[str, ...]
    read_at: float
    seconds: float


class Renewal(NamedTuple):
    """How often the paths that are known are read anew.

    No list of versions tells of a script that came or went between two of them.
    """

    share: float = 100
    """How many times as long as it took to read a path, it is taken for fresh."""
    seconds: float = 0.5
    """After so long of reading paths anew, a reading is content with those that it knows."""


_RENEWAL: Final = Renewal()


class _Lenient(Loader):
    """Texts as they are: a database in SQL_ASCII may hold bytes that are no UTF-8."""

    def load(self, data: Buffer) -> str:
        return bytes(data).decode(errors="backslashreplace")


class Reader:
    """Reads one server, again and again; an update path that costs much, the more seldom."""

    def __init__(self, place: Place, renewal: Renewal = _RENEWAL) -> None:
        self.spared_seconds = 0.0
        """How much of the last reading one in a hurry leaves out."""
        self._place = place
        self._renewal = renewal
        self._hurry = asyncio.Event()
        self._paths: dict[tuple[str, str, tuple[str, ...]], _Paths] = {}
        self._renewing_seconds = 0.0

    def hurry(self) -> None:
        """Have the reading that is under way, and all after it, leave no time to others."""
        self._hurry.set()

    async def read(self) -> Reading | None:
        """Return what every database uses; None where not even their names can be read."""
        self.spared_seconds = self._renewing_seconds = 0.0
        problems: list[str] = []
        # In whatever database lets us in: who dropped one of the two keeps an inventory.
        shared = await self._anywhere(lambda on: _read_shared(on, problems), problems)
        databases, overrides = shared or (None, None)
        if databases is None:
            return None
        read = [await self._read_database(*row) for row in databases]
        # Asked again only where something went wrong: the list is as old as the reading is long.
        if any(each.problems for each in read):
            read = await self._without_gone(read)
        inventory = Inventory(
            datetime.now(UTC).isoformat(timespec="seconds"),
            tuple(read),
            tuple(Override(*row) for row in overrides or ()),
        )
        offered = await self._anywhere(
            lambda on: self._read_available(on, inventory, problems), problems
        )
        available, updates = offered or (None, {})
        return Reading(inventory, available, updates, tuple(problems))

    async def _without_gone(self, read: list[Database]) -> list[Database]:
        """Leave out what was dropped meanwhile: that it can't be read says nothing."""
        left = await self._anywhere(lambda on: _read_shared(on, []), [])
        if left is None or left[0] is None:
            return read
        present = {oid for _, oid in left[0]}
        return [each for each in read if each.oid in present]

    async def _read_database(self, name: str, oid: int) -> Database:
        """Return what one database uses."""
        clock = asyncio.get_running_loop().time
        begun, problems = clock(), list[str]()
        extensions, libraries = None, None
        try:
            async with self._connected(name) as connection:
                extensions = await _ask(connection, _EXTENSIONS, problems, "extensions")
                libraries = await _ask(connection, _LIBRARIES, problems, "libraries")
        except (Error, OSError, TimeoutError) as error:
            problems.append(f"cannot read the database: {_reason(error)}")
        # Also after a failure, which may have cost the most.
        await self._rest(clock() - begun)
        return Database(
            name,
            oid,
            None if extensions is None else tuple(Installed(*row) for row in extensions),
            None if libraries is None else tuple(_library(*row) for row in libraries),
            tuple(problems),
        )

    async def _rest(self, seconds: float) -> None:
        """Leave time to others after so many seconds of reading, unless there is a hurry."""
        begun = asyncio.get_running_loop().time()
        with suppress(TimeoutError):
            async with asyncio.timeout(min(seconds * _REST_SHARE, _LONGEST_REST_SECONDS)):
                await self._hurry.wait()
        self.spared_seconds += asyncio.get_running_loop().time() - begun

    async def _read_available(
        self, connection: Connection, inventory: Inventory, problems: list[str]
    ) -> tuple[tuple[Available, ...], Updates] | None:
        """Return what is available, and where what is installed can be updated to."""
        rows = await _ask(connection, _AVAILABLE, problems, "available extensions")
        if rows is None:
            return None
        known = await _ask(connection, _VERSIONS, problems, "available versions")
        versions = {name: tuple(each) for name, each in known or ()}
        updates: Updates = {}
        keys: list[tuple[str, str, tuple[str, ...]]] = []
        for name, version in _installed(inventory):
            # Without another version there is no path, and to ask costs the server time.
            updates[name, version] = ()
            # By all versions that there are: with others, the server is asked anew.
            if others := tuple(one for one in versions.get(name, ()) if one != version):
                keys.append((name, version, others))
        # What was read longest ago first: else those at the front would take the time at each
        # reading, and the others would never have any.
        oldest_first = sorted(keys, key=self._read_at)
        paths = {key: await self._read_paths(connection, key) for key in oldest_first}
        for key in keys:
            updates[key[:2]] = paths[key].updates
            problems += paths[key].problems
        available = tuple(
            Available(name, default, versions.get(name, ())) for name, default in rows
        )
        return available, updates

    def _read_at(self, key: tuple[str, str, tuple[str, ...]]) -> float:
        known = self._paths.get(key)
        return float("-inf") if known is None else known.read_at

    async def _read_paths(
        self, connection: Connection, key: tuple[str, str, tuple[str, ...]]
    ) -> _Paths:
        """Return the paths from a version; the server takes seconds where versions are many."""
        known = self._paths.get(key)
        clock = asyncio.get_running_loop().time
        begun = clock()
        if known is None:
            known = self._paths[key] = await _paths(connection, key, clock)
        elif self._is_to_be_renewed(known, begun):
            # Before it is asked: where no time is left for it, it goes behind all others.
            self._paths[key] = known._replace(read_at=begun)
            known = self._paths[key] = await _paths(connection, key, clock)
            self._renewing_seconds += known.seconds
            self.spared_seconds += known.seconds
        elif self._hurry.is_set():
            # What went wrong before must not be taken for the server's end.
            return known._replace(problems=())
        return known

    def _is_to_be_renewed(self, known: _Paths, now: float) -> bool:
        # Those of all extensions have one connection and its few seconds, with all else that is
        # read over it.
        is_time = not self._hurry.is_set() and self._renewing_seconds < self._renewal.seconds
        return is_time and now - known.read_at >= known.seconds * self._renewal.share

    async def _anywhere(
        self, work: Callable[[Connection], Awaitable[T]], problems: list[str]
    ) -> T | None:
        """Do *work* on a connection to the first maintenance database that lets us in."""
        reason = ""
        for database in MAINTENANCE_DATABASES:
            try:
                async with self._connected(database) as connection:
                    return await work(connection)
            except (Error, OSError, TimeoutError) as error:
                reason = reason or _reason(error)
        problems.append(f"cannot ask the server: {reason}")
        return None

    @asynccontextmanager
    async def _connected(self, database: str) -> AsyncGenerator[Connection]:
        async with asyncio.timeout(_DATABASE_SECONDS):
            connection = await connect(
                self._place.socket_directory,
                self._place.port,
                self._place.user,
                database=database,
                deadline_seconds=_STATEMENT_SECONDS,
                parameters=self._place.session(),
            )
            try:
                for kind in ("text", "name"):
                    connection.adapters.register_loader(kind, _Lenient)
                yield connection
            finally:
                await connection.close()


async def _paths(
    connection: Connection, key: tuple[str, str, tuple[str, ...]], clock: Callable[[], float]
) -> _Paths:
    """Ask the server for the paths from a version."""
    name, version, _ = key
    begun, problems = clock(), list[str]()
    what = f"update paths of {name} {version}"
    rows = await _ask(connection, _UPDATES, problems, what, (name, version))
    updates = None if rows is None else tuple(Update(to, tuple(path)) for to, path in rows)
    now = clock()
    return _Paths(updates, tuple(problems), now, now - begun)


async def _read_shared(
    connection: Connection, problems: list[str]
) -> tuple[Rows | None, Rows | None]:
    """Return the databases, and what was set for them and for roles."""
    return (
        await _ask(connection, _DATABASES, problems, "the list of databases"),
        await _ask(connection, _OVERRIDES, problems, "settings of roles and databases"),
    )


def _installed(inventory: Inventory) -> list[tuple[str, str]]:
    """Return the names and versions of all extensions that some database has."""
    found = {
        (each.name, each.version)
        for database in inventory.databases
        for each in database.extensions or ()
    }
    return sorted(found)


async def _ask(
    connection: Connection,
    query: str,
    problems: list[str],
    what: str,
    values: tuple[str, ...] = (),
) -> Rows | None:
    """Return the rows; None where this one thing can't be read, noted among *problems*.

    Raises:
        psycopg.Error: the connection is lost.
    """
    try:
        rows = await (await connection.execute(query.encode(), values or None)).fetchall()
    except Error as error:
        # A query that fails leaves the others; a connection that is lost does not.
        if connection.closed:
            raise
        problems.append(f"cannot read {what}: {_reason(error)}")
        return None
    if len(rows) == _LIMIT_ROWS:
        problems.append(f"cannot read all {what}: only the first {_LIMIT_ROWS} are looked at")
    return rows


def _library(
    name: str, extension: str | None, access_methods: list[str], languages: list[str]
) -> Library:
    return Library(name, extension, tuple(access_methods), tuple(languages))


def _reason(error: Exception) -> str:
    """Return one line that says what went wrong."""
    return (str(error).strip() or "no answer in time").splitlines()[0]
