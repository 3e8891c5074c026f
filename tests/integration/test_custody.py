"""The data directory under a running server: what is taken away, and what comes of it."""

from __future__ import annotations

import shutil

from tests.support.manager import Manager, until


def test_a_pid_file_that_is_removed_is_put_back(manager: Manager) -> None:
    """Else the server would end itself within a minute; clients notice nothing."""
    manager.trust().start().until_ready()
    pid_file = manager.data / "postmaster.pid"
    postmaster = manager.until_phase("running")["postgres"]["pid"]
    until(lambda: "ready" in pid_file.read_text(), "the server has written all of it")
    content = pid_file.read_text()
    with manager.sql() as session:
        pid_file.unlink()
        until(pid_file.exists, "the file is there again")

        assert pid_file.read_text() == content
        assert session.execute("SELECT 1").fetchone() == (1,)
    _, events = manager.ask("GET", "/v1/events")
    assert "PidFileRestored" in [event["reason"] for event in events["items"]]
    assert manager.until_phase("running")["postgres"]["pid"] == postmaster
    assert manager.end() == 0


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
    assert manager.postgres_processes() == []
    assert manager.probe("livez")[0] == 200
    assert manager.end() == 7


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
    """Mounted or moved back, a start brings all of it up."""
    manager.trust().start().until_ready()
    manager.query("CREATE TABLE kept AS SELECT 42 AS answer")
    elsewhere = manager.directory / "elsewhere"
    manager.data.rename(elsewhere)
    manager.until_phase("failed")
    elsewhere.rename(manager.data)
    code, operation = manager.ask("POST", "/v1/postgres/start", Prefer="wait=60")

    assert (code, operation["state"]) == (200, "succeeded")
    assert manager.query("SELECT answer FROM kept") == [(42,)]
    assert manager.end() == 0


def test_a_lock_that_is_taken_away_stops_the_server(manager: Manager) -> None:
    """Without it another container could start a second one."""
    manager.trust().start().until_ready()
    (manager.data / "instance-manager" / "lock").unlink()
    failure = manager.until_phase("failed")["failure"]
    assert failure["code"] == "data-directory-lost"
    code, operation = manager.ask("POST", "/v1/postgres/start", Prefer="wait=60")

    assert (code, operation["state"]) == (200, "succeeded")
    assert manager.end() == 0
