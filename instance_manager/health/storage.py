"""Free space on the file systems that the instance lives on, read in the background.

A hung file system blocks its thread, not the loop: then the last figures stay, and no second
thread is started for the same place.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from instance_manager.supervision.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_PERIOD_SECONDS: Final = 30.0
_FIRST_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Space:
    """One file system by its purpose; sizes in bytes, *free* as an ordinary user has it."""

    purpose: str
    path: str
    size_bytes: int
    free_bytes: int


class Storage:
    """Measures the given places; :meth:`run` for ever, *places* holds what it saw last.

    *purposes* tell each time where that is: the data directory is found only when all is served.
    """

    def __init__(self, purposes: dict[str, Callable[[], Path]]) -> None:
        self.places: tuple[Space, ...] = ()
        self._purposes = purposes

    async def run(self) -> None:
        """Measure again and again."""
        while True:
            # Awaited without a deadline: a second thread would only hang beside the first one.
            self.places = await in_thread("storage", self._measure)
            # A new data directory is there a moment after the first look.
            await asyncio.sleep(_PERIOD_SECONDS if self.places else _FIRST_SECONDS)

    def _measure(self) -> tuple[Space, ...]:
        found = (_space(purpose, path()) for purpose, path in self._purposes.items())
        return tuple(space for space in found if space is not None)


def _space(purpose: str, path: Path) -> Space | None:
    try:
        figures = os.statvfs(path)
    except OSError:
        return None
    return Space(
        purpose,
        str(path),
        figures.f_blocks * figures.f_frsize,
        # Not f_bfree: what is reserved for root is not for postgres.
        figures.f_bavail * figures.f_frsize,
    )
