"""The front door: block signals first, then parse, then import what the sub-command needs.

The kernel drops a signal to PID 1 that has no handler. Blocked, it stays pending until the
handlers stand; the image's entrypoint blocks them too, which covers the time before this line.
"""

from __future__ import annotations

import gc
import os
import signal
import sys

_STANDARD_ERROR = 2
BLOCKED = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)


def _fill_standard_streams() -> None:
    """Open /dev/null where a standard stream is closed: a socket of ours would take its number."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    # Python has looked before us, and has no objects for what was closed then.
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def main() -> int:
    """Run the command line and return the exit code."""
    _fill_standard_streams()
    # Imports make objects that stay, so looking for garbage among them is time lost on the way to
    # postgres; whoever runs on for long turns it on again.
    gc.disable()
    from instance_manager import cli

    return cli.main()


if __name__ == "__main__":
    raise SystemExit(main())
