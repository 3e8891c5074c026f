"""Bad input: one clear sentence that names the object and the way out, and nothing half-done."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.manager import Manager, free_port, until


def refused(manager: Manager) -> tuple[int, str]:
    """Run the manager to its end and return its exit code and what it said."""
    manager.settings["failure"] = "exit"
    manager.start()
    return manager.wait(), manager.logged()


def test_an_unknown_key_names_the_nearest_known_one(manager: Manager) -> None:
    """A slip in the settings ends with 78 and the key that was meant."""
    manager.settings["postgres"]["prot"] = 5433
    code, said = refused(manager)

    assert code == 78
    assert "postgres.prot" in said
    assert "'postgres.port'" in said
    assert not manager.data.exists()


def test_every_problem_is_listed_not_just_the_first(manager: Manager) -> None:
    """Two slips are two lines."""
    manager.settings["postgres"]["port"] = "many"
    manager.settings["failure"] = "maybe"
    manager.start()

    assert manager.wait() == 78
    assert "postgres.port" in manager.logged()
    assert "failure" in manager.logged()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("failure: stay\nfailure: exit\n", "given twice"),
        ("postgres: [unclosed\n", "not YAML"),
        ("- a\n- list\n", "must be a map"),
        ("\x00", "not YAML"),
    ],
)
def test_a_file_that_is_no_settings_file_is_refused(
    manager: Manager, content: str, words: str
) -> None:
    """What can't be understood is said with the file's name."""
    manager.write_settings()
    manager.config.write_text(content)
    done = subprocess.run(manager.command("run"), capture_output=True, text=True, check=False)

    assert done.returncode == 78
    assert words in done.stderr


def test_an_owned_parameter_names_the_key_to_use(manager: Manager) -> None:
    """What has a key of its own may not stand among the parameters."""
    manager.settings["postgres"]["parameters"] = {"port": "5433"}
    code, said = refused(manager)

    assert code == 78
    assert "postgres.port" in said


@pytest.mark.parametrize("listener", ["health", "control"])
def test_a_port_in_use_is_refused_before_anything_is_touched(
    manager: Manager, listener: str
) -> None:
    """The address is named, and the data directory is not even made."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", free_port()))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        manager.settings[listener]["listen"] = address
        code, said = refused(manager)

    assert code == 78
    assert f"{listener}.listen: cannot listen on '{address}': Address already in use" in said
    assert not manager.data.exists() or not any(manager.data.iterdir())


def test_a_directory_without_postgres_is_refused(manager: Manager) -> None:
    """A bin directory that holds no server is a matter of settings."""
    manager.settings["postgres"]["bin_directory"] = str(manager.directory)
    code, said = refused(manager)

    assert code == 78
    assert f"cannot use bin directory '{manager.directory}': postgres is not there" in said


def test_a_data_directory_that_can_not_be_made_is_refused_with_the_way_there(
    manager: Manager,
) -> None:
    """The whole chain of owners and modes is shown, since any of them may be the reason."""
    closed = manager.directory / "closed"
    closed.mkdir(mode=0o700)
    closed.chmod(0o500)
    if os.geteuid() == 0:
        manager.settings["postgres"]["data_directory"] = "/proc/nowhere/data"
    else:
        manager.settings["postgres"]["data_directory"] = str(closed / "data")
    code, said = refused(manager)

    assert code == 7
    assert "cannot make directory" in said
    assert " > " in said


def test_a_data_directory_of_another_user_is_refused(manager: Manager) -> None:
    """Postgres would refuse too, but would not say what to do."""
    owner = 0
    if os.geteuid() == 0:
        owner = 12345
        manager.data.mkdir(mode=0o755)
        (manager.data / "something").write_text("")
        os.chown(manager.data, owner, owner)
    else:
        # Only root can give a directory away; others find one that is root's.
        manager.settings["postgres"]["data_directory"] = "/usr"
    code, said = refused(manager)

    assert code == 7
    assert f"belongs to uid {owner}" in said


