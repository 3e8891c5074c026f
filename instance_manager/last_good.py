"""The last good configuration: one that a server runs with, kept for a start that fails."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from instance_manager.errors import DataDirectoryError, DiskSpaceError
from instance_manager.log import get_logger
from instance_manager.supervision.states import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from instance_manager.health.snapshot import Observer
    from instance_manager.startup import Startup
    from instance_manager.supervision.supervisor import Supervisor

_log: Final = get_logger()
_PERIOD_SECONDS: Final = 1.0


class LastGood:
    """Keeps what a server has taken whole."""

    def __init__(self, startup: Startup, supervisor: Supervisor, observer: Observer) -> None:
        self._startup = startup
        self._supervisor = supervisor
        self._observer = observer

    async def keep(self, is_changing: Callable[[], bool]) -> None:
        """Keep it for ever; not while *is_changing* says that another one is put into force."""
        told = ""
        while True:
            await self._supervisor.until({State.RUNNING})
            # Amid a change, what is in force is not yet what the server has loaded.
            if not is_changing():
                told = await self._keep(told)
            await asyncio.sleep(_PERIOD_SECONDS)

    async def keep_now(self) -> None:
        """Keep what the server runs with before another one takes its place.

        A change that comes right after a start would else leave nothing to fall back on.
        """
        if self._supervisor.state is State.RUNNING:
            await self._observer.read_facts()
            await self._keep("")

    async def _keep(self, told: str) -> str:
        """Keep the configuration if it is good; return what keeps from it, told once."""
        if not self._is_loaded():
            return told
        try:
            await self._startup.documents.remember_good(self._startup.settings)
        except (DataDirectoryError, DiskSpaceError) as error:
            if error.message != told:
                _log.warning(error.message, code=error.code, hint=error.hint)
            return error.message
        return ""

    def _is_loaded(self) -> bool:
        written, facts = self._startup.written, self._observer.facts
        if written is None or facts is None or self._startup.documents.problems:
            return False
        # What waits for a restart is loaded, too, and no server has ever started with it.
        return facts.configuration_sha256 == written.sha256 and not facts.pending_restart
