"""Takes the inventory while the server runs: what each database uses, once a minute.

In the background, and from memory for whoever asks. Kept beside the data, so that a start knows
what the databases need before there is a server to ask.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from instance_manager.databases.facts import completed
from instance_manager.databases.needs import outdated
from instance_manager.databases.reading import Place, Reader
from instance_manager.errors import InstanceManagerError
from instance_manager.log import get_logger
from instance_manager.supervision.states import State
from instance_manager.supervision.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from instance_manager.databases.facts import Inventory, Reading
    from instance_manager.health.snapshot import Observer
    from instance_manager.startup import Startup
    from instance_manager.supervision.supervisor import Supervisor

_log: Final = get_logger()
_PERIOD_SECONDS: Final = 60.0
_BEFORE_STOP_SECONDS: Final = 1.0
_TOLD: Final = 20
"""So many problems are logged at a time; the API has all."""


class InventoryWatch:
    """Reads the databases of the running server; :meth:`run` for ever. *clock* is monotonic."""

    def __init__(
        self,
        startup: Startup,
        supervisor: Supervisor,
        observer: Observer,
        *,
        clock: Callable[[], float],
    ) -> None:
        self.reading: Reading | None = None
        self._startup = startup
        self._supervisor = supervisor
        self._observer = observer
        self._clock = clock
        self._read_at: float | None = None
        self._cost_seconds = 0.0
        self._kept: Inventory | None = None
        self._told: tuple[str, ...] = ()
        self._reader: Reader | None = None
        self._turn = asyncio.Lock()

    @property
    def age_seconds(self) -> float | None:
        """How long ago the last reading was; None before the first."""
        return None if self._read_at is None else self._clock() - self._read_at

    def findings(self) -> Counter[str]:
        """Return how many findings of each code the last reading gave."""
        if self.reading is None:
            return Counter()
        databases = self.reading.inventory.databases
        return Counter(each.code for one in databases for each in outdated(one, self.reading))

    async def run(self) -> None:
        """Read once a minute, and soon after each start."""
        # What was kept before fills the gaps of a reading that fails in part.
        self._kept = await in_thread("inventory", self._startup.inventory.load)
        while True:
            await self._supervisor.until({State.RUNNING})
            assert self._startup.version is not None  # noqa: S101 - it was read before the start
            self._reader = Reader(self._place(self._startup.version.major))
            await self._watch(self._reader)

    async def before_stop(self) -> None:
        """Read once more, since much may have changed in a minute; for a second at most.

        Not where it would take too long.
        """
        if self._reader is None or self._cost_seconds > _BEFORE_STOP_SECONDS:
            return
        # Readings rest between databases; a stop has no time for that.
        self._reader.hurry()
        task = asyncio.create_task(self._take(self._reader), name="last inventory")
        # Not awaited when it is late: the driver takes its time to give up a query.
        done, _ = await asyncio.wait({task}, timeout=_BEFORE_STOP_SECONDS)
        if done and (fault := task.exception()):
            _log.error("a fault of the manager", task=task.get_name(), exc_info=fault)
        task.cancel()

    async def _watch(self, reader: Reader) -> None:
        while self._supervisor.state is State.RUNNING:
            await self._take(reader)
            with suppress(TimeoutError):
                async with asyncio.timeout(_PERIOD_SECONDS):
                    while self._supervisor.state is State.RUNNING:
                        await self._supervisor.changed()

    def _place(self, major: int) -> Place:
        target = self._observer.target
        return Place(target.socket_directory, target.port, target.user, major)

    async def _take(self, reader: Reader) -> None:
        """Read the databases, and keep what they use."""
        async with self._turn:
            begun = self._clock()
            reading = await reader.read()
            if reading is None:
                return
            problems = _problems(reading)
            if problems and self._supervisor.state is not State.RUNNING:
                # Said by a server that ends meanwhile: the databases are not to blame.
                return
            # Without what a reading in a hurry leaves out.
            self._cost_seconds = self._clock() - begun - reader.spared_seconds
            self.reading, self._read_at = reading, self._clock()
            self._tell(problems)
            await self._keep(reading.inventory)

    async def _keep(self, inventory: Inventory) -> None:
        before = self._kept
        inventory = completed(inventory, before)
        if before is not None and inventory._replace(read_at=before.read_at) == before:
            # Equal to the byte, so that the file is left alone.
            inventory = before
        try:
            is_news = await self._startup.inventory.store(inventory)
        except (InstanceManagerError, OSError) as error:
            _log.warning("the inventory of the databases can't be kept", reason=str(error))
        else:
            self._kept = inventory
            if is_news:
                # What databases need now may be missing: told while it can still be mended, not at
                # a start.
                self._startup.prover.reconsider()

    def _tell(self, problems: tuple[str, ...]) -> None:
        """Log what could not be read: once, and again when it has changed."""
        if problems != self._told:
            self._told = problems
            for each in problems[:_TOLD]:
                _log.warning("not all of the databases can be read", problem=each)


def _problems(reading: Reading) -> tuple[str, ...]:
    """Return all that could not be read, with the database's name where it is one's."""
    of_databases = (
        f'database "{database.name}": {each}'
        for database in reading.inventory.databases
        for each in database.problems
    )
    return (*of_databases, *reading.problems)
