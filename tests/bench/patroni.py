"""Patroni as a contestant: a whole one, in an environment of its own, with itself as its store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from instance_manager.postgres.embedded import Demonstration
from tests.bench.contestants import identity
from tests.support.manager import free_port, until

_ENVIRONMENT = Path(__file__).parents[2] / ".cache" / "bench-patroni"
_PACKAGES = ("patroni[raft]>=4", "psycopg[binary]>=3.2")


def install() -> Path | None:
    """Install it and return its Python; None where no package index has it."""
    python = _ENVIRONMENT / "bin" / "python"
    if not (_ENVIRONMENT / "installed").exists():
        for command in (
            [sys.executable, "-m", "venv", "--without-pip", "--clear", str(_ENVIRONMENT)],
            [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", *_PACKAGES],
        ):
            if subprocess.run(command, capture_output=True, check=False).returncode:
                return None
        (_ENVIRONMENT / "installed").touch()
    return python


@contextmanager
def running(python: Path, directory: Path, server: Demonstration) -> Iterator[int]:
    """Run it with a server of its own; yield the port of its API once it is ready."""
    api, raft, port = free_port(), free_port(), free_port()
    configuration = directory / "patroni.json"
    access = {"username": "postgres", "password": "bench"}
    settings = {
        "scope": "bench",
        "name": "one",
        "restapi": {"listen": f"127.0.0.1:{api}", "connect_address": f"127.0.0.1:{api}"},
        "raft": {"data_dir": str(directory / "raft"), "self_addr": f"127.0.0.1:{raft}"},
        "bootstrap": {"dcs": {"ttl": 30}, "initdb": [{"encoding": "UTF8"}, "no-sync"]},
        "postgresql": {
            "listen": f"127.0.0.1:{port}",
            "connect_address": f"127.0.0.1:{port}",
            "data_dir": str(directory / "data"),
            "bin_dir": str(server.bin_directory),
            "parameters": {"unix_socket_directories": str(directory)},
            "authentication": {"superuser": access, "replication": access},
        },
    }
    configuration.write_text(json.dumps(settings), encoding="utf-8")
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(python), "-m", "patroni", str(configuration)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=directory,
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(directory)},
            **identity(),
        )
        try:
            until(lambda: _is_ready(process, api, directory), "Patroni is ready")
            yield api
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _is_ready(process: subprocess.Popen[bytes], port: int, directory: Path) -> bool:
    from http.client import HTTPConnection

    assert process.poll() is None, (directory / "log").read_text()
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readiness")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