def test_an_old_cluster_in_a_directory_above_is_never_hidden_by_a_new_one(
    manager: Manager,
) -> None:
    """Where data of another layout is found, nothing is made, and both places are named."""
    above = manager.directory / "above"
    above.mkdir()
    (above / "PG_VERSION").write_text("18\n")
    manager.settings["postgres"]["data_directory"] = str(above / "data")
    code, said = refused(manager)

    assert code == 7
    assert f"'{above}' already holds one" in said
    assert {entry.name for entry in above.iterdir()} <= {"PG_VERSION", "data"}
    assert not (above / "data").exists() or not any((above / "data").iterdir())


def test_another_major_version_is_refused(manager: Manager) -> None:
    """A cluster of another PostgreSQL needs another image, or an upgrade."""
    manager.trust().start().until_ready()
    assert manager.end() == 0
    (manager.data / "PG_VERSION").write_text("17\n")
    code, said = refused(manager)

    assert code == 7
    assert "it holds a cluster of PostgreSQL 17, the server is 18" in said


def test_a_directory_in_use_is_refused_and_taken_when_it_is_free(
    manager: Manager, workspace: Path
) -> None:
    """A second manager waits, serves the reason, and goes on when the first one has ended."""
    manager.trust().start().until_ready()
    second = Manager(workspace / "second", manager.server)
    second.directory.mkdir()
    os.chown(second.directory, workspace.stat().st_uid, workspace.stat().st_gid)
    second.settings["postgres"]["data_directory"] = str(manager.data)
    second.trust().start()
    try:
        failed = second.until_phase("failed")
        assert failed["failure"]["exit_code"] == 7
        assert failed["failure"]["code"] == "data-directory-in-use"
        assert len(manager.query("SELECT 1")) == 1

        assert manager.end() == 0
        second.until_ready()
        assert second.end() == 0
    finally:
        second.clean_up()


def test_a_refused_start_stays_and_serves_its_reason(manager: Manager) -> None:
    """With failure: stay the cause is in the status, and a stop ends with its code."""
    manager.settings["extensions"]["volumes"] = [{"name": "missing", "required": True}]
    manager.trust().start()
    status = manager.until_phase("failed")

    assert status["failure"]["exit_code"] == 3
    assert '"missing" is not there' in status["failure"]["message"]
    assert manager.probe("livez")[0] == 200
    assert manager.probe("startupz")[0] == 200
    assert manager.probe("readyz")[0] == 503
    assert manager.end() == 3


def test_a_server_that_can_not_start_ends_in_failed_with_its_own_words(manager: Manager) -> None:
    """What postgres says is in the status; the API answers all the while."""
    manager.settings["postgres"]["parameters"] = {"shared_buffers": "1kB"}
    manager.settings["restart"] = {"maximum": 0}
    manager.trust().start()
    status = manager.until_phase("failed")

    assert status["failure"]["exit_code"] == 5
    assert "shared_buffers" in status["failure"]["message"]


def test_a_socket_of_a_dead_manager_is_no_hindrance(manager: Manager) -> None:
    """A file that a killed manager left is taken over; one that is in use is not."""
    manager.trust().start().until_ready()
    intruder = Manager(manager.directory, manager.server)
    intruder.config = manager.directory / "intruder.yaml"
    intruder.log = manager.directory / "intruder.log"
    intruder.settings["postgres"]["data_directory"] = str(manager.directory / "other")
    code, said = refused(intruder)
    assert code == 78
    assert "another manager is listening there" in said
    assert manager.until_phase("running")

    assert manager.process is not None
    manager.process.kill()
    manager.process.wait()
    manager.clean_up()
    manager.start()
    until(manager.status, "the socket is served again")


def test_a_port_that_another_server_has_is_told_before_postgres_is_started(
    manager: Manager,
) -> None:
    """The port is a matter of settings, and no restart is spent on it."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", manager.port))
        other.listen()
        manager.start()

        assert manager.wait() == 78
    assert "postgres.port: cannot listen on '127.0.0.1'" in manager.logged()
    assert "restarting postgres" not in manager.logged()
