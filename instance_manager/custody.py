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
from instance_manager.postgres.server_processes import processes_of
from instance_manager.postgres.stop_waits import ProcessKind
from instance_manager.supervision.states import State
from instance_manager.supervision.threads import in_thread

if TYPE_CHECKING:
    from pathlib import Path

    from instance_manager.observability.events import Events
    from instance_manager.observability.log_pipe import PostgresLog
    from instance_manager.startup import Startup
    from instance_manager.supervision.children import Child
    from instance_manager.supervision.supervisor import Supervisor

_log: Final = get_logger()
_LOOK_SECONDS: Final = 2.0
_LEASE_POLL_SECONDS: Final = 0.25
_MISSED_LOOKS: Final = 5
_SERVING: Final = frozenset({State.RUNNING, State.RECOVERING})
_HELPERS: Final = frozenset(
    {
        ProcessKind.LOGGER,
        ProcessKind.IO_WORKER,
        ProcessKind.CHECKPOINTER,
        ProcessKind.BACKGROUND_WRITER,
    }
)
"""Those that live beside a startup process."""
_HOPELESS_CRASHES: Final = 10


class Look(NamedTuple):
    """What was seen: the pid file of the running server, None before it was read."""

    content: bytes | None = None
    has_been_restored: bool = False
    is_suspect: bool = False
    """The look before found the directory gone, or somebody else's."""


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
        # Counted from the last time that it accepted: a crash now and then is nothing hopeless.
        self._crashes = 1 if self._supervisor.state is State.RUNNING else self._crashes + 1
        if self._crashes >= _HOPELESS_CRASHES:
            # Not amid what the log was read for, which may be a start.
            error = self._why_hopeless(sentence)
            asyncio.get_running_loop().call_soon(self._supervisor.abandon, error)

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
        renewal: asyncio.Task[None] | None = None
        while True:
            await asyncio.sleep(_LEASE_POLL_SECONDS)
            # Another one, once the data directory was found.
            lease = self._startup.tenancy.lease
            try:
                if lease.is_held and not lease.trusted_seconds:
                    raise lease.loss()
                # One at a time: storage that hangs would keep them all.
                if renewal is None and lease.is_due:
                    renewal = asyncio.create_task(in_thread("lease", lease.renew), name="renewal")
                if renewal is not None:
                    # No longer than it is ours: what has to end then is the server, not the
                    # renewal.
                    await asyncio.wait({renewal}, timeout=lease.trusted_seconds)
                    if renewal.done():
                        ended, renewal = renewal, None
                        ended.result()
            except DataDirectoryInUseError as error:
                self._startup.tenancy.let_go()
                self._supervisor.abandon(error)
            except OSError as error:
                _log.warning("cannot renew the lease of the data directory", reason=str(error))

    async def _watch_directory(self) -> None:
        """See to it that a running server's directory and pid file stay what they were."""
        while True:
            await self._supervisor.until(_SERVING)
            await self._watch_one_server()

    async def _watch_one_server(self) -> None:
        # Nothing is known of a new server's file: what was seen of the one before does not count.
        postmaster, seen = self._supervisor.postmaster, Look()
        while postmaster is not None and self._is_current(postmaster):
            # One that has ended took its pid file away; why it did may take a while to be found.
            if postmaster.status is None:
                seen = await self._look_once(postmaster, seen)
            await asyncio.sleep(_LOOK_SECONDS)

    def _is_current(self, postmaster: Child) -> bool:
        supervisor = self._supervisor
        return supervisor.state in _SERVING and supervisor.postmaster is postmaster

    async def _look_once(self, postmaster: Child, before: Look) -> Look:
        directory = self._startup.place.data_directory
        try:
            seen = await in_thread("custody", self._look, directory, postmaster.pid, before)
        except InstanceManagerError as error:
            if not before.is_suspect:
                # Once may be a moment's trouble of the storage.
                return before._replace(is_suspect=True)
            # The look took time: another server may run by now, of which it says nothing.
            if self._is_current(postmaster):
                self._supervisor.abandon(error)
            return before
        except OSError as error:
            _log.warning("cannot look at the data directory", reason=str(error))
            return before
        if seen.has_been_restored:
            self._tell_restored(directory)
        return seen

    def _look(self, directory: Path, postmaster: int, before: Look) -> Look:
        # A file that no server ever removes while it runs.
        if not _is_there(directory / data_directory.VERSION_FILE):
            raise _lost(f"its data directory {str(directory)!r} is gone")
        if not self._startup.tenancy.has_own_lock():
            # Another container could take the directory by now.
            raise _lost(f"the lock of data directory {str(directory)!r} is gone, or another's")
        return look_at_pid_file(directory, postmaster, before)

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
            kinds = {one.kind for one in family}
            # While it waits for the end of what has crashed, other processes are there.
            missed = missed + 1 if ProcessKind.CHECKPOINTER in kinds <= _HELPERS else 0
            if missed >= _MISSED_LOOKS and self._is_current(postmaster):
                message = "postgres says that it recovers, and has no process that does: ended"
                _log.error(message, pid=postmaster.pid)
                self._events.record("RecoveryStuck", message, kind=EventType.WARNING)
                # It may be past listening to anything else.
                postmaster.signal(signal.SIGKILL)

    def _tell_restored(self, directory: Path) -> None:
        message = f"{pid_file.FILE_NAME} had been removed while postgres ran, and was put back"
        _log.warning(message, data_directory=str(directory))
        self._events.record("PidFileRestored", message, kind=EventType.WARNING)


def _lost(reason: str) -> DataDirectoryLostError:
    return DataDirectoryLostError(
        f"cannot keep postgres running: {reason}",
        hint="mount its volume again, or restore it: then postgres is started by itself",
    )


def look_at_pid_file(directory: Path, postmaster: int, before: Look) -> Look:
    """Compare the pid file with what was seen *before*, and put it back where it is missing.

    Raises:
        DataDirectoryTakenError: it names another server.
        OSError: it can't be put back.
    """
    if before.content is None:
        return _first_look(directory, postmaster)
    match pid_file.watch(directory, before.content):
        # Else the server would end itself at its next look, within a minute.
        case pid_file.Watched.MISSING:
            return Look(before.content, pid_file.restore(directory, before.content))
        case pid_file.Watched.OTHER:
            raise _taken(directory)
        case pid_file.Watched.SAME:
            # The server writes its last line anew when it is ready.
            return Look(pid_file.read_content(directory) or before.content)
        case _:
            return Look(before.content)


def _first_look(directory: Path, postmaster: int) -> Look:
    """Read what a server has written that is past its beginning; what is missing is made up."""
    content = pid_file.read_content(directory)
    if content is None:
        made_up = f"{postmaster}\n{directory}\n".encode()
        return Look(made_up, pid_file.restore(directory, made_up))
    said = pid_file.parse(content.decode("utf-8", "replace"))
    if said is not None and said.pid != postmaster:
        raise _taken(directory)
    return Look(content if said is not None else None)


def _taken(directory: Path) -> DataDirectoryTakenError:
    return DataDirectoryTakenError(
        f"cannot keep postgres running: {pid_file.FILE_NAME} in {str(directory)!r} names another"
        " server",
        hint="end the other server, which does not keep to the lock, then ask for a start",
    )


def _is_there(path: Path) -> bool:
    """Whether there is such a file; raises OSError where that can't be told."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
