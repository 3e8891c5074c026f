"""Exit codes of the client commands, and their documents, on a real manager: the whole table."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.support.manager import Manager

OPERATIONS = ("start", "stop", "restart", "reload", "checkpoint", "fence", "unfence")
ASKING = ("status", "events", *OPERATIONS)
"""What needs a manager that answers."""
ALONE = (("config", "show"), ("config", "schema"), ("openapi",))
"""What needs none."""
WITH_OUTPUT = (*((name,) for name in ASKING), ("config", "show"))


class Done(NamedTuple):
    """How a command ended, and the documents that it printed."""

    code: int
    documents: list[Any]
    errors: str


def as_json(manager: Manager, *command: str) -> Done:
    """Run a command for programs; what it prints must be JSON and nothing else."""
    takes_output = command[0] in ASKING or command[:2] == ("config", "show")
    done = manager.run(*command, *(("--output", "json") if takes_output else ()))
    assert "Traceback" not in done.stderr
    return Done(done.returncode, documents_in(done), done.stderr)


def documents_in(done: subprocess.CompletedProcess[str]) -> list[Any]:
    """Return the documents one after the other; text between them is a fault."""
    found: list[Any] = []
    rest = done.stdout.strip()
    while rest:
        document, end = json.JSONDecoder().raw_decode(rest)
        found.append(document)
        rest = rest[end:].lstrip()
    return found


@pytest.fixture
def running(manager: Manager) -> Manager:
    """Return a running manager."""
    return manager.trust().start().until_ready()


def test_what_is_done_ends_with_0_and_its_document(running: Manager) -> None:
    """Every command once, in an order in which each has something to do."""
    order = ("checkpoint", "reload", "restart", "stop", "start", "fence", "unfence")
    assert set(order) == set(OPERATIONS)
    for verb in order:
        done = as_json(running, verb)

        # What takes longer than a second is told while it is waited for.
        said = [line for line in done.errors.splitlines() if not line.startswith(f"{verb}: ")]
        assert (done.code, said) == (0, []), verb
        [operation] = done.documents
        assert (operation["kind"], operation["state"], operation["error"]) == (
            verb,
            "succeeded",
            None,
        )
    running.until_ready()
    [status] = as_json(running, "status").documents
    assert status["phase"] == "running"
    events = as_json(running, "events")
    assert events.code == 0
    assert [one["reason"] for one in events.documents if one["reason"] == "FenceRequested"]


@pytest.mark.parametrize("verb", ASKING)
def test_a_manager_that_can_not_be_reached_is_1_and_an_error_with_a_code(
    manager: Manager, verb: str
) -> None:
    """For programs too: what was wrong, and what to look at."""
    done = as_json(manager, verb)
    text = manager.run(verb)

    assert (done.code, text.returncode, text.stdout) == (1, 1, "")
    [document] = done.documents
    assert document["error"]["code"] == "unreachable"
    assert str(manager.socket) in document["error"]["detail"]
    assert done.errors == text.stderr
    assert text.stderr.startswith(f"instance-manager: {document['error']['detail']}\n")


def test_a_manager_that_does_not_answer_is_1(running: Manager) -> None:
    """A stopped process accepts connections for ever and says nothing: the wait has a bound."""
    assert running.process is not None
    running.process.send_signal(signal.SIGSTOP)
    try:
        done = as_json(running, "status")
    finally:
        running.process.send_signal(signal.SIGCONT)

    assert done.code == 1
    assert done.documents[0]["error"]["code"] == "unreachable"


@pytest.mark.parametrize("command", [(name,) for name in ASKING] + list(ALONE), ids=" ".join)
@pytest.mark.parametrize("wrong", ["--unheard", "surplus"])
def test_wrong_usage_is_2_and_leaves_standard_output_empty(
    manager: Manager, command: tuple[str, ...], wrong: str
) -> None:
    """What the caller wants printed can't be known then."""
    done = manager.run(*command, wrong)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: instance-manager")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--set", "postgres.port=1", "status"), "--set stands before the command"),
        (("--config", "x", "--output=json", "status"), "--output stands before the command"),
        (("--config=x", "--mode", "fast", "stop"), "--mode stands before the command"),
        (("--config", "--odd", "unheard"), ""),
        (("--conf", "x", "unheard"), ""),
        (("--log=info", "--out=json", "status"), "--out stands before the command"),
        (("--version=1",), ""),
        (("--", "unheard"), ""),
        (("-", "unheard"), ""),
        (("--log-level", "info", "unheard", "--set", "a=b"), ""),
    ],
)
def test_an_option_before_its_command_is_named(
    manager: Manager, words: tuple[str, ...], told: str
) -> None:
    """Its value would be called a command that is none, and nobody would know why."""
    done = manager.run(*words)

    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert ("before the command" in done.stderr) == bool(told)


