"""The inventory of this instance: asked at each look at the volumes, kept while postgres runs.

Always with the directory's lock. What it is made of is imported when there is one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from instance_manager.errors import DataDirectoryError
from instance_manager.extensions.offers import offers
from instance_manager.log import get_logger
from instance_manager.postgres import wal_directory

if TYPE_CHECKING:
    from collections.abc import Callable

    from instance_manager.databases.facts import Inventory
    from instance_manager.extensions.facts import ServerFacts
    from instance_manager.extensions.models import ExtensionsReport
    from instance_manager.postgres.data_directory import OurFiles
    from instance_manager.settings.models import Settings
    from instance_manager.supervision.threads import Serial

_log: Final = get_logger()


class InventoryFile:
    """Keeps the inventory beside the data.

    *files* tells where, each time; *turn* is that of all work on our files; *is_ours* says, in a
    thread, whether the directory is.
    Once *is_ignored*, starts are not refused for what it says, until somebody asks for another.
    *is_foreign* says that the file which was seen last came with a copy, and *is_replaying* that
    the last look saw a standby or a recovery: replay loads no library of an extension.
    """

    def __init__(
        self,
        files: Callable[[], OurFiles],
        instance: str,
        turn: Serial,
        is_ours: Callable[[], bool],
    ) -> None:
        self.is_ignored = False
        self.is_foreign = False
        self.is_replaying = False
        self._where = files
        self._instance = instance
        self._turn = turn
        self._is_ours = is_ours

    @property
    def _files(self) -> OurFiles:
        return self._where()

    def completed(
        self, report: ExtensionsReport, server: ServerFacts, settings: Settings
    ) -> ExtensionsReport:
        """Return the report with what databases need and would not find; reads, in a thread."""
        self.is_replaying = wal_directory.comes_from_elsewhere(self._files.data_directory)
        # A standby that was promoted comes again after a crash, too.
        self.is_ignored = self.is_ignored or self.is_replaying
        inventory = self.load()
        if inventory is None:
            return report
        from instance_manager.databases import inventory as room

        found = room.findings(inventory, report, server, offers(settings, server))
        return report.model_copy(update={"findings": (*report.findings, *found)})

    def is_passed_over(self, asked: bool | None) -> bool:
        """Whether what databases need is no reason now; None: as the last start was asked for."""
        return self.is_replaying or (self.is_ignored if asked is None else asked)

    def load(self) -> Inventory | None:
        """Return what was kept last; None without one that is this instance's."""
        self.is_foreign = False
        # Before the import, which a start without an inventory need not pay for.
        if not self._files.inventory.exists():
            return None
        from instance_manager.databases import inventory as room

        try:
            return room.load(self._files, self._instance)
        except room.UnusableInventoryError as error:
            self.is_foreign = error.is_foreign
            _log.warning(str(error), hint="it is made anew once postgres runs")
            return None

    async def store(self, inventory: Inventory) -> bool:
        """Keep the inventory; return whether that changed anything.

        Raises:
            DataDirectoryError, DiskSpaceError: it can't be written.
        """
        return await self._turn.run("inventory", self._store, inventory)

    def _store(self, inventory: Inventory) -> bool:
        from instance_manager.databases import inventory as room

        # In its turn: the directory may have been let go while this waited.
        if not self._is_ours():
            raise DataDirectoryError(
                "cannot keep the inventory: the data directory is not ours to write"
            )
        return room.store(self._files, self._instance, inventory)
