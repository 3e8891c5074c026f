"""The sub-commands as people and scripts call them: words, exit codes, what they leave alone."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from instance_manager import __version__
from tests.support.manager import Manager, until

DEADLINE = 60.0
ENVIRONMENT = {"PATH": os.environ["PATH"]}
CLIENTS = (
    "status",
    "events",
    "start",
    "stop",
    "restart",
    "reload",
    "checkpoint",
    "fence",
    "unfence",
)
COMMANDS = (
    "run",
    "check",
    "compose",
    "extension",
    "config",
    "openapi",
    "completion",
    *CLIENTS,
)
INNER = (
    "extension inspect",
    "extension build",
    "extension dockerfile",
    "extension test",
    "config show",
    "config schema",
)


def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call the program without a settings file of its own."""
    return subprocess.run(
        [sys.executable, "-m", "instance_manager", *arguments],
        capture_output=True,
        text=True,
        env=ENVIRONMENT | environment,
        timeout=DEADLINE,
        check=False,
    )


def no_traceback(done: subprocess.CompletedProcess[str]) -> bool:
    return "Traceback" not in done.stderr + done.stdout


def snapshot(*roots: Path) -> dict[str, tuple[int, int, int]]:
    """Return mode, size and time of change of everything under the roots."""
    found: dict[str, tuple[int, int, int]] = {}
    for root in roots:
        for path in (root, *root.rglob("*")):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
                found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


def own_volume(manager: Manager, **metadata: object) -> Path:
    """Give the manager a root of its own with pgvector, and metadata beside it."""
    root = manager.directory / "volumes"
    volume = root / "pgvector"
    shutil.copytree(manager.server.extensions / "pgvector", volume)
    (volume / "share" / "instance-manager").mkdir()
    path = volume / "share" / "instance-manager" / "extension.json"
    path.write_text(json.dumps(metadata))
    manager.settings["extensions"]["root"] = str(root)
    manager.settings["extensions"]["volumes"] = [{"name": "pgvector"}]
    return volume


# What every command has in common.


def test_the_version_is_said() -> None:
    """One line, for people and scripts."""
    done = call("--version")

    assert (done.returncode, done.stdout) == (0, f"instance-manager {__version__}\n")


@pytest.mark.parametrize("command", [*COMMANDS, *INNER])
def test_each_command_explains_itself_with_an_example(command: str) -> None:
    """Help is on standard output, and shows how to call it."""
    done = call(*command.split(), "--help")

    assert done.returncode == 0
    assert f"usage: instance-manager {command}" in done.stdout
    assert "examples:" in done.stdout
    assert f"instance-manager {command}" in done.stdout.partition("examples:")[2]


