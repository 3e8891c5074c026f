"""Fence and unfence, and checkpoints on request: through the API and from a shell."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from instance_manager.fence import Fence
from instance_manager.postgres.data_directory import OurFiles
from instance_manager.postgres.fencing import Verdict
from instance_manager.supervision.threads import Serial
from tests.support.manager import Manager, until


def operate(manager: Manager, verb: str, body: object = None) -> dict[str, Any]:
    """Ask for an operation, wait for its end, and return it."""
    code, operation = manager.ask("POST", f"/v1/postgres/{verb}", body, Prefer="wait=60")
    assert code == 200, operation
    assert isinstance(operation, dict)
    return operation


def reasons(manager: Manager) -> list[str]:
    """Return the reasons of the events so far."""
    _, events = manager.ask("GET", "/v1/events")
    return [event["reason"] for event in events["items"]]


def test_a_fence_stops_postgres_and_leaves_the_manager_up(manager: Manager) -> None:
    """The container lives and answers; clients are kept away; nothing but unfence starts it."""
    manager.trust().start().until_ready()
    assert operate(manager, "fence")["state"] == "succeeded"

    status = manager.until_phase("fenced")
    assert (status["desired"], status["postgres"]["pid"]) == ("fenced", None)
    # The collector of its log ends when it has read the last line.
    until(lambda: not manager.postgres_processes(), "every process of the server is gone")
    assert [manager.probe(name)[0] for name in ("livez", "startupz", "readyz")] == [200, 200, 503]
    operation = operate(manager, "start")
    assert operation["state"] == "failed"
    assert (operation["error"]["code"], operation["error"]["hint"]) == (
        "conflict",
        "unfence it first",
    )
    assert [each for each in reasons(manager) if each.startswith(("Start", "Change"))][-2:] == [
        "StartRequested",
        "ChangeRefused",
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_fence_outlives_the_manager(manager: Manager, number: signal.Signals) -> None:
    """Stopped or killed and started again, it is still fenced; unfenced, it serves its data."""
    manager.trust().start().until_ready()
    manager.query("CREATE TABLE kept AS SELECT 42 AS answer")
    operate(manager, "fence")
    assert manager.end(number) == (0 if number is signal.SIGTERM else -9)
    offset = len(manager.logged())
    manager.start().until_phase("fenced")
    assert manager.postgres_processes() == []
    until(lambda: "the instance is fenced" in manager.logged()[offset:], "it is told in the log")

    assert operate(manager, "unfence")["state"] == "succeeded"
    assert manager.query("SELECT answer FROM kept") == [(42,)]
    assert manager.end() == 0
    manager.start().until_ready()


def test_asking_for_a_fence_that_stands_or_does_not_succeeds_at_once(manager: Manager) -> None:
    """Both verbs can be repeated."""
    manager.start().until_ready()
    assert operate(manager, "unfence")["state"] == "succeeded"
    assert manager.until_phase("running")["desired"] == "running"
    operate(manager, "fence")
    assert operate(manager, "fence")["state"] == "succeeded"
    assert operate(manager, "stop")["state"] == "succeeded"

    assert manager.until_phase("fenced")["desired"] == "fenced"


def test_an_instance_that_can_not_start_can_be_fenced(manager: Manager) -> None:
    """The fence comes before every check: who fences wants quiet, not another refusal."""
    manager.settings["extensions"]["volumes"] = [{"name": "missing", "required": True}]
    manager.start()
    manager.until_phase("failed")
    assert operate(manager, "fence")["state"] == "succeeded"
    assert manager.end() == 0

    assert manager.start().until_phase("fenced", "failed")["phase"] == "fenced"


def test_a_fence_holds_whatever_else_is_wrong_with_the_directory(manager: Manager) -> None:
    """A fenced instance is fenced, not failed, also where its start would be refused."""
    manager.start().until_ready()
    operate(manager, "fence")
    assert manager.end() == 0
    (manager.data / "postmaster.pid").mkdir()

    assert manager.start().until_phase("fenced", "failed")["phase"] == "fenced"


def test_an_instance_that_waits_for_its_lock_can_be_fenced_and_unfenced(
    manager: Manager,
) -> None:
    """The fence holds in memory, and the operation says so; another's data is not touched."""
    manager.start().until_ready()
    (manager.directory / "second").mkdir()
    second = Manager(manager.directory / "second", manager.server)
    os.chown(second.directory, manager.data.stat().st_uid, manager.data.stat().st_gid)
    second.data = manager.data
    second.settings["postgres"]["data_directory"] = str(manager.data)
    try:
        second.start().until_phase("failed")
        assert operate(second, "fence")["error"]["code"] == "data-directory-unusable"
        second.until_phase("fenced")
        assert not (manager.data / "instance-manager" / "fence.json").exists()
        assert manager.end() == 0

        assert operate(second, "unfence")["state"] == "succeeded"
        second.until_ready()
    finally:
        second.clean_up()


