"""A server that no manager starts: what it says of a volume is the truth."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg

from instance_manager.postgres import account
from instance_manager.postgres.embedded import Demonstration
from tests.support.manager import ACCOUNT, until

_TRIAL_SECONDS = 60


def run_as() -> Mapping[str, Any]:
    """Return what makes a child the account of postgres: root can't start a server."""
    if os.geteuid() != 0:
        return {}
    owner = account.find(ACCOUNT)
    return {"user": owner.uid, "group": owner.gid, "extra_groups": []}


class PlainServer:
    """The programs of one server, and a data directory: made here where there is none."""

    def __init__(self, server: Demonstration, place: Path, data: Path | None = None) -> None:
        self._programs = server.bin_directory
        self._place = place
        self._data = data or place / "data"
        self.log = place / "plain.log"
        if data is None:
            done = self._run(
                "initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "-N"
            )
            assert done.returncode == 0, done.stderr

    def trial(
        self, library: str, *, library_path: str = "", path: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Let it load a library as at its start, and end before it has shared memory."""
        arguments = ["-c", f"shared_preload_libraries={library}"]
        arguments += ["-c", f"dynamic_library_path=$libdir:{path}"] if path else []
        return self._run(
            "postgres",
            *("-D", str(self._data), *arguments, "-C", "shared_memory_size"),
            LD_LIBRARY_PATH=library_path,
        )

    def _run(
        self, program: str, *arguments: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._programs / program, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=_TRIAL_SECONDS,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C", **environment},
            **run_as(),
        )

    @contextlib.contextmanager
    def running(self, *, library_path: str = "", **parameters: str) -> Iterator[PlainServer]:
        """Run it with these parameters; nothing listens but its socket."""
        given = {"listen_addresses": "", "unix_socket_directories": str(self._place)}
        rules = self._place / "pg_hba.conf"
        rules.write_text("local all all trust\n")
        given |= {
            "hba_file": str(rules),
            "port": "5432",
            "fsync": "off",
            "logging_collector": "off",
            **parameters,
        }
        command = [str(self._programs / "postgres"), "-D", str(self._data)]
        for name, value in given.items():
            command += ["-c", f"{name}={value}"]
        environment = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": library_path}
        with self.log.open("wb") as log:
            process = subprocess.Popen(command, stderr=log, env=environment, **run_as())
        self.pid = process.pid
        try:
            until(lambda: self._is_up(process), "the server accepts connections")
            yield self
        finally:
            process.terminate()
            process.wait(_TRIAL_SECONDS)

    def _is_up(self, process: subprocess.Popen[Any]) -> bool:
        assert process.poll() is None, self.log.read_text()
        return "ready to accept connections" in self.log.read_text()

    def said(self, statement: str, database: str = "postgres") -> str:
        """Run one statement in a new session; return its error with detail and hint, or rows."""
        address = f"host={self._place} user=postgres dbname={database}"
        try:
            with psycopg.connect(address, autocommit=True, client_encoding="UTF8") as session:
                cursor = session.execute(statement.encode())
                return str(cursor.fetchall() if cursor.description else "")
        except psycopg.Error as error:
            return str(error)