@pytest.mark.parametrize("command", WITH_OUTPUT, ids=" ".join)
def test_a_setting_that_is_none_is_2_and_an_error_with_a_code(
    manager: Manager, command: tuple[str, ...]
) -> None:
    """The command line was understood so far that the answer can be a document."""
    done = as_json(manager, *command, "--set", "postgres.port")

    assert done.code == 2
    assert [one["error"]["code"] for one in done.documents] == ["usage"]


@pytest.mark.parametrize(
    ("verb", "seconds"),
    [*((verb, "-1") for verb in OPERATIONS), ("stop", "nan"), ("stop", "soon"), ("stop", "")],
)
def test_a_time_to_wait_that_is_none_is_2(manager: Manager, verb: str, seconds: str) -> None:
    """Nothing is asked of the manager before that is known."""
    done = manager.run(verb, f"--timeout={seconds}")

    assert (done.returncode, done.stdout) == (2, "")
    assert "--timeout: invalid number of seconds value" in done.stderr


@pytest.fixture
def stopping(manager: Manager) -> Iterator[Manager]:
    """Yield a manager whose postgres is being stopped, for as long as a session stays."""
    manager.settings["shutdown"] = {"smart_seconds": 3600}
    manager.trust().start().until_ready()
    with manager.sql():
        code, _ = manager.ask("POST", "/v1/postgres/stop", {"mode": "smart"})
        assert code == 202
        manager.until_phase("stopping")
        yield manager


def running_operation(manager: Manager) -> str:
    status = manager.status()
    assert status is not None
    found: str = status["operation"]["id"]
    return found


def test_an_operation_that_is_in_the_way_is_9_with_its_id(stopping: Manager) -> None:
    """Each command that needs a turn; the first operation goes on."""
    first = running_operation(stopping)
    for verb in ("start", "stop", "restart", "fence", "unfence"):
        done, text = as_json(stopping, verb), stopping.run(verb)

        assert (done.code, text.returncode, text.stdout) == (9, 9, ""), verb
        [document] = done.documents
        assert (document["error"]["code"], document["error"]["status"]) == ("conflict", 409)
        assert document["error"]["operation"] == first
        assert first in text.stderr
    assert running_operation(stopping) == first


def test_a_state_that_is_in_the_way_is_9_with_the_operation(stopping: Manager) -> None:
    """What needs no turn begins, and ends with what hinders it."""
    done, text = as_json(stopping, "checkpoint"), stopping.run("checkpoint")

    assert (done.code, text.returncode, text.stdout) == (9, 9, "")
    [operation] = done.documents
    assert (operation["state"], operation["error"]["code"]) == ("failed", "conflict")
    assert text.stderr.startswith("checkpoint: failed: cannot make a checkpoint: ")


def test_to_look_is_possible_while_an_operation_runs(stopping: Manager) -> None:
    """The readings take no turn; that postgres is not ready is 1."""
    status, events = as_json(stopping, "status"), as_json(stopping, "events")

    assert (status.code, events.code) == (1, 0)
    assert status.documents[0]["operation"]["kind"] == "stop"
    assert events.documents


def test_to_start_what_is_fenced_is_9_with_the_way_out(running: Manager) -> None:
    """The fence is a state that is in the way, not a failure."""
    assert running.run("fence").returncode == 0
    done, text = as_json(running, "start"), running.run("start")

    assert (done.code, text.returncode) == (9, 9)
    assert done.documents[0]["error"]["hint"] == "unfence it first"
    assert text.stderr.endswith("  unfence it first\n")


def test_an_operation_that_fails_is_1_with_its_problem(running: Manager) -> None:
    """A settings file that can't be used, met by the manager and not by the command."""
    good = running.directory / "client.yaml"
    good.write_text(running.config.read_text())
    running.settings["postgres"]["prot"] = 1
    failed = running.run("reload", "--config", str(good), "--output", "json")

    assert failed.returncode == 1
    [operation] = documents_in(failed)
    assert (operation["state"], operation["error"]["code"]) == ("failed", "settings-invalid")


@pytest.mark.parametrize("command", ALONE, ids=" ".join)
def test_what_needs_no_manager_is_0_without_one(
    manager: Manager, command: tuple[str, ...]
) -> None:
    """Their documents are JSON by themselves."""
    done = as_json(manager, *command)

    assert (done.code, done.errors) == (0, "")
    assert len(done.documents) == 1


def test_settings_that_can_not_be_used_are_78_with_every_problem(manager: Manager) -> None:
    """The list is in the document, as it is on standard error."""
    manager.settings["postgres"]["prot"] = 1
    manager.settings["failure"] = "maybe"
    done = as_json(manager, "config", "show")

    assert done.code == 78
    [document] = done.documents
    assert document["error"]["code"] == "settings-invalid"
    assert {one["path"] for one in document["error"]["errors"]} == {"postgres.prot", "failure"}
