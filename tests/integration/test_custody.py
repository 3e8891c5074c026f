"""The data directory under a running server: what is taken away, and what comes of it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg

from instance_manager.custody import Custody
from instance_manager.observability.events import Events
from instance_manager.postgres.server_processes import processes_of
from instance_manager.postgres.stop_waits import ProcessKind
from instance_manager.supervision.children import Child, ExitStatus
from instance_manager.supervision.states import State
from tests.support.figures import Figures
from tests.support.manager import Manager, until

LATEST_SECONDS = 30
"""The server itself ends within 60, and it is looked at every 2."""


def test_a_pid_file_that_is_removed_is_put_back(
    manager: Manager, times: Callable[[int, int], int], figures: Figures
) -> None:
    """Else the server would end itself within a minute; clients notice nothing."""
    manager.trust().start().until_ready()
    pid_file = manager.data / "postmaster.pid"
    postmaster = manager.until_phase("running")["postgres"]["pid"]
    until(lambda: "ready" in pid_file.read_text(), "the server has written all of it")
    lines = pid_file.read_text().splitlines()
    with manager.sql() as session:
        # At first it may be seen at once; after a look, the next one takes its time.
        for _ in range(times(2, 20)):
            pid_file.unlink()
            began = time.monotonic()
            # It is made, and written at once after that.
            until(
                lambda: pid_file.exists() and pid_file.read_text(),
                "the file is there again",
                LATEST_SECONDS,
            )
            figures.add("13 postmaster.pid removed", detect_seconds=time.monotonic() - began)

            # All but the last, which tells how far the server was when it was looked at.
            assert pid_file.read_text().splitlines()[:-1] == lines[:-1]
        figures.require("13 postmaster.pid removed", detect_seconds=5)
        assert session.execute("SELECT 1").fetchone() == (1,)
    _, events = manager.ask("GET", "/v1/events")
    assert "PidFileRestored" in [event["reason"] for event in events["items"]]
    assert manager.until_phase("running")["postgres"]["pid"] == postmaster
    assert manager.end() == 0


def test_the_pid_file_of_a_server_that_has_ended_is_not_put_back(tmp_path: Path) -> None:
    """It looks like one that runs until it is known why it has ended."""
    (tmp_path / "PG_VERSION").write_text("18\n")

    async def watch() -> list[str]:
        ending = asyncio.get_running_loop().create_future()
        ending.set_result(ExitStatus(code=0))
        events = Events(now=lambda: datetime.now(UTC))

        class Tenant:
            def has_own_lock(self) -> bool:
                return True

        class Started:
            place = SimpleNamespace(data_directory=tmp_path)
            tenancy = Tenant()

        class Supervised:
            state = State.RUNNING
            postmaster = Child("postgres", 4194303, ending)

        unused: Any = None
        startup: Any = Started()
        supervisor: Any = Supervised()
        custody = Custody(startup, supervisor, unused, events)
        watching = asyncio.create_task(custody._watch_one_server())  # noqa: SLF001 - once
        await asyncio.sleep(0)
        Supervised.state = State.BACKOFF
        await watching
        return [event.reason for event in events.recent()]

    assert asyncio.run(watch()) == []
    assert not (tmp_path / "postmaster.pid").exists()


def test_a_pid_file_of_another_server_stops_ours(manager: Manager) -> None:
    """Somebody who does not keep to the lock is there: never two servers, and nobody retries."""
    manager.trust().start().until_ready()
    pid_file = manager.data / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    until(lambda: "wal_since" in manager.probe("metrics")[1], "the manager has looked")
    pid_file.write_text("\n".join(["4194303", *lines[1:]]) + "\n")
    failure = manager.until_phase("failed")["failure"]

    assert (failure["code"], failure["exit_code"]) == ("data-directory-in-use", 7)
    assert "names another server" in failure["message"]
    # The collector of its log ends when it has read the last line.
    until(lambda: not manager.postgres_processes(), "every process of the server is gone")
    assert manager.probe("livez")[0] == 200
    assert manager.end() == 7


def test_a_pid_file_of_another_server_is_seen_at_the_first_look(manager: Manager) -> None:
    """It may have been there before anybody looked."""
    manager.trust().start()
    pid_file = manager.data / "postmaster.pid"
    until(pid_file.exists, "the server has begun")

    def replace_pid() -> bool:
        lines: list[str] = []
        # The server removes it at its end.
        with suppress(FileNotFoundError):
            lines = pid_file.read_text().splitlines()
        if len(lines) > 1 and lines[0] != "4194303":
            pid_file.write_text("\n".join(["4194303", *lines[1:]]) + "\n")
        status = manager.status()
        return status is not None and status["phase"] == "failed"

    until(replace_pid, "the phase is failed")
    assert manager.until_phase("failed")["failure"]["code"] == "data-directory-in-use"
    # The collector of its log ends when it has read the last line.
    until(lambda: not manager.postgres_processes(), "every process of the server is gone")


def test_a_directory_that_can_not_be_looked_at_for_a_moment_costs_nothing(
    manager: Manager,
) -> None:
    """What can't be told is no loss; the server runs on."""
    parent = manager.directory / "parent"
    parent.mkdir()
    owner = manager.directory.stat()
    os.chown(parent, owner.st_uid, owner.st_gid)
    manager.data = parent / "data"
    manager.settings["postgres"]["data_directory"] = str(manager.data)
    manager.trust().start().until_ready()
    postmaster = manager.until_phase("running")["postgres"]["pid"]
    parent.chmod(0)
    try:
        until(lambda: "cannot look at the data directory" in manager.logged(), "it was tried")
    finally:
        parent.chmod(0o700)

    assert manager.until_phase("running")["postgres"]["pid"] == postmaster
    assert manager.end() == 0