def programs_that_wait(manager: Manager, gate: Path) -> None:
    """Have the manager use a postgres that tells its version only when somebody opens *gate*."""
    real = manager.server.bin_directory
    own = manager.directory / "programs"
    (own / "bin").mkdir(parents=True)
    for name in ("lib", "share"):
        (own / name).symlink_to(real.parent / name)
    for program in real.iterdir():
        (own / "bin" / program.name).symlink_to(program)
    postgres = own / "bin" / "postgres"
    postgres.unlink()
    wait = f'case "$1" in --version) [ ! -e {gate} ] || read -r _ < {gate};; esac'
    postgres.write_text(f'#!/bin/sh\n{wait}\nexec {real / "postgres"} "$@"\n')
    postgres.chmod(0o755)
    manager.settings["postgres"]["bin_directory"] = str(own / "bin")


def test_an_unfence_that_comes_while_a_start_is_prepared_is_not_lost(manager: Manager) -> None:
    """The fence of an earlier manager may not have been found yet."""
    manager.start().until_ready()
    operate(manager, "fence")
    assert manager.end() == 0
    gate = manager.directory / "gate"
    os.mkfifo(gate, 0o666)
    gate.chmod(0o666)
    programs_that_wait(manager, gate)
    manager.start().until_phase("starting")

    code, operation = manager.ask("POST", "/v1/postgres/unfence")

    assert (code, operation["state"]) == (202, "running"), operation
    with gate.open("w", encoding="ascii") as opened:
        # The next one does not wait.
        gate.unlink()
        opened.write("go\n")
    manager.until_phase("fenced", "running")
    _, operation = manager.ask("GET", f"/v1/operations/{operation['id']}", Prefer="wait=60")
    assert operation["state"] == "succeeded", operation
    manager.until_ready()
    assert not (manager.data / "instance-manager" / "fence.json").exists()


def test_a_directory_that_is_not_ours_to_look_at_is_not_said_to_be_unfenced(
    manager: Manager,
) -> None:
    """A fence may stand in it, which holds as soon as its lock is released."""
    manager.start().until_ready()
    (manager.directory / "second").mkdir()
    second = Manager(manager.directory / "second", manager.server)
    os.chown(second.directory, manager.data.stat().st_uid, manager.data.stat().st_gid)
    second.data = manager.data
    second.settings["postgres"]["data_directory"] = str(manager.data)
    try:
        second.start().until_phase("failed")
        operate(manager, "fence")
        assert operate(second, "unfence")["error"]["code"] == "data-directory-unusable"
        assert manager.end() == 0
        second.until_phase("fenced")
        assert operate(second, "unfence")["state"] == "succeeded"
        second.until_ready()
    finally:
        second.clean_up()


def test_an_unfence_that_is_given_up_leaves_the_fence(tmp_path: Path) -> None:
    """The instance says that it is fenced: a new manager must find it so."""
    files = OurFiles(tmp_path)
    files.directory.mkdir()
    entered, gate = threading.Event(), threading.Event()

    def is_ours() -> bool:
        entered.set()
        return gate.wait(60)

    async def given_up(*, fenced: bool) -> Verdict:
        fence = Fence(lambda: files, "one", Serial(), is_ours)
        gate.set()
        if fenced:
            await fence.put_up()
        entered.clear()
        gate.clear()
        task = asyncio.create_task(fence.take_down())
        await asyncio.to_thread(entered.wait, 60)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        await asyncio.sleep(0)  # what puts it back has its turn in the queue
        gate.set()
        return await fence.look()

    assert asyncio.run(given_up(fenced=False)) is Verdict.OPEN
    assert asyncio.run(given_up(fenced=True)) is Verdict.FENCED


