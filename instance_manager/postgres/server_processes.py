"""The processes of a running server, as the kernel shows them, and what its stop waits for.

Source: proc_pid_stat(5), proc_pid_cmdline(5), proc_pid_status(5).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from instance_manager.errors import DataDirectoryError
from instance_manager.postgres import control_data
from instance_manager.postgres.stop_waits import (
    Awaited,
    ProcessKind,
    ServerProcess,
    awaited,
    kind_of,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from instance_manager.postgres.control_data import ClusterState

_LOOK_SECONDS: Final = 0.5
"""How long a sleep must last before storage is blamed for it."""
_UNINTERRUPTIBLE: Final = "D"
_ENDED: Final = frozenset("ZX")
_SWITCHES: Final = b"voluntary_ctxt_switches:"


def processes_of(postmaster_pid: int) -> tuple[ServerProcess, ...]:
    """Return the children of a postmaster that live, by pid; none where there is none.

    Blocks where a child's memory can't be read, as on storage that hangs: for a thread.
    """
    return tuple(_described(one) for one in _children_of(postmaster_pid))


def look(postmaster_pid: int, data_directory: Path) -> Awaited | None:
    """Return what the stop of a server waits for; None where nothing is left to wait for.

    Right from the moment when the postmaster was told to stop. Blocks for half a second where a
    process is in an uninterruptible sleep, and longer on storage that hangs: for a thread.
    """
    postmaster = _living(postmaster_pid)
    family = [*([postmaster] if postmaster else []), *_children_of(postmaster_pid)]
    stuck = _stuck(one.pid for one in family)
    processes = [
        _as_stuck(one) if one.pid in stuck else _described(one, postmaster_pid) for one in family
    ]
    # What is stuck tells enough; the control file may lie on the very storage that hangs.
    return awaited(processes, None if stuck else _state_of(data_directory))


class _Entry(NamedTuple):
    """The part of a process's stat file that is of interest."""

    pid: int
    state: str
    parent: int


def _children_of(pid: int) -> list[_Entry]:
    pids = sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    return [one for one in map(_living, pids) if one is not None and one.parent == pid]


def _living(pid: int) -> _Entry | None:
    """Return the process if it lives. This reads none of its memory, so it never blocks."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name in parentheses may itself hold anything.
    state, parent, *_ = text.rpartition(")")[2].split()
    return None if state in _ENDED else _Entry(pid, state, int(parent))


def _described(entry: _Entry, postmaster_pid: int = 0) -> ServerProcess:
    title = _title_of(entry.pid)
    kind = ProcessKind.POSTMASTER if entry.pid == postmaster_pid else kind_of(title)
    return ServerProcess(entry.pid, kind, title, entry.state)


def _as_stuck(entry: _Entry) -> ServerProcess:
    """Return a process whose title would have to be read from memory that may be locked."""
    return ServerProcess(entry.pid, ProcessKind.UNKNOWN, "", entry.state, is_stuck=True)


def _title_of(pid: int) -> str:
    try:
        content = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return content.split(b"\0", 1)[0].decode("utf-8", "replace")


def _stuck(pids: Iterable[int]) -> Collection[int]:
    """Return which of the processes stay in one uninterruptible sleep for the whole look.

    One that is merely busy with a disk falls asleep again and again: the kernel counts that.
    """
    before = {pid: _switches(pid) for pid in pids if _sleeps(pid)}
    if not before:
        return ()
    time.sleep(_LOOK_SECONDS)
    return [pid for pid, count in before.items() if _sleeps(pid) and _switches(pid) == count]


def _sleeps(pid: int) -> bool:
    found = _living(pid)
    return found is not None and found.state == _UNINTERRUPTIBLE


def _switches(pid: int) -> int | None:
    """Return how often a process gave the processor up; None where the kernel doesn't say."""
    try:
        lines = Path(f"/proc/{pid}/status").read_bytes().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(_SWITCHES)), None)


def _state_of(data_directory: Path) -> ClusterState | None:
    try:
        return control_data.read(data_directory).state
    except DataDirectoryError:
        return None
