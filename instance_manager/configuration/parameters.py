"""The server's parameters: which ones are the manager's own, and what is set to which value. Pure.

Names are compared without regard to case, as the server does (``guc_name_compare``, guc.c), and
are written in lower case.
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from instance_manager.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from instance_manager.extensions.models import Composed
    from instance_manager.settings.models import PostgresSettings

LOG_NAME: Final = "postgres"
"""Of the server's log; ``jsonlog`` adds ``.json`` to it."""
FIRST_MAJOR_WITH_CONTROL_PATH: Final = 18
FIRST_MAJOR_WITH_ALLOW_ALTER_SYSTEM: Final = 17

_LOGGING: Final = "the manager reads the server's log through a pipe of its own"
_FILE: Final = "the server reads the file that the manager writes"

DIRECTIVES: Final = frozenset({"include", "include_dir", "include_if_exists"})
"""Names that the file's grammar takes for an order to read another file."""

OWNED: Final[Mapping[str, str]] = {
    "allow_alter_system": "use postgres.allow_alter_system",
    "config_file": _FILE,
    "data_directory": "use postgres.data_directory",
    "event_source": "there is no such thing on Linux",
    "external_pid_file": "nothing is written outside the data directory",
    "hba_file": "use postgres.hba",
    "ident_file": "use postgres.ident",
    "listen_addresses": "use postgres.listen_addresses",
    "log_destination": _LOGGING,
    "log_directory": _LOGGING,
    "log_filename": _LOGGING,
    "log_rotation_age": _LOGGING,
    "log_rotation_size": _LOGGING,
    "log_truncate_on_rotation": _LOGGING,
    "logging_collector": _LOGGING,
    "port": "use postgres.port",
    "shared_preload_libraries": "use postgres.shared_preload_libraries",
    "unix_socket_directories": "use postgres.socket_directory",
    **dict.fromkeys(DIRECTIVES, "it would read another file: write its parameters out"),
}
"""Parameters that may not stand in the user's, and what to do instead."""

OWN_PREFIX: Final = "instance_manager."

COMPOSED: Final = frozenset({"dynamic_library_path", "extension_control_path"})
"""Search paths: the user's value is a part of what is composed, after the volumes'."""

TAKEN_FROM_AUTO_CONF: Final = frozenset(OWNED) | COMPOSED
"""What must not stand in postgresql.auto.conf, where it would win over our file."""

# What the file's grammar takes for a name (ID and QUALIFIED_ID, guc-file.l), in ASCII.
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?")
_PLAIN_DIRECTORY: Final = re.compile(r"[A-Za-z0-9_./-]+")
_CLUSTER_NAME_LIMIT: Final = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The server to tell: its version, and the places that the manager chose for it."""

    major: int
    """15 or newer."""
    hba_file: Path
    ident_file: Path
    log_directory: Path
    """Holds the FIFO ``postgres.json``."""
    instance: str
    """The instance's name."""


def is_name(name: str) -> bool:
    """Whether the configuration file takes *name* for the name of a parameter."""
    return _NAME.fullmatch(name) is not None


def problems(
    parameters: Mapping[str, str], path: str = "postgres.parameters"
) -> tuple[Problem, ...]:
    """Find what can't be used in the user's *parameters*, which stand at *path*.

    Whether the server knows a name and takes its value is the server's to say.
    """
    return tuple(_problems(parameters, path))


def _problems(parameters: Mapping[str, str], path: str) -> Iterator[Problem]:
    seen: set[str] = set()
    for name, value in parameters.items():
        where = f"{path}.{name}"
        folded = name.lower()
        if not is_name(name):
            yield Problem(where, f"cannot set parameter {name!r}: this is no parameter's name")
        elif reason := _owner(folded):
            yield Problem(
                where, f"cannot set parameter {name!r}: it is the manager's own; {reason}"
            )
        # The server would take the last one, in an order that a map does not have.
        elif folded in seen:
            yield Problem(where, f"cannot set parameter {name!r}: it is given twice")
        elif "\0" in value:
            yield Problem(where, f"cannot set parameter {name!r}: its value holds a NUL character")
        elif folded == "unix_socket_permissions" and _locks_out(value):
            yield Problem(
                where,
                f"cannot set parameter {name!r} to {value}: the manager comes in by that socket;"
                " leave the owner's write permission, as in 0700",
            )
        seen.add(folded)


