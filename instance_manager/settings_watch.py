"""The settings file, watched for changes.

By its status, once a second: that sees a symlink that is swapped, a file that is renamed and one
that is written in place, on every file system, and a look costs less than a kernel's watch has to
be looked after. A file must hold still for a second, so that nobody's half of one is read; and
what counts is its content, so that writing the same again is no change.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from instance_manager.settings.files import SETTINGS_LIMIT_BYTES, digest_of
from instance_manager.supervision.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_PERIOD_SECONDS: Final = 1.0


class SettingsFile:
    """Watches *path*; looks in threads, since what it is on may hang."""

    def __init__(self, path: Path, digest: str) -> None:
        self.path = path
        self._applied: str | None = digest
        """That of the content that was read last; None for what can't be read."""

    async def note(self) -> None:
        """Remember the content as it is now as the one that somebody is about to read."""
        self._applied = await in_thread("settings file", self._digest)

    async def watch(self, on_change: Callable[[], object]) -> None:
        """Call *on_change* when there is another content than was read last; for ever."""
        seen = settled = None
        while True:
            await asyncio.sleep(_PERIOD_SECONDS)
            now = await in_thread("settings file", self._stamp)
            if now == seen and now != settled:
                settled = now
                digest = await in_thread("settings file", self._digest)
                # The file may be gone or unreadable for a moment: that is no other configuration.
                if digest is not None and digest != self._applied:
                    self._applied = digest
                    on_change()
            seen = now

    def _stamp(self) -> tuple[int, ...] | None:
        """Return what changes when the file does; None where it can't be seen."""
        with contextlib.suppress(OSError):
            facts = self.path.stat()
            # The time of the inode's change, too: a writer may set the other one back.
            changed = facts.st_mtime_ns, facts.st_ctime_ns
            return facts.st_dev, facts.st_ino, facts.st_size, *changed
        return None

    def _digest(self) -> str | None:
        with contextlib.suppress(OSError), self.path.open("rb") as file:
            return digest_of(file.read(SETTINGS_LIMIT_BYTES + 1))
        return None
