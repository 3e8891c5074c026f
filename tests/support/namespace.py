"""The manager as PID 1 of its own PID namespace, as in a container, and processes beside it.

Source: unshare(1), nsenter(1), pid_namespaces(7). Root makes the namespace as such; an ordinary
user gets one within a user namespace of their own, in which they stay who they are.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from instance_manager.postgres.embedded import Demonstration
from tests.support.manager import DEADLINE_SECONDS, Manager, until
from tests.support.processes import children_of, pid_inside, working_in

_ORPHANS: Final = """
import os, sys, time
for number in range(int(sys.argv[1])):
    middle = os.fork()
    if middle == 0:
        parent = os.getpid()
        if os.fork() == 0:
            while os.getppid() == parent:
                time.sleep(0.0005)
            os._exit(int(sys.argv[2 + number % (len(sys.argv) - 2)]))
        os._exit(0)
    os.waitpid(middle, 0)
"""


class NamespacedManager(Manager):
    """A manager that is PID 1; :attr:`process` is the one that made the namespace for it."""

    def __init__(self, directory: Path, server: Demonstration) -> None:
        super().__init__(directory, server)
        self._namespace = ["--pid", "--mount"]
        if os.geteuid() != 0:
            self._namespace.append("--user")

    def command(self, *arguments: str) -> list[str]:
        """Return a command line; ``run`` gets a namespace of its own."""
        command = super().command(*arguments)
        return self.enclosed(*command) if "run" in arguments else command

    def enclosed(self, *command: str) -> list[str]:
        """Return the command line that makes a program PID 1 of a namespace."""
        identity = [] if os.geteuid() == 0 else ["--map-current-user"]
        return [
            *("unshare", *self._namespace, *identity, "--fork", "--mount-proc", "--kill-child"),
            *command,
        ]

    @property
    def pid(self) -> int:
        """The manager's pid as seen from here."""
        assert self.process is not None
        parent = self.process.pid
        return until(lambda: children_of(parent), "the manager is PID 1 of its namespace")[0].pid

    def send(self, number: int) -> None:
        """Send a signal to the manager itself."""
        os.kill(self.pid, number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal the manager and return its exit code."""
        self.send(number)
        return self.wait()

    def clean_up(self) -> None:
        """End the namespace with all that runs in it."""
        # PID 1 has changed its user: the kernel forgets for such what --kill-child asked for.
        if self.process is not None and self.process.poll() is None:
            for one in children_of(self.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one.pid, signal.SIGKILL)
        super().clean_up()

    def run_inside(self, *command: str) -> None:
        """Run a program in the namespace, to its end, as ``docker exec`` does."""
        own = [] if os.geteuid() == 0 else ["--preserve-credentials"]
        subprocess.run(
            ["nsenter", f"--target={self.pid}", *self._namespace, *own, "--", *command],
            stdin=subprocess.DEVNULL,
            timeout=DEADLINE_SECONDS,
            check=True,
        )

    def leave_orphans(self, number: int, *codes: int) -> None:
        """Leave *number* processes to PID 1 that end with *codes* in turn, as its children."""
        self.run_inside(sys.executable, "-c", _ORPHANS, str(number), *map(str, codes))

    def zombies(self) -> list[int]:
        """Return the ended children that the manager hasn't reaped."""
        return [one.pid for one in children_of(self.pid) if one.state == "Z"]

    def outside(self, pid: int) -> int:
        """Return the pid seen from here of a server process that calls itself *pid*."""
        return next(one.pid for one in working_in(self.data) if pid_inside(one.pid) == pid)
