"""What a run of the manager finds around it: account, programs, directories. Settled once, early.

Everything that can be wrong here is a matter of settings (78), and all of it is reported at once.
Started by root, the process becomes the account of postgres here, for good: nothing after this
has more rights than postgres has.
"""

from __future__ import annotations

import ctypes
import os
import socket
import stat
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeVar

from instance_manager import bundle, handing_over
from instance_manager.errors import Problem, SettingsError
from instance_manager.postgres import account, binaries, data_directory, process
from instance_manager.settings.image_environment import SECRET_VARIABLES
from instance_manager.settings.secrets import secret_problems

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping
    from pathlib import Path

    from instance_manager.postgres.account import Account
    from instance_manager.postgres.binaries import Binaries
    from instance_manager.settings.models import Settings

T = TypeVar("T")
_PERSONAL = frozenset({"HOME", "USER", "LOGNAME"})


@dataclass(frozen=True, slots=True)
class Place:
    """Where everything is: resolved once, before anything is touched."""

    binaries: Binaries
    data_directory: Path
    runtime_directory: Path
    log_directory: Path
    """Where postgres finds the FIFOs of its log."""
    tools: dict[str, str]
    """The environment of tools; its ``PATH`` is what volumes are appended to."""
    library_path: str
    """``LD_LIBRARY_PATH`` as the manager got it."""


class Load(Protocol):
    """Reads the settings; each call reads the same sources anew."""

    @property
    def file(self) -> Path | None:
        """The settings file; None where there is none."""
        ...

    @property
    def digest(self) -> str:
        """What tells the file's content that was loaded last from another."""
        ...

    def __call__(self, document: str | None = None) -> Settings:
        """Return the settings, with a configuration document where one is in force.

        Raises:
            SettingsError: with every problem.
        """
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """All that does not change while the manager runs, and the way to read the settings again."""

    settings: Settings
    place: Place
    account: Account
    name: str
    control_group: int | None
    load: Load
    was_root: bool
    is_settled: bool
    """Whether the data directory is known; root had to look for it, in order to give it away."""

    def settled(self) -> Surroundings:
        """Return these with the data directory found. For threads, when all is served.

        It is the first look at the places where data may be: storage that hangs holds it up.
        """
        if self.is_settled:
            return self
        directory = data_directory.resolve(self.settings.postgres.data_directory)
        place = replace(self.place, data_directory=directory)
        return replace(self, place=place, is_settled=True)


def survey(load: Load, environment: Mapping[str, str]) -> Surroundings:
    """Settle everything, become the account of postgres, and make the runtime directories.

    Raises:
        SettingsError: with every problem found.
    """
    settings, started_as = load(), os.geteuid()
    problems: list[Problem] = []
    server = _collect(
        problems,
        lambda: binaries.find(
            settings.postgres.bin_directory, environment.get("PATH", process.DEFAULT_PATH)
        ),
    )
    me = _collect(problems, lambda: _account(settings))
    group = _collect(problems, lambda: _control_group(settings))
    found = settings.postgres.data_directory
    if me is not None and server is not None:
        problems += _reachable(me, server.postgres)
    # Nothing is given away, and root is not given up, for a run that can't come about.
    if me is not None and not problems:
        if started_as == 0:
            # Before root is given up, and in a process of its own: the storage may never answer.
            found = handing_over.give_data_directory(found, me)
            _collect(problems, lambda: _become(me, settings))
        # As the account by now: what it can't read and write is what counts.
        problems += (*_runtime_directories(settings), *secret_problems(settings))
    if problems or me is None or server is None:
        raise SettingsError(problems)
    runtime = settings.control.socket.parent
    if me.uid != started_as:
        # Root's home is no place for what runs as somebody else.
        environment = {name: environment[name] for name in environment.keys() - _PERSONAL}
    tools = process.tool_environment(environment) | account.naming_environment(me, runtime)
    return Surroundings(
        settings=settings,
        place=Place(
            binaries=server,
            data_directory=found or settings.postgres.data_directory or data_directory.DEFAULT,
            runtime_directory=runtime,
            log_directory=settings.control.socket.with_suffix(".log"),
            tools=tools,
            library_path=environment.get("LD_LIBRARY_PATH", ""),
        ),
        account=me,
        name=settings.instance.name or socket.gethostname(),
        control_group=group,
        load=load,
        was_root=started_as == 0,
        is_settled=found is not None,
    )


def forget_secrets(environment: MutableMapping[str, str]) -> None:
    """Remove secrets from this process's environment, as its children and /proc show it.

    libpq's own variables go too: they would lead the manager's connections astray.

    The kernel shows the memory in which the environment was handed over, whatever is unset later:
    so that memory is overwritten.
    """
    for name in [name for name in environment if name.startswith("PG")]:
        del environment[name]
    for name in environment.keys() & set(SECRET_VARIABLES):
        libc = ctypes.CDLL(None)
        libc.getenv.restype = ctypes.c_void_p
        # The address in the memory that /proc/PID/environ shows, of which Python has a copy only.
        address = libc.getenv(name.encode())
        if address:
            ctypes.memset(address, 0, len(os.fsencode(environment[name])))
        del environment[name]


def _collect(problems: list[Problem], step: Callable[[], T]) -> T | None:
    try:
        return step()
    except SettingsError as error:
        hint = f"; {error.hint}" if error.hint else ""
        problems += [Problem(one.path, one.message + hint) for one in error.problems]
        return None


def _account(settings: Settings) -> Account:
    if os.geteuid() != 0:
        return account.current()
    return account.find(settings.postgres.run_as)


def _control_group(settings: Settings) -> int | None:
    group = settings.control.group
    if group is None:
        return None
    try:
        return account.group_id(group)
    except KeyError:
        message = f"cannot let group {group!r} use the control socket: there is no such group"
        raise SettingsError([Problem("control.group", message)]) from None


def _reachable(me: Account, server: Path) -> list[Problem]:
    """Return what keeps the account from the server or, started by root, from this program."""
    # The program runs as that account already.
    if os.geteuid() != 0:
        return []
    places = (server, *bundle.files())
    return [
        Problem(
            "postgres.run_as",
            f"cannot run postgres as {me}: it can't get through {directory}; move what lies there"
            " to a place that everybody may enter, such as /srv, or allow it with chmod o+x",
        )
        for directory in account.unreachable(me, places)
    ]


def _become(me: Account, settings: Settings) -> None:
    """As root: give the account the directories of the sockets, and become it."""
    for directory in (settings.postgres.socket_directory, settings.control.socket.parent):
        handing_over.give(directory, me, 0o755)
    try:
        account.become(me)
    except OSError as error:
        message = f"cannot become {me}: {error.strerror}"
        hint = "give the container the capabilities SETUID and SETGID, or start it as that user"
        raise SettingsError([Problem("postgres.run_as", message)], hint=hint) from error


def _runtime_directories(settings: Settings) -> list[Problem]:
    postgres = settings.postgres
    problems: list[Problem] = []
    wanted = {
        "postgres.socket_directory": postgres.socket_directory,
        "control.socket": settings.control.socket.parent,
    }
    for path, directory in wanted.items():
        reason = _unusable(directory)
        if reason:
            message = (
                f"cannot write directory {str(directory)!r}: {reason}; mount a writable one"
                " there, or choose another"
            )
            problems.append(Problem(path, message))
    return problems


def _unusable(directory: Path) -> str:
    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        return error.strerror or str(error)
    if not os.access(directory, os.W_OK | os.X_OK):
        status = directory.stat()
        return f"owner {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}"
    return ""
