"""Processes of this user in this process namespace, as proc(5) shows them.

A pid alone is nobody: it may be that of a zombie, and it is given again soon in a container. A
process is told by its pid and its start time, a directory by its device and inode: the same path
is another directory in another mount namespace.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

Identity: TypeAlias = tuple[int, int]
"""Device and inode of a file."""
_DEAD: Final = frozenset("ZX")
_UNINTERRUPTIBLE: Final = "D"
_DELETED: Final = " (deleted)"
_STATE, _PARENT, _GROUP, _STARTED = 0, 1, 2, 19
"""Places in ``/proc/PID/stat`` after the command's name: fields 3, 4, 5 and 22."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process at one moment; zombies are none."""

    pid: int
    state: str
    parent: int
    group: int
    started_ticks: int
    """When it started: clock ticks since the boot."""

    @property
    def is_uninterruptible(self) -> bool:
        """Whether it waits for a disk so that no signal reaches it."""
        return self.state == _UNINTERRUPTIBLE

    @property
    def started_at(self) -> float:
        """When it started: seconds since 1970, as the wall clock has it now."""
        return _booted_at() + self.started_ticks / os.sysconf("SC_CLK_TCK")

    @property
    def program(self) -> str:
        """The file name of its executable; empty if it can't be told."""
        try:
            path = str(Path(f"/proc/{self.pid}/exe").readlink())
        except OSError:
            return ""
        return Path(path.removesuffix(_DELETED)).name

    @property
    def arguments(self) -> tuple[str, ...]:
        """Its command line, which a program may have replaced by a title; empty if unknown."""
        try:
            content = Path(f"/proc/{self.pid}/cmdline").read_bytes()
        except OSError:
            return ()
        return tuple(os.fsdecode(part) for part in content.rstrip(b"\0").split(b"\0"))

    @property
    def directory(self) -> Identity | None:
        """Device and inode of its working directory; None if they can't be told."""
        return identity_of(Path(f"/proc/{self.pid}/cwd"))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this process, and never to another one that has got its pid."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        except OSError:
            # No pidfds here: gVisor, kernels before 5.3.
            if is_alive(self.pid, self.started_ticks):
                _send(self.pid, number)
            return
        try:
            # After it was opened: from then on the descriptor means this process or none.
            if is_alive(self.pid, self.started_ticks):
                signal.pidfd_send_signal(descriptor, number)
        except (ProcessLookupError, PermissionError):
            pass
        finally:
            os.close(descriptor)


def look(pid: int) -> Process | None:
    """Return a process; None if there is none, or only a zombie."""
    try:
        content = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The command's name stands in parentheses and may hold more of them, and spaces.
    fields = content.rpartition(")")[2].split()
    if fields[_STATE] in _DEAD:
        return None
    return Process(
        pid=pid,
        state=fields[_STATE],
        parent=int(fields[_PARENT]),
        group=int(fields[_GROUP]),
        started_ticks=int(fields[_STARTED]),
    )


def is_alive(pid: int, started_ticks: int) -> bool:
    """Whether the process that had this pid and start time lives."""
    process = look(pid)
    return process is not None and process.started_ticks == started_ticks


def others_of_mine() -> Iterator[Process]:
    """Yield the processes of this user, without this one."""
    me = os.geteuid()
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            # The directory belongs to the process' effective user, proc_pid(5).
            mine = entry.stat().st_uid == me
        except OSError:
            continue
        if mine and (process := look(int(entry.name))):
            yield process


def identity_of(path: Path) -> Identity | None:
    """Return device and inode of a file; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def boot_id() -> str:
    """Return what names this boot of this host; empty if it can't be told."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def namespace() -> str:
    """Return what names this process namespace on this host; empty if it can't be told."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def _booted_at() -> float:
    """Return when the host was booted, by the wall clock as it is set now."""
    lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    return float(next((line for line in lines if line.startswith("btime ")), "btime 0").split()[1])
