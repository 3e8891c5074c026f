"""As root: giving directories to the account of postgres, before root is given up.

The data directory may lie on storage that never answers. So a process of its own looks for it and
gives it away, which nobody has to wait for: not a thread, since setuid(2) of the C library needs
every thread, also one that is stuck in the kernel.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from instance_manager.postgres import data_directory

if TYPE_CHECKING:
    from instance_manager.postgres.account import Account

_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.05
_LONGEST_PATH_BYTES: Final = 4096
_TO_END: Final = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}


def give_data_directory(configured: Path | None, me: Account) -> Path | None:
    """Find the data directory, give it to the account where it is nobody's, and return it.

    None where the storage does not answer in time, or before a signal to end that is blocked. For
    a process with one thread.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    # Safe here: there is no other thread yet, and no loop.
    helper = os.fork()
    if helper == 0:
        _help(configured, me, writing)
    # Else the reading end would never come to its end, were the helper to die without an answer.
    os.close(writing)
    answer = os.read(reading, _LONGEST_PATH_BYTES) if _is_answered(reading) else b""
    os.close(reading)
    if not answer:
        # Stuck in the kernel, it may live on: whoever reaps orphans reaps it then.
        os.kill(helper, signal.SIGKILL)
        return None
    os.waitpid(helper, 0)
    return Path(os.fsdecode(answer))


def _help(configured: Path | None, me: Account, writing: int) -> NoReturn:
    try:
        directory = data_directory.resolve(configured)
        with contextlib.suppress(OSError):
            give(directory, me, 0o700)
        os.write(writing, os.fsencode(directory))
    finally:
        # Nothing of what the manager would do at its end.
        os._exit(0)


def _is_answered(reading: int) -> bool:
    end = time.monotonic() + _SECONDS
    # Signals have been blocked since the start: a pending one can only be looked for.
    while time.monotonic() < end and not signal.sigpending() & _TO_END:
        if select.select([reading], [], [], _POLL_SECONDS)[0]:
            return True
    return False


def give(directory: Path, me: Account, mode: int) -> None:
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
        # Of the open directory: its name may lead elsewhere by now.
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
            # Whoever may write there could make it before us.
            return not others_write
        others_write = bool(status.st_mode & 0o022)
        # With it, nobody but root can replace what is root's there: unlink(2).
        is_sticky = bool(status.st_mode & stat.S_ISVTX)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0:
            return False
        if others_write and not is_sticky:
            return False
    return not others_write or directory.is_dir()
