"""Volumes that mean harm, or might as well: the server survives them, and the cause is named."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import modules
from tests.support.manager import Manager, until
from tests.support.modules import Volumes
from tests.support.processes import working_in

LOAD = "EXT080 rehearsal start failed: "
ENDLESS_SECONDS = 180


def initialised_by(code: str) -> Callable[[bytes], bytes]:
    """Return an edit by which a module is initialised with one of the made functions."""
    return lambda module: modules.with_code(module, "_PG_init", modules.FUNCTIONS[code])


def fatal(module: bytes) -> bytes:
    """Have a module call too early what the server allows only later, which is FATAL."""
    return modules.renamed(module, "DefineCustomIntVariable", "RequestAddinShmemSpace")


def sample(volumes: Volumes) -> bytes:
    """Return a module that does well when it is loaded at the start."""
    return (volumes.libraries / "auth_delay.so").read_bytes()


def listed(manager: Manager, name: str, **metadata: object) -> None:
    """List a volume in the settings, and have its metadata say something."""
    manager.settings["extensions"]["volumes"] = [{"name": name}]
    root = Path(manager.settings["extensions"]["root"])
    file = root / name / "share" / "instance-manager" / "extension.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(metadata))


def refused(manager: Manager, seconds: float = 60) -> dict[str, Any]:
    """Start a manager that refuses to start postgres, and return why."""
    manager.start()

    def failed() -> dict[str, Any] | None:
        status = manager.status()
        return status if status and status["phase"] == "failed" else None

    status = until(failed, "the start is refused", seconds)
    assert status is not None
    assert status["failure"]["exit_code"] == 3, manager.logged()
    assert status["postgres"]["restarts"] == 0
    assert not working_in(manager.data)
    failure = status["failure"]
    assert isinstance(failure, dict)
    return failure


def volumes_of(manager: Manager) -> dict[str, dict[str, Any]]:
    report = manager.ask("GET", "/v1/extensions")[1]
    return {volume["name"]: volume for volume in report["volumes"]}


def codes(volume: dict[str, Any]) -> set[str]:
    """Return the codes of a volume's findings, but for those of how it is mounted."""
    return {one["code"] for one in volume["findings"]} - {"EXT001", "EXT003"}


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (fatal, "cannot request additional shared memory outside shmem_request_hook"),
        (initialised_by("writes to address 0"), "it ended with signal SIGSEGV"),
        (initialised_by("exits with 0"), "it ended with exit code 0"),
        (initialised_by("exits with 1"), "it ended with exit code 1"),
    ],
)
@pytest.mark.parametrize("is_users", [True, False])
def test_a_module_that_ends_the_server_when_it_is_loaded_is_named(
    manager: Manager, edit: Callable[[bytes], bytes], said: str, is_users: bool
) -> None:
    """Before it ends one: whether the user wants it, or the metadata of a listed volume."""
    volumes = Volumes(manager)
    content = sample(volumes)
    volumes.module("good", content)
    volumes.module("bad", edit(content))
    wanted = ["good", "bad"] if is_users else ["good"]
    manager.settings["postgres"]["shared_preload_libraries"] = wanted
    if not is_users:
        listed(manager, "bad", shared_preload_libraries=["bad"])
    failure = refused(manager)

    assert f'{LOAD}{said}, when "bad" was loaded' in failure["message"]
    findings = manager.ask("GET", "/v1/extensions")[1]["findings"]
    assert [one["subject"] for one in findings if one["code"] == "EXT080"] == ["bad"]


def test_a_module_that_would_crash_every_session_is_named(manager: Manager) -> None:
    """Each session, the manager's own too, would take the whole server through a recovery."""
    volumes = Volumes(manager)
    volumes.module("bad", initialised_by("writes to address 0")(sample(volumes)))
    manager.settings["postgres"]["parameters"] = {"session_preload_libraries": "bad"}
    failure = refused(manager)

    assert f'{LOAD}it ended with signal SIGSEGV, when "bad" was loaded' in failure["message"]


