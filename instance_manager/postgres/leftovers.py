"""Old processes of a data directory, that outlived their manager or their postmaster.

A manager killed with -9 leaves its server alive, and a postmaster killed so may leave a busy or
frozen backend that holds the shared memory: the next start would fail for as long as they live.
They are ended, never adopted. Found are processes of this user, in this process namespace: servers
that work in the data directory, and whoever holds its lock. A living manager and its server are
none, whatever became of the manager's lock. Source: proc(5).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from instance_manager.errors import DataDirectoryInUseError
from instance_manager.log import get_logger
from instance_manager.postgres import pid_file, processes
from instance_manager.postgres.process import TRIAL

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from instance_manager.postgres.data_directory import OurFiles
    from instance_manager.postgres.processes import Identity, Process

MANAGER_LOCK: Final = "manager.lock"
"""The name of the lock that no manager's child inherits."""
FAST_SECONDS: Final = 10.0
_log: Final = get_logger()
_MOMENT_SECONDS: Final = 0.3
"""Idle backends of a killed postmaster end by themselves, in less than a tenth of a second, and so
do the commands of a server that was stopped."""
_KILL_SECONDS: Final = 5.0
_KILL_ROUNDS: Final = 3
_POLL_SECONDS: Final = 0.02
_HOLDER_PROGRAMS: Final = pid_file.SERVER_PROGRAMS | {"initdb"}
_DELETED: Final = " (deleted)"
_LOCK_FILE: Final = 5
"""Which word of a line in ``/proc/locks`` names the file: its device, two numbers, and inode."""
_COLONS: Final = 2
_BACKEND_TITLE: Final = "postgres: "
_SINGLE_USER: Final = "--single"


class Lock(Enum):
    """Who has the lock of the data directory while its old processes are looked for."""

    OURS = auto()
    """Then nobody else has it, and only servers that work there need to be found."""
    THEIRS = auto()
    """Then whoever holds it is an old process, whatever program it runs."""
    IMPOSSIBLE = auto()
    """The file system can't lock: who has the file open and may make a cluster is one, too."""


@dataclass(frozen=True, slots=True)
class Site:
    """The data directory whose old processes are looked for."""

    files: OurFiles
    lock: Lock
    spared: Callable[[], Collection[int]] = tuple
    """The living children of this manager, each the leader of a group of tools."""

    @property
    def directory(self) -> Path:
        """The data directory itself."""
        return self.files.data_directory


class _Lock(NamedTuple):
    """A line of ``/proc/locks``: ``1: POSIX ADVISORY WRITE 7 08:01:99 0 EOF``."""

    kind: str
    mode: str
    pid: int
    device: str
    inode: int


def end_all(site: Site, *, fast_seconds: float = FAST_SECONDS) -> bool:
    """End every old process of the data directory; return whether there was any.

    A living postmaster is asked for a fast stop, for *fast_seconds* at most. What is left then is
    stopped and killed. Blocks: for a thread.

    Raises:
        DataDirectoryInUseError: processes can't be ended, or are somebody's work, or a living
            manager's.
        DataDirectoryError: ``postmaster.pid`` can't be read.
    """
    found = find(site)
    if not found:
        return False
    # Before any signal is sent: whom we refuse to disturb must not have been disturbed.
    _spare_managers(site, found)
    _spare_work_of_people(site, found)
    postmasters = _postmasters(site.directory, found)
    if postmasters:
        _stop(postmasters, found, fast_seconds)
    if _left_after(site, _MOMENT_SECONDS):
        _kill(site)
    _log.warning("ended old processes of this data directory", pids=_pids(found))
    return True


def find(site: Site) -> list[Process]:
    """Return the old processes of the data directory, by pid."""
    places = {
        place
        # The server of an unfinished bootstrap works in the place where the cluster is built.
        for path in (site.files.data_directory, site.files.new_cluster)
        if (place := processes.identity_of(path)) is not None
    }
    lock = processes.identity_of(site.files.lock)
    found = [
        process
        for process in processes.others_of_mine()
        if _works_in(process, places) or (lock and _has_lock(process, site.lock, lock))
    ]
    # Asked for after the look: a tool that was started meanwhile is among them.
    spared = set(site.spared())
    return sorted(
        # By parent and group, too: what our tools have started is not known to us.
        (process for process in found if spared.isdisjoint(_relations(process))),
        key=lambda process: process.pid,
    )


