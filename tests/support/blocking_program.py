"""The manager, with a loop that stands still for a while when a signal asks for it.

    python blocking_program.py SECONDS ARGUMENTS...

The rest of the process goes on, as it does where a fault of the program blocks its loop.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time

SIGNAL = signal.SIGWINCH
"""The manager has no meaning for it, and leaves it alone."""


def main() -> int:
    """Run the manager with the arguments."""
    seconds = float(sys.argv.pop(1))

    def block(*_: object) -> None:
        # As a callback of its own: what is asked meanwhile waits for the next turn.
        asyncio.get_running_loop().call_soon_threadsafe(time.sleep, seconds)

    signal.signal(SIGNAL, block)
    from instance_manager.__main__ import main as manager

    return manager()


if __name__ == "__main__":
    raise SystemExit(main())
