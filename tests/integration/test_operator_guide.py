"""The script of the operator's guide, run as its readers run it, against real instances."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.support.manager import Manager, until
from tests.support.plain_server import run_as
from tests.support.sql_extensions import own_root, write

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "examples" / "rollout.py"
GUIDE = ROOT / "docs" / "operator-guide.md"
HBA = ["host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"]
EXTENSION = {
    "1.0": "CREATE TABLE toy (id int);",
    "1.0--1.1": "ALTER TABLE toy ADD more int;",
    "1.1--bad": "SELECT 1 / 0;",
}


def rollout(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script."""
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
    )


@pytest.fixture
def primary(manager: Manager) -> Manager:
    """Start an instance that is told its configuration over HTTP, with an extension of ours."""
    write(own_root(manager), "toy", EXTENSION, default_version="1.1")
    manager.settings["postgres"]["hba"] = HBA
    manager.settings["configuration"] = {"source": "api"}
    manager.start().until_ready()
    manager.query("CREATE EXTENSION toy VERSION '1.0'")
    return manager


@pytest.fixture
def standby(primary: Manager, workspace: Path) -> Iterator[Manager]:
    """Start its standby."""
    place = workspace / "standby"
    place.mkdir()
    os.chown(place, workspace.stat().st_uid, workspace.stat().st_gid)
    other = Manager(place, primary.server)
    subprocess.run(
        [
            primary.server.bin_directory / "pg_basebackup",
            *("-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres"),
            *("-D", other.data, "-R", "-X", "stream", "-c", "fast"),
        ],
        check=True,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        **run_as(),
    )
    other.settings["instance"] = {"name": "standby"}
    other.settings["postgres"]["hba"] = HBA
    other.settings["extensions"] = primary.settings["extensions"]
    other.settings["configuration"] = {"source": "api"}
    other.settings["health"]["readiness"] = "streaming"
    try:
        yield other.start().until_ready()
    finally:
        other.clean_up()


def test_the_guide_shows_the_script_that_is_tested() -> None:
    """To the letter."""
    assert SCRIPT.read_text() in GUIDE.read_text()


def test_a_change_of_parameters_and_a_rolling_restart(primary: Manager, standby: Manager) -> None:
    """The standby first; both run with the new value then, and the standby streams."""
    for instance in (standby, primary):
        done = rollout("parameters", instance.socket, "work_mem=9MB", "max_connections=120")
        assert done.returncode == 0, done.stderr
        assert "max_connections: None -> 120 (restart)" in done.stdout
        assert "still to be done: a restart" in done.stdout
        assert instance.query("SHOW work_mem") == [("9MB",)]

    done = rollout("restart", standby.socket, primary.socket)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{standby.socket} is ready",
        f"{primary.socket} is ready",
    ]
    for instance in (standby, primary):
        assert instance.query("SHOW max_connections") == [("120",)]
    streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
    until(lambda: primary.query(streaming) == [(1,)], "the standby streams again")


def test_an_extension_is_rehearsed_and_updated(primary: Manager) -> None:
    """To the default version; a rehearsal that fails changes nothing."""
    done = rollout("extension", primary.socket, "postgres", "toy")

    assert done.returncode == 0, done.stderr
    assert "toy 1.0 -> 1.1: succeeded" in done.stdout
    assert primary.query("SELECT extversion FROM pg_extension WHERE extname = 'toy'") == [("1.1",)]
    failed = rollout("extension", primary.socket, "postgres", "toy", "bad")
    assert failed.returncode == 1
    assert "division by zero" in failed.stderr
    assert primary.query("SELECT extversion FROM pg_extension WHERE extname = 'toy'") == [("1.1",)]


def test_what_goes_wrong_is_told_with_the_way_out(primary: Manager, tmp_path: Path) -> None:
    """A wrong value, an instance that is not there, a restart of one that is fenced."""
    wrong = rollout("parameters", primary.socket, "work_mem=lots", "wrok_mem=1MB")
    assert wrong.returncode == 1
    assert "parameters.work_mem: invalid value" in wrong.stderr
    assert "parameters.wrok_mem" in wrong.stderr
    started = primary.query("SELECT pg_postmaster_start_time()")
    absent = rollout("restart", tmp_path / "none.sock", primary.socket)
    assert absent.returncode == 1
    assert "is the manager running?" in absent.stderr
    assert primary.query("SELECT pg_postmaster_start_time()") == started
    for slip in (("parameters", primary.socket, "work_mem"), ("parameters", primary.socket), ()):
        assert "rollout.py parameters INSTANCE NAME=VALUE" in rollout(*slip).stderr
    assert "TOKEN_FILE is not set" in rollout("restart", "https://a:1", "https://b:1").stderr
    primary.ask("POST", "/v1/postgres/fence", Prefer="wait=60")
    fenced = rollout("restart", primary.socket, primary.socket)
    assert fenced.returncode == 1
    assert "the instance is fenced\n  unfence" in fenced.stderr


def test_it_works_over_tls_with_a_token(manager: Manager, tmp_path: Path) -> None:
    """From another host, as an operator asks."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", key_type=trustme.KeyType.ECDSA)
    directory = manager.directory
    issued.cert_chain_pems[0].write_to_path(directory / "tls.crt")
    issued.private_key_pem.write_to_path(directory / "tls.key")
    (directory / "token").write_text("hunter2\n")
    for name in ("tls.crt", "tls.key", "token"):
        (directory / name).chmod(0o600)
        os.chown(directory / name, directory.stat().st_uid, directory.stat().st_gid)
    manager.settings["configuration"] = {"source": "api"}
    manager.settings["control"] |= {
        "token_file": str(directory / "token"),
        "tls": {
            "certificate_file": str(directory / "tls.crt"),
            "key_file": str(directory / "tls.key"),
        },
    }
    manager.start().until_ready()
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    (tmp_path / "token").write_text("hunter2\n")
    url = f"https://localhost:{manager.control_port}"
    files = {"TOKEN_FILE": str(tmp_path / "token"), "CA_FILE": str(tmp_path / "ca.crt")}

    done = rollout("parameters", url, "work_mem=7MB", **files)

    assert done.returncode == 0, done.stderr
    (tmp_path / "token").write_text("wrong\n")
    refused = rollout("parameters", url, "work_mem=8MB", **files)
    assert refused.returncode == 1
    assert "the token is wrong (unauthenticated)" in refused.stderr
