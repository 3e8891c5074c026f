"""Making a cluster: roles, database, scripts, and kills at any moment."""

from __future__ import annotations

import gzip
import lzma
import os
import random
import signal
import threading
import time
from pathlib import Path

import psycopg
import pytest

from tests.support.manager import Manager, until
from tests.support.processes import is_postmaster, look


def secret(path: Path, text: str) -> str:
    """Write a secret that only its owner can read; return its path."""
    path.write_text(text + "\n")
    path.chmod(0o400)
    status = path.parent.stat()
    os.chown(path, status.st_uid, status.st_gid)
    return str(path)


def test_owner_database_and_passwords_come_from_the_settings(manager: Manager) -> None:
    """The application logs in with its password and owns its database."""
    manager.settings["bootstrap"] |= {
        "superuser_password_file": secret(manager.directory / "superuser", "super's secret"),
        "database": "app",
        "owner": "app owner",
        "owner_password_file": secret(manager.directory / "owner", 'it\'s \\ a "secret"'),
    }
    manager.start().until_ready()
    who = "SELECT current_user, pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'app'"
    rows = manager.query(who, dbname="app", user="app owner", password='it\'s \\ a "secret"')

    assert rows == [("app owner", "app owner")]
    assert manager.query("SELECT 1", password="super's secret") == [(1,)]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        manager.query("SELECT 1", password="wrong")
    assert "secret" not in manager.logged()


def test_the_environment_of_the_official_image_works(manager: Manager) -> None:
    """People can change images without changing manifests."""
    manager.environment = {
        "POSTGRES_USER": "admin",
        "POSTGRES_PASSWORD": "pass word",
        "POSTGRES_DB": "shop",
        "POSTGRES_INITDB_ARGS": "--data-checksums",
    }
    manager.start().until_ready()
    rows = manager.query(
        "SELECT current_user, current_setting('data_checksums')",
        user="admin",
        password="pass word",
        dbname="shop",
    )

    assert rows == [("admin", "on")]


def test_scripts_run_once_in_the_order_of_their_names(manager: Manager) -> None:
    """Shell and SQL, plain and compressed, each in its turn, in the application's database."""
    scripts = manager.directory / "init"
    scripts.mkdir()
    manager.settings["bootstrap"]["database"] = "app"
    (scripts / "1.sql").write_text("CREATE TABLE steps (n serial, what text, db text);")
    step = "INSERT INTO steps (what, db) VALUES ('{}', current_database());"
    (scripts / "2.sql.gz").write_bytes(gzip.compress(step.format("gzip").encode()))
    (scripts / "3.sql.xz").write_bytes(lzma.compress(step.format("xz").encode()))
    (scripts / "4.sh").write_text(f'psql -qc "{step.format("sourced")}"\n')
    executable = scripts / "5.sh"
    executable.write_text(f'#!/bin/sh\nexec psql -qc "{step.format("executed")}"\n')
    executable.chmod(0o755)
    (scripts / "6.ignored").write_text("nonsense")
    manager.trust().start().until_ready()
    select = "SELECT what, db FROM steps ORDER BY n"
    expected = [(what, "app") for what in ("gzip", "xz", "sourced", "executed")]
    assert manager.query(select, dbname="app") == expected
    assert manager.end() == 0
    manager.start().until_ready()

    assert manager.query(select, dbname="app") == expected


def test_extensions_of_volumes_can_be_created_by_the_scripts(manager: Manager) -> None:
    """The server of the bootstrap has the volumes too."""
    scripts = manager.directory / "init"
    scripts.mkdir()
    (scripts / "1.sql").write_text("CREATE EXTENSION vector;")
    manager.trust().start().until_ready()

    assert manager.query("SELECT '[1,2]'::vector::text") == [("[1,2]",)]


def test_a_script_that_fails_is_named_and_leaves_nothing(manager: Manager) -> None:
    """Mended, the next start begins from nothing, and the earlier scripts run again."""
    scripts = manager.directory / "init"
    scripts.mkdir()
    (scripts / "1.sql").write_text("CREATE TABLE once (n int);")
    (scripts / "2.sql").write_text("SELECT no_such_function();")
    manager.trust().start()
    failure = manager.until_phase("failed")["failure"]
    assert failure["exit_code"] == 5
    assert "2.sql" in failure["message"]
    assert "no_such_function" in failure["message"]
    assert not (manager.data / "PG_VERSION").exists()

    (scripts / "2.sql").write_text("SELECT 1;")
    code, operation = manager.ask("POST", "/v1/postgres/start", Prefer="wait=60")
    assert (code, operation["state"]) == (200, "succeeded"), operation
    assert manager.query("SELECT count(*) FROM once") == [(0,)]


def test_a_kill_at_any_moment_leaves_nothing_or_a_whole_cluster(manager: Manager) -> None:
    """However often the manager is killed meanwhile, the next one makes a whole cluster."""
    scripts = manager.directory / "init"
    scripts.mkdir()
    (scripts / "1.sql").write_text("CREATE TABLE made AS SELECT generate_series(1, 1000) AS n;")
    manager.settings["bootstrap"]["database"] = "app"
    manager.trust()
    chance = random.Random(18)  # noqa: S311 - moments, not secrets
    for _ in range(12):
        manager.start()
        threading.Event().wait(chance.uniform(0.05, 2.5))
        manager.clean_up()
        if (manager.data / "global" / "pg_control").exists():
            break
    manager.start().until_ready()

    assert manager.query("SELECT count(*) FROM made", dbname="app") == [(1000,)]
    assert not (manager.data / "instance-manager" / "new-cluster").exists()


