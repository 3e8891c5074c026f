"""What is done around the end of a server: the supervisor's :class:`StopWork`."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from instance_manager.errors import InstanceManagerError, StartError
from instance_manager.log import get_logger
from instance_manager.postgres import (
    connection,
    control_data,
    data_directory,
    endings,
    leftovers,
    memory,
)
from instance_manager.supervision.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from instance_manager.health.snapshot import Observer
    from instance_manager.observability.log_pipe import PostgresLog
    from instance_manager.postgres.stop_waits import Awaited
    from instance_manager.startup import Startup
    from instance_manager.supervision.children import ExitStatus
    from instance_manager.supervision.endings import Ending

_log: Final = get_logger()
_CONTROL_DATA_SECONDS: Final = 5.0
_LAST_WORDS_SECONDS: Final = 2.0
"""How long the last words of a server are awaited: what it ran may outlive it."""
_LEFTOVERS_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 3.0
_WORTH_A_CHECKPOINT_BYTES: Final = 16 * 1024 * 1024
"""With less to write, the checkpoint of the shutdown itself is over soon."""


class Shutdown:
    """Helps a server to its end, and says how it ended."""

    def __init__(self, startup: Startup, observer: Observer, log: PostgresLog) -> None:
        self._startup = startup
        self._observer = observer
        self._log = log
        self.before_stop: Callable[[], Awaitable[None]] | None = None
        """Asked once more before a server that is to stop in order."""
        self._look: asyncio.Task[Awaited | None] | None = None

    async def checkpoint(self) -> None:
        """Have the server make a checkpoint.

        Raises:
            StartError: it refuses, or is not there any more.
        """
        from psycopg import Error

        target = self._observer.target
        try:
            await connection.checkpoint(target.socket_directory, target.port, target.user)
        except (Error, OSError) as error:
            raise StartError(f"cannot make a checkpoint: {error}") from error

    async def checkpoint_first(self, limit_seconds: float) -> None:
        """Have a checkpoint made where much was written since the last one, within the limit."""
        if self.before_stop is not None:
            # While the server still answers: afterwards nobody can ask it what the databases use.
            await self.before_stop()
        facts = self._observer.facts
        if facts is None or facts.since_checkpoint_bytes < _WORTH_A_CHECKPOINT_BYTES:
            return
        _log.info("making a checkpoint before the stop", at_most_seconds=limit_seconds)
        try:
            async with asyncio.timeout(limit_seconds):
                await self.checkpoint()
        # A stop goes on without it: only the outage is longer.
        except (TimeoutError, InstanceManagerError) as error:
            _log.warning("stopping without that checkpoint", reason=str(error) or "too late")

    async def awaited(self, postmaster: int) -> str:
        """Return what the stopping server waits for, for people; empty where nobody knows."""
        # Here, since a start needs nothing of it.
        from instance_manager.postgres import server_processes

        if self._look is None or self._look.done():
            directory = self._startup.place.data_directory
            self._look = asyncio.create_task(
                in_thread("stop progress", server_processes.look, postmaster, directory)
            )
        await asyncio.wait({self._look}, timeout=_LOOK_SECONDS)
        if not self._look.done():
            # No second thread for a disk that does not answer the first.
            return "waiting for storage: the data directory does not answer"
        seen = None if self._look.exception() else self._look.result()
        return seen.message if seen else ""

    async def end_leftovers(self) -> None:
        """End what a killed postmaster may have left behind; for a few seconds at most."""
        site = leftovers.Site(self._startup.files, leftovers.Lock.OURS)
        with suppress(TimeoutError, OSError, InstanceManagerError):
            # A thread on storage that hangs must not keep the end of the server from being told.
            async with asyncio.timeout(_LEFTOVERS_SECONDS):
                await in_thread("leftovers", leftovers.end_all, site)

    async def why_ended(self, status: ExitStatus) -> Ending:
        """Return why a postmaster that was not asked to, and ended with *status*, did so.

        What a process said just before its end is still on its way here: where it matters, this
        waits for it, two seconds at most.
        """
        if endings.may_have_last_words(status):
            await self._log.until_silent(_LAST_WORDS_SECONDS)
        return endings.classify(
            status, self._log.last_words, memory_ran_out=self._memory_ran_out()
        )

    def _memory_ran_out(self) -> bool:
        """Whether the kernel killed somebody for want of memory, and the server did not survive.

        A kill that it recovered from is counted by the kernel too, and is no reason any more.
        """
        before, now = self._startup.oom_kills_before, memory.oom_kills()
        if before is None or now is None:
            # Without both counts there is no reason to blame the memory.
            return False
        return now - before > self._log.kills_survived

    async def left_clean(self, limit_seconds: float) -> bool:
        """Whether the next start needs no recovery; true where there never was a cluster.

        False where that can't be told within the limit, or five seconds.
        """
        try:
            async with asyncio.timeout(min(limit_seconds, _CONTROL_DATA_SECONDS)):
                return await in_thread("control data", self._is_clean)
        except (TimeoutError, OSError, InstanceManagerError):
            return False

    def _is_clean(self) -> bool:
        directory = self._startup.settled_place().data_directory
        if not data_directory.has_cluster(directory):
            # Unless there was one: then somebody took it away.
            return not self._startup.has_run
        return control_data.read(directory).is_clean
