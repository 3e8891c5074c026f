"""A start is tried before anything depends on it: before it, and before a running server stops."""

from __future__ import annotations

import os
import signal
from typing import Any

from tests.support import modules
from tests.support.manager import Manager, until
from tests.support.modules import Volumes


def broken_at_its_start(volumes: Volumes) -> bytes:
    """Return a module with nothing wrong that can be seen, which ends whoever initialises it."""
    content = (volumes.libraries / "auth_delay.so").read_bytes()
    return modules.with_fatal_code(content, "_PG_init")


def restart(manager: Manager) -> dict[str, Any]:
    code, operation = manager.ask("POST", "/v1/postgres/restart", Prefer="wait=60")
    assert code == 200, operation
    assert isinstance(operation, dict)
    return operation


def preload(manager: Manager, *names: str) -> None:
    """Ask for libraries, in the settings that a running manager has read again."""
    manager.settings["postgres"]["shared_preload_libraries"] = list(names)
    manager.write_settings()
    code, operation = manager.ask("POST", "/v1/postgres/reload", Prefer="wait=60")
    assert (code, operation["state"]) == (200, "succeeded")


def test_a_library_that_would_end_the_server_refuses_the_start(manager: Manager) -> None:
    """Not one that ends again and again: nothing was started, and the finding says why."""
    volumes = Volumes(manager)
    module = volumes.module("sample", broken_at_its_start(volumes))
    manager.settings["postgres"]["shared_preload_libraries"] = ["sample"]
    manager.start()
    status = manager.until_phase("failed")

    assert status["failure"]["exit_code"] == 3
    assert "EXT080" in status["failure"]["message"]
    assert status["postgres"]["restarts"] == 0
    report = manager.ask("GET", "/v1/extensions")[1]
    assert "EXT080" in [one["code"] for one in report["findings"]]

    module.write_bytes((volumes.libraries / "auth_delay.so").read_bytes())
    manager.ask("POST", "/v1/postgres/start")
    manager.until_ready()
    report = manager.ask("GET", "/v1/extensions")[1]
    assert "EXT080" not in [one["code"] for one in report["findings"]]


def test_a_restart_that_would_fail_leaves_the_server_running(manager: Manager) -> None:
    """The operation fails with what the server says; sessions notice nothing."""
    volumes = Volumes(manager)
    module = volumes.module("sample", (volumes.libraries / "auth_delay.so").read_bytes())
    manager.trust().settings["postgres"]["shared_preload_libraries"] = ["sample"]
    manager.start().until_ready()
    with manager.sql() as session:
        before = session.execute("select pg_postmaster_start_time(), pg_backend_pid()").fetchone()
        module.unlink()
        module.write_bytes(broken_at_its_start(volumes))

        operation = restart(manager)

        assert operation["state"] == "failed"
        assert operation["error"]["code"] == "preflight-refused"
        assert "EXT080" in operation["error"]["detail"]
        now = session.execute("select pg_postmaster_start_time(), pg_backend_pid()").fetchone()
        assert now == before
    status = manager.status()
    assert status is not None
    assert (status["phase"], status["desired"]) == ("running", "running")

    module.unlink()
    module.write_bytes((volumes.libraries / "auth_delay.so").read_bytes())
    assert restart(manager)["state"] == "succeeded"


def test_a_restart_into_a_configuration_that_the_server_refuses_is_not_begun(
    manager: Manager,
) -> None:
    """The server's own words, while the old one goes on."""
    manager.trust().start().until_ready()
    ((started,),) = manager.query("select pg_postmaster_start_time()")
    manager.settings["postgres"]["parameters"] = {
        "max_connections": "10",
        "superuser_reserved_connections": "20",
    }
    manager.write_settings()
    manager.ask("POST", "/v1/postgres/reload", Prefer="wait=60")

    operation = restart(manager)

    assert operation["state"] == "failed"
    assert "superuser_reserved_connections" in operation["error"]["detail"]
    assert manager.query("select pg_postmaster_start_time()") == [(started,)]


def test_a_trial_touches_nothing_of_the_running_server(manager: Manager) -> None:
    """Neither its files nor its shared memory, and leaves no directory behind."""
    volumes = Volumes(manager)
    module = volumes.module("sample", (volumes.libraries / "auth_delay.so").read_bytes())
    manager.trust().settings["postgres"]["shared_preload_libraries"] = ["sample"]
    manager.start().until_ready()
    manager.query("checkpoint")
    pid_file = manager.data / "postmaster.pid"
    before = pid_file.read_bytes(), pid_file.stat().st_mtime_ns, sorted(manager.data.iterdir())
    runtime = sorted(manager.socket.parent.iterdir())
    configuration = (manager.data / "instance-manager" / "postgresql.conf").read_bytes()
    module.unlink()
    module.write_bytes(broken_at_its_start(volumes))

    assert restart(manager)["state"] == "failed"

    after = pid_file.read_bytes(), pid_file.stat().st_mtime_ns, sorted(manager.data.iterdir())
    assert after == before
    assert sorted(manager.socket.parent.iterdir()) == runtime
    assert (manager.data / "instance-manager" / "postgresql.conf").read_bytes() == configuration
    assert manager.query("select 1") == [(1,)]


def test_the_users_own_files_are_part_of_the_trial(manager: Manager) -> None:
    """What postgresql.conf includes, relative paths too, is read as the start will read it."""
    manager.trust().start().until_ready()
    own = manager.data / "postgresql.conf"
    (manager.data / "conf.d").mkdir()
    (manager.data / "conf.d" / "more.conf").write_text("work_mem = 'nonsense'\n")
    text = own.read_text()
    own.write_text("include_dir 'conf.d'\n" + text)

    operation = restart(manager)

    assert operation["state"] == "failed"
    assert "work_mem" in operation["error"]["detail"]
    (manager.data / "conf.d" / "more.conf").write_text("work_mem = '5MB'\n")
    assert restart(manager)["state"] == "succeeded"
    manager.until_ready()
    assert manager.query("show work_mem") == [("5MB",)]


def test_a_start_without_preload_libraries_is_not_tried(manager: Manager) -> None:
    """It would only cost time: nothing of a volume runs in it."""
    manager.start().until_ready()
    text = manager.probe("metrics")[1]

    assert 'step="preflight"' in text
    assert 'step="rehearsal"' not in text


def test_what_was_tried_is_not_tried_again(manager: Manager) -> None:
    """What a restart has tried holds for the start that follows, and for one after a crash."""
    manager.settings["postgres"]["shared_preload_libraries"] = ["auth_delay"]
    manager.start().until_ready()
    stage = manager.socket.with_suffix(".rehearsal")
    assert not stage.exists()
    assert restart(manager)["state"] == "succeeded"
    status = manager.until_phase("running")

    stage.mkdir()
    (stage / "kept").touch()
    os.kill(status["postgres"]["pid"], signal.SIGKILL)

    def started_again() -> bool:
        seen = manager.status()
        return seen is not None and seen["postgres"]["restarts"] == 1

    until(started_again, "it is started again")
    manager.until_ready()
    assert (stage / "kept").exists()
