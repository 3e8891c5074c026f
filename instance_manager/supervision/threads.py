"""Blocking work outside the event loop, in threads that nothing ever has to wait for.

A hung volume blocks a call for as long as it likes. The executors of the standard library join
their threads when the program ends, so a stop would hang too; these are daemons.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(name: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a thread of its own and return its result, or raise its exception.

    Cancelled, this returns at once; the thread goes on and its result is dropped.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def resolve(value: T | None, error: BaseException | None) -> None:
        # Who waited has been cancelled.
        if result.done():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(value)  # type: ignore[arg-type] # None only where T allows it

    def work() -> None:
        value: T | None = None
        failure: BaseException | None = None
        try:
            value = function(*args, **kwargs)
        except StopIteration as error:
            # No future takes this one: a coroutine would end by it.
            failure = RuntimeError(f"{name} raised StopIteration")
            failure.__cause__ = error
        except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
            failure = error
        # The loop may be closed by now: then nobody waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(resolve, value, failure)

    # Not a pool's thread: a few calls on a hung volume would use the pool up for all others.
    threading.Thread(target=work, name=name, daemon=True).start()
    return await result


class Serial:
    """Runs functions in threads, one after another, for work on files that must not overlap.

    A call that is cancelled returns at once; its function goes on, and the next call waits for
    its real end.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def run(
        self, name: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call a function as :func:`in_thread` does, when all before it have ended."""
        await self._turn.acquire()
        task = asyncio.create_task(in_thread(name, function, *args, **kwargs), name=name)
        # The turn ends with the task and not with this call, which may be cancelled before.
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[T]) -> None:
        self._turn.release()
        if not task.cancelled():
            # Asked for, so that an error which nobody waits for any more is no warning.
            task.exception()
