"""The front door: block signals first, then parse, then import what the sub-command needs.

The kernel drops a signal to PID 1 that has no handler. Blocked, it stays pending until the
handlers stand; ``env --block-signal`` in the image's entrypoint covers the time before this line.
"""

from __future__ import annotations

import signal

BLOCKED = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)


def main() -> int:
    """Run the command line and return the exit code."""
    from instance_manager import cli

    return cli.main()


if __name__ == "__main__":
    raise SystemExit(main())