def test_a_fence_that_came_with_a_copy_does_not_hold(manager: Manager) -> None:
    """Another instance on a copy of the directory starts, and an event says what it ignored."""
    manager.trust().start().until_ready()
    operate(manager, "fence")
    assert manager.end() == 0
    copy = manager.directory / "copy"
    shutil.copytree(manager.data, copy, symlinks=True)
    owner = manager.data.stat()
    for path in (copy, *copy.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
    manager.settings["instance"]["name"] = "another"
    manager.settings["postgres"]["data_directory"] = str(copy)
    manager.data = copy
    manager.start().until_ready()

    assert "FenceIgnored" in reasons(manager)


def test_a_container_that_only_got_another_name_stays_fenced(manager: Manager) -> None:
    """The host's name is new in every container; the directory is not."""
    manager.start().until_ready()
    operate(manager, "fence")
    assert manager.end() == 0
    manager.settings["instance"]["name"] = "another"

    assert manager.start().until_phase("fenced", "running")["phase"] == "fenced"


def test_the_shell_fences_and_unfences(manager: Manager) -> None:
    """Both wait for the end and say so."""
    manager.start().until_ready()

    for verb, phase in (("fence", "fenced"), ("unfence", "running")):
        done = manager.run(verb)
        assert (done.returncode, done.stdout) == (0, f"{verb}: done\n")
        manager.until_phase(phase)


def test_a_checkpoint_can_be_asked_for(manager: Manager) -> None:
    """Over the API and from a shell; of a server that is not there it is a conflict."""
    manager.trust().start().until_ready()
    position = "SELECT redo_lsn::text FROM pg_control_checkpoint()"
    before = manager.query(position)
    manager.query("CREATE TABLE few AS SELECT generate_series(1, 1000)")

    assert manager.run("checkpoint").stdout == "checkpoint: done\n"
    assert manager.query(position) != before
    operate(manager, "stop")
    assert operate(manager, "checkpoint")["error"]["code"] == "conflict"


def test_a_busy_server_makes_a_checkpoint_before_a_stop(manager: Manager) -> None:
    """Clients go on working meanwhile, so the outage is short; an idle one does without."""
    manager.settings["postgres"]["parameters"] = {"checkpoint_timeout": "1d"}
    manager.trust().start().until_ready()
    operate(manager, "restart")
    assert "checkpoint before the stop" not in manager.logged()
    manager.query("CREATE TABLE big AS SELECT repeat('x', 1000) FROM generate_series(1, 40000)")

    def seen() -> bool:
        metrics = manager.probe("metrics")[1]
        lines = [one for one in metrics.splitlines() if one.startswith("pg_wal_since")]
        # There is none before the manager has looked.
        return any(float(line.split()[1]) > 16 * 1024 * 1024 for line in lines)

    until(seen, "the manager has seen how much was written")
    assert manager.end() == 0
    log = manager.logged()
    assert log.index("making a checkpoint before the stop") < log.rindex("stopping postgres")
    assert log.count("checkpoint complete") >= 2


def test_signals_that_mean_nothing_do_not_end_the_manager(manager: Manager) -> None:
    """A stray signal must not leave postgres behind without its manager."""
    manager.start().until_ready()
    postmaster = manager.until_phase("running")["postgres"]["pid"]
    assert manager.process is not None
    for name in ("USR1", "USR2", "ALRM", "VTALRM", "PROF", "POLL", "PWR", "PIPE", "WINCH", "URG"):
        manager.process.send_signal(signal.Signals[f"SIG{name}"])
    manager.process.send_signal(signal.SIGRTMIN + 5)

    assert manager.until_phase("running")["postgres"]["pid"] == postmaster
    assert manager.process.poll() is None
    assert manager.end() == 0
