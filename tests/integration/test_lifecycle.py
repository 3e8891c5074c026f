"""Signals, stops, restarts and kills, with a real postmaster."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from tests.support.manager import Manager, until

LEFT_CLEAN = "shut down"


def cluster_state(manager: Manager) -> str:
    """Return what pg_controldata says of the cluster."""
    tool = manager.server.bin_directory / "pg_controldata"
    said = subprocess.run([tool, manager.data], capture_output=True, text=True, check=True).stdout
    lines = dict(line.split(":", 1) for line in said.splitlines())
    return lines["Database cluster state"].strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_end_stops_postgres_cleanly(manager: Manager, number: signal.Signals) -> None:
    """TERM and INT end with 0, and the control file says shut down."""
    manager.trust().start().until_ready()

    assert manager.end(number) == 0
    assert cluster_state(manager) == LEFT_CLEAN
    assert manager.postgres_processes() == []


def test_quit_stops_at_once_and_says_that_recovery_will_run(manager: Manager) -> None:
    """An immediate stop is not a clean one: the exit code is 8."""
    manager.trust().start().until_ready()

    assert manager.end(signal.SIGQUIT) == 8
    assert cluster_state(manager) == "in production"


def test_a_session_does_not_keep_postgres_from_a_fast_stop(manager: Manager) -> None:
    """The default ladder begins with fast: sessions are ended."""
    manager.trust().start().until_ready()
    with manager.sql():
        assert manager.end() == 0


def test_a_second_term_goes_one_rung_further(manager: Manager) -> None:
    """A smart stop that waits for a session is hastened by a second signal."""
    manager.settings["shutdown"] = {"smart_seconds": 3600}
    manager.trust().start().until_ready()
    with manager.sql():
        assert manager.process is not None
        manager.process.send_signal(signal.SIGTERM)
        until(lambda: "smart" in manager.logged(), "the smart stop has begun")

        assert manager.end() == 0


def test_stop_and_start_over_the_api(manager: Manager) -> None:
    """A stop is an operation that ends stopped; a start brings the server back."""
    manager.trust().start().until_ready()
    code, stopped = manager.ask("POST", "/v1/postgres/stop", Prefer="wait=60")
    assert (code, stopped["state"]) == (200, "succeeded")
    status = manager.until_phase("stopped")
    assert (status["desired"], status["postgres"]["pid"]) == ("stopped", None)
    assert manager.probe("livez")[0] == 200
    assert manager.probe("startupz")[0] == 200
    assert manager.probe("readyz")[0] == 503

    code, started = manager.ask("POST", "/v1/postgres/start", Prefer="wait=60")
    assert (code, started["state"]) == (200, "succeeded")
    manager.until_ready()


def test_asking_for_what_already_holds_succeeds_at_once(manager: Manager) -> None:
    """A start of a running server is done when it is asked for."""
    manager.trust().start().until_ready()
    code, operation = manager.ask("POST", "/v1/postgres/start", Prefer="wait=60")

    assert (code, operation["state"]) == (200, "succeeded")


def test_a_restart_gives_a_new_postmaster(manager: Manager) -> None:
    """After a restart another process serves the same data."""
    manager.trust().start().until_ready()
    before = manager.until_phase("running")["postgres"]["pid"]
    code, operation = manager.ask(
        "POST", "/v1/postgres/restart", {"mode": "fast"}, Prefer="wait=60"
    )

    assert (code, operation["state"]) == (200, "succeeded")
    after = manager.until_phase("running")["postgres"]
    assert after["pid"] != before
    assert after["restarts"] == 0


def test_a_second_lifecycle_operation_is_a_conflict_that_names_the_first(
    manager: Manager,
) -> None:
    """Two restarts at once: one goes on, the other one is told its id."""
    manager.settings["shutdown"] = {"smart_seconds": 3600}
    manager.trust().start().until_ready()
    with manager.sql():
        code, first = manager.ask("POST", "/v1/postgres/restart", {"mode": "smart"})
        assert code == 202
        code, problem = manager.ask("POST", "/v1/postgres/restart")
        assert (code, problem["operation"]) == (409, first["id"])
    until(
        lambda: manager.ask("GET", f"/v1/operations/{first['id']}")[1]["state"] == "succeeded",
        "the first restart goes on when the session has ended",
    )


def test_a_reload_applies_a_changed_settings_file(manager: Manager) -> None:
    """HUP reads the settings again, and the server loads what needs no restart."""
    manager.trust().start().until_ready()
    manager.settings["postgres"]["parameters"] = {"work_mem": "7MB"}
    manager.write_settings()
    assert manager.process is not None
    manager.process.send_signal(signal.SIGHUP)

    until(lambda: manager.query("SHOW work_mem") == [("7MB",)], "the new value is loaded")


def test_broken_settings_at_a_reload_change_nothing(manager: Manager) -> None:
    """A typo is reported, and the server runs on with what it has."""
    manager.trust().start().until_ready()
    manager.config.write_text("postgres: {prot: 5432}")
    assert manager.process is not None
    manager.process.send_signal(signal.SIGHUP)
    until(lambda: "'postgres.port'" in manager.logged(), "the log names the key that was meant")

    assert manager.query("SHOW port") == [(str(manager.port),)]


def test_a_killed_postmaster_is_started_again_and_loses_nothing(manager: Manager) -> None:
    """After kill -9 the same data is served by a new postmaster, and the status counts it."""
    manager.trust().start().until_ready()
    manager.query("CREATE TABLE kept AS SELECT 1")
    before = manager.until_phase("running")["postgres"]["pid"]
    os.kill(before, signal.SIGKILL)

    def replaced() -> bool:
        status = manager.status()
        return (
            status is not None
            and status["phase"] == "running"
            and (status["postgres"]["pid"] not in (before, None))
        )

    until(replaced, "a new postmaster runs")
    manager.until_ready()
    postgres = manager.until_phase("running")["postgres"]
    assert postgres["restarts"] == 1
    assert postgres["last_exit"]["signal"] == "SIGKILL"
    assert manager.query("SELECT count(*) FROM kept") == [(1,)]


def test_a_crash_of_a_backend_is_left_to_postgres(manager: Manager) -> None:
    """What the postmaster recovers from itself is no restart of ours."""
    manager.trust().start().until_ready()
    with manager.sql() as connection:
        backend = connection.info.backend_pid
        os.kill(backend, signal.SIGKILL)
        until(lambda: "terminating any other active server processes" in manager.logged(), "crash")
        connection.close()
    manager.until_ready()

    assert manager.until_phase("running")["postgres"]["restarts"] == 0


def test_a_signal_at_any_early_moment_ends_the_manager_without_harm(manager: Manager) -> None:
    """Whatever it was doing, TERM ends it, and the next start serves."""
    manager.trust().write_settings()
    for milliseconds in (0, 60, 120, 180, 240, 300, 450, 700):
        # The front door blocks signals itself; as PID 1 the image's entrypoint did so before.
        manager.start()
        timer = threading.Event()
        timer.wait(milliseconds / 1000)
        is_protected = keeps_term(manager)
        code = manager.end()

        assert code in (0, -signal.SIGTERM), manager.logged()
        assert code == 0 or not is_protected, "the interpreter is up, and its mask stands"
    manager.start()
    until(lambda: keeps_term(manager), "the interpreter is up, and its mask stands")
    assert manager.end() == 0
    manager.start().until_ready()


def keeps_term(manager: Manager) -> bool:
    """Whether TERM is blocked or has a handler: the interpreter of a busy host is up late."""
    assert manager.process is not None
    status = Path(f"/proc/{manager.process.pid}/status").read_text(encoding="utf-8")
    masks = [line.split()[1] for line in status.splitlines() if line[:7] in {"SigBlk:", "SigCgt:"}]
    return any(int(mask, 16) & 1 << signal.SIGTERM - 1 for mask in masks)


def test_the_environment_of_postgres_holds_nothing_of_the_manager(manager: Manager) -> None:
    """Settings, secrets and notification sockets stay with the manager."""
    manager.environment = {
        "INSTANCE_MANAGER_LOG__LEVEL": "info",
        "NOTIFY_SOCKET": "/run/notify",
        "POSTGRES_PASSWORD": "a-secret-of-the-test",
        "LANG": "C.UTF-8",
    }
    manager.trust().start().until_ready()
    pid = manager.until_phase("running")["postgres"]["pid"]
    content = Path(f"/proc/{pid}/environ").read_bytes().decode()

    assert "INSTANCE_MANAGER" not in content
    assert "NOTIFY_SOCKET" not in content
    assert "a-secret-of-the-test" not in content
    assert "LANG=C.UTF-8" in content
    assert manager.process is not None
    own = Path(f"/proc/{manager.process.pid}/environ").read_bytes().decode()
    assert "a-secret-of-the-test" not in own
    assert "a-secret-of-the-test" not in manager.logged()
