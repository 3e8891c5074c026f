"""What a postmaster that was told to stop is waiting for, told by its processes. Pure.

The order of a stop: sessions and their helpers end; the checkpointer waits for walsenders that
lag (``WalSndWaitStopping``), then writes the shutdown checkpoint; the archiver and the walsenders
empty their queues; the rest ends. Sources: src/backend/postmaster/postmaster.c,
``PostmasterStateMachine``, and xlog.c, ``ShutdownXLOG``; the titles come from
``GetBackendTypeDesc`` of miscinit.c, ``BackendInitialize`` and ps_status.c.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from instance_manager.postgres.control_data import ClusterState

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_PREFIX: Final = "postgres: "
_CLUSTER: Final = r"(?:.*: )?"
"""The name of the cluster (``cluster_name``), which may hold anything."""
_CLIENT: Final = r"(?:\[local\]|\S+\(\d+\))(?: |$)"
_FROZEN: Final = frozenset("Tt")
"""Stopped by a signal, or by a debugger; proc_pid_stat(5)."""


class ProcessKind(StrEnum):
    """What a process of the server is for, in the words of its title."""

    POSTMASTER = "postmaster"
    SESSION = "session"
    PARALLEL_WORKER = "parallel worker"
    BACKGROUND_WORKER = "background worker"
    """Of an extension or a subscription."""
    REPLICATION_LAUNCHER = "logical replication launcher"
    AUTOVACUUM_LAUNCHER = "autovacuum launcher"
    AUTOVACUUM_WORKER = "autovacuum worker"
    BACKGROUND_WRITER = "background writer"
    WALWRITER = "walwriter"
    WALSUMMARIZER = "walsummarizer"
    SLOTSYNC_WORKER = "slotsync worker"
    STARTUP = "startup"
    WALRECEIVER = "walreceiver"
    CHECKPOINTER = "checkpointer"
    ARCHIVER = "archiver"
    WALSENDER = "walsender"
    IO_WORKER = "io worker"
    LOGGER = "logger"
    UNKNOWN = "other"
    """Just forked, so without a title of its own yet; or the title can't be read."""


_TITLED: Final = (
    ProcessKind.REPLICATION_LAUNCHER,
    ProcessKind.AUTOVACUUM_LAUNCHER,
    ProcessKind.BACKGROUND_WRITER,
    ProcessKind.WALWRITER,
    ProcessKind.WALSUMMARIZER,
    ProcessKind.SLOTSYNC_WORKER,
    ProcessKind.STARTUP,
    ProcessKind.WALRECEIVER,
    ProcessKind.CHECKPOINTER,
    ProcessKind.ARCHIVER,
    ProcessKind.IO_WORKER,
    ProcessKind.LOGGER,
)
# A session's title always names its client: no user can have a name that makes it one of these.
_OWN: Final = re.compile(rf"{_CLUSTER}({'|'.join(_TITLED)})(?: ([^\[(]*))?", re.DOTALL)
_WALSENDER: Final = re.compile(rf"{_CLUSTER}walsender .*{_CLIENT}", re.DOTALL)
_SESSION: Final = re.compile(rf".* {_CLIENT}", re.DOTALL)
_PARALLEL_WORKER: Final = re.compile(rf"{_CLUSTER}parallel worker for PID \d+$", re.DOTALL)
_AUTOVACUUM_WORKER: Final = re.compile(rf"{_CLUSTER}autovacuum worker\b", re.DOTALL)
_SEGMENT: Final = re.compile(r"(?:archiving|last was|failed on|recovering|waiting for) [\w.]+")

_WORKS_FOR_USERS: Final = (
    ProcessKind.SESSION,
    ProcessKind.PARALLEL_WORKER,
    ProcessKind.BACKGROUND_WORKER,
)
_OUTLIVES_THE_CHECKPOINT: Final = frozenset(
    {
        ProcessKind.POSTMASTER,
        ProcessKind.CHECKPOINTER,
        ProcessKind.ARCHIVER,
        ProcessKind.WALSENDER,
        ProcessKind.IO_WORKER,
        ProcessKind.LOGGER,
    }
)

_SHUT_DOWN: Final = frozenset({ClusterState.SHUT_DOWN, ClusterState.SHUT_DOWN_IN_RECOVERY})


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A process of the server; *state* is the letter of proc_pid_stat(5)."""

    pid: int
    kind: ProcessKind
    title: str = field(repr=False)
    """As the server set it: it may name users, databases and clients, so it is for no log."""
    state: str
    is_stuck: bool = False
    """Whether it was in one uninterruptible sleep for as long as it was looked at."""

    @property
    def is_frozen(self) -> bool:
        """Whether a signal or a debugger has stopped it."""
        return self.state in _FROZEN

    def __str__(self) -> str:
        return f"pid {self.pid} ({self.kind})"


class Awaits(StrEnum):
    """What a stop may be waiting for."""

    SESSIONS = "sessions"
    CHECKPOINT = "checkpoint"
    ARCHIVER = "archiver"
    WALSENDERS = "walsenders"
    STORAGE = "storage"
    PROCESSES = "processes"


@dataclass(frozen=True, slots=True)
class Awaited:
    """What a stop is waiting for; *count* of them. The message is for people: no user's name."""

    what: Awaits
    count: int
    message: str