def test_a_data_directory_that_is_removed_is_never_made_anew(manager: Manager) -> None:
    """The worst would be an empty cluster in the place of the data."""
    manager.trust().start().until_ready()
    shutil.rmtree(manager.data)
    failure = manager.until_phase("failed")["failure"]
    assert (failure["code"], failure["exit_code"]) == ("data-directory-lost", 7)

    code, operation = manager.ask("POST", "/v1/postgres/start", Prefer="wait=60")
    assert (code, operation["state"]) == (200, "failed")
    assert operation["error"]["code"] == "data-directory-lost"
    assert not (manager.data / "PG_VERSION").exists()
    assert manager.end() == 7


def test_a_data_directory_that_comes_back_is_served_again(manager: Manager) -> None:
    """Mounted or moved back, it comes up by itself."""
    manager.trust().start().until_ready()
    manager.query("CREATE TABLE kept AS SELECT 42 AS answer")
    elsewhere = manager.directory / "elsewhere"
    manager.data.rename(elsewhere)
    manager.until_phase("failed")
    elsewhere.rename(manager.data)
    manager.until_ready()

    assert manager.query("SELECT answer FROM kept") == [(42,)]
    assert manager.end() == 0


def test_a_lock_that_is_taken_away_stops_the_server(manager: Manager) -> None:
    """Without it another container could start a second one; with a new lock, it is back."""
    manager.trust().start().until_ready()
    (manager.data / "instance-manager" / "lock").unlink()
    failure = manager.until_phase("failed")["failure"]
    assert failure["code"] == "data-directory-lost"

    manager.until_ready()
    assert manager.end() == 0


def kill_startup(manager: Manager, postmaster: int) -> None:
    """Crash the server by a backend's end, and kill the process that begins to recover it.

    Where the recovery was over before it was seen, it is made again.
    """

    def killed() -> bool:
        for process in processes_of(postmaster):
            if process.kind is ProcessKind.STARTUP:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
                    return True
        return False

    def crashed_and_killed() -> bool:
        with suppress(psycopg.OperationalError), manager.sql() as session:
            os.kill(session.info.backend_pid, signal.SIGKILL)
        while not (was_killed := killed()):
            with suppress(psycopg.OperationalError), manager.sql():
                break
        return was_killed

    until(crashed_and_killed, "the startup process was there")


def test_a_recovery_that_nobody_performs_is_ended(manager: Manager) -> None:
    """A postmaster whose startup process is killed early in a crash recovery waits for ever."""
    manager.trust().start().until_ready()
    manager.query("CREATE TABLE kept AS SELECT generate_series(1, 100000)")
    postmaster = manager.until_phase("running")["postgres"]["pid"]
    kill_startup(manager, postmaster)

    def replaced() -> bool:
        status = manager.status()
        return status is not None and status["postgres"]["pid"] not in (None, postmaster)

    until(replaced, "another postmaster recovers")
    manager.until_ready()
    _, events = manager.ask("GET", "/v1/events")
    assert "RecoveryStuck" in [event["reason"] for event in events["items"]]
    assert manager.query("SELECT count(*) FROM kept") == [(100000,)]
    assert manager.end() == 0


def test_a_server_that_crashes_in_each_recovery_is_given_up(manager: Manager) -> None:
    """Postgres itself would go on for ever: the end is the phase failed, as for any crash loop."""
    manager.trust().start().until_ready()
    manager.query("CREATE TABLE kept AS SELECT 42 AS answer")
    postmaster = manager.until_phase("running")["postgres"]["pid"]

    def given_up() -> bool:
        for process in processes_of(postmaster):
            if process.kind is ProcessKind.CHECKPOINTER:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
        status = manager.status()
        return status is not None and status["phase"] == "failed"

    until(given_up, "the phase is failed")
    failure = manager.until_phase("failed")["failure"]
    assert (failure["code"], failure["exit_code"]) == ("crash-loop", 6)
    code, operation = manager.ask("POST", "/v1/postgres/start", Prefer="wait=60")
    assert (code, operation["state"]) == (200, "succeeded")
    assert manager.query("SELECT answer FROM kept") == [(42,)]
    assert manager.end() == 0
