"""The two that are compared: the manager, and bare postgres on the same data directory."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from instance_manager.postgres import account
from instance_manager.postgres.embedded import Demonstration
from tests.support.manager import ACCOUNT, DEADLINE_SECONDS, Manager

DATABASE = OWNER = "bench"


def identity() -> dict[str, Any]:
    """Return how both are started: by root as the account that tests use, as a container does."""
    if os.geteuid() != 0:
        return {}
    owner = account.find(ACCOUNT)
    return {"user": owner.uid, "group": owner.gid, "extra_groups": []}


class Site(Manager):
    """A data directory, and the manager or bare postgres on it, one at a time."""

    def __init__(self, directory: Path, server: Demonstration, program: Path) -> None:
        super().__init__(directory, server)
        self._program = program
        self.settings["bootstrap"] |= {"database": DATABASE, "owner": OWNER}
        self.settings["postgres"]["hba"] = [f"local all {OWNER} trust"]

    @property
    def postgres_socket(self) -> Path:
        """Where clients reach the server."""
        return self.directory / "run" / f".s.PGSQL.{self.port}"

    def lives(self) -> bool:
        """Return true; fail with what was logged where the process has ended."""
        assert self.process is not None
        assert self.process.poll() is None, f"ended with {self.process.poll()}:\n{self.logged()}"
        return True

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        assert self.process is not None
        return self.process.pid

    def initialize(self) -> None:
        """Make the cluster, and stop it cleanly."""
        with self.managed():
            self.until_ready()

    @contextmanager
    def managed(self) -> Iterator[float]:
        """Run the manager; yield the time of its start."""
        self.write_settings()
        with self._running([str(self._program), "--config", str(self.config), "run"]) as began:
            yield began

    @contextmanager
    def bare(self) -> Iterator[float]:
        """Run postgres alone, with all the parameters that it has under the manager.

        But for its log: that is a pipe of the manager's, which has no reader now.
        """
        log = ("-c", "logging_collector=off", "-c", "log_destination=stderr")
        command = [str(self.server.bin_directory / "postgres"), "-D", str(self.data), *log]
        with self._running(command, signal.SIGINT) as began:
            yield began

    @contextmanager
    def _running(
        self, command: list[str], stop: signal.Signals = signal.SIGTERM
    ) -> Iterator[float]:
        environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
        with self.log.open("wb") as log:
            began = time.perf_counter()
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                **identity(),
            )
        try:
            yield began
            self.process.send_signal(stop)
            code = self.process.wait(DEADLINE_SECONDS)
            assert code == 0, f"{command[0]} ended with {code}:\n{self.logged()}"
        finally:
            self.clean_up()
