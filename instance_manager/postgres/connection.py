"""Connections to the server: a question that costs one packet, and real ones for SQL.

:func:`ask` sends a startup packet and reads the first byte of the answer, as libpq's ``PQping``
does, but without a thread and with a deadline. A held connection would go on answering while the
postmaster accepts nobody. Source: the manual, "Message Formats".
"""

from __future__ import annotations

import asyncio
import struct
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from psycopg import AsyncConnection

_PROTOCOL: Final = 196608
"""Version 3.0."""
_TERMINATE: Final = b"X\x00\x00\x00\x04"
_MESSAGE_LIMIT_BYTES: Final = 8192
_CANNOT_CONNECT_NOW: Final = "57P03"
APPLICATION: Final = "instance-manager"


class Answer(StrEnum):
    """What the postmaster makes of a new connection."""

    ACCEPTS = "accepts"
    """It would go on to authenticate, or refuses this one for a reason of its own."""
    STARTING = "starting"
    """It lives, and lets nobody in yet, or no more."""
    SILENT = "silent"
    """Nobody listens, or nobody answers within the deadline."""


async def ask(path: Path, *, deadline_seconds: float, user: str = "postgres") -> Answer:
    """Ask the server at a unix socket whether it accepts connections.

    "Too many connections" and "no such role" are the answers of a server that accepts.
    """
    try:
        async with asyncio.timeout(deadline_seconds):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(startup_packet({"user": user, "application_name": APPLICATION}))
                kind, body = await _read_message(reader)
                writer.write(_TERMINATE)
            finally:
                writer.close()
    except (OSError, TimeoutError, EOFError, ValueError):
        return Answer.SILENT
    return judge(kind, body)


def startup_packet(parameters: dict[str, str]) -> bytes:
    """Return the packet that opens a session of protocol 3.0."""
    pairs = (part for name, value in parameters.items() for part in (name, value))
    body = struct.pack("!I", _PROTOCOL) + b"".join(f"{part}\0".encode() for part in pairs) + b"\0"
    return struct.pack("!I", len(body) + 4) + body


def judge(kind: bytes, body: bytes) -> Answer:
    """Return what the server's first message means for those who want to connect."""
    if kind == b"R":
        return Answer.ACCEPTS
    if kind == b"E":
        state = sqlstate_of(body)
        return Answer.STARTING if state == _CANNOT_CONNECT_NOW else Answer.ACCEPTS
    return Answer.SILENT


def sqlstate_of(body: bytes) -> str:
    """Return the SQLSTATE of an error message's body; empty where it has none."""
    for field in body.split(b"\0"):
        if field[:1] == b"C":
            return field[1:].decode("ascii", "replace")
    return ""


async def _read_message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    kind, length = struct.unpack("!cI", await reader.readexactly(5))
    # Who listens there may be no server: its first bytes must not make us wait for gigabytes.
    if not 4 <= length <= _MESSAGE_LIMIT_BYTES:  # noqa: PLR2004 - the length counts itself
        raise ValueError(f"a message of {length} bytes")
    return kind, await reader.readexactly(length - 4)


async def connect(
    socket_directory: Path,
    port: int,
    user: str,
    *,
    database: str = "postgres",
    deadline_seconds: float = 5.0,
    parameters: Mapping[str, str] | None = None,
) -> AsyncConnection[tuple[Any, ...]]:
    """Open a connection for SQL over the unix socket; the caller closes it.

    Statements are limited to the same deadline. No password file and no service file is read.
    *parameters* hold from the start of the session, whatever the role or the database prefers;
    their values are words without a space.

    Raises:
        psycopg.Error: the server refuses, or does not answer in time.
    """
    from psycopg import AsyncConnection

    return await AsyncConnection.connect(
        host=str(socket_directory),
        port=port,
        user=user,
        dbname=database,
        application_name=APPLICATION,
        # A connection that is held would else keep a transaction open, and vacuum from its work.
        autocommit=True,
        connect_timeout=max(2, round(deadline_seconds)),
        options=f"-c statement_timeout={round(deadline_seconds * 1000)}"
        # On another search path, functions of users could take the place of the system's.
        " -c default_transaction_read_only=off -c search_path=pg_catalog"
        # Whatever the cluster or the role prefers, these are what the driver understands.
        " -c datestyle=ISO -c intervalstyle=postgres -c client_encoding=UTF8"
        + "".join(f" -c {name}={value}" for name, value in (parameters or {}).items()),
        passfile="/nonexistent",
    )


async def checkpoint(socket_directory: Path, port: int, user: str) -> None:
    """Have the server write all that a crash recovery would have to repeat; no deadline.

    Raises:
        psycopg.Error: the server refuses, or goes away.
    """
    connection = await connect(socket_directory, port, user)
    async with connection:
        # However long it takes: who can wait no longer cancels it.
        await connection.execute("SET statement_timeout = 0")
        await connection.execute("CHECKPOINT")