def test_a_module_that_only_sessions_may_load_is_not_blamed(manager: Manager) -> None:
    """The trial loads it too early; what it says there counts for nothing."""
    volumes = Volumes(manager)
    volumes.module("early", fatal(sample(volumes)))
    manager.settings["postgres"]["parameters"] = {"session_preload_libraries": "early"}
    manager.start()
    status = manager.until_phase("starting", "running", "initializing")

    until(manager.postgres_processes, "the server was started")
    assert status["failure"] is None
    manager.end()
    until(lambda: not manager.postgres_processes(), "the server has ended")


def test_a_module_that_never_comes_back_does_not_hold_up_the_start_for_ever(
    manager: Manager,
) -> None:
    """A trial has an end: a server would be starting for ever, without a word."""
    volumes = Volumes(manager)
    volumes.module("bad", initialised_by("waits for ever")(sample(volumes)))
    manager.settings["postgres"]["shared_preload_libraries"] = ["bad"]
    began = time.monotonic()
    failure = refused(manager, ENDLESS_SECONDS)

    assert time.monotonic() - began > 1
    assert (
        f'{LOAD}cannot finish a trial of the start: no end within 60 s, with "bad"'
        in (failure["message"])
    )


def test_a_module_that_never_comes_back_refuses_the_reload(manager: Manager) -> None:
    """A trial has an end: the server that runs goes on with what it has."""
    volumes = Volumes(manager)
    volumes.module("bad", initialised_by("waits for ever")(sample(volumes)))
    manager.trust().start().until_ready()
    manager.settings["postgres"]["shared_preload_libraries"] = ["bad"]
    manager.write_settings()
    path = manager.ask("POST", "/v1/postgres/reload")[1]["id"]

    def failed() -> dict[str, Any] | None:
        seen = manager.ask("GET", f"/v1/operations/{path}")[1]
        return seen if seen["state"] == "failed" else None

    refusal = until(failed, "the reload is refused", ENDLESS_SECONDS)
    assert refusal is not None
    detail = refusal["error"]["detail"]
    assert 'cannot finish a trial of the start: no end within 60 s, with "bad"' in detail
    assert manager.query("SELECT 1") == [(1,)]


def test_what_a_module_leaves_behind_is_ended_with_the_server(manager: Manager) -> None:
    """A process that it forked: one of the trial with the trial, one of the server at its stop."""
    volumes = Volumes(manager)
    volumes.module("bad", initialised_by("leaves a process")(sample(volumes)))
    manager.trust().settings["postgres"]["shared_preload_libraries"] = ["bad"]
    manager.start().until_ready()
    assert manager.query("SELECT 1") == [(1,)]
    assert manager.process is not None
    children = Path(f"/proc/{manager.process.pid}/task/{manager.process.pid}/children")
    until(lambda: len(children.read_text().split()) == 1, "only the postmaster is a child")
    for _ in range(2):
        code, operation = manager.ask("POST", "/v1/postgres/restart", Prefer="wait=60")
        assert (code, operation["state"]) == (200, "succeeded")
    manager.until_ready()
    left = manager.postgres_processes()
    assert manager.end() == 0
    manager.start().until_ready()
    assert set(left).isdisjoint(manager.postgres_processes())
    assert manager.query("SELECT 1") == [(1,)]


