"""Faults that were made once and must never come back: kills, races, and what must not leak."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time

from tests.support.manager import Manager, until


def test_a_manager_killed_with_its_server_alive_is_replaced_without_a_second_postmaster(
    manager: Manager,
) -> None:
    """The old server is ended, never adopted, and its data is served by a new one."""
    manager.trust().start().until_ready()
    manager.query("CREATE TABLE kept AS SELECT 1")
    assert manager.process is not None
    manager.process.kill()
    manager.process.wait()
    old = set(manager.postgres_processes())
    assert old
    manager.start().until_ready()

    assert not old & set(manager.postgres_processes())
    assert manager.query("SELECT count(*) FROM kept") == [(1,)]
    assert manager.end() == 0


def test_a_frozen_backend_of_a_killed_postmaster_does_not_block_the_restart(
    manager: Manager,
) -> None:
    """Whoever still holds the old shared memory is ended before the next start."""
    manager.trust().start().until_ready()
    with manager.sql() as connection:
        backend = connection.info.backend_pid
        os.kill(backend, signal.SIGSTOP)
        postmaster = manager.until_phase("running")["postgres"]["pid"]
        os.kill(postmaster, signal.SIGKILL)

        def replaced() -> bool:
            status = manager.status()
            return status is not None and status["postgres"]["pid"] not in (None, postmaster)

        until(replaced, "a new postmaster was started")
        connection.close()
    manager.until_ready()
    assert backend not in manager.postgres_processes()
    assert manager.until_phase("running")["failure"] is None


def test_what_commands_of_the_server_say_does_not_reach_the_status(manager: Manager) -> None:
    """Only the postmaster's own messages are shown; an archive command may say anything."""
    manager.settings["postgres"]["parameters"] = {
        "archive_mode": "on",
        "archive_command": "echo a-secret-of-the-archive >&2; false",
    }
    manager.trust().start().until_ready()
    manager.query("SELECT pg_switch_wal()")
    until(lambda: "a-secret-of-the-archive" in manager.logged(), "the command has failed")
    os.kill(manager.until_phase("running")["postgres"]["pid"], signal.SIGKILL)

    def ended() -> bool:
        status = manager.status()
        return status is not None and status["postgres"]["last_exit"] is not None

    until(ended, "the end is in the status")
    assert "a-secret-of-the-archive" not in str(manager.status())


def test_a_cluster_that_prefers_other_dates_is_observed_like_any_other(manager: Manager) -> None:
    """The manager's own connection does not depend on the cluster's preferences."""
    manager.settings["postgres"]["parameters"] = {"datestyle": "SQL, DMY"}
    manager.trust().start().until_ready()

    def observed() -> bool:
        status = manager.status()
        return status is not None and status["postgres"]["started_at"] is not None

    until(observed, "the start time was read")
    assert "fault of the manager" not in manager.logged()


def test_int_after_term_does_not_cost_a_crash_recovery(manager: Manager) -> None:
    """INT asks for a fast stop; where that is under way already, nothing gets harder."""
    manager.trust().start().until_ready()
    assert manager.process is not None
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGINT):
        manager.process.send_signal(number)

    assert manager.wait() == 0


def test_reloads_beside_restarts_harm_nobody(manager: Manager) -> None:
    """Many callers at once: every operation ends, and the API answers all the while."""
    manager.trust().start().until_ready()
    end = time.monotonic() + 4
    outcomes: set[str] = set()

    def call(path: str) -> None:
        while time.monotonic() < end:
            code, operation = manager.ask("POST", f"/v1/postgres/{path}", Prefer="wait=60")
            outcome = operation["state"] if code in (200, 202) else str(code)
            outcomes.add(outcome if outcome in {"succeeded", "409"} else str(operation))

    callers = [
        threading.Thread(target=call, args=(path,)) for path in ("reload", "reload", "restart")
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    manager.until_ready()

    assert outcomes <= {"succeeded", "409"}
    assert "fault of the manager" not in manager.logged()


def test_a_reload_writes_what_only_a_restart_can_apply_and_shows_it(manager: Manager) -> None:
    """A changed preload list waits for a restart, with both values in the status."""
    manager.trust().start().until_ready()
    manager.settings["postgres"]["shared_preload_libraries"] = ["auto_explain"]
    manager.write_settings()
    code, operation = manager.ask("POST", "/v1/postgres/reload", Prefer="wait=60")
    assert (code, operation["state"]) == (200, "succeeded")

    def waiting() -> list[dict[str, str]]:
        status = manager.status()
        return status["configuration"]["pending_restart"] if status else []

    assert until(waiting, "the parameter waits for a restart") == [
        {"name": "shared_preload_libraries", "running": "", "configured": "auto_explain"}
    ]
    code, operation = manager.ask("POST", "/v1/postgres/restart", Prefer="wait=60")
    assert (code, operation["state"]) == (200, "succeeded")
    assert manager.query("SHOW shared_preload_libraries") == [("auto_explain",)]


def test_mended_settings_bring_a_failed_start_back(manager: Manager) -> None:
    """In the phase failed, a signal to reload reads the settings and tries again."""
    manager.settings["extensions"]["volumes"] = [{"name": "missing", "required": True}]
    manager.trust().start()
    manager.until_phase("failed")
    manager.settings["extensions"]["volumes"] = []
    manager.write_settings()
    assert manager.process is not None
    manager.process.send_signal(signal.SIGHUP)

    manager.until_ready()


def test_a_stopped_server_is_not_said_to_run(manager: Manager) -> None:
    """What the last server said does not hold once it has ended."""
    manager.trust().start().until_ready()
    until(lambda: "pg_up 1.0" in manager.probe("metrics")[1], "the metrics say up")
    code, _ = manager.ask("POST", "/v1/postgres/stop", Prefer="wait=60")
    assert code == 200

    assert "pg_up 0.0" in manager.probe("metrics")[1]
    status = manager.until_phase("stopped")
    assert status["configuration"]["loaded"] is False
    assert status["postgres"]["role"] is None


def test_a_stale_pid_file_that_names_a_live_process_does_not_block_the_start(
    manager: Manager,
) -> None:
    """Pids repeat: the lock tells who uses the directory, not a number in a file."""
    manager.trust().start().until_ready()
    content = (manager.data / "postmaster.pid").read_text().splitlines()
    assert manager.end() == 0
    stale = manager.data / "postmaster.pid"
    owner = manager.data.stat()
    with subprocess.Popen(["sleep", "600"], user=owner.st_uid) as other:
        stale.write_text("\n".join([str(other.pid), *content[1:]]) + "\n")
        os.chown(stale, owner.st_uid, owner.st_gid)
        manager.start().until_ready()
        assert manager.end() == 0
        other.kill()
