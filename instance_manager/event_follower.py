"""Following a stream of events over its cuts, for the client.

Knows the messages and when to come back; how a connection is made is an argument.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from instance_manager.api import event_stream
from instance_manager.errors import InstanceManagerError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

SILENCE_SECONDS: Final = 45.0
"""A heartbeat comes every 15 seconds: who says nothing for so long is gone."""

_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 10.0


async def follow(
    connect: Callable[[str | None], AsyncGenerator[event_stream.Message]],
    last_event_id: str | None,
    may_pass: Callable[[InstanceManagerError], bool],
) -> AsyncGenerator[event_stream.Message]:
    """Yield the messages of one connection after another, each from where the last one was cut.

    *connect* is given the id of the last event. Its errors are raised from the first connection,
    and from later ones where they *may_pass* not.
    """
    last, pause, is_first = last_event_id, _FIRST_PAUSE_SECONDS, True
    while True:
        try:
            async with aclosing(connect(last)) as messages:
                async for message in messages:
                    # A message proves that the way works: the next cut is a new one.
                    is_first, pause = False, _FIRST_PAUSE_SECONDS
                    # END and what a newer server may send are no news for the caller.
                    if message.type in {event_stream.MESSAGE, event_stream.MISSED}:
                        last = message.last_event_id or last
                        yield message
        except InstanceManagerError as error:
            # A wrong address or token is told at once; later, a new start of the manager is waited
            # for.
            if is_first or not may_pass(error):
                raise
        # Also after a stream that ended in order: a server that ends each one must not be asked
        # without pause.
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
