"""Configuration documents that are kept beside the data: the accepted one, and the last good one.

The file tells whose it is; one that came with a copy of the directory does not count. What can't
be understood is no document: a start must not fail for it. It may hold secrets, so only its owner
can read it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, cast

from instance_manager.configuration.writing import write_atomically
from instance_manager.errors import DataDirectoryError
from instance_manager.log import get_logger
from instance_manager.postgres import identity, small_files
from instance_manager.settings.configuration_document import text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from instance_manager.postgres.data_directory import OurFiles
    from instance_manager.supervision.threads import Serial

_log: Final = get_logger()
LIMIT_BYTES: Final = 8 << 20
"""Far beyond what comes in, and no more than what can be read in a moment."""


class KeptDocument:
    """Keeps one document; *path* tells which file of ours it is.

    *files* tells where, each time; *turn* is that of all work on our files; *is_ours* says, in a
    thread, whether the directory is.
    """

    def __init__(
        self,
        path: Callable[[OurFiles], Path],
        files: Callable[[], OurFiles],
        instance: str,
        turn: Serial,
        is_ours: Callable[[], bool],
    ) -> None:
        self._path = path
        self._where = files
        self._instance = instance
        self._turn = turn
        self._is_ours = is_ours
        self.is_foreign = False
        """Whether the file that was seen last came with a copy."""
        self.fault = ""
        """Why the file that was seen last can't be read; empty where it can, or is none."""

    async def load(self) -> dict[str, Any] | None:
        """Return the document; None without one that is this instance's."""
        return await self._turn.run("kept document", self._load)

    def _load(self) -> dict[str, Any] | None:
        files, self.is_foreign, self.fault = self._where(), False, ""
        path = self._path(files)
        try:
            # What is longer is cut off, and so is no JSON.
            raw = json.loads(small_files.read_head(path, LIMIT_BYTES))
            owner, document = identity.Identity.read(raw), raw["document"]
            is_ours = owner.holds_for(identity.here(files, self._instance))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            said = error.strerror if isinstance(error, OSError) else None
            self.fault = f"{path}: {said or 'it holds no document'}"
            _log.warning("a kept configuration can't be used", path=str(path), reason=self.fault)
            return None
        self.is_foreign = not is_ours
        return cast("dict[str, Any]", document) if is_ours and isinstance(document, dict) else None

    async def store(self, document: Mapping[str, Any]) -> None:
        """Keep the document, durably, all of it or nothing.

        Raises:
            DataDirectoryError, DiskSpaceError: it can't be written; the one before stays whole.
        """
        await self._turn.run("kept document", self._store, document)

    def _store(self, document: Mapping[str, Any]) -> None:
        files = self._where()
        # In its turn: the directory may have been let go while this waited.
        if not self._is_ours():
            raise DataDirectoryError(
                "cannot keep the configuration: the data directory is not ours to write"
            )
        try:
            owner = json.dumps(asdict(identity.here(files, self._instance)))
        except OSError as error:
            raise DataDirectoryError(
                f"cannot keep the configuration: {error.strerror or error}"
            ) from error
        content = f'{owner[:-1]}, "document": {text_of(document)}}}\n'
        write_atomically(self._path(files), content)

    async def forget(self) -> None:
        """Keep no document any more.

        Raises:
            OSError: it can't be taken away.
        """
        await self._turn.run("kept document", self._forget)

    def _forget(self) -> None:
        if self._is_ours():
            self._path(self._where()).unlink(missing_ok=True)