def _relations(process: Process) -> tuple[int, int, int]:
    return process.pid, process.parent, process.group


def _works_in(process: Process, places: Collection[Identity]) -> bool:
    return process.program in pid_file.SERVER_PROGRAMS and process.directory in places


def _has_lock(process: Process, state: Lock, file: Identity) -> bool:
    """Whether a process keeps the lock from us, as far as that can be told."""
    if state is Lock.THEIRS:
        return any(_is_locked(descriptor) for descriptor in _open_on(process.pid, file))
    if state is Lock.IMPOSSIBLE and process.program in _HOLDER_PROGRAMS:
        return any(_open_on(process.pid, file))
    return False


def _open_on(pid: int, file: Identity) -> Iterator[Path]:
    """Yield the process' descriptors of a file, as paths in /proc."""
    try:
        entries = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return
    yield from (entry for entry in entries if processes.identity_of(entry) == file)


def _is_locked(descriptor: Path) -> bool:
    """Whether a descriptor carries a flock(2): not so where somebody only reads the file."""
    try:
        text = (descriptor.parents[1] / "fdinfo" / descriptor.name).read_text(encoding="ascii")
    except OSError:
        return False
    return any(line.startswith("lock:") and "FLOCK" in line for line in text.splitlines())


def _spare_managers(site: Site, found: Iterable[Process]) -> None:
    """Refuse beside a living manager: somebody has removed the lock by which it would be known.

    It is the parent of its server, which has inherited the other lock from it.
    """
    name = site.files.lock.name
    locks = _locks()
    for process in found:
        # Which lock it is tells whose: a manager of another directory has others.
        inherited = _files_of(process.pid, name)
        for pid in {process.pid, process.parent} - {os.getpid()}:
            has_both_open = _files_of(pid, MANAGER_LOCK) and inherited & _files_of(pid, name)
            if has_both_open or _holds_both(pid, {inode for _, inode in inherited}, locks):
                raise DataDirectoryInUseError(
                    f"cannot use data directory {str(site.directory)!r}: it is in use by another"
                    f" manager, process {pid}, whose lock was removed",
                    hint="stop the other one; then this goes on by itself",
                )


def _holds_both(pid: int, inodes: Collection[int], locks: Iterable[_Lock]) -> bool:
    """Whether a process has taken the lock that a server inherits, and holds that of a manager.

    This is also told of one that has changed its user, whose open files can't be seen. A record
    lock ends with its process, so a dead manager has none. A device is written otherwise here than
    stat(2) has it, on some file systems.
    """
    mine = [lock for lock in locks if lock.pid == pid]
    devices = {lock.device for lock in mine if lock.kind == "POSIX" and lock.mode == "WRITE"}
    return any(
        lock.kind == "FLOCK" and lock.inode in inodes and lock.device in devices for lock in mine
    )


def _locks() -> list[_Lock]:
    """Return all locks whose takers can be seen from here; none where they can't be read."""
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    found: list[_Lock] = []
    for line in lines:
        words = line.split()
        # Who waits for a lock has an arrow in front.
        if len(words) > _LOCK_FILE and words[_LOCK_FILE].count(":") == _COLONS:
            device, _, inode = words[_LOCK_FILE].rpartition(":")
            found.append(_Lock(words[1], words[3], int(words[4]), device, int(inode)))
    return found


def _files_of(pid: int, name: str) -> set[Identity]:
    """Return the open files of a process that have a name, or had it before they were removed."""
    found: set[Identity] = set()
    with contextlib.suppress(OSError):
        for entry in list(Path(f"/proc/{pid}/fd").iterdir()):
            # Each may be closed meanwhile.
            with contextlib.suppress(OSError):
                link = str(entry.readlink()).removesuffix(_DELETED)
                if link.rpartition("/")[2] == name and (file := processes.identity_of(entry)):
                    found.add(file)
    return found


