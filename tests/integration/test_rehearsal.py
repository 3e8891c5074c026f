"""A start is tried before anything depends on it: before it, and before a running server stops."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
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
    """The server's own words, while the old one goes on; here it is the directory's own file."""
    manager.trust().start().until_ready()
    ((started,),) = manager.query("select pg_postmaster_start_time()")
    own = manager.data / "postgresql.conf"
    own.write_text(f"superuser_reserved_connections = 200\n{own.read_text()}")

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


def test_libraries_that_have_worked_are_not_tried_again(manager: Manager) -> None:
    """A server that crashed is back without a trial; one with another library is tried."""
    volumes = Volumes(manager)
    good = (volumes.libraries / "auth_delay.so").read_bytes()
    module = volumes.module("sample", good)
    manager.settings["postgres"]["shared_preload_libraries"] = ["sample"]
    manager.start().until_ready()
    # Where a file is, no stage can be set.
    stage_of(manager).touch()
    crash(manager, restarts=1)
    assert "not tried" not in manager.logged()

    module.unlink()
    module.write_bytes(good)
    crash(manager, restarts=2)
    assert "the start was not tried before" in manager.logged()


def test_a_restart_is_tried_each_time(manager: Manager) -> None:
    """What one has tried says nothing of the user's own files as they are later."""
    manager.trust().start().until_ready()
    assert restart(manager)["state"] == "succeeded"
    started = manager.query("select pg_postmaster_start_time()")
    own = manager.data / "postgresql.conf"
    own.write_text("wal_level = 'nonsense'\n" + own.read_text())

    operation = restart(manager)

    assert operation["state"] == "failed"
    assert "wal_level" in operation["error"]["detail"]
    assert manager.query("select pg_postmaster_start_time()") == started


def test_files_of_users_may_be_named_like_the_servers_own(manager: Manager) -> None:
    """What the start will read, the trial reads."""
    manager.trust().start().until_ready()
    (manager.data / "pg_tuning.conf").write_text("work_mem = '8MB'\n")
    own = manager.data / "postgresql.conf"
    own.write_text("include 'pg_tuning.conf'\n" + own.read_text())

    assert restart(manager)["state"] == "succeeded"
    manager.until_ready()
    assert manager.query("show work_mem") == [("8MB",)]


def test_the_finding_is_gone_with_a_start_that_succeeds(manager: Manager) -> None:
    """Also where that start was not tried before."""
    manager.start().until_ready()
    own = manager.data / "postgresql.conf"
    text = own.read_text()
    own.write_text("wal_level = 'nonsense'\n" + text)
    assert restart(manager)["state"] == "failed"
    assert "EXT080" in codes(manager)
    own.write_text(text)

    for what in ("stop", "start"):
        assert manager.ask("POST", f"/v1/postgres/{what}", Prefer="wait=60")[0] == 200
    manager.until_ready()
    assert "EXT080" not in codes(manager)


def test_a_trial_counts_as_progress_and_is_given_nothing_of_the_server(manager: Manager) -> None:
    """Whoever waits for the start need not kill it for the trial's sake."""
    hanging(manager)
    manager.start()
    until(lambda: trials(manager), "the start is tried")

    assert manager.probe("startupz")[0] == 200
    own = {"pg_hba.conf", "pg_ident.conf", "postgresql.conf"}
    assert {path.name for path in stage_of(manager).iterdir() if path.is_symlink()} <= own
    assert manager.end() == 0


def test_a_trial_of_a_killed_manager_is_ended_by_the_next_start(manager: Manager) -> None:
    """Its process and its directory are gone, whether or not that start is tried."""
    hanging(manager)
    manager.start()
    until(lambda: trials(manager), "the start is tried")
    assert manager.process is not None
    manager.process.kill()
    manager.process.wait()
    assert trials(manager)
    assert stage_of(manager).exists()

    del manager.settings["postgres"]["shared_preload_libraries"]
    manager.start().until_ready()
    assert not trials(manager)
    assert not stage_of(manager).exists()
    assert "stopping an old server" not in manager.logged()


def test_the_end_of_the_manager_ends_its_trial(manager: Manager) -> None:
    """One that obeys no signal is killed, and nothing of it is left."""
    hanging(manager)
    manager.start()
    until(lambda: trials(manager), "the start is tried")

    assert manager.end() == 0
    assert not trials(manager)
    assert not stage_of(manager).exists()


def hanging(manager: Manager) -> tuple[Volumes, Path]:
    """Have a cluster that is to preload a module whose initialisation never ends."""
    manager.start().until_ready()
    assert manager.end() == 0
    volumes = Volumes(manager)
    content = (volumes.libraries / "auth_delay.so").read_bytes()
    module = volumes.module(
        "sample", modules.with_code(content, "_PG_init", modules.FUNCTIONS["loops for ever"])
    )
    manager.settings["postgres"]["shared_preload_libraries"] = ["sample"]
    return volumes, module


def crash(manager: Manager, *, restarts: int) -> None:
    """Kill the postmaster, and wait until the next one accepts connections."""
    status = manager.status()
    assert status is not None
    os.kill(status["postgres"]["pid"], signal.SIGKILL)

    def started_again() -> bool:
        seen = manager.status()
        return seen is not None and seen["postgres"]["restarts"] == restarts

    until(started_again, "it is started again")
    manager.until_ready()


def codes(manager: Manager) -> list[str]:
    """Return the codes of the findings that are no volume's."""
    return [one["code"] for one in manager.ask("GET", "/v1/extensions")[1]["findings"]]


def stage_of(manager: Manager) -> Path:
    return manager.socket.with_suffix(".rehearsal")


def trials(manager: Manager) -> list[int]:
    """Return the pids of trials that run on this manager's stage."""
    wanted = os.fsencode(stage_of(manager))
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if wanted in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found