def test_the_overview_names_every_command() -> None:
    """Each with a few words."""
    done = call("--help")

    assert done.returncode == 0
    for command in COMMANDS:
        assert f"\n    {command} " in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("unheard",),
        ("--unheard",),
        ("check", "--unheard"),
        ("check", "--output", "xml"),
        ("check", "surplus"),
        ("compose", "--format", "toml"),
        ("status", "--output"),
        ("--log-level", "loud", "check"),
        ("stop", "--mode", "gently"),
        ("start", "--mode", "fast"),
        ("stop", "--timeout", "soon"),
        ("check", "--set", "postgres.port"),
        ("check", "--set", "=5432"),
        ("status", "--config"),
    ],
)
def test_wrong_usage_ends_with_2_and_a_sentence(arguments: tuple[str, ...]) -> None:
    """Nothing on standard output, and no stack."""
    done = call(*arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr
    assert no_traceback(done)


@pytest.mark.parametrize("command", ["check", "compose"])
def test_settings_that_can_not_be_used_end_with_78(manager: Manager, command: str) -> None:
    """Every problem is named, each on a line."""
    manager.settings["postgres"]["prot"] = 1
    manager.settings["failure"] = "maybe"
    done = manager.run(command)

    assert (done.returncode, done.stdout) == (78, "")
    assert "'postgres.port'" in done.stderr
    assert "failure" in done.stderr
    assert no_traceback(done)


@pytest.mark.parametrize("command", ["check", "compose", "status"])
def test_a_settings_file_that_is_not_there_is_named(manager: Manager, command: str) -> None:
    """A typo in the path is no empty configuration."""
    path = str(manager.directory / "nowhere.yaml")
    done = call("--config", path, command)

    assert done.returncode == 78
    assert path in done.stderr
    assert no_traceback(done)


def test_a_global_option_stands_before_or_after_the_command_and_the_later_one_counts(
    manager: Manager,
) -> None:
    """Both places are the same option."""
    manager.write_settings()
    good, bad = str(manager.config), str(manager.directory / "nowhere.yaml")

    assert call("--config", good, "check").returncode == 0
    assert call("check", "--config", good).returncode == 0
    assert call("--config", bad, "check", "--config", good).returncode == 0
    assert call("--config", good, "check", "--config", bad).returncode == 78
    assert call("check", INSTANCE_MANAGER_CONFIG=good).returncode == 0


@pytest.mark.parametrize("place", ["before", "after"])
def test_the_log_level_of_the_command_line_wins_in_either_place(
    manager: Manager, place: str
) -> None:
    """What is less grave than it is not said."""
    manager.settings["log"] = {"level": "debug"}
    manager.settings["failure"] = "exit"
    manager.settings["extensions"]["volumes"] = [{"name": "missing", "required": True}]
    option = ["--log-level", "error"]
    manager.write_settings()
    run = [*option, "run"] if place == "before" else ["run", *option]
    done = call("--config", str(manager.config), *run)

    levels = {json.loads(line)["level"] for line in done.stdout.splitlines()}
    assert done.returncode == 3
    assert levels <= {"error", "critical"}


@pytest.mark.parametrize("arguments", [("compose",), ("check", "--output", "json"), ("--help",)])
def test_a_reader_that_has_gone_is_no_fault(manager: Manager, arguments: tuple[str, ...]) -> None:
    """``instance-manager … | head -1`` says nothing about pipes."""
    manager.write_settings()
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            manager.command(*arguments),
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
            timeout=DEADLINE,
            check=False,
        )
    finally:
        os.close(writing)

    assert done.stderr == ""
    assert done.returncode in (0, 1)


def redirected(
    manager: Manager, redirection: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run a command as a shell does that was told to redirect it."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *manager.command(*arguments)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=DEADLINE,
        check=False,
    )


@pytest.mark.parametrize(
    "arguments", [("compose",), ("check",), ("config", "show"), ("openapi",), ("--help",)]
)
def test_an_output_that_has_no_room_is_told_in_a_line(
    manager: Manager, arguments: tuple[str, ...]
) -> None:
    """And is no success: what was to be written is not there."""
    manager.write_settings()

    done = redirected(manager, ">/dev/full", *arguments)

    assert done.stderr == "instance-manager: cannot write the output: No space left on device\n"
    assert done.returncode == 1


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    "arguments", [("compose",), ("check",), ("config", "show"), ("openapi",), ("--help",)]
)
def test_a_stream_that_was_closed_changes_nothing_else(
    manager: Manager, arguments: tuple[str, ...], redirection: str
) -> None:
    """What goes there is lost, as with ``/dev/null``."""
    manager.write_settings()

    done = redirected(manager, redirection, *arguments)

    assert done.stderr == ""
    assert done.returncode == 0


def test_an_operation_needs_no_standard_error(manager: Manager) -> None:
    """It ends with the code of the operation, and its document is whole."""
    manager.trust().start().until_ready()

    done = redirected(manager, "2>&-", "checkpoint", "--output", "json")

    assert json.loads(done.stdout)["state"] == "succeeded"
    assert done.returncode == 0


# check


def test_check_of_sound_volumes_ends_with_0_and_tells_people_what_is_there(
    manager: Manager,
) -> None:
    """Volumes, what they offer, and the verdict."""
    done = manager.run("check")

    assert (done.returncode, done.stderr) == (0, "")
    assert f"{manager.server.extensions}: 1 volume (1 ready)" in done.stdout
    assert "pgvector: ready (vector " in done.stdout
    assert f"$libdir:{manager.server.extensions}/pgvector/lib\n" in done.stdout
    assert f"data directory: {manager.data} holds no cluster yet\n" in done.stdout
    assert "\x1b" not in done.stdout
    *_, totals, outcome = done.stdout.splitlines()
    assert totals.startswith("no errors")
    assert outcome == "run would make a new cluster and start postgres with 1 volume"


