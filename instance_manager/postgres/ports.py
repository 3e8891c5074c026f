"""The server's TCP port: whether it is free, asked before postgres is started.

Postgres itself says so only in its log, and a manager that sees it end would start it again.
"""

from __future__ import annotations

import errno
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING

from instance_manager.errors import Problem, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from instance_manager.settings.models import PostgresSettings


def require_free(postgres: PostgresSettings) -> None:
    """Raise SettingsError if another program listens where postgres is to listen.

    Names of hosts are left to postgres: to look them up could take long.
    """
    problems = [
        Problem(
            "postgres.port",
            f"cannot listen on {host!r}, port {postgres.port}: another program does",
        )
        for family, host in _addresses(postgres.listen_addresses)
        if _is_in_use(family, host, postgres.port)
    ]
    if problems:
        raise SettingsError(problems, hint="choose another port, or stop who uses it")


def _addresses(listen: str) -> Iterator[tuple[socket.AddressFamily, str]]:
    for part in (one.strip() for one in listen.split(",")):
        match part:
            case "*":
                yield socket.AF_INET, "0.0.0.0"  # noqa: S104 - asked for
                yield socket.AF_INET6, "::"
            case "localhost":
                yield socket.AF_INET, "127.0.0.1"
            case _:
                yield from _numeric(part)


def _numeric(text: str) -> Iterator[tuple[socket.AddressFamily, str]]:
    try:
        version = ip_address(text).version
    except ValueError:
        return
    yield (socket.AF_INET6 if version == 6 else socket.AF_INET), text  # noqa: PLR2004 - of the protocol


def _is_in_use(family: socket.AddressFamily, host: str, port: int) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As postgres sets them (pqcomm.c): connections that linger are no hindrance.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((host, port))
    except OSError as error:
        # Any other error, such as an address that is not this host's, is for postgres to tell.
        return error.errno == errno.EADDRINUSE
    return False
