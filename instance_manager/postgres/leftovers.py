"""Old processes of a data directory, that outlived their manager or their postmaster.

A manager killed with -9 leaves its server alive, and a postmaster killed so may leave a busy or
frozen backend that holds the shared memory: the next start would fail for as long as they live.
They are ended, never adopted. Found are processes of this user, in this process namespace, that
work in the data directory, or hold its lock. Source: proc(5).
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from instance_manager.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterator

_log: Final = get_logger()
_GRACE_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.02
_DELETED: Final = " (deleted)"


def end_all(data_directory: Path, lock: Path) -> bool:
    """End every old process of the data directory; return whether none is left.

    An immediate stop first, which postgres passes on to its children, then SIGKILL. Blocks for a
    few seconds at most: for a thread.
    """
    found = _find(data_directory, lock)
    if not found:
        return True
    _log.warning("ending old processes of this data directory", pids=found)
    _signal(found, signal.SIGCONT, signal.SIGQUIT)
    if _gone_within(data_directory, lock, _GRACE_SECONDS):
        return True
    while left := _find(data_directory, lock):
        # Stopped first, so that none can start another one while the rest is being ended.
        _signal(left, signal.SIGSTOP)
        _signal(_find(data_directory, lock), signal.SIGKILL)
        if _gone_within(data_directory, lock, _GRACE_SECONDS):
            return True
        if set(_find(data_directory, lock)) >= set(left):
            # In an uninterruptible wait for a disk: nothing can be done about them.
            return False
    return True


def _gone_within(data_directory: Path, lock: Path, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not _find(data_directory, lock):
            return True
        time.sleep(_POLL_SECONDS)
    return False


def _signal(pids: list[int], *numbers: signal.Signals) -> None:
    for number in numbers:
        for pid in pids:
            try:
                os.kill(pid, number)
            except (ProcessLookupError, PermissionError):
                continue


def _find(data_directory: Path, lock: Path) -> list[int]:
    """Return the processes that belong to the directory, without this one; zombies are none."""
    directory = data_directory.resolve()
    return sorted(
        pid
        for pid in _own_processes()
        if _works_in(pid, directory) or (_is_postgres(pid) and _holds(pid, lock))
    )


def _own_processes() -> Iterator[int]:
    me = os.geteuid()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                if entry.stat().st_uid == me:
                    yield int(entry.name)
            except OSError:
                continue


def _works_in(pid: int, directory: Path) -> bool:
    """Whether the server's program runs there, or in a cluster that was being made there."""
    if not _is_postgres(pid):
        return False
    try:
        place = str(Path(f"/proc/{pid}/cwd").readlink()).removesuffix(_DELETED)
    except OSError:
        return False
    return Path(place).is_relative_to(directory)


def _is_postgres(pid: int) -> bool:
    try:
        program = str(Path(f"/proc/{pid}/exe").readlink()).removesuffix(_DELETED)
    except OSError:
        return False
    return Path(program).name in {"postgres", "postmaster", "initdb"}


def _holds(pid: int, lock: Path) -> bool:
    try:
        wanted = lock.stat()
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            status = entry.stat()
            if (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino):
                return True
    except OSError:
        return False
    return False
