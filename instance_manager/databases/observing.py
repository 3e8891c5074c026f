"""Reads what one database has and could have of the extensions that somebody asks for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from instance_manager.databases.desired import DEFAULT_SCHEMA, is_settled
from instance_manager.databases.holdings import Available, DatabaseFacts, Installed, Version

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from psycopg import AsyncConnection

    from instance_manager.settings.models import DatabaseExtensionSettings

_INSTALLED: Final = """
SELECT e.extname::text, e.extversion, n.nspname::text, e.extrelocatable,
       ARRAY(SELECT r.extname::text FROM pg_depend d JOIN pg_extension r ON r.oid = d.refobjid
              WHERE d.classid = 'pg_extension'::regclass AND d.objid = e.oid
                AND d.refclassid = 'pg_extension'::regclass)
  FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
"""
_AVAILABLE: Final = """
WITH RECURSIVE versions AS MATERIALIZED (
       SELECT name, version, relocatable, schema, requires FROM pg_available_extension_versions),
     wanted(name) AS (
       SELECT unnest(%s::name[])
        UNION
       SELECT unnest(v.requires) FROM wanted w JOIN versions v USING (name))
SELECT name::text, a.default_version, v.version, v.relocatable, v.schema::text, v.requires::text[]
  FROM wanted JOIN versions v USING (name) JOIN pg_available_extensions a USING (name)
"""
_PATHS: Final = """
SELECT target, path FROM pg_extension_update_paths(%s) WHERE source = %s AND path IS NOT NULL
"""
_SCHEMAS: Final = "SELECT nspname::text FROM pg_namespace WHERE nspname = ANY (%s::text[])"


async def read_installed(connection: AsyncConnection[tuple[Any, ...]]) -> DatabaseFacts:
    """Return what the database has, and whether the server is in recovery.

    Raises:
        psycopg.Error: as all of this module: the server refuses, or goes away.
    """
    # First: on a standby, nothing of what follows is of use.
    row = await (await connection.execute("SELECT pg_is_in_recovery()")).fetchone()
    rows = await (await connection.execute(_INSTALLED)).fetchall()
    return DatabaseFacts(
        # In doubt nothing is done.
        in_recovery=row is None or row[0],
        installed={
            name: Installed(version, schema, relocatable, tuple(requires))
            for name, version, schema, relocatable, requires in rows
        },
    )


async def read_available(
    connection: AsyncConnection[tuple[Any, ...]], names: Iterable[str]
) -> dict[str, Available]:
    """Return the versions of those extensions, and of all that they require.

    The server reads every control file for that, so one that is broken fails it.
    """
    rows = await (await connection.execute(_AVAILABLE, (sorted(names),))).fetchall()
    found: dict[str, tuple[str | None, dict[str, Version]]] = {}
    for name, default, version, relocatable, schema, requires in rows:
        _, versions = found.setdefault(name, (default, {}))
        versions[version] = Version(relocatable, schema, tuple(requires or ()))
    return {name: Available(default, versions) for name, (default, versions) in found.items()}


async def read_paths(
    connection: AsyncConnection[tuple[Any, ...]], extension: str, version: str
) -> dict[str, tuple[str, ...]]:
    """Return where updates from *version* lead to, and the versions on the way.

    Raises:
        psycopg.Error: also where the server does not find the extension any more.
    """
    rows = await (await connection.execute(_PATHS, (extension, version))).fetchall()
    # No version's name holds two hyphens: the server refuses that.
    return {target: tuple(path.split("--")) for target, path in rows}


async def read_schemas(
    connection: AsyncConnection[tuple[Any, ...]], names: Collection[str]
) -> frozenset[str]:
    """Return those of the schemas that exist."""
    rows = await (await connection.execute(_SCHEMAS, (sorted(names),))).fetchall()
    return frozenset(name for (name,) in rows)


async def observe(
    connection: AsyncConnection[tuple[Any, ...]], declared: Sequence[DatabaseExtensionSettings]
) -> DatabaseFacts:
    """Return what must be known to plan for *declared*; of a settled database only what it has."""
    facts = await read_installed(connection)
    # The usual case, once a minute: the rest reads every control file.
    if facts.in_recovery or is_settled(declared, facts):
        return facts
    present = [one for one in declared if one.ensure == "present"]
    available = await read_available(connection, [one.name for one in present])
    return replace(
        facts,
        available=available,
        paths={
            one.name: await read_paths(connection, one.name, facts.installed[one.name].version)
            for one in present
            if one.version and one.name in available and one.name in facts.installed
        },
        schemas=await read_schemas(
            connection, {DEFAULT_SCHEMA, *(one.schema_name or DEFAULT_SCHEMA for one in present)}
        ),
    )