@pytest.mark.parametrize("exists", [True, False])
def test_check_says_that_nothing_is_mounted_and_that_this_is_no_error(
    manager: Manager, exists: bool
) -> None:
    """A server without extension volumes is a server too."""
    root = manager.directory / "volumes"
    if exists:
        root.mkdir()
    manager.settings["extensions"]["root"] = str(root)
    done = manager.run("check")

    assert (done.returncode, done.stderr) == (0, "")
    assert f"{root}: no extension volumes\n" in done.stdout
    assert ("it is empty" if exists else "there is no such directory") in done.stdout
    assert done.stdout.splitlines()[-1].endswith(f"nothing is mounted under {root}")


def test_check_says_what_run_would_refuse(manager: Manager) -> None:
    """The refusal of the start, in the last line and in the document."""
    manager.settings["extensions"]["volumes"] = [{"name": "missing", "required": True}]
    text, document = manager.run("check"), manager.run("check", "--output", "json")
    refusal = json.loads(document.stdout)["refusal"]

    assert (refusal["code"], refusal["exit_code"]) == ("preflight-refused", 3)
    assert text.stdout.splitlines()[-1] == (
        "run would refuse to start postgres (exit code 3): "
        'the required volume "missing" is not there'
    )
    assert f"to let it start: {refusal['hint']}\n" in text.stdout
    manager.trust().start()
    failure = manager.until_phase("failed")["failure"]
    assert {name: failure[name] for name in refusal} == refusal


def test_check_tells_programs_the_same_as_the_api_without_what_runs(manager: Manager) -> None:
    """The document of the contract, hashes included."""
    done = manager.run("check", "--output", "json")
    report = json.loads(done.stdout)

    assert done.returncode == 0
    assert set(report) == {
        "root",
        "scan_seconds",
        "volumes",
        "findings",
        "composed",
        "pending_action",
        "refusal",
        "data_directory",
    }
    assert report["refusal"] is None
    assert report["data_directory"] == {"path": str(manager.data), "new": True, "problem": None}
    assert report["volumes"][0]["state"] == "ready"
    assert len(report["volumes"][0]["content_sha256"]) == 64


@pytest.mark.parametrize("policy", ["quarantine", "refuse"])
def test_check_ends_with_3_for_any_error_whatever_the_policy(
    manager: Manager, policy: str
) -> None:
    """A library that no server of this version can load is an error."""
    volume = own_volume(manager)
    (volume / "lib" / "vector.so").write_bytes(b"not a library")
    manager.settings["extensions"]["policy"] = policy
    text, document = manager.run("check"), manager.run("check", "--output", "json")

    assert (text.returncode, document.returncode) == (3, 3)
    assert "pgvector: quarantined" in text.stdout
    assert " error: " in text.stdout
    outcome = {
        "quarantine": "start postgres with no volume, and leave out pgvector (EXT030: ",
        "refuse": "refuse to start postgres (exit code 3): ",
    }
    assert outcome[policy] in text.stdout.splitlines()[-1]
    findings = json.loads(document.stdout)["volumes"][0]["findings"]
    assert [one["code"] for one in findings if one["severity"] == "error"]
    assert all(one["code"] in text.stdout for one in findings)


def test_check_ends_with_3_where_a_required_volume_is_missing(manager: Manager) -> None:
    """It would keep the server from starting."""
    manager.settings["extensions"]["volumes"] = [{"name": "missing", "required": True}]
    done = manager.run("check")

    assert done.returncode == 3
    assert "missing" in done.stdout


def test_check_looks_at_another_root_when_asked(manager: Manager) -> None:
    """So that volumes can be proven before they are mounted."""
    volume = own_volume(manager)
    manager.settings["extensions"]["root"] = str(manager.directory / "nowhere")
    manager.settings["extensions"]["volumes"] = []
    report = json.loads(
        manager.run("check", "--extensions-root", str(volume.parent), "--output", "json").stdout
    )

    assert report["root"] == str(volume.parent)
    assert [one["name"] for one in report["volumes"]] == ["pgvector"]


def lay_out_damage(manager: Manager, kind: str) -> None:
    """Make a data directory that can't be used."""
    match kind:
        case "another major version":
            manager.data.mkdir()
            (manager.data / "PG_VERSION").write_text("17\n")
        case "no control file":
            manager.data.mkdir()
            (manager.data / "PG_VERSION").write_text("18\n")
        case "a cluster above":
            (manager.directory / "PG_VERSION").write_text("18\n")
        case _:
            manager.data.mkdir()
            (manager.data / "PG_VERSION").write_text("what\n")


