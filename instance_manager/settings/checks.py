"""What must hold between settings that are each right by themselves. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from instance_manager.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from instance_manager.settings.models import Settings

# sun_path holds 108 bytes with the last one zero: unix(7), src/include/libpq/pqcomm.h.
SOCKET_PATH_LIMIT_BYTES = 107


@dataclass(frozen=True, slots=True)
class Check:
    """One rule: the keys that it reads, and a function that finds where it is broken."""

    keys: tuple[str, ...]
    find: Callable[[Settings], Iterator[Problem]]


def _unguarded_control(settings: Settings) -> Iterator[Problem]:
    control = settings.control
    address = control.address
    # Who reaches the loopback interface is on this host, or in this pod.
    if address is None or address.is_loopback:
        return
    missing = [
        f"control.tls.{name}"
        for name in ("certificate_file", "key_file")
        if getattr(control.tls, name) is None
    ]
    if control.token_file is None and control.tls.client_ca_file is None:
        missing.append("control.token_file or control.tls.client_ca_file")
    if missing:
        yield Problem(
            "control.listen",
            f"cannot listen on {str(address)!r} without TLS and a way to authenticate: "
            f"set {' and '.join(missing)}, or listen on loopback ('127.0.0.1:{address.port}')",
        )


def _half_a_pair(settings: Settings) -> Iterator[Problem]:
    tls = settings.control.tls
    for one, other in (("certificate_file", "key_file"), ("key_file", "certificate_file")):
        if getattr(tls, one) is not None and getattr(tls, other) is None:
            yield Problem(f"control.tls.{one}", f"is of no use without control.tls.{other}")
    if tls.client_ca_file is not None and tls.certificate_file is None:
        yield Problem(
            "control.tls.client_ca_file", "is of no use without control.tls.certificate_file"
        )


def _password_of_nobody(settings: Settings) -> Iterator[Problem]:
    if settings.bootstrap.owner_password_file is not None and settings.bootstrap.owner is None:
        yield Problem("bootstrap.owner_password_file", "is of no use without bootstrap.owner")


def _shared_ports(settings: Settings) -> Iterator[Problem]:
    """Find two listeners of one port, unless each has an address of its own."""
    health, control = settings.health.address, settings.control.address
    # Without TCP, the port is only a part of the socket's name.
    if settings.postgres.listen_addresses.strip():
        for key, address in (("health.listen", health), ("control.listen", control)):
            if address is not None and address.port == settings.postgres.port:
                yield Problem(key, f"port {address.port} is that of postgres.port: choose another")
    if control is not None and health.port == control.port:
        # Two addresses of this host may each have the port.
        same = health.host == control.host or health.is_any or control.is_any
        if same:
            yield Problem("control.listen", f"port {control.port} is that of health.listen")


def _long_socket_paths(settings: Settings) -> Iterator[Problem]:
    postgres = settings.postgres
    yield from _long_path("control.socket", settings.control.socket)
    # The server puts this name there (UNIXSOCK_PATH).
    socket = postgres.socket_directory / f".s.PGSQL.{postgres.port}"
    yield from _long_path("postgres.socket_directory", socket)


def _long_path(key: str, path: Path) -> Iterator[Problem]:
    size = len(str(path).encode())
    if size > SOCKET_PATH_LIMIT_BYTES:
        limit = f"a unix socket's path has at most {SOCKET_PATH_LIMIT_BYTES} bytes"
        yield Problem(key, f"is too long: {limit}, {str(path)!r} has {size}")


def _repeated_names(settings: Settings) -> Iterator[Problem]:
    volumes, databases = settings.extensions.volumes, settings.databases
    yield from _repeated("extensions.volumes", [volume.name for volume in volumes])
    yield from _repeated("databases", [database.name for database in databases])
    for index, volume in enumerate(volumes):
        names = [variable.name for variable in volume.env]
        yield from _repeated(f"extensions.volumes.{index}.env", names)
    for index, database in enumerate(databases):
        names = [extension.name for extension in database.extensions]
        yield from _repeated(f"databases.{index}.extensions", names)


def _repeated(path: str, names: Iterable[str]) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name in seen:
            yield Problem(f"{path}.{index}.name", f"{name!r} is listed twice")
        seen.add(name)


_CONTROL = ("control.listen", "control.tls")
CHECKS: tuple[Check, ...] = (
    Check((*_CONTROL, "control.token_file"), _unguarded_control),
    Check(("control.tls",), _half_a_pair),
    Check(("bootstrap.owner", "bootstrap.owner_password_file"), _password_of_nobody),
    Check(("postgres.port", "health.listen", "control.listen"), _shared_ports),
    Check(("control.socket", "postgres.socket_directory", "postgres.port"), _long_socket_paths),
    Check(("extensions.volumes", "databases"), _repeated_names),
)
