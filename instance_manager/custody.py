"""Whether the data directory is still ours while a server runs in it.

A server whose ``postmaster.pid`` is gone ends itself within a minute, without a checkpoint; a
lease that is not renewed is taken by another manager; a volume can be taken away. Looked at in the
background, in threads: storage that hangs delays only this.
"""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Final, NamedTuple

from instance_manager.errors import (
    CrashLoopError,
    DataDirectoryInUseError,
    DataDirectoryLostError,
    DataDirectoryTakenError,
    DiskSpaceError,
    InstanceManagerError,
)
from instance_manager.log import get_logger
from instance_manager.observability.events import EventType
from instance_manager.postgres import data_directory, pid_file
from instance_manager.postgres.lease import RENEWAL_SECONDS
from instance_manager.postgres.server_processes import processes_of
from instance_manager.postgres.stop_waits import ProcessKind
from instance_manager.supervision.states import State
from instance_manager.supervision.threads import in_thread

if TYPE_CHECKING:
    from pathlib import Path

    from instance_manager.observability.events import Events
    from instance_manager.observability.log_pipe import PostgresLog
    from instance_manager.startup import Startup
    from instance_manager.supervision.supervisor import Supervisor

_log: Final = get_logger()
_LOOK_SECONDS: Final = 2.0
_MISSED_LOOKS: Final = 5
_HOPELESS_CRASHES: Final = 10


class Look(NamedTuple):
    """What was seen: the pid file of the running server, None before it was read."""

    content: bytes | None = None
    has_been_restored: bool = False


class Custody:
    """Watches over one data directory and its server: :meth:`run` for ever."""

    def __init__(
        self, startup: Startup, supervisor: Supervisor, log: PostgresLog, events: Events
    ) -> None:
        self._startup = startup
        self._supervisor = supervisor
        self._log = log
        self._events = events
        self._crashes = 0

    def take_crash(self, sentence: str) -> None:
        """Tell a crash that postgres recovers from by itself; end one that it never recovers from.

        A server whose recovery ends in the next crash goes on so for ever: a full disk does that.
        """
        _log.warning("postgres recovers from a crash of its own", reason=sentence)
        self._events.record("CrashRecovered", sentence or "it crashed", kind=EventType.WARNING)
        self._crashes = 1 if self._supervisor.state is State.RUNNING else self._crashes + 1
        if self._crashes >= _HOPELESS_CRASHES:
            self._supervisor.abandon(self._why_hopeless(sentence))

    def _why_hopeless(self, sentence: str) -> InstanceManagerError:
        message = (
            f"cannot keep postgres running: it crashed {self._crashes} times, and accepted nobody"
            f" between: {sentence}"
        )
        said = self._log.last_words.other
        if said is not None and said.found_no_space:
            return DiskSpaceError(
                message,
                hint="enlarge the volume, or free space on it: postgres is started again then",
            )
        return CrashLoopError(message, hint="see the log of postgres, then ask for a start")

    async def run(self) -> None:
        """Do all that is done here."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew_lease(), name="lease")
            group.create_task(self._watch_directory(), name="data directory")
            group.create_task(self._watch_recovery(), name="recovery")

    async def _renew_lease(self) -> None:
        """Keep the data directory where it can't be locked; give up a server that has lost it."""
        lease = self._startup.lease
        while True:
            await asyncio.sleep(RENEWAL_SECONDS)
            try:
                if lease.is_held:
                    await in_thread("lease", lease.renew)
            except DataDirectoryInUseError as error:
                self._startup.let_go()
                self._supervisor.abandon(error)
            except OSError as error:
                _log.warning("cannot renew the lease of the data directory", reason=str(error))

    async def _watch_directory(self) -> None:
        """See to it that a running server's directory and pid file stay what they were."""
        while True:
            await self._supervisor.until({State.RUNNING})
            await self._watch_one_server()

    async def _watch_one_server(self) -> None:
        supervisor, directory = self._supervisor, self._startup.place.data_directory
        postmaster, seen = supervisor.postmaster, Look()
        while supervisor.state is State.RUNNING and supervisor.postmaster is postmaster:
            pid = postmaster.pid if postmaster else 0
            try:
                seen = await in_thread("custody", self._look, directory, pid, seen)
            except InstanceManagerError as error:
                supervisor.abandon(error)
            except OSError as error:
                _log.warning("cannot look at the data directory", reason=str(error))
            if seen.has_been_restored:
                self._tell_restored(directory)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _watch_recovery(self) -> None:
        """End a postmaster that recovers without anybody who does: it would say so for ever.

        A server whose startup process dies early in a crash recovery may go on without one.
        """
        while True:
            await self._supervisor.until({State.RECOVERING})
            await self._watch_one_recovery()

    async def _watch_one_recovery(self) -> None:
        supervisor, postmaster, missed = self._supervisor, self._supervisor.postmaster, 0
        while supervisor.state is State.RECOVERING and supervisor.postmaster is postmaster:
            await asyncio.sleep(_LOOK_SECONDS)
            if postmaster is None or postmaster.status is not None:
                continue
            family = await in_thread("recovery", processes_of, postmaster.pid)
            missed = 0 if any(one.kind is ProcessKind.STARTUP for one in family) else missed + 1
            if missed >= _MISSED_LOOKS and supervisor.state is State.RECOVERING:
                message = "postgres says that it recovers, and has no process that does: ended"
                _log.error(message, pid=postmaster.pid)
                self._events.record("RecoveryStuck", message, kind=EventType.WARNING)
                # It may be past listening to anything else.
                postmaster.signal(signal.SIGKILL)

    def _look(self, directory: Path, postmaster: int, before: Look) -> Look:
        if not data_directory.has_cluster(directory):
            raise _lost(f"its data directory {str(directory)!r} is gone")
        if not self._startup.has_own_lock():
            # Another container could take the directory by now.
            raise _lost(f"the lock of data directory {str(directory)!r} is gone, or another's")
        return look_at_pid_file(directory, postmaster, before)

    def _tell_restored(self, directory: Path) -> None:
        message = f"{pid_file.FILE_NAME} had been removed while postgres ran, and was put back"
        _log.warning(message, data_directory=str(directory))
        self._events.record("PidFileRestored", message, kind=EventType.WARNING)


def _lost(reason: str) -> DataDirectoryLostError:
    return DataDirectoryLostError(
        f"cannot keep postgres running: {reason}",
        hint="mount its volume again, or restore it, then ask for a start",
    )


def look_at_pid_file(directory: Path, postmaster: int, before: Look) -> Look:
    """Compare the pid file with what was seen *before*, and put it back where it is missing.

    Raises:
        DataDirectoryTakenError: it names another server.
        OSError: it can't be put back.
    """
    if before.content is None:
        content = pid_file.read_content(directory)
        said = pid_file.parse(content.decode("utf-8", "replace")) if content else None
        return Look(content if said and said.pid == postmaster else None)
    match pid_file.watch(directory, before.content):
        case pid_file.Watched.MISSING:
            return Look(before.content, pid_file.restore(directory, before.content))
        case pid_file.Watched.OTHER:
            raise DataDirectoryTakenError(
                f"cannot keep postgres running: {pid_file.FILE_NAME} in {str(directory)!r} names"
                " another server",
                hint="end the other server, which does not keep to the lock, then ask for a start",
            )
        case _:
            return Look(before.content)
