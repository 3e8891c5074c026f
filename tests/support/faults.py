"""How faults are made and measured, on a manager with a real server."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import psycopg

from tests.support.manager import DEADLINE_SECONDS, Manager, until
from tests.support.processes import Process, children_of, is_postmaster, look, postmasters, titled

CLEAN: Final = frozenset({"shut down", "shut down in recovery"})
"""The states of a cluster that needs no recovery, in the words of pg_controldata."""
LOAD_CLIENTS: Final = 20


def unlimited_restarts(manager: Manager) -> Manager:
    """Let the manager restart as often as it takes, each time as if it were the first."""
    manager.settings["restart"] = {"maximum": 1_000_000, "window_seconds": 0.1}
    return manager


def cluster_state(manager: Manager) -> str | None:
    """Return what pg_controldata says of the cluster; None where there is none."""
    if not (manager.data / "global" / "pg_control").exists():
        return None
    tool = manager.server.bin_directory / "pg_controldata"
    said = subprocess.run([tool, manager.data], capture_output=True, text=True, check=True).stdout
    return next(
        line.partition(":")[2].strip()
        for line in said.splitlines()
        if line.startswith("Database cluster state")
    )


def expected_code(manager: Manager) -> int:
    """Return the exit code that the control file asks for: 0 if no recovery will run, else 8."""
    state = cluster_state(manager)
    return 0 if state is None or state in CLEAN else 8


def postmaster_of(manager: Manager) -> int:
    """Return the one postmaster of the manager, once there is one."""
    found = until(lambda: postmasters(manager.data), "there is a postmaster")
    assert len(found) == 1, f"more than one postmaster: {found}"
    return found[0]


def freshly_spawned(manager: Manager, before: int) -> Process:
    """Return the manager's next postmaster after *before*, a few milliseconds after its spawn."""
    assert manager.process is not None
    end = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < end:
        for one in children_of(manager.process.pid):
            if one.pid != before and is_postmaster(one):
                return one
    raise AssertionError(f"no postmaster was spawned within {DEADLINE_SECONDS:g} s")


@dataclass(frozen=True, slots=True)
class Recovery:
    """What one kill cost, in seconds: until the manager saw it, and until all was ready again."""

    detect_seconds: float | None
    ready_seconds: float


def kill_postmaster(manager: Manager) -> Recovery:
    """Kill the postmaster with -9, wait until another one serves, and return what that took."""
    before = postmaster_of(manager)
    seen = manager.log.stat().st_size
    began, began_at = time.monotonic(), time.time()
    os.kill(before, signal.SIGKILL)
    until_served(manager, before)
    ready = time.monotonic() - began
    return Recovery(_ended_at(manager, seen) - began_at, ready)


def until_served(manager: Manager, before: int) -> int:
    """Wait until another postmaster than *before* serves clients and is reported; return it."""

    def replaced() -> int | None:
        return next((pid for pid in postmasters(manager.data) if pid != before), None)

    after = until(replaced, "there is a new postmaster")
    assert after is not None
    until_answered(manager)
    manager.until_ready()
    manager.until_phase("running")
    return after


def until_zombie(pid: int) -> None:
    """Wait until a process has ended and nobody has reaped it."""
    until(lambda: is_zombie(pid), "the process is a zombie")


def is_zombie(pid: int) -> bool:
    """Whether a process has ended and waits to be reaped."""
    found = look(pid)
    return found is not None and found.state == "Z"


def until_titled(manager: Manager, words: str, other_than: int | None = None) -> int:
    """Wait until one server process has *words* in its title, not *other_than*; return it."""

    def found() -> int | None:
        pids = titled(manager.data, words)
        return pids[0] if len(pids) == 1 and pids[0] != other_than else None

    pid = until(found, f"a process is titled {words!r}")
    assert pid is not None
    return pid


def until_answered(manager: Manager) -> None:
    """Wait until a client's query is answered; one that is refused comes again."""

    def answered() -> bool:
        with contextlib.suppress(psycopg.Error):
            return manager.query("SELECT 1", connect_timeout=2) == [(1,)]
        return False

    until(answered, "a query is answered")


def _ended_at(manager: Manager, offset: int) -> float:
    """Return when the manager saw the end of a postmaster, in the log from *offset* bytes on."""
    with manager.log.open("rb") as log:
        log.seek(offset)
        # The last line may still be being written.
        text = log.read().rpartition(b"\n")[0].decode()
    return next(
        datetime.fromisoformat(record["ts"]).timestamp()
        for record in _records(text)
        if record["message"] == "postgres ended on its own"
    )


def _records(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        yield json.loads(line)


@contextlib.contextmanager
def load(manager: Manager, clients: int = LOAD_CLIENTS) -> Iterator[None]:
    """Keep the server busy with pgbench in a database of its own; its clients come back."""
    manager.query("CREATE DATABASE load")
    tool = manager.server.bin_directory / "pgbench"
    target = ["-h", "127.0.0.1", "-p", str(manager.port), "-U", "postgres"]
    subprocess.run(
        [tool, *target, "--initialize", "--quiet", "load"], check=True, capture_output=True
    )
    # A client ends when its connection breaks, and pgbench with the last one.
    script = 'while :; do "$@"; sleep 0.1; done'
    rounds = [str(tool), *target, "-n", "-c", str(clients), "-T", "3600", "load"]
    with subprocess.Popen(
        ["/bin/sh", "-c", script, "load", *rounds],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            until_loaded(manager, clients)
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def until_loaded(manager: Manager, clients: int = LOAD_CLIENTS) -> None:
    """Wait until all clients of :func:`load` are at work."""
    count = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'load'"
    until(lambda: manager.query(count)[0][0] >= clients, "the load's clients are connected")
