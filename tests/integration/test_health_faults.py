"""Readiness while something is wrong, by each strategy; liveness never minds."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from instance_manager.health.verdicts import HEARTBEAT_LIMIT_SECONDS
from instance_manager.postgres.embedded import Demonstration
from tests.support import blocking_program
from tests.support.manager import Manager, until
from tests.support.plain_server import run_as

PERIOD_SECONDS = 0.3
USUAL_PERIOD_SECONDS = 1.0
"""Where readiness must last: three shorter ones may go by on a busy host without an answer."""
STEADY_PERIODS = 4
"""Longer than what was seen before may count."""


def ready(manager: Manager, path: str = "readyz") -> bool:
    """Return whether the instance says that it is ready; it says that it lives, in any case."""
    assert manager.probe("livez") == (200, "ok\n")
    status, _ = manager.probe(path)
    assert status in (200, 503)
    return status == 200


def until_ready_is(manager: Manager, expected: bool, path: str = "readyz") -> None:
    until(lambda: ready(manager, path) is expected, f"{path} says {expected}")


def stays(manager: Manager, expected: bool) -> None:
    """Look for longer than the answers of before the fault may count."""
    end = time.monotonic() + STEADY_PERIODS * manager.settings["health"]["period_seconds"]
    while time.monotonic() < end:
        assert ready(manager) is expected, manager.ask("GET", "/readyz", Accept="application/json")
        time.sleep(0.02)


def reasons(manager: Manager) -> dict[str, Any]:
    """Return why each check fails, as the control socket says."""
    _, report = manager.ask("GET", "/readyz", Accept="application/json")
    return {check["name"]: check["message"] for check in report["checks"]}


@contextmanager
def frozen(*pids: int) -> Iterator[None]:
    """Stop processes, and let them go on afterwards."""
    # Sessions of the manager end by themselves, and one may have ended since it was listed.
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def reserved_backend(manager: Manager) -> int:
    """Return the process behind the manager's own connection."""

    def found() -> list[tuple[Any, ...]]:
        return manager.query(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'instance-manager'"
            " AND state = 'idle' AND query LIKE '%pg_is_in_recovery%'"
        )

    return int(until(found, "the manager's connection is seen")[0][0])


def is_room_for_one_more(manager: Manager, sessions: ExitStack) -> bool:
    """Open one more session, if the server lets it in."""
    try:
        sessions.enter_context(manager.sql())
    except psycopg.OperationalError as error:
        if "too many clients" not in str(error):
            raise
        return False
    return True


Starting = Callable[..., Manager]


@pytest.fixture
def started(manager: Manager) -> Starting:
    """Return what starts the manager with a strategy."""

    def start(readiness: str, period: float = PERIOD_SECONDS, **parameters: str) -> Manager:
        manager.settings["health"] |= {"readiness": readiness, "period_seconds": period}
        manager.settings["postgres"]["parameters"] = parameters
        return manager.trust().start().until_ready()

    return start


@pytest.mark.parametrize("whom", ["all", "postmaster"])
@pytest.mark.parametrize("readiness", ["accepting", "query", "streaming"])
def test_a_frozen_server_is_not_ready_until_it_goes_on(
    started: Starting, whom: str, readiness: str
) -> None:
    """All of it, and its postmaster alone, while a connection that is held still answers."""
    manager = started(readiness)
    postmaster = manager.until_phase("running")["postgres"]["pid"]
    with manager.sql() as held:
        victims = manager.postgres_processes() if whom == "all" else [postmaster]
        with frozen(*victims):
            until_ready_is(manager, False)
            if whom == "postmaster":
                assert held.execute("SELECT 1").fetchone() == (1,)
            stays(manager, False)
            # Between two questions, and while one waits for its answer.
            assert reasons(manager)["postgres"].startswith(
                ("the postmaster is silent", "the last answer is")
            )
        until_ready_is(manager, True)


@pytest.mark.parametrize("readiness", ["accepting", "query"])
def test_a_server_without_a_free_connection_is_ready(started: Starting, readiness: str) -> None:
    """It serves those that are there; the manager asks over the one that it keeps."""
    manager = started(readiness, USUAL_PERIOD_SECONDS, max_connections="10")
    reserved_backend(manager)
    with ExitStack() as sessions:
        while is_room_for_one_more(manager, sessions):
            pass
        stays(manager, True)


@pytest.mark.parametrize("readiness", ["accepting", "query"])
def test_a_query_that_is_not_answered_counts_only_where_queries_count(
    started: Starting, readiness: str
) -> None:
    """The process behind the manager's connection hangs; new connections are accepted."""
    manager = started(readiness, USUAL_PERIOD_SECONDS)
    with frozen(reserved_backend(manager)):
        if readiness == "accepting":
            stays(manager, True)
            # As long as a question may take, and a new one after it.
            end = time.monotonic() + 7
            while time.monotonic() < end:
                assert ready(manager)
                time.sleep(0.05)
        else:
            until_ready_is(manager, False)
            stays(manager, False)
            assert "query" in reasons(manager)["postgres"]
    until_ready_is(manager, True)


def test_a_lost_connection_of_the_manager_is_replaced(started: Starting) -> None:
    """A backend that is ended costs a period."""
    manager = started("query")
    before = reserved_backend(manager)
    manager.query(f"SELECT pg_terminate_backend({before})")

    # The server shows the old one until it has ended.
    until(lambda: reserved_backend(manager) != before, "there is another one")
    until_ready_is(manager, True)


