"""The application's database and its owner, as a new cluster gets them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from instance_manager.errors import StartError
from instance_manager.postgres.connection import connect

if TYPE_CHECKING:
    from pathlib import Path

    from psycopg import AsyncConnection

    from instance_manager.settings.models import BootstrapSettings

PORT: Final = 5432
"""In a private directory the number is only a part of the socket's name."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where the server of the new cluster answers, and as whom to ask it."""

    socket_directory: Path
    superuser: str


async def create(target: Target, settings: BootstrapSettings, owner_password: str | None) -> str:
    """Make the owner and the database that the settings name; return the scripts' database.

    The password reaches the server as a SCRAM verifier: it can't end up in a log.

    Raises:
        StartError: the server refuses.
    """
    import psycopg

    owner = settings.owner or settings.superuser
    try:
        async with await connect(target.socket_directory, PORT, target.superuser) as connection:
            if owner != settings.superuser:
                await _create_role(connection, owner, owner_password)
            if settings.database and settings.database != "postgres":
                await _create_database(connection, settings.database, owner)
            elif settings.owner:
                # initdb has made that database, so it is given away and not made.
                await _hand_over(connection, owner)
    except psycopg.Error as error:
        raise StartError(
            f"cannot make database {settings.database!r} of {owner!r}: {error}",
            hint="see bootstrap.database and bootstrap.owner",
        ) from error
    return settings.database or "postgres"


async def _create_role(
    connection: AsyncConnection[tuple[Any, ...]], name: str, password: str | None
) -> None:
    from psycopg.sql import SQL, Identifier, Literal

    statement = SQL("CREATE ROLE {} LOGIN").format(Identifier(name))
    if password is not None:
        verifier = connection.pgconn.encrypt_password(
            password.encode(), name.encode(), b"scram-sha-256"
        )
        statement += SQL(" PASSWORD {}").format(Literal(verifier.decode()))
    await connection.execute(statement)


async def _create_database(
    connection: AsyncConnection[tuple[Any, ...]], name: str, owner: str
) -> None:
    from psycopg.sql import SQL, Identifier

    statement = SQL("CREATE DATABASE {} OWNER {}").format(Identifier(name), Identifier(owner))
    await connection.execute(statement)


async def _hand_over(connection: AsyncConnection[tuple[Any, ...]], owner: str) -> None:
    from psycopg.sql import SQL, Identifier

    await connection.execute(SQL("ALTER DATABASE postgres OWNER TO {}").format(Identifier(owner)))
