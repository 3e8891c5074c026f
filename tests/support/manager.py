"""The manager as users run it: a process with a settings file, asked over its sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import yaml

from instance_manager.postgres.embedded import Demonstration

T = TypeVar("T")
DEADLINE_SECONDS = 120.0
POLL_SECONDS = 0.01
ACCOUNT = "nobody"
"""Whom postgres runs as where the tests are run by root."""


_given: set[int] = set()


def free_port() -> int:
    """Return a port of the loopback interface that nobody has, and that was not given before."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in _given:
            _given.add(port)
            return port


def until(condition: Callable[[], T], what: str, seconds: float = DEADLINE_SECONDS) -> T:
    """Wait until *condition* gives something true and return it; fail with *what* when late."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(POLL_SECONDS)
    raise AssertionError(f"not within {seconds:g} s: {what}")


def _working_below(directory: Path) -> list[int]:
    """Return the processes that work in a directory or below it, also where it is gone."""
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cwd").readlink().is_relative_to(directory):
                found.append(int(entry.name))
    return found


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket, with nothing of the program under test."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=DEADLINE_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(DEADLINE_SECONDS)
        self.sock.connect(str(self._path))


class Manager:
    """One manager with its own directories and ports; stop it with :meth:`end`."""

    def __init__(self, directory: Path, server: Demonstration) -> None:
        self.directory = directory
        self.server = server
        self.port, self.health_port, self.control_port = free_port(), free_port(), free_port()
        self.data = directory / "data"
        self.socket = directory / "run" / "control.sock"
        self.config = directory / "config.yaml"
        self.log = directory / "log.jsonl"
        self.environment: dict[str, str] = {}
        self.prefix: tuple[str, ...] = ()
        self.process: subprocess.Popen[bytes] | None = None
        self.settings: dict[str, Any] = {
            "instance": {"name": "test"},
            "postgres": {
                "bin_directory": str(server.bin_directory),
                "data_directory": str(self.data),
                "socket_directory": str(directory / "run"),
                "listen_addresses": "127.0.0.1",
                "port": self.port,
                "run_as": ACCOUNT,
            },
            "bootstrap": {"init_directory": str(directory / "init")},
            "extensions": {"root": str(server.extensions)},
            "health": {"listen": f"127.0.0.1:{self.health_port}"},
            "control": {"socket": str(self.socket), "listen": f"127.0.0.1:{self.control_port}"},
        }

    def command(self, *arguments: str) -> list[str]:
        """Return a command line of the program."""
        program = [*self.prefix, sys.executable, "-m", "instance_manager"]
        return [*program, "--config", str(self.config), *arguments]

    def write_settings(self) -> None:
        """Write the settings file as they stand."""
        self.config.write_text(yaml.safe_dump(self.settings), encoding="utf-8")

    def start(self, *arguments: str, output: int | None = None) -> Manager:
        """Start the manager; it need not be up when this returns. *output* replaces its log."""
        self.write_settings()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command("run", *arguments),
                stdin=subprocess.DEVNULL,
                stdout=log if output is None else output,
                stderr=log,
                env=self._environment(),
            )
        return self

    def _environment(self) -> Mapping[str, str]:
        kept = {
            name: os.environ[name]
            for name in ("PATH", "COVERAGE_PROCESS_START")
            if name in os.environ
        }
        return kept | self.environment

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another sub-command to its end."""
        self.write_settings()
        return subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            env=self._environment(),
            timeout=DEADLINE_SECONDS,
            check=False,
        )

    def until_ready(self) -> Manager:
        """Wait until the instance is ready."""
        with self._explained():
            until(
                lambda: self._lives() and self.probe("readyz")[0] == 200, "the instance is ready"
            )
        return self

    def _lives(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the manager ended with {self.process.poll()}"
        return True

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Show what was logged where an expectation fails."""
        try:
            yield
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logged()}") from error

    def until_phase(self, *phases: str) -> dict[str, Any]:
        """Wait until the status shows one of *phases* and return it."""

        def reached() -> dict[str, Any] | None:
            status = self.status()
            return status if status and status["phase"] in phases else None

        with self._explained():
            found = until(lambda: self._lives() and reached(), f"the phase is one of {phases}")
        assert isinstance(found, dict)
        return found

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal the manager and return its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the manager's end and return its exit code."""
        assert self.process is not None
        return self.process.wait(DEADLINE_SECONDS)

    def clean_up(self) -> None:
        """End whatever is left of the manager and its server."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        until(self._none_is_left, "no process of the server is left")

    def _none_is_left(self) -> bool:
        # All of this directory: a trial of a start works in one of its own. What is ended may
        # have begun another one since it was listed.
        left = _working_below(self.directory)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    def postgres_processes(self) -> list[int]:
        """Return the processes whose working directory is the data directory."""
        return _working_below(self.data)

    def logged(self) -> str:
        """Return all that was logged so far; a line that is still being written is left out."""
        if not self.log.exists():
            return ""
        has_ended = self.process is None or self.process.returncode is not None
        content = self.log.read_bytes()
        return (content if has_ended else content[: content.rfind(b"\n") + 1]).decode()

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the log's lines; each must be an object of JSON."""
        lives = self.process is not None and self.process.poll() is None
        lines = self.logged().splitlines(keepends=True)
        if lives and lines and not lines[-1].endswith("\n"):
            # It is being written.
            lines.pop()
        for line in lines:
            yield json.loads(line)

    def probe(self, path: str) -> tuple[int, str]:
        """Ask the health listener; status 0 where nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.health_port, timeout=30)
        try:
            connection.request("GET", f"/{path}")
            response = connection.getresponse()
            return response.status, response.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        """Ask the control socket and return the status and the parsed body."""
        connection = UnixConnection(self.socket)
        try:
            content = None if body is None else json.dumps(body)
            if content is not None:
                headers["Content-Type"] = "application/json"
            connection.request(method, path, content, headers)
            response = connection.getresponse()
            text = response.read()
            return response.status, json.loads(text) if text else None
        finally:
            connection.close()

    def status(self) -> dict[str, Any] | None:
        """Return the status document; None where nobody answers yet."""
        try:
            code, document = self.ask("GET", "/v1/status")
        except OSError:
            return None
        assert code == 200, document
        assert isinstance(document, dict)
        return document

    @contextlib.contextmanager
    def sql(self, **options: Any) -> Iterator[psycopg.Connection[Any]]:
        """Yield a connection of the superuser over TCP, or as *options* say."""
        given: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": self.port,
            "user": "postgres",
            "dbname": "postgres",
            "connect_timeout": 30,
            "autocommit": True,
        }
        with psycopg.connect(**(given | options)) as connection:
            yield connection

    def query(self, statement: str, **options: Any) -> list[tuple[Any, ...]]:
        """Run one statement as the superuser and return its rows."""
        with self.sql(**options) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def trust(self) -> Manager:
        """Let the tests, which may be run by another user, log in over TCP."""
        self.settings["postgres"]["hba"] = ["host all all 127.0.0.1/32 trust"]
        return self
