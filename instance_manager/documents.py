"""Which configuration document counts: the settings file's, the accepted or the last good one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from instance_manager.errors import DataDirectoryError, DiskSpaceError, Problem
from instance_manager.kept_documents import KeptDocument
from instance_manager.log import get_logger
from instance_manager.settings.configuration_document import (
    document_of,
    tag_of,
    text_of,
    with_document,
)
from instance_manager.supervision.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from instance_manager.journal import Journal
    from instance_manager.postgres.data_directory import OurFiles
    from instance_manager.settings.models import Settings
    from instance_manager.supervision.threads import Serial
    from instance_manager.surroundings import Load

_log: Final = get_logger()


class Documents:
    """The documents of one instance; *load* reads the settings, the rest is as for the keepers."""

    def __init__(
        self,
        load: Load,
        files: Callable[[], OurFiles],
        instance: str,
        turn: Serial,
        is_ours: Callable[[], bool],
    ) -> None:
        keeping = (files, instance, turn, is_ours)
        self.accepted: Mapping[str, Any] | None = None
        """What came over HTTP and is in force; None where the settings file is the truth."""
        self.problems: tuple[Problem, ...] = ()
        """What is wrong with the configuration that was asked for last, if it is not in force."""
        self._load = load
        self._accepted_file = KeptDocument(lambda files: files.accepted, *keeping)
        self._good_file = KeptDocument(lambda files: files.last_good, *keeping)
        self._has_adopted = False
        self._good: Settings | None = None
        self._tagged: tuple[Settings, str] | None = None
        self._taking_back: asyncio.Task[None] | None = None

    @property
    def settings_file(self) -> Path | None:
        """The settings file; None where there is none."""
        return self._load.file

    @property
    def settings_digest(self) -> str:
        """What tells the settings file's content that was loaded last from another."""
        return self._load.digest

    def tag(self, settings: Settings) -> str:
        """Return the tag of the document of *settings*; made once for those that are in force."""
        if self._tagged is None or self._tagged[0] is not settings:
            self._tagged = settings, tag_of(document_of(settings))
        return self._tagged[1]

    async def read_settings(self, document: Mapping[str, Any] | None = None) -> Settings:
        """Read the settings, with *document* in the place of the accepted one.

        Raises:
            SettingsError: with every problem.
        """
        document = self.accepted if document is None else document
        text = None if document is None else text_of(document)
        return await in_thread("settings", self._load, text)

    async def adopted(self, settings: Settings, journal: Journal) -> Settings:
        """Return the settings with the document that was kept, at the first start of a manager.

        It is the truth with ``configuration.source: api``, whatever the settings file says.
        """
        if settings.configuration.source != "api" or self._has_adopted:
            return settings
        kept = await self._accepted_file.load()
        if self._accepted_file.is_foreign:
            message = "a configuration that came with a copy is not used"
            journal.on_event("ConfigurationIgnored", message)
        fault = self._accepted_file.fault
        adopted = None if kept is None else _with(settings, kept, "accepted")
        if kept is not None and adopted is None:
            fault = "it is none of this version's"
        if fault:
            settings = await self._without_accepted(settings, fault, journal)
        else:
            self.accepted, settings = kept, adopted or settings
        # Once for each manager: later starts go by what came over HTTP meanwhile. Not before it
        # was read: a start may be given up on the way, and the next one needs it as much.
        self._has_adopted = True
        return settings

    async def _without_accepted(
        self, settings: Settings, fault: str, journal: Journal
    ) -> Settings:
        """Return *settings* with the last good document in the place of one that is lost."""
        good = await self._good_file.load()
        adopted = None if good is None else _with(settings, good, "last good")
        instead = "the settings file's" if adopted is None else "the last good one"
        message = f"the accepted configuration can't be used ({fault}): {instead} is"
        self.problems = (Problem("", message),)
        _log.error(message, hint="send the configuration again")
        journal.on_warning("ConfigurationFellBack", message)
        self.accepted = None if adopted is None else good
        return adopted or settings

    async def accept(self, settings: Settings) -> None:
        """Keep the document of *settings*, which are in force, as the accepted one.

        Nothing is wrong with them from the call on.

        Raises:
            DataDirectoryError, DiskSpaceError: it can't be written; the one before stays.
        """
        document = document_of(settings)
        # At once: a server that ends with them while this waits for the disk falls back, and what
        # is told of that must stay.
        before, self.problems = self.problems, ()
        try:
            await self._accepted_file.store(document)
        except BaseException:
            self.problems = self.problems or before
            # Given up, its thread goes on; failed, it may have been renamed already. What is
            # written back comes after that. Nobody waits: a volume may hang.
            self._taking_back = asyncio.create_task(self._take_back(self.accepted))
            raise
        self.accepted, self._has_adopted = document, True

    async def _take_back(self, before: Mapping[str, Any] | None) -> None:
        try:
            if before is None:
                await self._accepted_file.forget()
            else:
                await self._accepted_file.store(before)
        except (DataDirectoryError, DiskSpaceError, OSError) as error:
            _log.warning("the accepted configuration was not written back", reason=str(error))

    async def remember_good(self, settings: Settings) -> None:
        """Keep the document of *settings* as one that a server runs with.

        Raises:
            DataDirectoryError, DiskSpaceError: it can't be written; the one before stays.
        """
        # Asked each second while the server runs: the same one is not written again.
        if settings is not self._good:
            await self._good_file.store(document_of(settings))
            self._good = settings

    async def another_good(self, settings: Settings) -> Settings | None:
        """Return *settings* with the last good document; None where that is theirs, or none is."""
        good = await self._good_file.load()
        # To fall back on what has just failed would only fail again.
        if good is None or text_of(good) == text_of(document_of(settings)):
            return None
        return _with(settings, good, "last good")

    def tell_fallen_back(self, reason: str, journal: Journal) -> None:
        """Say that the last good document takes the place of one that does not work, and why."""
        message = f"the configuration does not work, the last good one is used: {reason}"
        self.problems = (Problem("", message),)
        _log.error(message, hint="mend the configuration: it is tried again when it changes")
        journal.on_warning("ConfigurationFellBack", message)


def _with(settings: Settings, document: Mapping[str, Any], which: str) -> Settings | None:
    """Return *settings* with a document that was kept; None where it does not fit."""
    try:
        return with_document(settings, document)
    except (ValueError, KeyError, TypeError) as error:
        _log.warning(f"the {which} configuration can't be used", reason=str(error))
        return None