def kind_of(title: str) -> ProcessKind:
    """Return what a process with this title is for."""
    if not title.startswith(_PREFIX):
        return ProcessKind.UNKNOWN
    text = title.removeprefix(_PREFIX).rstrip()
    if own := _OWN.fullmatch(text):
        return ProcessKind(own[1])
    # In this order: the title of a walsender would pass for that of a session, too.
    for pattern, kind in (
        (_WALSENDER, ProcessKind.WALSENDER),
        (_SESSION, ProcessKind.SESSION),
        (_PARALLEL_WORKER, ProcessKind.PARALLEL_WORKER),
        (_AUTOVACUUM_WORKER, ProcessKind.AUTOVACUUM_WORKER),
    ):
        if pattern.match(text):
            return kind
    return ProcessKind.BACKGROUND_WORKER if text else ProcessKind.UNKNOWN


def awaited(processes: Collection[ServerProcess], state: ClusterState | None) -> Awaited | None:
    """Return what a smart or fast stop is waiting for; None where nothing is left to wait for.

    Args:
        processes: the postmaster and its children, as far as they live.
        state: what the control file says of the cluster; None where it can't be told.
    """
    if stuck := [process for process in processes if process.is_stuck]:
        return Awaited(Awaits.STORAGE, len(stuck), f"waiting for storage: {_asleep(stuck)}")
    frozen = [process for process in processes if process.is_frozen]
    children = [process for process in processes if process.kind is not ProcessKind.POSTMASTER]
    if any(process.kind is ProcessKind.POSTMASTER for process in frozen):
        # It takes no request while it is stopped: what its children do is of no matter yet.
        found = Awaited(Awaits.PROCESSES, 1, "waiting for the postmaster")
    elif not children:
        return None
    else:
        found = _for_users(children) or _for_itself(children, state)
    told = "".join(f"; {process} is frozen" for process in frozen)
    return replace(found, message=found.message + told)


def _for_users(children: Sequence[ServerProcess]) -> Awaited | None:
    """Return what works for users; all of it ends before the server looks after itself."""
    counts = {kind: len(_of(children, kind)) for kind in _WORKS_FOR_USERS}
    if not any(counts.values()):
        return None
    parts = [_counted(count, kind) for kind, count in counts.items() if count]
    message = f"waiting for {', '.join(parts)}"
    return Awaited(Awaits.SESSIONS, sum(counts.values()), message)


def _for_itself(children: Sequence[ServerProcess], state: ClusterState | None) -> Awaited:
    # The control file says so at the end of the shutdown checkpoint: that is over.
    if state in _SHUT_DOWN:
        return _after_the_checkpoint(children) or _for_processes(children)
    if early := [process for process in children if process.kind not in _OUTLIVES_THE_CHECKPOINT]:
        return _for_processes(early)
    for checkpointer in _of(children, ProcessKind.CHECKPOINTER):
        walsenders = _of(children, ProcessKind.WALSENDER)
        if walsenders and not _has_begun(checkpointer, state):
            told = _counted(len(walsenders), ProcessKind.WALSENDER)
            message = f"waiting for {told} before the shutdown checkpoint"
            return Awaited(Awaits.WALSENDERS, len(walsenders), message)
        return Awaited(Awaits.CHECKPOINT, 1, "waiting for the shutdown checkpoint")
    return _for_processes(children)


def _has_begun(checkpointer: ServerProcess, state: ClusterState | None) -> bool:
    """Whether the shutdown checkpoint is under way, or waits for the checkpointer alone.

    The control file says so of a primary, the title also of a standby.
    """
    own = _OWN.fullmatch(checkpointer.title.removeprefix(_PREFIX).rstrip())
    performs = own is not None and own[2] is not None and own[2].startswith("performing")
    return checkpointer.is_frozen or performs or state is ClusterState.SHUTTING_DOWN


def _after_the_checkpoint(children: Sequence[ServerProcess]) -> Awaited | None:
    walsenders = _of(children, ProcessKind.WALSENDER)
    others = _counted(len(walsenders), ProcessKind.WALSENDER)
    if archivers := _of(children, ProcessKind.ARCHIVER):
        message = f"waiting for the {_told(archivers[0])}"
        more = f", and for {others}" if walsenders else ""
        return Awaited(Awaits.ARCHIVER, 1, message + more)
    if walsenders:
        return Awaited(Awaits.WALSENDERS, len(walsenders), f"waiting for {others}")
    return None


def _for_processes(processes: Sequence[ServerProcess]) -> Awaited:
    # As keys, so that several of a kind are named once.
    names = ", ".join(dict.fromkeys(_told(process) for process in processes))
    number = _counted(len(processes), "process")
    return Awaited(Awaits.PROCESSES, len(processes), f"waiting for {number}: {names}")


def _told(process: ServerProcess) -> str:
    """Return the kind, and of one that works on a WAL segment which."""
    own = _OWN.fullmatch(process.title.removeprefix(_PREFIX).rstrip())
    activity = own[2] if own else None
    if activity and _SEGMENT.fullmatch(activity):
        return f"{process.kind}: {activity}"
    return str(process.kind)


def _asleep(stuck: Sequence[ServerProcess]) -> str:
    pids = ", ".join(str(process.pid) for process in stuck)
    if len(stuck) == 1:
        return f"pid {pids} is in an uninterruptible sleep"
    return f"pids {pids} are in an uninterruptible sleep"


def _of(processes: Sequence[ServerProcess], kind: ProcessKind) -> list[ServerProcess]:
    return [process for process in processes if process.kind is kind]


def _counted(number: int, noun: str) -> str:
    plural = noun if number == 1 else noun + ("es" if noun.endswith("s") else "s")
    return f"{number} {plural}"
