"""The quick start of the README, as a newcomer would go through it; without the setting up."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from instance_manager.postgres.embedded import Demonstration
from tests.support.manager import DEADLINE_SECONDS, UnixConnection, until

README = Path(__file__).parents[2] / "README.md"
ENVIRONMENT = {name: os.environ[name] for name in ("PATH",) if name in os.environ}


def section(heading: str) -> str:
    """Return a section of the README."""
    _, found, rest = README.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    assert found
    return rest.partition("\n## ")[0]


def commands(heading: str) -> list[list[str]]:
    """Return the lines of each block of shell in a section."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", section(heading), re.MULTILINE | re.DOTALL)
    return [block.splitlines() for block in blocks]


class Checkout:
    """A directory that looks like the checkout after ``make run`` has set it up."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "log"
        self.process: subprocess.Popen[bytes] | None = None
        (directory / ".venv").symlink_to(sys.prefix)

    def shell(self, line: str) -> subprocess.CompletedProcess[str]:
        """Run one line in the directory."""
        return subprocess.run(
            ["sh", "-c", line],
            cwd=self.directory,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )

    def lay_out(self) -> str:
        """Do what ``make run`` does first; return what it says."""
        done = self.shell(f"{sys.executable} -m instance_manager.postgres.embedded .run")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self) -> None:
        """Do what ``make run`` does then."""
        command = [sys.executable, "-m", "instance_manager", "run", "--config", ".run/config.yaml"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.directory,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def interrupt(self) -> int:
        """Do what Ctrl-C does; return the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(DEADLINE_SECONDS)

    def curl(self, line: str) -> tuple[int, str]:
        """Do what a line with curl asks for: no machine needs that program for the tests."""
        words = shlex.split(line)
        url = urlsplit(words[-1])
        if "--unix-socket" in words:
            path = self.directory / words[words.index("--unix-socket") + 1]
            connection: http.client.HTTPConnection = UnixConnection(path)
        else:
            assert url.hostname is not None
            connection = http.client.HTTPConnection(url.hostname, url.port, timeout=60)
        try:
            connection.request("GET", f"{url.path}?{url.query}" if url.query else url.path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()


@pytest.fixture
def checkout(workspace: Path, server: Demonstration) -> Iterator[Checkout]:
    """Yield such a directory; the manager is ended after the test."""
    del server  # only asked for, so that a missing PostgreSQL is told as everywhere
    made = Checkout(workspace)
    yield made
    if made.process is not None and made.process.poll() is None:
        assert made.interrupt() == 0, made.log.read_text()


def on_the_printed_ports(line: str, printed: str) -> str:
    """Return a line of the README with the ports that the demonstration found free."""
    health = re.search(r"http://127\.0\.0\.1:(\d+)/readyz", printed)
    assert health
    return line.replace("127.0.0.1:8080", f"127.0.0.1:{health[1]}")


def test_the_quick_start_is_the_two_commands() -> None:
    """Nothing comes before them, and nothing between."""
    assert commands("Quick start")[0] == ["make run", "make test"]


def test_what_the_demonstration_prints_is_what_the_readme_shows(checkout: Checkout) -> None:
    """The same lines, but for the paths, the ports and what is left out."""
    [shown] = re.findall(
        r"^```text\n(A Postgre.*?)^```$", section("Quick start"), re.MULTILINE | re.DOTALL
    )
    paths = re.compile(r"\S*/\S*|\d{4,5}")
    printed = paths.sub("-", checkout.lay_out())

    for line in shown.splitlines():
        if "…" not in line:
            assert paths.sub("-", line) in printed.splitlines()


def test_everything_that_the_quick_start_says_to_try_works(checkout: Checkout) -> None:
    """The commands that are printed, those of the README, and Ctrl-C."""
    printed = checkout.lay_out()
    tries = re.search(r"^Try.*?:\n(.*?)^Ctrl-C", printed, re.MULTILINE | re.DOTALL)
    assert tries
    checkout.run()
    status = ".venv/bin/instance-manager --config .run/config.yaml status"
    until(lambda: checkout.shell(status).returncode == 0, "the instance is ready")

    answers: list[int] = []
    for line in map(str.strip, [*tries[1].splitlines(), *commands("Quick start")[1]]):
        if line.startswith("curl "):
            code, body = checkout.curl(on_the_printed_ports(line, printed))
            answers.append(code)
            if line.endswith("/v1/extensions"):
                [volume] = json.loads(body)["volumes"]
                assert (volume["name"], volume["state"]) == ("pgvector", "ready")
        elif line:
            done = checkout.shell(line)
            assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    created = checkout.shell(f"{printed_psql(printed)} -c '\\dx'")

    assert answers == [200, 200, 200, 200, 503, 200]
    assert "vector" in created.stdout
    assert checkout.interrupt() == 0


def printed_psql(printed: str) -> str:
    """Return the printed command that runs psql, without its statement."""
    [line] = [line for line in printed.splitlines() if "CREATE EXTENSION" in line]
    return line.strip().partition(" -c ")[0]