def _spare_work_of_people(site: Site, found: Iterable[Process]) -> None:
    """Refuse beside a single-user server: whoever works with it is not cut off.

    One that has our lock is a tool's of a manager that is gone, one elsewhere initdb's.
    """
    directory = processes.identity_of(site.directory)
    lock = processes.identity_of(site.files.lock)
    for process in found:
        if (
            # The server takes that option in the first place only.
            _SINGLE_USER in process.arguments[1:2]
            and process.directory == directory
            and not (lock and any(_open_on(process.pid, lock)))
        ):
            raise DataDirectoryInUseError(
                f"cannot use data directory {str(site.directory)!r}: it is in use by a single-user"
                f" server, process {process.pid}",
                hint="end it: somebody may be working with it; then this goes on by itself",
            )


def _postmasters(directory: Path, found: list[Process]) -> list[Process]:
    """Return the postmaster: whom the pid file names, else who is nobody's child and no backend.

    In the first moments, a server has no pid file yet. A trial of a start is none: it has nothing
    to shut down.
    """
    judged = pid_file.judge(directory)
    if judged.verdict is pid_file.Verdict.LIVING:
        return [process for process in found if process.pid == judged.pid]
    pids = {process.pid for process in found}
    return [
        process
        for process in found
        if process.parent not in pids
        and process.program in pid_file.SERVER_PROGRAMS
        and not " ".join(process.arguments).startswith(_BACKEND_TITLE)
        and process.arguments[-len(TRIAL) :] != TRIAL
    ]


def _stop(postmasters: list[Process], found: list[Process], seconds: float) -> None:
    """Ask for a fast stop, and wait until the postmaster has ended, or the time is over."""
    _log.warning(
        "stopping an old server of this data directory",
        mode="fast",
        postmasters=_pids(postmasters),
        pids=_pids(found),
        seconds=seconds,
    )
    # A frozen backend would keep its postmaster from ending.
    _signal(found, signal.SIGCONT)
    # To the postmaster alone: a backend takes INT for the cancellation of a query.
    _signal(postmasters, signal.SIGINT)
    end = time.monotonic() + seconds
    # Not for all that was found: a script or an archive command does not end with the server.
    while any(processes.is_alive(one.pid, one.started_ticks) for one in postmasters):
        if time.monotonic() >= end:
            return
        time.sleep(_POLL_SECONDS)


def _left_after(site: Site, seconds: float) -> list[Process]:
    """Wait until none is left, *seconds* at most; return who is."""
    end = time.monotonic() + seconds
    # Looked for anew each time: who is being ended may have started others.
    while left := find(site):
        if time.monotonic() >= end:
            break
        time.sleep(_POLL_SECONDS)
    return left


def _kill(site: Site) -> None:
    """Kill until none is left, or only such as no signal reaches."""
    for _ in range(_KILL_ROUNDS):
        # Stopped first, so that none can start another one while the rest is being ended.
        _signal(find(site), signal.SIGSTOP)
        left = find(site)
        _log.warning("killing old processes of this data directory", pids=_pids(left))
        # Once more, for those that were started before the first one reached who started them.
        _signal(left, signal.SIGSTOP)
        _signal(left, signal.SIGKILL)
        left = _left_after(site, _KILL_SECONDS)
        # Another round would do no more: their KILL takes effect when the disk answers.
        if all(process.is_uninterruptible for process in left):
            break
    else:
        left = find(site)
    if left:
        raise DataDirectoryInUseError(
            f"cannot use data directory {str(site.directory)!r}: it is in use by old processes"
            f" that can't be ended: {', '.join(map(str, _pids(left)))}",
            hint="they wait for a disk: see the state of the storage; then this goes on by itself",
        )


def _signal(found: Iterable[Process], number: signal.Signals) -> None:
    for process in found:
        process.signal(number)


def _pids(found: Iterable[Process]) -> list[int]:
    return [process.pid for process in found]
