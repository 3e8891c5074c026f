"""The script of the operator's guide, run as its readers run it, against real instances."""

from __future__ import annotations

import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import pytest

from tests.support.manager import Manager, until
from tests.support.plain_server import run_as
from tests.support.secured import secure
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
    script = begun(*arguments, **environment)
    out, err = script.communicate(timeout=300)
    return subprocess.CompletedProcess(script.args, script.returncode, out, err)


def begun(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Begin to run the script."""
    return subprocess.Popen(
        [sys.executable, SCRIPT, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
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
    assert f"somebody wants {primary.socket} to be fenced" in fenced.stderr
    update = rollout("extension", primary.socket, "postgres", "toy")
    assert update.returncode == 1
    assert "the instance is fenced (conflict)\n  start postgres first" in update.stderr


@contextmanager
def overtaken(manager: Manager, change: Callable[[], None]) -> Iterator[Path]:
    """Yield a control socket behind which *change* is made just before each change that it sends.

    The requests go to the real manager, and its answers come back, byte for byte.
    """

    class Relay(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            own = socket.socket(socket.AF_UNIX)
            own.connect(str(manager.socket))
            with own:
                threading.Thread(target=relayed, args=(own, self.request), daemon=True).start()
                relayed(self.request, own, before=change)

    def relayed(
        source: socket.socket, sink: socket.socket, before: Callable[[], None] | None = None
    ) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if before is not None and data.startswith(b"PUT /v1/configuration HTTP/1.1"):
                    before()
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    path = manager.directory / "relay.sock"
    with socketserver.ThreadingUnixStreamServer(str(path), Relay) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield path
        finally:
            server.shutdown()
            thread.join()


def put_parameter(manager: Manager, name: str, value: str) -> None:
    """Change one parameter, as another operator does."""
    _, document = manager.ask("GET", "/v1/configuration")
    document["parameters"][name] = value
    code, answer = manager.ask("PUT", "/v1/configuration", document, **{"If-Match": "*"})
    assert code == 200, answer


def test_a_change_that_another_one_overtook_is_made_upon_it(primary: Manager) -> None:
    """The refusal (412) costs a second try, and neither change is lost."""
    others = iter(["1min"])

    def change() -> None:
        for value in others:
            put_parameter(primary, "statement_timeout", value)

    with overtaken(primary, change) as relay:
        done = rollout("parameters", relay, "work_mem=9MB")

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("somebody else has changed the configuration: again") == 1
    until(
        lambda: (
            primary.query("SHOW work_mem") == [("9MB",)]
            and primary.query("SHOW statement_timeout") == [("1min",)]
        ),
        "both are in force",
    )


def test_a_change_that_is_overtaken_every_time_is_given_up(primary: Manager) -> None:
    """After some tries, and says so; nothing of it is in force."""
    numbers = count(1)

    with overtaken(
        primary, lambda: put_parameter(primary, "statement_timeout", f"{next(numbers)}min")
    ) as relay:
        done = rollout("parameters", relay, "work_mem=9MB")

    assert done.returncode == 1
    assert "others change the configuration all the time" in done.stderr
    assert next(numbers) > 2
    assert primary.query("SHOW work_mem") == [("4MB",)]


def test_a_restart_waits_for_the_one_that_is_in_its_way(primary: Manager) -> None:
    """The refusal (409) names the operation; after its end the restart is made."""
    with primary.sql():
        # It waits for the session above.
        code, first = primary.ask("POST", "/v1/postgres/restart", {"mode": "smart"})
        assert code == 202
        script = begun("restart", primary.socket, primary.socket)
        assert script.stdout is not None
        line = script.stdout.readline()

    assert line == f"operation {first['id']} is in the way: waiting for its end\n"
    out, err = script.communicate(timeout=300)
    assert script.returncode == 0, err
    assert out.splitlines() == [f"{primary.socket} is ready"] * 2
    _, operations = primary.ask("GET", "/v1/operations")
    assert [(each["kind"], each["state"]) for each in operations["items"]] == [
        ("restart", "succeeded")
    ] * 3


def test_an_update_gives_way_to_the_one_that_runs(primary: Manager) -> None:
    """The refusal (409) says what is under way; that update comes to its end undisturbed."""
    update = "/v1/databases/postgres/extensions/toy/update"
    with primary.sql(autocommit=False) as other:
        other.execute("LOCK TABLE toy")
        code, running = primary.ask("POST", update, {"lock_timeout_seconds": 300})
        assert code == 202
        refused = rollout("extension", primary.socket, "postgres", "toy")

    assert refused.returncode == 1
    assert "(conflict)\n  wait for its end" in refused.stderr
    _, ended = primary.ask("GET", f"/v1/operations/{running['id']}", Prefer="wait=60")
    assert ended["state"] == "succeeded"


def test_a_server_that_was_stopped_on_purpose_is_not_started(primary: Manager) -> None:
    """A restart would start it."""
    primary.ask("POST", "/v1/postgres/stop", Prefer="wait=60")

    done = rollout("restart", primary.socket, primary.socket)

    assert done.returncode == 1
    assert done.stderr == f"somebody wants {primary.socket} to be stopped\n"
    status = primary.status()
    assert status is not None
    assert status["phase"] == "stopped"


def test_where_the_file_is_the_truth_the_script_names_it(manager: Manager) -> None:
    """The refusal (409) of a change that belongs into the file."""
    manager.start().until_ready()

    done = rollout("parameters", manager.socket, "work_mem=9MB")

    assert done.returncode == 1
    assert f"the settings file {str(manager.config)!r} (conflict)\n  change that" in done.stderr


def test_what_somebody_should_look_at_is_shown_also_by_a_new_manager(primary: Manager) -> None:
    """The stream is followed over the end of the manager."""
    script = begun("watch", primary.socket)
    assert script.stdout is not None
    try:
        for _ in range(2):
            status = primary.status()
            assert status is not None
            os.kill(status["postgres"]["pid"], signal.SIGKILL)
            line = script.stdout.readline()
            while "PostgresEnded" not in line:
                assert line
                line = script.stdout.readline()
            assert "SIGKILL" in line
            primary.until_ready()
            primary.end()
            primary.start().until_ready()
    finally:
        script.send_signal(signal.SIGINT)
        script.communicate(timeout=60)
    assert script.returncode == 130


def test_it_works_over_tls_with_a_token(manager: Manager, tmp_path: Path) -> None:
    """From another host, as an operator asks."""
    secure(manager, tmp_path)
    manager.settings["configuration"] = {"source": "api"}
    manager.start().until_ready()
    url = f"https://localhost:{manager.control_port}"
    files = {"TOKEN_FILE": str(tmp_path / "token"), "CA_FILE": str(tmp_path / "ca.crt")}

    done = rollout("parameters", url, "work_mem=7MB", **files)

    assert done.returncode == 0, done.stderr
    (tmp_path / "token").write_text("wrong\n")
    refused = rollout("parameters", url, "work_mem=8MB", **files)
    assert refused.returncode == 1
    assert "the token is wrong (unauthenticated)" in refused.stderr
