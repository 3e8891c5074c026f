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
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from instance_manager.errors import Problem, SettingsError
from instance_manager.postgres import account, binaries, data_directory, process
from instance_manager.settings.image_environment import SECRET_VARIABLES
from instance_manager.settings.secrets import secret_problems

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping

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


@dataclass(frozen=True, slots=True)
class Surroundings:
    """All that does not change while the manager runs, and the way to read the settings again."""

    settings: Settings
    place: Place
    account: Account
    name: str
    control_group: int | None
    load: Callable[[], Settings]
    """Read the settings again; raises SettingsError."""
    was_root: bool

    def settled(self) -> Surroundings:
        """Return these with the data directory found, for after the sockets are bound.

        It is the first look at the places where data may be. Root had to look before, in order
        to give the directory away.
        """
        if self.was_root:
            return self
        directory = data_directory.resolve(self.settings.postgres.data_directory)
        return replace(self, place=replace(self.place, data_directory=directory))


def survey(load: Callable[[], Settings], environment: Mapping[str, str]) -> Surroundings:
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
    directory = settings.postgres.data_directory or data_directory.DEFAULT
    if started_as == 0:
        directory = data_directory.resolve(settings.postgres.data_directory)
    if me is not None and server is not None:
        problems += _reachable(me, server.postgres)
    if me is not None and not problems:
        _collect(problems, lambda: _take_over(me, settings, directory))
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
            data_directory=directory,
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
    if os.geteuid() != 0:
        return []
    places = (server, Path(sys.prefix) / "lib", Path(sys.base_prefix) / "lib", Path(__file__))
    return [
        Problem(
            "postgres.run_as",
            f"cannot run postgres as {me}: it can't get through {directory}; move what lies there"
            " to a place that everybody may enter, such as /srv, or allow it with chmod o+x",
        )
        for directory in account.unreachable(me, places)
    ]


def _take_over(me: Account, settings: Settings, data: Path) -> None:
    """As root: give the account the directories that are still nobody's, and become it."""
    if os.geteuid() != 0:
        return
    _hand_over(data, me, 0o700)
    for directory in (settings.postgres.socket_directory, settings.control.socket.parent):
        _hand_over(directory, me, 0o755)
    try:
        account.become(me)
    except OSError as error:
        message = f"cannot become {me}: {error.strerror}"
        hint = "give the container the capabilities SETUID and SETGID, or start it as that user"
        raise SettingsError([Problem("postgres.run_as", message)], hint=hint) from error


def _hand_over(directory: Path, me: Account, mode: int) -> None:
    """Make a directory that is missing, or take one that is empty and root's; no other is touched.

    Opened without following a link at its end: what others made is not ours to give away.
    """
    if not _is_roots(directory):
        return
    try:
        directory.mkdir(mode=mode, parents=True, exist_ok=True)
        opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return  # said with its reason where the directory is needed
    try:
        if os.fstat(opened).st_uid == 0 and {entry.name for entry in os.scandir(opened)} <= {
            "lost+found"
        }:
            os.fchown(opened, me.uid, me.gid)
    finally:
        os.close(opened)


def _is_roots(directory: Path) -> bool:
    """Whether nobody but root could have put something on the way to *directory*.

    Elsewhere the account makes its directories itself, with its own rights.
    """
    others_write = False
    for parent in reversed(directory.absolute().parents):
        try:
            status = parent.lstat()
        except FileNotFoundError:
            return not others_write
        others_write = bool(status.st_mode & 0o022)
        is_sticky = bool(status.st_mode & stat.S_ISVTX)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0:
            return False
        if others_write and not is_sticky:
            return False
    return not others_write or directory.is_dir()


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