def test_a_manager_whose_loop_stands_still_gives_no_sign_of_life(started: Starting) -> None:
    """No probe is answered for it by anything else, and all are once it goes on."""
    manager = started("accepting")
    assert manager.process is not None
    with frozen(manager.process.pid), pytest.raises(TimeoutError):
        answer_of(manager, "livez", seconds=1)
    until(lambda: manager.probe("livez")[0] == 200, "the manager lives")
    until_ready_is(manager, True)


class BlockingManager(Manager):
    """One whose loop can be made to stand still."""

    SECONDS = HEARTBEAT_LIMIT_SECONDS + 2

    def command(self, *arguments: str) -> list[str]:
        """Return a command line of the program, with what blocks its loop."""
        program = Path(blocking_program.__file__)
        given = ["--config", str(self.config), *arguments]
        return [sys.executable, str(program), str(self.SECONDS), *given]

    def block(self) -> None:
        """Have the loop stand still from now on."""
        assert self.process is not None
        self.process.send_signal(blocking_program.SIGNAL)
        until(self._is_silent, "the loop stands still")

    def _is_silent(self) -> bool:
        try:
            answer_of(self, "livez", seconds=0.5)
        except TimeoutError:
            return True
        return False


def answer_of(manager: Manager, path: str, seconds: float) -> tuple[int, str]:
    """Ask as the kubelet does: no answer within its timeout is a failure, here a TimeoutError."""
    connection = http.client.HTTPConnection("127.0.0.1", manager.health_port, timeout=seconds)
    try:
        connection.request("GET", f"/{path}", headers={"Connection": "close"})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_a_loop_that_is_blocked_for_too_long_fails_liveness_until_it_goes_on(
    workspace: Path, server: Demonstration
) -> None:
    """No answer meanwhile, then one bad one from before the next heartbeat; postgres serves."""
    manager = BlockingManager(workspace, server)
    manager.settings["health"]["period_seconds"] = PERIOD_SECONDS
    try:
        manager.trust().start().until_ready()
        before = manager.until_phase("running")["postgres"]
        with manager.sql() as held:
            manager.block()
            assert held.execute("SELECT 1").fetchone() == (1,)
            assert manager.query("SELECT 1") == [(1,)]

            waited = answer_of(manager, "livez", seconds=60)

        assert waited == (503, "[-]heartbeat failed: reason withheld\nlivez check failed\n")
        until(lambda: manager.probe("livez") == (200, "ok\n"), "the manager lives")
        until_ready_is(manager, True)
        after = manager.until_phase("running")["postgres"]
        assert (after["pid"], after["restarts"]) == (before["pid"], before["restarts"])
        assert manager.end() == 0
    finally:
        manager.clean_up()


@pytest.fixture
def standby(manager: Manager, workspace: Path) -> Iterator[Manager]:
    """Yield the manager of a standby that streams from *manager*'s server."""
    manager.settings["postgres"]["hba"] = [
        "host all all 127.0.0.1/32 trust",
        "host replication all 127.0.0.1/32 trust",
    ]
    manager.start().until_ready()
    place = workspace / "standby"
    place.mkdir()
    os.chown(place, workspace.stat().st_uid, workspace.stat().st_gid)
    other = Manager(place, manager.server)
    made = subprocess.run(
        [
            str(manager.server.bin_directory / "pg_basebackup"),
            *("-h", "127.0.0.1", "-p", str(manager.port), "-U", "postgres"),
            *("-D", str(other.data), "-R", "-X", "stream", "-c", "fast"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        **run_as(),
    )
    assert made.returncode == 0, made.stderr
    other.settings["postgres"]["parameters"] = {
        "wal_receiver_timeout": "3s",
        "wal_retrieve_retry_interval": "100ms",
    }
    other.settings["health"] |= {
        "readiness": "streaming",
        "period_seconds": USUAL_PERIOD_SECONDS,
    }
    try:
        yield other.trust().start().until_ready()
    finally:
        other.clean_up()


def test_a_standby_is_ready_while_it_streams(manager: Manager, standby: Manager) -> None:
    """Its primary may be idle, hang, be gone, and come back; a query is answered all the while."""
    assert standby.query("SELECT pg_is_in_recovery()") == [(True,)]
    end = time.monotonic() + 5
    while time.monotonic() < end:
        assert ready(standby), reasons(standby)
        time.sleep(0.05)

    with frozen(*manager.postgres_processes()):
        until_ready_is(standby, False)
        assert standby.query("SELECT 1") == [(1,)]
        stays(standby, False)
    until_ready_is(standby, True)

    code, _ = manager.ask("POST", "/v1/postgres/stop", Prefer="wait=60")
    assert code == 200
    until_ready_is(standby, False)
    assert "WAL receiver" in reasons(standby)["postgres"]
    stays(standby, False)
    code, _ = manager.ask("POST", "/v1/postgres/start", Prefer="wait=60")
    assert code == 200
    until_ready_is(standby, True)


def test_a_standby_that_is_too_far_behind_is_not_ready(manager: Manager, standby: Manager) -> None:
    """What was received and waits for its replay counts, and its end is noticed."""
    standby.settings["health"] |= {"readiness": "accepting", "maximum_lag_bytes": 100_000}
    standby.write_settings()
    assert standby.end() == 0
    standby.start().until_ready()
    standby.query("SELECT pg_wal_replay_pause()")
    manager.query("CREATE TABLE filler AS SELECT repeat('x', 500) FROM generate_series(1, 5000)")

    until_ready_is(standby, False, "readyz/lag")
    assert ready(standby, "readyz/postgres")
    assert "bytes behind, allowed 100000" in reasons(standby)["lag"]
    metrics = standby.probe("metrics")[1]
    assert json.loads(metrics.split("pg_replay_lag_bytes ")[-1].split("\n")[0].split(".")[0])
    standby.query("SELECT pg_wal_replay_resume()")
    until_ready_is(standby, True)