@pytest.mark.parametrize(
    "name",
    [
        *("LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "MALLOC_CHECK_", "GLIBC_TUNABLES"),
        *("PATH", "PGDATA", "PGOPTIONS", "PG_OOM_ADJUST_FILE", "BASH_ENV", "LOCPATH"),
        *("OPENSSL_CONF", "GCONV_PATH", "INSTANCE_MANAGER_CONFIG", "A=B"),
    ],
)
def test_a_variable_that_would_change_the_server_is_refused(manager: Manager, name: str) -> None:
    """The volume is left out, and the server has none of it."""
    volumes = Volumes(manager)
    volumes.pgvector()
    volumes.control("bad")
    listed(manager, "bad", env=[{"name": name, "value": "/nowhere"}])
    done = manager.run("check", "--output", "json")
    (volume,) = [one for one in json.loads(done.stdout)["volumes"] if one["name"] == "bad"]

    assert codes(volume) == {"EXT060"}
    assert volume["state"] == "quarantined"


INCLUDING = {
    "outside": "include '/etc/passwd'\n",
    "itself": "include 'itself.control'\n",
    "endless": "include '/dev/zero'\n",
    "directory": "include_dir '/etc'\n",
    "maybe": "include_if_exists '../../../data/postgresql.conf'\n",
}

NAMES = ("new\\nline", "a:b", "a'b", "$libdir", "-c", "x" * 200, "\\udcff", "blank space")


def hundred(root: Path, content: bytes) -> None:
    for number in range(100):
        library = root / f"many{number:02}" / "lib" / f"many{number:02}.so"
        library.parent.mkdir(parents=True)
        library.write_bytes(content)


def what_is_no_directory(root: Path) -> None:
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
    (root / "device").symlink_to("/dev/zero")
    (root / "loop").symlink_to("loop")
    (root / "up").symlink_to("..")
    for part in ("share", "lib", "system", "bin"):
        directory = root / f"pipes-{part}"
        directory.mkdir()
        os.mkfifo(directory / part)
    library = root / "pipes" / "lib"
    library.mkdir(parents=True)
    os.mkfifo(library / "pipes.so")
    (root / "zeros" / "lib").mkdir(parents=True)
    (root / "zeros" / "lib" / "zeros.so").symlink_to("/dev/zero")


def fake_programs(root: Path) -> None:
    for name in ("postgres", "sh", "initdb", "pg_controldata", "archive"):
        program = root / "programs" / "bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\necho not the real one >&2\nexit 9\n")
        program.chmod(0o755)


def strange_metadata(root: Path) -> None:
    for name, content in (
        ("nested", b'{"requires":' + b"[" * (255 * 1024)),
        ("deep", b'{"a":' * 40_000 + b"1" + b"}" * 40_000),
        ("long", b'{"env": [' + b'{"name": "A", "value": "b"},' * 9000 + b"0]}"),
        ("number", b'{"postgresql_parameters": {"a.b": ' + b"9" * 200_000 + b"}}"),
        ("binary", os.urandom(256 * 1024)),
    ):
        file = root / name / "share" / "instance-manager" / "extension.json"
        file.parent.mkdir(parents=True)
        file.write_bytes(content)


def test_a_root_full_of_strange_things_leaves_the_server_alone(manager: Manager) -> None:
    """Names, links, pipes, devices, programs, control files and metadata: each has its finding."""
    volumes = Volumes(manager)
    volumes.pgvector()
    for name, line in INCLUDING.items():
        volumes.control(name, line)
    hundred(volumes.root, sample(volumes))
    what_is_no_directory(volumes.root)
    fake_programs(volumes.root)
    strange_metadata(volumes.root)
    for name in ("new\nline", "a:b", "a'b", "$libdir", "-c", "x" * 200, "\udcff", "blank space"):
        (volumes.root / name / "lib").mkdir(parents=True)
    manager.trust().settings["postgres"]["parameters"] = {
        "archive_mode": "on",
        "archive_command": "sh -c true",
    }
    manager.start().until_ready()

    found = volumes_of(manager)
    assert {name: codes(found[name]) for name in INCLUDING} == {
        name: {"EXT012"} for name in INCLUDING
    }
    assert all(
        "EXT005" in codes(each) for name, each in found.items() if "\n" in name or ":" in name
    )
    for name in ("nested", "deep", "long", "number", "binary"):
        assert "EXT024" in codes(found[name]), name
    for name in ("zeros", "pipes"):
        assert "EXT006" in codes(found[name]), name
    assert codes(found["loop"]) == {"EXT010"}
    assert {"fifo", "socket", "device"}.isdisjoint(found)
    assert len([name for name in found if name.startswith("many")]) == 100
    assert found["pgvector"]["state"] == "ready"
    manager.query("CREATE EXTENSION vector")
    assert manager.query("SELECT '[1]'::vector") == [("[1]",)]
    manager.query("SELECT pg_switch_wal()")
    until(
        lambda: manager.query("SELECT archived_count > 0 FROM pg_stat_archiver") == [(True,)],
        "the real shell archives",
    )
    status = manager.status()
    assert status is not None
    assert status["postgres"]["restarts"] == 0
    assert "not the real one" not in manager.logged()
    assert "FATAL" not in manager.logged()