def test_a_wal_directory_of_its_own_is_used_and_cleared_with_the_rest(manager: Manager) -> None:
    """pg_wal is a link to it; an unfinished attempt leaves nothing there either."""
    wal = manager.directory / "wal"
    manager.settings["postgres"]["wal_directory"] = str(wal)
    scripts = manager.directory / "init"
    scripts.mkdir()
    (scripts / "1.sql").write_text("SELECT pg_sleep(3600);")
    manager.trust().start()
    until(lambda: any(wal.glob("0*")) if wal.exists() else False, "the WAL directory is in use")
    manager.clean_up()
    (scripts / "1.sql").unlink()
    manager.start().until_ready()

    assert (manager.data / "pg_wal").resolve() == wal
    assert manager.end() == 0


def test_a_directory_that_others_made_keeps_its_own_access_rules(manager: Manager) -> None:
    """An adopted cluster's pg_hba.conf goes on to count, where the settings give no rules."""
    manager.trust().start().until_ready()
    assert manager.end() == 0
    (manager.data / "instance-manager" / "instance.json").unlink()
    rules = manager.data / "pg_hba.conf"
    rules.write_text("host all all 127.0.0.1/32 trust\n")
    del manager.settings["postgres"]["hba"]
    manager.start().until_ready()

    assert manager.query("SELECT 1") == [(1,)]
    assert rules.read_text() == "host all all 127.0.0.1/32 trust\n"


def test_term_during_the_bootstrap_ends_the_manager_and_its_tools(manager: Manager) -> None:
    """A stop counts in every phase, and leaves no process."""
    scripts = manager.directory / "init"
    scripts.mkdir()
    (scripts / "1.sh").write_text("trap '' TERM\nsleep 3600 & wait\n")
    manager.trust().start()
    until(lambda: "running an initialisation script" in manager.logged(), "the script runs")

    assert manager.end(signal.SIGTERM) == 0
    assert manager.postgres_processes() == []


def test_quit_ends_a_script_that_ignores_term_at_once(manager: Manager) -> None:
    """It is not given the five seconds that a script may take to end."""
    alive = manager.directory / "alive"
    scripts = manager.directory / "init"
    scripts.mkdir()
    script = f"trap '' TERM\nwhile :; do touch {alive}; sleep 0.05; done\n"
    (scripts / "1.sh").write_text(script)
    manager.trust().start()
    until(alive.exists, "the script runs")
    began = time.time()

    assert manager.end(signal.SIGQUIT) == 0
    assert alive.stat().st_mtime - began < 4
    assert manager.postgres_processes() == []


def test_a_stop_leaves_no_server_of_the_bootstrap_behind(manager: Manager) -> None:
    """Not even one that is being stopped itself, and does not listen."""
    go = manager.directory / "go"
    scripts = manager.directory / "init"
    scripts.mkdir()
    (scripts / "1.sh").write_text(f"echo waiting\nwhile [ ! -e {go} ]; do sleep 0.05; done\n")
    manager.trust().start()
    until(lambda: "running an initialisation script" in manager.logged(), "the script runs")
    found = [look(pid) for pid in manager.postgres_processes()]
    (server,) = [one.pid for one in found if one is not None and is_postmaster(one)]
    os.kill(server, signal.SIGSTOP)
    go.touch()
    until(lambda: awaits(server, signal.SIGINT), "the server is asked to stop")
    assert manager.ask("POST", "/v1/postgres/stop")[0] in (200, 202)

    until(lambda: look(server) is None, "the server is ended")
    assert manager.end() == 0


def awaits(pid: int, number: signal.Signals) -> bool:
    """Whether a stopped process would get a signal if it went on."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    pending = next(line for line in status.splitlines() if line.startswith("ShdPnd:"))
    return bool(int(pending.split()[1], 16) & 1 << number - 1)


def test_a_bootstrap_that_is_stopped_twice_has_ended_before_the_next_begins(
    manager: Manager,
) -> None:
    """Its script lives on for a while, the probes answer meanwhile, and nothing runs beside it."""
    own = manager.directory / "pid"
    scripts = manager.directory / "init"
    scripts.mkdir()
    (scripts / "1.sh").write_text(
        f"if [ -e {own} ]; then kill -0 $(cat {own}) && echo BESIDE; return 0; fi\n"
        f"trap '' TERM\necho $$ > {own}\nwhile :; do sleep 0.05; done\n"
    )
    manager.trust().start()
    until(own.exists, "the script runs")
    for request in ("stop", "fence", "unfence"):
        assert manager.ask("POST", f"/v1/postgres/{request}")[0] in (200, 202, 409)
        assert manager.probe("livez")[0] == 200

    def let_go() -> bool:
        # Refused for as long as the fence is still being written down.
        for request in ("unfence", "start"):
            manager.ask("POST", f"/v1/postgres/{request}")
        status = manager.status()
        return status is not None and status["phase"] not in {"stopped", "fenced"}

    until(let_go, "neither the stop nor the fence holds any more")
    manager.until_ready()

    assert "BESIDE" not in manager.logged()
