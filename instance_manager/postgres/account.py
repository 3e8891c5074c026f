"""The operating-system account that postgres runs as.

Started by root, the whole program becomes that account for good, before it touches the data
directory: a root process that follows links in a directory of another user is a hole. An account
is a number; a name is a courtesy that containers with arbitrary user ids do not have. There
``initdb`` and peer authentication fail by themselves, and libnss_wrapper gives them a name.
"""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from instance_manager import bundle
from instance_manager.errors import Problem, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable

UNNAMED: Final = "postgres"
"""The name that libnss_wrapper gives to a user id without one."""
_LARGEST_ID: Final = 2**32 - 2
"""The one above means *unchanged* to setresuid(2)."""
_WRAPPER_PLACES: Final = ("/usr/lib/*/libnss_wrapper.so", "/usr/lib*/libnss_wrapper.so")


@dataclass(frozen=True, slots=True)
class Account:
    """A user id with its group; *name* is None where no passwd entry has it."""

    uid: int
    gid: int
    name: str | None

    @property
    def login(self) -> str:
        """The name that PostgreSQL's peer authentication will see."""
        return self.name or UNNAMED

    def __str__(self) -> str:
        return f"user {self.name!r} (uid {self.uid})" if self.name else f"uid {self.uid}"


def current() -> Account:
    """Return the account of this process."""
    return Account(os.geteuid(), os.getegid(), _name_of(os.geteuid()))


def find(run_as: str) -> Account:
    """Return the account that *run_as* names: a name, or a number with or without an entry.

    Raises:
        SettingsError: there is no such user, or it is root.
    """
    # ASCII only: a name may consist of digits of another script, which int() would read.
    is_number = run_as.isascii() and run_as.isdecimal()
    if is_number and int(run_as) > _LARGEST_ID:
        raise _unusable(f"{run_as} is no user id")
    try:
        entry = pwd.getpwuid(int(run_as)) if is_number else pwd.getpwnam(run_as)
    except KeyError:
        if not is_number:
            raise _unusable(f"there is no user {run_as!r} on this system") from None
        account = Account(int(run_as), int(run_as), None)
    else:
        account = Account(entry.pw_uid, entry.pw_gid, entry.pw_name)
    if account.uid == 0:
        raise _unusable("postgres refuses to run as root")
    return account


def _unusable(reason: str) -> SettingsError:
    return SettingsError(
        [Problem("postgres.run_as", f"cannot run postgres: {reason}")],
        hint="set postgres.run_as to an unprivileged user, by name or number",
    )


def become(account: Account) -> None:
    """Become *account* for good: groups, group and user. Only root can.

    Raises:
        OSError: the kernel refuses, as it does without CAP_SETUID.
    """
    # Groups first: whoever has given up root's user may not change them any more.
    os.setgroups(groups_of(account))
    os.setresgid(account.gid, account.gid, account.gid)
    # The saved id, too: by it the program could become root again.
    os.setresuid(account.uid, account.uid, account.uid)


def groups_of(account: Account) -> list[int]:
    """Return the groups that the account is in, by the system's databases."""
    # The databases list members by name: of a bare number they know nothing.
    return os.getgrouplist(account.name, account.gid) if account.name else [account.gid]


def unreachable(account: Account, paths: Iterable[Path]) -> list[str]:
    """Return, for each path that the account can't reach, the directory that stops it.

    Judged by owner, group and mode, as the kernel does without capabilities; asked by root on
    behalf of somebody else, so the answer is for messages, not for security.
    """
    blocked = (_first_closed(account, path) for path in paths)
    return list(dict.fromkeys(directory for directory in blocked if directory))


def _first_closed(account: Account, path: Path) -> str:
    for parent in reversed(path.absolute().parents):
        status = parent.stat()
        if not _may_search(account, status):
            owner = _name_of(status.st_uid) or status.st_uid
            return f"{parent} (mode {status.st_mode & 0o7777:04o}, owner {owner})"
    return ""


def _may_search(account: Account, status: os.stat_result) -> bool:
    # The first class that applies decides, as in the kernel: an owner has not the group's rights.
    if status.st_uid == account.uid:
        return bool(status.st_mode & 0o100)
    if status.st_gid in groups_of(account):
        return bool(status.st_mode & 0o010)
    return bool(status.st_mode & 0o001)


def group_id(group: str) -> int:
    """Return the id of a group given by name or number.

    Raises:
        KeyError: there is no such group.
    """
    if not (group.isascii() and group.isdecimal()):
        return grp.getgrnam(group).gr_gid
    if int(group) > _LARGEST_ID:
        raise KeyError(group)
    return int(group)


def naming_environment(account: Account, directory: Path) -> dict[str, str]:
    """Return the variables that give a nameless account a name; nothing for one that has it.

    The passwd file is written into *directory*, which the account can write.

    Raises:
        SettingsError: libnss_wrapper is needed, and not installed.
    """
    if account.name is not None:
        return {}
    library = _wrapper()
    if library is None:
        message = f"cannot run as {account}: it has no passwd entry, which initdb needs"
        hint = "install libnss-wrapper, or use a user id that has an entry"
        raise SettingsError([Problem("postgres.run_as", message)], hint=hint)
    passwd, group = directory / "passwd", directory / "group"
    passwd.write_text(f"{UNNAMED}:x:{account.uid}:{account.gid}::{directory}:/bin/sh\n")
    group.write_text(f"{UNNAMED}:x:{account.gid}:\n")
    return {
        "LD_PRELOAD": str(library),
        "NSS_WRAPPER_PASSWD": str(passwd),
        "NSS_WRAPPER_GROUP": str(group),
    }


def _wrapper() -> Path | None:
    of_image = (hit for place in _WRAPPER_PLACES for hit in Path("/").glob(place[1:]))
    return next(of_image, None) or bundle.name_wrapper()


def _name_of(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None
