"""What was read of the databases: the inventory.

Pure values. Named tuples, because a start needs them too, on the way to the first connection;
what the API shows of them is in ``models``.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Installed(NamedTuple):
    """An extension of a database: a row of ``pg_extension``."""

    name: str
    version: str
    schema: str


class Library(NamedTuple):
    """A library that functions of a database are in.

    *name* is as ``pg_proc.probin`` has it, such as ``$libdir/vector``. *extension* is the one
    whose functions they are; None for somebody's own. *access_methods* and *languages* are those
    whose handler is among them.
    """

    name: str
    extension: str | None = None
    access_methods: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()


class Override(NamedTuple):
    """A parameter that ``ALTER ROLE`` or ``ALTER DATABASE`` set; None means for all of them."""

    parameter: str
    value: str
    database: str | None = None
    role: str | None = None


class Database(NamedTuple):
    """A database; None for what could not be read, and the reasons in *problems*.

    *oid* is what stays when it is renamed.
    """

    name: str
    oid: int
    extensions: tuple[Installed, ...] | None = None
    libraries: tuple[Library, ...] | None = None
    problems: tuple[str, ...] = ()


class Update(NamedTuple):
    """A version that an installed one can be updated to, through the versions of *path*.

    *path* begins with the installed version and ends with *target*.
    """

    target: str
    path: tuple[str, ...]


class Available(NamedTuple):
    """An extension that ``CREATE EXTENSION`` finds; *versions* are in no order."""

    name: str
    default_version: str | None
    versions: tuple[str, ...] = ()


class Inventory(NamedTuple):
    """What every database uses; *read_at* is a time of RFC 3339 in UTC."""

    read_at: str
    databases: tuple[Database, ...]
    overrides: tuple[Override, ...] = ()


class Reading(NamedTuple):
    """Everything that one reading of a server gave.

    *available* is None where the server could not tell. *updates* has, for each installed
    extension and version, what it can be updated to; None where that could not be told.
    """

    inventory: Inventory
    available: tuple[Available, ...] | None = None
    updates: Mapping[tuple[str, str], tuple[Update, ...] | None] = MappingProxyType({})
    problems: tuple[str, ...] = ()


def completed(now: Inventory, before: Inventory | None) -> Inventory:
    """Return *now* as it is kept: what could not be read is taken from *before*.

    A database that is gone is gone from the inventory; one that was dropped and made anew is
    another one.
    """
    # By oid: a database that was made anew under an old name has nothing of the old one.
    known = {each.oid: each for each in before.databases} if before else {}
    return now._replace(
        databases=tuple(_completed(each, known.get(each.oid)) for each in now.databases)
    )


def _completed(now: Database, before: Database | None) -> Database:
    if before is None:
        return now._replace(problems=())
    return now._replace(
        problems=(),
        extensions=before.extensions if now.extensions is None else now.extensions,
        libraries=before.libraries if now.libraries is None else now.libraries,
    )