def _locks_out(permissions: str) -> bool:
    """Whether the socket's owner could not connect; what is no number is the server's to refuse.

    The server reads numbers as C does: octal with a zero before.
    """
    text = permissions.strip()
    # With base 0, int() refuses a zero before a number, where strtol(3) reads octal.
    base = 0 if text.lower().startswith("0x") else 8 if text.startswith("0") else 10
    try:
        return not int(text, base) & stat.S_IWUSR
    except ValueError:
        return False


def _owner(name: str) -> str:
    if name.startswith(OWN_PREFIX):
        return f"names that begin with {OWN_PREFIX!r} are its marks"
    return OWNED.get(name, "")


def assemble(
    postgres: PostgresSettings,
    composed: Composed,
    metadata: Mapping[str, str],
    server: Server,
) -> dict[str, str]:
    """Return every parameter that the server is told, by name.

    Args:
        postgres: the settings; its parameters have no :func:`problems`.
        composed: what the volumes and the user's own search paths and libraries come to.
        metadata: what volumes ask for; anything of the user's is stronger.
        server: a parameter that this version does not know is left out.
    """
    parameters = _defaults(server)
    # In this order, each stronger than the one before: a volume may ask, the user decides.
    parameters |= {name.lower(): value for name, value in metadata.items()}
    parameters |= {name.lower(): value for name, value in postgres.parameters.items()}
    for name in COMPOSED:
        # The user's value is in what is composed already.
        parameters.pop(name, None)
        if path := getattr(composed, name):
            parameters[name] = path
    # Last, so that nothing of a volume's gets past the rules for what users may set.
    parameters |= _owned(postgres, composed, server)
    if server.major < FIRST_MAJOR_WITH_CONTROL_PATH:
        parameters.pop("extension_control_path", None)
    if server.major < FIRST_MAJOR_WITH_ALLOW_ALTER_SYSTEM:
        # A name that the server does not know ends its start.
        del parameters["allow_alter_system"]
    return parameters


def _defaults(server: Server) -> dict[str, str]:
    """Return what differs from the server's own defaults, for the user to override.

    ``cluster_name`` stands in the titles of processes, and names a standby to its primary.
    """
    # NAMEDATALEN - 1, which is as long as the manual allows it to be.
    return {"cluster_name": server.instance[:_CLUSTER_NAME_LIMIT]}


def _owned(postgres: PostgresSettings, composed: Composed, server: Server) -> dict[str, str]:
    """Return the manager's own. The log is a FIFO, which can't be rotated or truncated."""
    return {
        "allow_alter_system": "on" if postgres.allow_alter_system else "off",
        "hba_file": str(server.hba_file),
        "ident_file": str(server.ident_file),
        "listen_addresses": postgres.listen_addresses,
        "log_destination": "jsonlog",
        "log_directory": str(server.log_directory),
        "log_filename": LOG_NAME,
        "log_rotation_age": "0",
        "log_rotation_size": "0",
        "log_truncate_on_rotation": "off",
        "logging_collector": "on",
        "port": str(postgres.port),
        "shared_preload_libraries": composed.shared_preload_libraries,
        "unix_socket_directories": _directory_list(postgres.socket_directory),
    }


def _directory_list(directory: Path) -> str:
    """Write one directory as a list: commas and spaces part its items (SplitDirectoriesString)."""
    text = str(directory)
    return text if _PLAIN_DIRECTORY.fullmatch(text) else '"' + text.replace('"', '""') + '"'
