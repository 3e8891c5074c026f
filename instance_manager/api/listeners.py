"""The sockets of the API: bound before anything slow happens, served later.

Standard library only, microseconds of work. A port in use is an error at once, and an early caller
waits in the backlog instead of being refused. Serving them is :mod:`.server`'s.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from instance_manager.errors import Problem, SettingsError

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from instance_manager.settings.addresses import Address
    from instance_manager.settings.models import Settings

_BACKLOG: Final = 512


@dataclass(frozen=True, slots=True)
class Listeners:
    """Bound, listening sockets; *control_tcp* is None where only the unix socket is wanted."""

    health: socket.socket
    control_unix: socket.socket
    control_tcp: socket.socket | None


def bind_all(settings: Settings, ends: ExitStack, group: int | None) -> Listeners:
    """Bind every listener; *ends* closes them, and removes the unix socket's file.

    Raises:
        SettingsError: an address is in use or not ours, or the socket's place can't be written;
            all such problems at once.
    """
    problems: list[Problem] = []
    health = _tcp("health.listen", settings.health.address, ends, problems)
    address = settings.control.address
    control_tcp = _tcp("control.listen", address, ends, problems) if address else None
    control_unix = _unix(settings.control.socket, ends, group, problems)
    if problems or health is None or control_unix is None:
        raise SettingsError(problems, hint="choose other addresses, or stop who uses them")
    return Listeners(health, control_unix, control_tcp)


def _tcp(
    path: str, address: Address, ends: ExitStack, problems: list[Problem]
) -> socket.socket | None:
    try:
        return ends.enter_context(_bound_tcp(address))
    except OSError as error:
        reason = error.strerror or str(error)
        problems.append(Problem(path, f"cannot listen on {str(address)!r}: {reason}"))
        return None


def _bound_tcp(address: Address) -> socket.socket:
    if address.host == "*":
        # One socket for both families, unless the kernel was started without IPv6.
        with contextlib.suppress(OSError):
            return _bound(socket.AF_INET6, ("::", address.port), dual=True)
        return _bound(socket.AF_INET, ("0.0.0.0", address.port))  # noqa: S104 - asked for
    found = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, _, _, _, where = found[0]
    return _bound(family, where)


def _bound(family: int, where: tuple[object, ...], *, dual: bool = False) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Connections of the last run in TIME_WAIT would keep the port for a minute.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Said, since the default is the host's (net.ipv6.bindv6only).
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual else 1)
        listener.bind(where)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _unix(
    path: Path, ends: ExitStack, group: int | None, problems: list[Problem]
) -> socket.socket | None:
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        # Before the bind: a socket's file that is left can't be told from one that is listened on.
        _hold_lock(path, ends)
        return ends.enter_context(_bound_unix(path, ends, group))
    except OSError as error:
        reason = error.strerror or str(error)
        problems.append(Problem("control.socket", f"cannot listen on {str(path)!r}: {reason}"))
        return None


def _hold_lock(path: Path, ends: ExitStack) -> None:
    """Hold the lock beside the socket: only its holder may remove a socket that is there.

    Raises:
        OSError: another manager holds it, or the file can't be opened.
    """
    # O_NOFOLLOW: the directory may belong to somebody who puts a link there.
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    lock = os.open(path.with_name(f"{path.name}.lock"), flags, 0o600)
    # The kernel drops the lock with the descriptor, however we end.
    ends.callback(os.close, lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OSError(error.errno, "another manager is listening there") from error


def _bound_unix(path: Path, ends: ExitStack, group: int | None) -> socket.socket:
    # Nothing else is removed: a wrong path may be somebody's file.
    if path.is_socket():
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # bind(2) makes the file with the umask: to change its mode afterwards would leave a moment for
    # others.
    before = os.umask(0o117)
    try:
        listener.bind(os.fspath(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    ends.callback(lambda: path.unlink(missing_ok=True))
    if group is not None:
        # Before listen(2): until then connect(2) is refused, to everybody.
        os.chown(path, -1, group)
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener
