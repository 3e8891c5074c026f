"""Cleaning up that is not given up halfway: a task can be cancelled again while it does so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection, Coroutine

T = TypeVar("T")


async def undisturbed(work: Coroutine[object, object, T]) -> T:
    """Run *work* to its end, however often the caller is cancelled, and return its result.

    A cancellation goes on when the work is done; what the work raised is dropped then. For work
    that ends by itself.
    """
    task = asyncio.create_task(work)
    await ended({task})
    return task.result()


async def ended(tasks: Collection[asyncio.Task[T]]) -> None:
    """Wait until all *tasks* have ended, even if this one is cancelled meanwhile.

    Their results are not looked at; a cancellation goes on when they have ended.
    """
    cancelled = False
    while left := [task for task in tasks if not task.done()]:
        try:
            # Unlike gather() and wait_for(), it cancels none of the tasks with the one who waits.
            await asyncio.wait(left)
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        for task in tasks:
            # Asked for, so that an error which nobody waits for any more is no warning.
            _ = task.cancelled() or task.exception()
        # Swallowed, the task would go on as if nobody had asked it to end.
        raise asyncio.CancelledError
