"""Signals that get through whatever else arrives.

asyncio learns of a signal by one byte in a socket that holds a few hundred of them: amid a storm
of ending children the byte of a TERM finds no room, and is lost. Python's own handlers hang on a
flag for each signal, which can't be; the byte is only what wakes the loop. Sources: signal(7);
Modules/signalmodule.c, ``trip_signal``.
"""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


def catch(number: int, callback: Callable[[], object]) -> None:
    """Have *callback* called by the running loop after a signal; several at once may count as one.

    For the main thread, in which the loop runs.
    """
    loop = asyncio.get_running_loop()
    # For the side effect: the byte that wakes the loop. What it calls for it does nothing.
    loop.add_signal_handler(number, _nothing)
    # asyncio would have Python complain on standard error of each byte that finds no room.
    signal.set_wakeup_fd(signal.set_wakeup_fd(-1), warn_on_full_buffer=False)

    def caught(_number: int, _frame: FrameType | None) -> None:
        # Not called here: a handler runs amid whatever the loop does. This wakes the loop, too.
        loop.call_soon_threadsafe(callback)

    # Last: add_signal_handler() has put a handler of its own here, which does nothing.
    signal.signal(number, caught)


def release(number: int) -> None:
    """Let the signal do what it does by default."""
    asyncio.get_running_loop().remove_signal_handler(number)


def _nothing() -> None:
    pass