DAMAGE = {
    "another major version": "PostgreSQL 17",
    "no control file": "global/pg_control is missing",
    "a cluster above": "already holds one",
    "a damaged version": "PG_VERSION",
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_check_ends_with_7_for_a_data_directory_that_can_not_be_used(
    manager: Manager, kind: str
) -> None:
    """The reason and the way out are on standard error; the document stays parsable."""
    lay_out_damage(manager, kind)
    done = manager.run("check", "--output", "json")

    assert done.returncode == 7
    assert DAMAGE[kind] in done.stderr
    assert len(done.stderr.splitlines()) == 2
    document = json.loads(done.stdout)
    assert document["volumes"]
    assert DAMAGE[kind] in document["data_directory"]["problem"]["message"]
    assert document["data_directory"]["problem"]["exit_code"] == 7
    assert "exit code 7" in manager.run("check").stdout.splitlines()[-1]


def test_an_error_of_the_volumes_comes_before_one_of_the_data_directory(
    manager: Manager,
) -> None:
    """The earliest step wins: 3 before 7."""
    lay_out_damage(manager, "another major version")
    manager.settings["extensions"]["volumes"] = [{"name": "missing", "required": True}]

    assert manager.run("check").returncode == 3


@pytest.mark.parametrize("arguments", [("check",), ("compose",), ("compose", "--format", "env")])
def test_examining_writes_nothing(manager: Manager, arguments: tuple[str, ...]) -> None:
    """Neither where the data will be, nor where the sockets will be, nor in a volume."""
    own_volume(manager)
    manager.write_settings()
    before = snapshot(manager.directory, manager.server.extensions)
    done = subprocess.run(
        manager.command(*arguments), capture_output=True, env=ENVIRONMENT, check=False
    )

    assert done.returncode == 0
    assert snapshot(manager.directory, manager.server.extensions) == before
    assert not manager.data.exists()
    assert not manager.socket.parent.exists()


# compose


def test_a_server_accepts_the_lines_of_compose_and_reads_the_same_values(
    manager: Manager,
) -> None:
    """The real program is the judge of the file."""
    own_volume(manager, shared_preload_libraries=["vector"])
    manager.settings["postgres"]["shared_preload_libraries"] = ["auto_explain"]
    composed = json.loads(manager.run("compose", "--format", "json").stdout)
    done = manager.run("compose")
    conf = manager.directory / "composed.conf"
    conf.write_text(done.stdout)

    assert (done.returncode, done.stderr) == (0, "")
    assert manager.run("compose", "--format", "conf").stdout == done.stdout
    for name in ("dynamic_library_path", "extension_control_path", "shared_preload_libraries"):
        assert composed[name]
        assert shown(manager, conf, name) == composed[name]


def shown(manager: Manager, conf: Path, name: str) -> str:
    """Return a parameter as the server reads it from a file."""
    done = subprocess.run(
        [
            manager.server.bin_directory / "postgres",
            # First, so that root may ask too.
            "-C",
            name,
            "-D",
            manager.directory,
            f"--config-file={conf}",
        ],
        capture_output=True,
        text=True,
        env=ENVIRONMENT | {"LC_ALL": "C"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr.lower()
    return done.stdout.removesuffix("\n")


AWKWARD = [
    "plain",
    "with space",
    "it's",
    '"quoted"',
    "$(touch pwned)",
    "`touch pwned`",
    "$HOME",
    "a\\nb\\",
    "; touch pwned",
    "*",
    "ü",
    "",
]


def evaluated(manager: Manager, text: str) -> dict[str, str]:
    """Return the environment that a shell has after it evaluated *text*, and nothing else ran."""
    where = manager.directory / "shell"
    where.mkdir()
    done = subprocess.run(
        ["/bin/sh", "-c", 'eval "$1"; /usr/bin/env -0', "sh", text],
        capture_output=True,
        text=True,
        cwd=where,
        env={"PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list(where.iterdir()) == [], "a value was executed"
    pairs = (entry.partition("=") for entry in done.stdout.split("\0") if entry)
    return {name: value for name, _, value in pairs}


def test_a_shell_evaluates_the_environment_to_the_same_values(manager: Manager) -> None:
    """Whatever a value holds, the shell takes it for a value."""
    variables = [{"name": f"V{index}", "value": value} for index, value in enumerate(AWKWARD)]
    volume = own_volume(manager)
    (volume / "bin").mkdir()
    (volume / "bin" / "tool").write_text("#!/bin/sh\n")
    (volume / "bin" / "tool").chmod(0o755)
    manager.settings["extensions"]["volumes"][0]["env"] = variables
    composed = json.loads(manager.run("compose", "--format", "json").stdout)
    found = evaluated(manager, manager.run("compose", "--format", "env").stdout)

    assert [found[f"V{index}"] for index in range(len(AWKWARD))] == AWKWARD
    assert {name: found[name] for name in composed["env"]} == composed["env"]
    assert found["PATH"] == composed["path"]
    assert composed["path"].endswith(f":{volume}/bin")
    assert found.get("LD_LIBRARY_PATH", "") == composed["ld_library_path"]


@pytest.mark.parametrize("name", ["A;touch pwned;B", "$(touch pwned)", "A B", "1A", "A-B"])
def test_a_name_that_no_shell_takes_for_a_variable_is_never_given_to_one(
    manager: Manager, name: str
) -> None:
    """Metadata comes from images of others: a name must not become a command."""
    own_volume(manager, env=[{"name": name, "value": "x"}])
    done = manager.run("compose", "--format", "env")

    assert name not in done.stdout
    evaluated(manager, done.stdout)


def test_compose_says_what_a_running_instance_was_given(manager: Manager) -> None:
    """The document is that of the API; and a check beside it finds nothing to complain of."""
    own_volume(manager, env=[{"name": "VECTOR_HOME", "value": "${image_root}/share"}])
    manager.trust().start().until_ready()
    composed = json.loads(manager.run("compose", "--format", "json").stdout)
    before = manager.query("SELECT pg_postmaster_start_time()")
    checked = manager.run("check")

    assert composed == manager.ask("GET", "/v1/extensions")[1]["composed"]
    assert composed["env"] == {"VECTOR_HOME": f"{manager.directory}/volumes/pgvector/share"}
    assert (checked.returncode, checked.stderr) == (0, "")
    assert manager.query("SELECT pg_postmaster_start_time()") == before
    assert manager.end() == 0


# status


def test_status_of_a_running_instance_is_0_and_tells_what_runs(manager: Manager) -> None:
    """The same for people and for programs, as the API has it."""
    manager.trust().start().until_ready()
    text, document = manager.run("status"), manager.run("status", "--output", "json")
    parsed = json.loads(document.stdout)
    said = manager.ask("GET", "/v1/status")[1]

    assert (text.returncode, document.returncode) == (0, 0)
    assert (text.stderr, document.stderr) == ("", "")
    assert text.stdout.startswith("test: running\n")
    for word in (str(manager.data), f"pid {said['postgres']['pid']}", "pgvector: ready (vector "):
        assert word in text.stdout
    assert parsed.keys() == said.keys()
    assert parsed["instance"] == said["instance"]
    assert parsed["postgres"]["pid"] == said["postgres"]["pid"]


def test_status_of_a_stopped_instance_is_1_and_says_so(manager: Manager) -> None:
    """Not ready is told from not reachable by the words."""
    manager.trust().start().until_ready()
    assert manager.run("stop").returncode == 0
    text, document = manager.run("status"), manager.run("status", "--output", "json")

    assert (text.returncode, document.returncode) == (1, 1)
    assert text.stdout.startswith("test: stopped\n")
    assert json.loads(document.stdout)["desired"] == "stopped"


def test_status_of_a_failed_instance_is_1_with_cause_and_way_out(manager: Manager) -> None:
    """What keeps it from running is at the top."""
    manager.settings["extensions"]["volumes"] = [{"name": "missing", "required": True}]
    manager.trust().start()
    failure = manager.until_phase("failed")["failure"]
    done = manager.run("status")

    assert done.returncode == 1
    first, message, hint, *_ = done.stdout.splitlines()
    assert first.startswith("test: failed")
    assert (message.strip(), hint.strip()) == (failure["message"], failure["hint"])
    assert manager.run("check").returncode == 3


@pytest.mark.parametrize("command", CLIENTS)
def test_a_client_that_reaches_nobody_ends_with_1_and_names_the_socket(
    manager: Manager, command: str
) -> None:
    """A sentence and a question back, no stack."""
    done = manager.run(command)

    assert (done.returncode, done.stdout) == (1, "")
    assert f"cannot reach '{manager.socket}'" in done.stderr
    assert "is the manager running?" in done.stderr
    assert no_traceback(done)


# start, stop, restart, reload


def pid_of(manager: Manager) -> int | None:
    status = manager.status()
    assert status is not None
    pid: int | None = status["postgres"]["pid"]
    return pid


def test_stop_start_and_restart_end_with_0_when_they_are_done(manager: Manager) -> None:
    """Also where what is asked for holds already."""
    manager.trust().start().until_ready()
    first = pid_of(manager)
    for command, running in (
        ("stop", False),
        ("stop", False),
        ("start", True),
        ("start", True),
        ("restart", True),
    ):
        done = manager.run(command)

        assert (done.returncode, done.stdout) == (0, f"{command}: done\n"), done.stderr
        assert (pid_of(manager) is not None) is running
    assert manager.query("SELECT 1") == [(1,)]
    assert pid_of(manager) != first
    assert manager.end() == 0


def test_an_operation_is_told_to_programs_as_a_document(manager: Manager) -> None:
    """That of the API, finished."""
    manager.trust().start().until_ready()
    operation = json.loads(manager.run("restart", "--output", "json").stdout)

    assert (operation["kind"], operation["state"]) == ("restart", "succeeded")
    assert operation == manager.ask("GET", f"/v1/operations/{operation['id']}")[1]


def test_the_mode_of_a_stop_is_passed_on(manager: Manager) -> None:
    """An immediate stop leaves a cluster that needs recovery."""
    manager.trust().start().until_ready()
    assert manager.run("stop", "--mode", "immediate").returncode == 0
    tool = manager.server.bin_directory / "pg_controldata"
    said = subprocess.run([tool, manager.data], capture_output=True, text=True, check=True).stdout

    assert "in production" in said


def test_a_reload_applies_the_file_and_fails_with_its_problem(manager: Manager) -> None:
    """A good file is loaded; a broken one is an error of the operation that names the key."""
    manager.trust().start().until_ready()
    good = manager.directory / "client.yaml"
    shutil.copy(manager.config, good)
    manager.settings["postgres"]["parameters"] = {"work_mem": "7MB"}

    assert manager.run("reload").returncode == 0
    until(lambda: manager.query("SHOW work_mem") == [("7MB",)], "the new value is loaded")
    manager.config.write_text("postgres: {prot: 5432}")
    done = call("--config", str(good), "reload")
    assert (done.returncode, done.stdout) == (1, "")
    assert "'postgres.port'" in done.stderr
    assert no_traceback(done)


@pytest.fixture
def waiting(manager: Manager) -> Iterator[Manager]:
    """Yield a running manager whose smart stops wait for a session that stays."""
    manager.settings["shutdown"] = {"smart_seconds": 3600}
    manager.trust().start().until_ready()
    with manager.sql():
        yield manager


def operations(manager: Manager) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = manager.ask("GET", "/v1/operations")[1]["items"]
    return items


def test_a_conflict_ends_with_9_and_the_first_operation_goes_on(waiting: Manager) -> None:
    """Whoever comes second is told so."""
    code, first = waiting.ask("POST", "/v1/postgres/restart", {"mode": "smart"})
    assert code == 202
    done = waiting.run("restart")

    assert (done.returncode, done.stdout) == (9, "")
    assert done.stderr.startswith("instance-manager: ")
    assert no_traceback(done)
    found = {one["id"]: one["state"] for one in operations(waiting)}
    assert found[first["id"]] == "running"


def test_a_client_waits_no_longer_than_it_is_told(waiting: Manager) -> None:
    """It ends with 1 and says that it was too short, not that it failed."""
    done = waiting.run("restart", "--mode", "smart", "--timeout", "0.5")

    assert (done.returncode, done.stdout) == (1, "")
    assert "restart: running: not done within 0.5 s" in done.stderr
    assert [one["state"] for one in operations(waiting)][-1] == "running"
