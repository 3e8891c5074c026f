"""Actions as SQL: names are quoted, versions are literals, and nothing else is put together.

Imported when psycopg is.
"""

from __future__ import annotations

from typing import Final

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from instance_manager.databases.desired import Action, Create, Drop, Move, Update

_CASCADE: Final = SQL(" CASCADE")
_NOTHING: Final = SQL("")


def statement_of(action: Action) -> Composed:
    """Return the statement that does *action*."""
    name = Identifier(action.extension)
    match action:
        case Create():
            return SQL("CREATE EXTENSION {}{}{}{}").format(
                name,
                _NOTHING
                if action.schema is None
                else SQL(" SCHEMA {}").format(Identifier(action.schema)),
                SQL(" VERSION {}").format(Literal(action.version)),
                _cascade(action.cascade),
            )
        case Update():
            return update(action.extension, action.version)
        case Move():
            return SQL("ALTER EXTENSION {} SET SCHEMA {}").format(name, Identifier(action.schema))
        case Drop():
            return SQL("DROP EXTENSION {}{}").format(name, _cascade(action.cascade))


def update(extension: str, version: str) -> Composed:
    """Return the statement that updates an extension."""
    return SQL("ALTER EXTENSION {} UPDATE TO {}").format(Identifier(extension), Literal(version))


def _cascade(wanted: bool) -> Composable:
    return _CASCADE if wanted else _NOTHING
