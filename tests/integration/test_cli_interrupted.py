"""A wait that ends before its operation: by Ctrl-C, too little time, or a lost manager."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.manager import Manager, until
from tests.support.screen import begun

DEADLINE = 60.0


@pytest.fixture
def waiting(manager: Manager) -> Iterator[Manager]:
    """Yield a running manager whose smart stops wait for a session that stays."""
    manager.settings["shutdown"] = {"smart_seconds": 3600}
    manager.trust().start().until_ready()
    with manager.sql():
        yield manager


def last_operation(manager: Manager) -> dict[str, Any]:
    items = manager.ask("GET", "/v1/operations")[1]["items"]
    found: dict[str, Any] = items[-1] if items else {}
    return found


def interrupted(manager: Manager, *arguments: str) -> tuple[int, str, str]:
    """Begin a command, press Ctrl-C while it waits, and return how it ended and what it said."""
    with begun(manager.command(*arguments)) as client:
        until(lambda: last_operation(manager).get("state") == "running", "it has begun")
        assert client.stderr is not None
        # By this line the command knows its operation.
        first = client.stderr.readline()
        client.send_signal(signal.SIGINT)
        output, errors = client.communicate(timeout=DEADLINE)
    return client.returncode, output, first + errors


def said(errors: str, label: str) -> list[str]:
    """Return what the lines of the note offer under a label."""
    return re.findall(rf"^  {label}: +(.*)$", errors, re.MULTILINE)


def do(manager: Manager, line: str) -> subprocess.CompletedProcess[str] | dict[str, Any]:
    """Do what an offered line does; no machine needs curl for the tests."""
    words = shlex.split(line)
    if words[0] == "curl":
        assert words[words.index("--unix-socket") + 1] == str(manager.socket)
        method = words[words.index("-X") + 1] if "-X" in words else "GET"
        path = words[-1].removeprefix("http://localhost")
        answer: dict[str, Any] = manager.ask(method, path)[1]
        return answer
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-c", line],
        env={"PATH": path},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


@pytest.mark.parametrize("verb", ["stop", "fence"])
def test_ctrl_c_ends_with_130_and_the_operation_goes_on_and_can_be_looked_at(
    waiting: Manager, verb: str
) -> None:
    """Every line that is offered works as it stands."""
    code, output, errors = interrupted(waiting, verb, "--mode", "smart")
    operation = last_operation(waiting)

    assert (code, output) == (130, "")
    assert "Traceback" not in errors
    assert f"{verb}: no longer waited for\n" in errors
    assert f"goes on in the manager, as operation {operation['id']}\n" in errors
    assert operation["state"] == "running"
    status, curl = said(errors, "look")

    def is_told() -> bool:
        told = do(waiting, status)
        assert isinstance(told, subprocess.CompletedProcess)
        assert f"\noperation: {verb} {operation['id']}, " in told.stdout
        return "smart: waiting for 1 session\n" in told.stdout

    until(is_told, "the status tells what is waited for")
    asked = do(waiting, curl)
    assert isinstance(asked, dict)
    assert (asked["id"], asked["state"]) == (operation["id"], "running")
    assert said(errors, "cancel") == [f"a {verb} can't be called back"]


def test_ctrl_c_on_a_restart_says_how_to_cancel_it_and_how_to_stop(waiting: Manager) -> None:
    """The line that is offered cancels it; a stop is what brings it to rest."""
    code, output, errors = interrupted(waiting, "restart", "--mode", "smart")
    [cancel] = said(errors, "cancel")

    assert (code, output) == (130, "")
    assert last_operation(waiting)["state"] == "running"
    do(waiting, cancel)
    until(lambda: last_operation(waiting)["state"] == "cancelled", "it is cancelled")
    [stop] = said(errors, "stop")
    do(waiting, f"{stop} --mode fast")
    waiting.until_phase("stopped")


def test_what_a_restart_waits_for_is_told(waiting: Manager) -> None:
    """Its stop may take the longest."""
    with begun(waiting.command("restart", "--mode", "smart")) as client:
        assert client.stderr is not None
        line = ""
        while "smart: waiting for 1 session" not in line:
            line = client.stderr.readline()
            assert line, "it has ended"


def test_a_socket_that_the_command_line_names_is_in_the_lines_and_no_other_override(
    waiting: Manager,
) -> None:
    """Else they would ask another manager; what else was overridden may be a secret."""
    overrides = ("--set", f"control.socket={waiting.socket}", "--set", "instance.name=hidden")
    waiting.settings["control"]["socket"] = str(waiting.directory / "nowhere.sock")
    waiting.write_settings()
    _, _, errors = interrupted(waiting, "stop", "--mode", "smart", *overrides)
    status = do(waiting, said(errors, "look")[0])

    assert "hidden" not in errors
    assert isinstance(status, subprocess.CompletedProcess)
    assert status.stdout.startswith("test: stopping (to be stopped)\n")


def test_ctrl_c_leaves_programs_the_operation(waiting: Manager) -> None:
    """The document as it was told last, so that its id is at hand."""
    code, output, errors = interrupted(waiting, "stop", "--mode", "smart", "--output", "json")
    document = json.loads(output)

    assert code == 130
    assert (document["id"], document["state"]) == (last_operation(waiting)["id"], "running")
    assert document["id"] in errors


def test_time_that_was_too_short_is_told_with_the_way_to_look(waiting: Manager) -> None:
    """It ends with 1; the operation has not failed, and its document says so."""
    done = waiting.run("stop", "--mode", "smart", "--timeout", "0.5", "--output", "json")
    operation = last_operation(waiting)

    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert (document["id"], document["state"]) == (operation["id"], "running")
    assert "stop: running: not done within 0.5 s\n" in done.stderr
    assert [line for line in said(done.stderr, "look") if operation["id"] in line]


def test_a_manager_that_is_lost_while_it_is_waited_for_is_no_success(waiting: Manager) -> None:
    """It ends with 1, and says of which operation the end is not known."""
    with begun(waiting.command("stop", "--mode", "smart", "--output", "json")) as client:
        until(lambda: last_operation(waiting).get("state") == "running", "it has begun")
        operation = last_operation(waiting)
        assert client.stderr is not None
        first = client.stderr.readline()
        assert waiting.process is not None
        waiting.process.kill()
        output, errors = client.communicate(timeout=DEADLINE)

    assert client.returncode == 1
    assert f"stop: how operation {operation['id']} ends is not known\n" in first + errors
    assert json.loads(output)["error"]["code"] == "unreachable"


def test_a_restart_that_a_stop_takes_over_says_by_what_it_was_cancelled(waiting: Manager) -> None:
    """It ends with 1, and not as if the time had been too short."""
    with begun(waiting.command("restart", "--mode", "smart")) as client:
        until(lambda: last_operation(waiting).get("state") == "running", "it has begun")
        assert waiting.run("stop", "--mode", "fast").returncode == 0
        output, errors = client.communicate(timeout=DEADLINE)

    assert (client.returncode, output) == (1, "")
    assert re.search(r"^restart: cancelled by stop '\w+'$", errors, re.MULTILINE)
