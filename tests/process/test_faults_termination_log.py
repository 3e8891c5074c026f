"""The file in which the kubelet looks for a cause: what a real manager leaves there, and when."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.faults import postmaster_of
from tests.support.manager import Manager, until
from tests.support.processes import children_of
from tests.support.storage import MIB, fill, tmpfs

Mend = Callable[[], object]

MOUNT = """
set -eu
new=$1 file=$2
shift 2
mount -t tmpfs tmpfs "$new"
for one in null zero full random urandom; do
    : > "$new/$one"
    mount --bind "/dev/$one" "$new/$one"
done
mkdir "$new/shm"
mount --bind /dev/shm "$new/shm"
: > "$new/termination-log"
mount --bind "$file" "$new/termination-log"
mount --rbind "$new" /dev
exec "$@"
"""
"""Gives a program a /dev of its own, with the file in it that a kubelet mounts there."""


@pytest.fixture
def told(manager: Manager) -> Path:
    """Return what the manager, which is not started yet, has for its termination log."""
    file, devices = manager.directory / "termination-log", manager.directory / "dev"
    file.touch()
    file.chmod(0o666)
    devices.mkdir()
    manager.prefix = (*in_namespace(), "sh", "-c", MOUNT, "sh", str(devices), str(file), *myself())
    manager.trust()
    return file


@pytest.fixture
def ends(manager: Manager) -> Iterator[ExitStack]:
    """Yield what is ended before the manager's directory goes."""
    with ExitStack() as stack:
        yield stack
        manager.clean_up()


def in_namespace() -> tuple[str, ...]:
    """Return what lets a program mount, for itself alone."""
    return ("unshare", "--mount", *(() if os.geteuid() == 0 else ("--user", "--map-root-user")))


def myself() -> tuple[str, ...]:
    """Return what makes an ordinary user themselves again, who is root in their namespace."""
    ids = (f"--map-user={os.geteuid()}", f"--map-group={os.getegid()}")
    return () if os.geteuid() == 0 else ("unshare", "--user", *ids)


def with_data(manager: Manager) -> Manager:
    """Run the manager until it is ready, and stop it cleanly."""
    manager.start().until_ready()
    assert manager.end() == 0
    return manager


def lock(manager: Manager, ends: ExitStack) -> Mend:
    directory = manager.directory / "other"
    directory.mkdir()
    owner = manager.directory.stat()
    os.chown(directory, owner.st_uid, owner.st_gid)
    other = Manager(directory, manager.server)
    other.data = manager.data
    other.settings["postgres"]["data_directory"] = str(manager.data)
    ends.callback(other.clean_up)
    other.start().until_ready()
    manager.start()
    return other.end


def preflight(manager: Manager, _: ExitStack) -> Mend:
    manager.settings["extensions"]["volumes"] = [{"name": "missing", "required": True}]
    manager.start()

    def mend() -> None:
        manager.settings["extensions"]["volumes"] = []
        manager.write_settings()
        ask_for_start(manager, "reload")

    return mend


def disk(manager: Manager, ends: ExitStack) -> Mend:
    volume = ends.enter_context(tmpfs(manager.directory / "volume", 192 * MIB))
    manager.prefix = (*volume.prefix, *manager.prefix)
    manager.data = volume.path / "data"
    manager.settings["postgres"]["data_directory"] = str(manager.data)
    with_data(manager)
    filler = fill(volume.seen, MIB // 2)
    manager.start()
    return filler.unlink


def data_directory(manager: Manager, _: ExitStack) -> Mend:
    version = with_data(manager).data / "PG_VERSION"
    content = version.read_text()
    version.write_text("9\n")
    manager.start()

    def mend() -> None:
        version.write_text(content)
        ask_for_start(manager)

    return mend


def crash_loop(manager: Manager, _: ExitStack) -> Mend:
    manager.settings["restart"] = {"maximum": 0, "window_seconds": 300}
    manager.start().until_ready()
    os.kill(postmaster_of(manager), signal.SIGKILL)
    return lambda: ask_for_start(manager)


def ask_for_start(manager: Manager, verb: str = "start") -> None:
    assert manager.ask("POST", f"/v1/postgres/{verb}")[0] == 202


CASES: dict[str, tuple[Callable[[Manager, ExitStack], Mend], str, int]] = {
    "lock": (lock, "data-directory-in-use", 7),
    "preflight": (preflight, "preflight-refused", 3),
    "disk": (disk, "disk-full", 4),
    "data directory": (data_directory, "data-directory-version", 7),
    "crash loop": (crash_loop, "crash-loop", 6),
}


@pytest.mark.parametrize("name", CASES)
def test_a_failure_is_in_the_termination_log_for_as_long_as_it_lasts(
    manager: Manager, told: Path, ends: ExitStack, name: str
) -> None:
    """Cause and code stand there in the phase failed; mended, nothing does, nor after the end."""
    make, code, exit_code = CASES[name]
    mend = make(manager, ends)
    failure = manager.until_phase("failed")["failure"]
    assert (failure["code"], failure["exit_code"]) == (code, exit_code), failure
    until(told.read_text, "the cause is told")
    assert told.read_text().startswith(
        f"exit code {exit_code}: {failure['message']}\n{failure['hint']}\n"
    )

    mend()
    manager.until_ready()
    manager.until_phase("running")
    assert told.read_text() == ""
    assert manager.end() == 0
    assert told.read_text() == ""


def test_the_end_in_a_failure_leaves_its_cause(manager: Manager, told: Path) -> None:
    """That is when the kubelet reads it."""
    crash_loop(manager, ExitStack())
    message = manager.until_phase("failed")["failure"]["message"]
    assert manager.end() == 6
    assert told.read_text().startswith(f"exit code 6: {message}\n")


@pytest.mark.parametrize(("verb", "phase"), [("stop", "stopped"), ("fence", "fenced")])
def test_who_stops_or_fences_a_failed_instance_has_seen_the_cause(
    manager: Manager, told: Path, verb: str, phase: str
) -> None:
    """What is as somebody asked for is no failure any more."""
    crash_loop(manager, ExitStack())
    manager.until_phase("failed")
    until(told.read_text, "the cause is told")
    manager.ask("POST", f"/v1/postgres/{verb}")
    manager.until_phase(phase)

    assert told.read_text() == ""
    # The server was killed.
    assert manager.end() == 8


def test_a_clean_end_leaves_nothing_of_what_was_told_before(manager: Manager, told: Path) -> None:
    """Also where postgres had not come up again by then."""
    told.write_text("exit code 7: of another run\n")
    manager.start()
    assert manager.process is not None
    pid = manager.process.pid
    until(lambda: any(one.command == "initdb" for one in children_of(pid)), "initdb runs")
    assert told.read_text()

    assert manager.end() == 0
    assert told.read_text() == ""


def test_an_unclean_end_is_told(manager: Manager, told: Path) -> None:
    """The next start runs crash recovery."""
    manager.start().until_ready()
    assert manager.end(signal.SIGQUIT) == 8
    assert told.read_text().startswith("exit code 8: postgres was stopped, but not cleanly\n")
