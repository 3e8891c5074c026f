"""The fence of this instance: kept, lifted, looked for; always with the directory's lock."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from instance_manager.errors import DataDirectoryError, UnresponsiveError
from instance_manager.log import get_logger
from instance_manager.postgres import fencing

if TYPE_CHECKING:
    from collections.abc import Callable

    from instance_manager.postgres.data_directory import OurFiles
    from instance_manager.supervision.threads import Serial

_log: Final = get_logger()
_SECONDS: Final = 10.0
_STILL_HOLDS: Final = "it holds for as long as this manager lives"
_NOT_KNOWN: Final = "whether one stands there is seen by a start: then unfence it"


class Fence:
    """Keeps the fence beside the data.

    *files* tells where, each time; *turn* is that of all work on our files; *is_ours* says, in a
    thread, whether the directory is.
    """

    def __init__(
        self,
        files: Callable[[], OurFiles],
        instance: str,
        turn: Serial,
        is_ours: Callable[[], bool],
    ) -> None:
        self._where = files
        self._instance = instance
        self._turn = turn
        self._is_ours = is_ours
        self._putting_back: asyncio.Task[None] | None = None

    @property
    def _files(self) -> OurFiles:
        return self._where()

    async def look(self) -> fencing.Verdict:
        """Return whether a fence stands here; one that came with a copy is taken away."""
        return await self._turn.run("fence", fencing.look, self._files, self._instance)

    async def put_up(self) -> None:
        """Keep postgres stopped over restarts of the manager too.

        Raises:
            DataDirectoryError: the fence can't be kept.
            UnresponsiveError: the storage does not answer.
        """
        await self._change("raise", lambda: fencing.raise_fence(self._files, self._instance))

    async def take_down(self) -> None:
        """Let the next start go on. A fence whose removal is given up stays.

        Raises:
            DataDirectoryError: the fence can't be taken away.
            UnresponsiveError: the storage does not answer.
        """
        stood = False

        def remove() -> None:
            nonlocal stood
            stood = self._files.fence.exists()
            fencing.remove_fence(self._files)

        def put_back() -> None:
            if stood and self._is_ours():
                fencing.raise_fence(self._files, self._instance)

        try:
            await self._change("remove", remove)
        except (asyncio.CancelledError, UnresponsiveError):
            # Its thread goes on. Nobody waits for what comes after it: the storage may hang.
            self._putting_back = asyncio.create_task(self._put_back(put_back))
            raise

    async def _put_back(self, put_back: Callable[[], None]) -> None:
        try:
            await self._turn.run("fence", put_back)
        except OSError as error:
            _log.error("the fence was not put up again", reason=str(error), hint="fence it again")

    async def _change(self, verb: str, change: Callable[[], None]) -> None:
        def work() -> None:
            # In the thread and in its turn: the directory may have been let go while this waited.
            if not self._is_ours():
                raise DataDirectoryError(
                    f"cannot {verb} the fence: the data directory is not ours to write",
                    hint=_STILL_HOLDS if verb == "raise" else _NOT_KNOWN,
                )
            change()

        try:
            # Storage that hangs may be why somebody fences: they are told, and postgres is stopped
            # anyway.
            async with asyncio.timeout(_SECONDS):
                await self._turn.run("fence", work)
        except TimeoutError as error:
            raise UnresponsiveError(
                f"cannot {verb} the fence {str(self._files.fence)!r}: the storage does not answer",
                hint=_STILL_HOLDS,
            ) from error
        except OSError as error:
            raise DataDirectoryError(
                f"cannot {verb} the fence {str(self._files.fence)!r}: {error.strerror}",
                hint="the data directory must be writable",
            ) from error
