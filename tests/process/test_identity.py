"""The identity of a data directory: never two postmasters, and no start blocked by leftovers."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from instance_manager.postgres import account
from instance_manager.postgres.embedded import Demonstration
from tests.support import no_locks
from tests.support.figures import Figures
from tests.support.manager import ACCOUNT, Manager, until
from tests.support.processes import arguments_of, look

CHECKOUT = Path(__file__).parents[2]
Times = Callable[[int, int], int]

LONG_AGO = "1600000000"
"""In seconds since 1970, as ``postmaster.pid`` says it."""
SECONDS = 600 + os.getpid()
"""How long commands sleep that must not end by themselves; it tells them from all others."""


class Unlocked(Manager):
    """A manager for which no file can be locked, nor for its server."""

    def command(self, *arguments: str) -> list[str]:
        python, _, _, *rest = super().command(*arguments)
        return [python, str(no_locks.__file__), *rest]


class Postmasters:
    """Looks every 50 ms how many postmasters work in a data directory; use in a ``with``."""

    def __init__(self, manager: Manager) -> None:
        self.seen: set[int] = set()
        self.most = 0
        self._manager = manager
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.05):
            now = postmasters(self._manager)
            self.seen |= now
            self.most = max(self.most, len(now))


def postmasters(manager: Manager) -> set[int]:
    """Return the servers in the data directory that were executed: their children never are.

    Who outlives its postmaster for a moment has another parent, and is none all the same.
    """
    found: set[int] = set()
    for pid in manager.postgres_processes():
        with contextlib.suppress(OSError):
            is_server = Path(f"/proc/{pid}/exe").readlink().name == "postgres"
            if is_server and (one := look(pid)) and one.was_executed:
                found.add(pid)
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kill_manager(manager: Manager) -> None:
    assert manager.process is not None
    manager.process.kill()
    manager.process.wait()


def kill_server(manager: Manager) -> None:
    """Kill the server alone, postmaster first."""
    for pid in sorted(manager.postgres_processes()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until(lambda: not manager.postgres_processes(), "the server is gone")


def rival(manager: Manager, kind: type[Manager] = Manager) -> Manager:
    """Return another manager of the same data directory, with all else of its own."""
    directory = manager.directory / "rival"
    directory.mkdir()
    owner = manager.directory.stat()
    os.chown(directory, owner.st_uid, owner.st_gid)
    second = kind(directory, manager.server)
    second.settings["postgres"]["data_directory"] = str(manager.data)
    # Their sampling and cleaning up go by it.
    second.data = manager.data
    return second.trust()


def own_words(manager: Manager, message: str) -> list[dict[str, Any]]:
    return [record for record in manager.records() if record["message"] == message]


def owner_of(manager: Manager) -> dict[str, Any]:
    """Return what starts a process as the user of the server, its groups included."""
    if os.geteuid() != 0:
        return {}
    status = manager.data.stat()
    return {"user": status.st_uid, "group": status.st_gid, "extra_groups": []}


def as_owner(manager: Manager, code: str) -> str:
    """Run Python as the user of the server and return what it printed; DATA is the directory."""
    prelude = (
        "from pathlib import Path\n"
        "from instance_manager.postgres import leftovers, lock, pid_file\n"
        "from instance_manager.postgres.data_directory import OurFiles\n"
        f"DATA = Path({str(manager.data)!r})\n"
    )
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [sys.executable, "-c", prelude + code],
        cwd=CHECKOUT,
        **owner_of(manager),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def stopped(server: Demonstration) -> Iterator[Manager]:
    """Yield a manager with a cluster that was made and stopped; each test leaves it so."""
    directory = Path(tempfile.mkdtemp(prefix="im-", dir="/tmp"))
    directory.chmod(0o755)
    if os.geteuid() == 0:
        owner = account.find(ACCOUNT)
        os.chown(directory, owner.uid, owner.gid)
    made = Manager(directory, server)
    try:
        made.trust().start().until_ready()
        assert made.end() == 0
        yield made
    finally:
        made.clean_up()
        shutil.rmtree(directory)


@pytest.fixture
def unlocked(workspace: Path, server: Demonstration) -> Iterator[Manager]:
    """Yield a manager for which no file can be locked; nothing of it is left afterwards."""
    made = Unlocked(workspace, server).trust()
    yield made
    made.clean_up()


def sleepers() -> list[int]:
    """Return the processes that sleep for as long as nobody but these tests asks for."""
    wanted = f"sleep\0{SECONDS}\0".encode()
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cmdline").read_bytes() == wanted:
                found.append(int(entry.name))
    return found


@pytest.fixture(autouse=True)
def _no_sleepers() -> Iterator[None]:
    """End the commands that a test which failed has left: nothing else would find them."""
    yield
    for pid in sleepers():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def write_pid_file(manager: Manager, content: str) -> Path:
    """Leave a ``postmaster.pid`` behind, as the user of the server."""
    path, owner = manager.data / "postmaster.pid", manager.data.stat()
    path.write_text(content)
    path.chmod(0o600)
    os.chown(path, owner.st_uid, owner.st_gid)
    return path


def lines_after_pid(manager: Manager) -> str:
    """Return the rest of a file as a server killed long ago has left it."""
    return f"{manager.data}\n{LONG_AGO}\n{manager.port}\n/tmp\n127.0.0.1\n  1   1\nready   \n"


def dead_pid(_: Manager) -> int:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


def pid_of_others(manager: Manager) -> int:
    """Return a process that the server's user can't signal."""
    me = manager.data.stat().st_uid
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError):
            if entry.stat().st_uid != me and is_alive(int(entry.name)):
                return int(entry.name)
    raise AssertionError("every process is the server's user's")


STALE = "12 postmaster.pid of something else"


def serve(manager: Manager, figures: Figures) -> None:
    """Start where a ``postmaster.pid`` lies that is nobody's, which nothing must come of."""
    began = time.monotonic()
    manager.start().until_ready()
    figures.add(STALE, ready_seconds=time.monotonic() - began)
    assert manager.end() == 0


@contextlib.contextmanager
def helper(manager: Manager) -> Iterator[int]:
    """Run some program of the server's user meanwhile."""
    with subprocess.Popen(["sleep", "600"], **owner_of(manager)) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def test_an_old_server_is_stopped_fast_so_that_the_next_needs_no_recovery(
    manager: Manager,
) -> None:
    """The postmaster alone is asked, and it ends its children in order."""
    manager.trust().start().until_ready()
    manager.query("CREATE TABLE kept AS SELECT 1")
    kill_manager(manager)
    (old,) = postmasters(manager)
    manager.log.unlink()
    with Postmasters(manager) as sampled:
        manager.start().until_ready()
        assert manager.query("SELECT count(*) FROM kept") == [(1,)]

    (told,) = own_words(manager, "stopping an old server of this data directory")
    assert told["postmasters"] == [old]
    assert own_words(manager, "killing old processes of this data directory") == []
    until(lambda: "database system was shut down at" in manager.logged(), "postgres says so")
    assert "was not properly shut down" not in manager.logged()
    assert sampled.most == 1
    assert old in sampled.seen


def test_an_old_server_that_does_not_stop_in_time_is_killed_with_its_commands(
    manager: Manager,
) -> None:
    """A command that never ends keeps the server from stopping, until the time is over."""
    manager.settings["postgres"]["parameters"] = {
        "archive_mode": "on",
        "archive_command": f"exec sleep {SECONDS}",
    }
    manager.trust().start().until_ready()
    manager.query("SELECT pg_switch_wal()")
    command = until(sleepers, "the command runs")
    kill_manager(manager)
    done = as_owner(
        manager,
        "site = leftovers.Site(OurFiles(DATA), leftovers.Lock.THEIRS)\n"
        "print(leftovers.end_all(site, fast_seconds=0.5), leftovers.find(site))",
    )

    assert done.splitlines()[-1] == "True []"
    assert manager.postgres_processes() == []
    assert not any(map(is_alive, command))


def test_a_command_that_outlived_its_server_does_not_block_the_start(manager: Manager) -> None:
    """It has inherited the lock, so it is told by that, whatever it is."""
    manager.settings["postgres"]["parameters"] = {
        "archive_mode": "on",
        "archive_command": f"cd / && exec sleep {SECONDS}",
    }
    manager.trust().start().until_ready()
    manager.query("SELECT pg_switch_wal()")
    (command,) = until(sleepers, "the command runs")
    kill_manager(manager)
    kill_server(manager)
    assert is_alive(command)
    manager.settings["postgres"]["parameters"] = {}
    manager.start().until_ready()

    assert not is_alive(command)


def test_a_script_of_a_killed_bootstrap_does_not_block_the_start(manager: Manager) -> None:
    """Whatever an unfinished initialisation has left is ended with its server."""
    scripts = manager.directory / "init"
    scripts.mkdir()
    (scripts / "slow.sh").write_text(f"sleep {SECONDS}\n")
    manager.trust().start()
    (sleeper,) = until(sleepers, "the script runs")
    kill_manager(manager)
    (scripts / "slow.sh").unlink()
    manager.start().until_ready()

    assert not is_alive(sleeper)


def test_backends_without_a_postmaster_are_killed_and_nobody_is_waited_for(
    manager: Manager,
) -> None:
    """Frozen or busy, they can't end by themselves; no fast stop is tried."""
    manager.trust().start().until_ready()
    with manager.sql() as connection:
        backend = connection.info.backend_pid
        (postmaster,) = postmasters(manager)
        os.kill(backend, signal.SIGSTOP)
        kill_manager(manager)
        os.kill(postmaster, signal.SIGKILL)
        # The log's collector waits until nobody can write to it.
        until(lambda: len(manager.postgres_processes()) <= 2, "the others have ended")
        left = manager.postgres_processes()
        connection.close()
    manager.start().until_ready()

    assert not is_alive(backend)
    assert own_words(manager, "stopping an old server of this data directory") == []
    (told,) = own_words(manager, "killing old processes of this data directory")
    assert told["pids"] == sorted(left)
    assert backend in left


FORKS = """
import os, sys, time
while not os.path.exists(sys.argv[1]):
    time.sleep(0.001)
while True:
    if os.fork() == 0:
        time.sleep(600)
        os._exit(0)
    time.sleep(0.003)
"""


def test_a_leftover_that_starts_others_while_it_is_ended_is_ended_with_them(
    manager: Manager,
) -> None:
    """All are stopped before the first is killed, so one look finds whoever is left."""
    program, began = manager.directory / "forks.py", manager.directory / "began"
    program.write_text(FORKS)
    manager.settings["postgres"]["parameters"] = {
        "archive_mode": "on",
        "archive_command": f"cd / && exec {sys.executable} {program} {began}",
    }
    manager.trust().start().until_ready()
    manager.query("SELECT pg_switch_wal()")

    def those() -> list[int]:
        return [
            int(entry.name)
            for entry in Path("/proc").glob("[0-9]*")
            if arguments_of(int(entry.name))[1:2] == [str(program)]
        ]

    until(those, "the command runs")
    kill_manager(manager)
    kill_server(manager)
    try:
        done = as_owner(
            manager,
            "site = leftovers.Site(OurFiles(DATA), leftovers.Lock.THEIRS)\n"
            f"Path({str(began)!r}).touch()\n"
            "print(leftovers.end_all(site), leftovers.find(site))",
        )
        assert done.splitlines()[-1] == "True []"
        assert done.count("killing old processes of this data directory") == 1
        assert not those()
    finally:
        while left := those():
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def test_a_server_of_another_directory_is_left_alone(manager: Manager, stopped: Manager) -> None:
    """Old processes are those of one data directory, of the same user or not."""
    stopped.start().until_ready()
    others = set(stopped.postgres_processes())
    manager.trust().start().until_ready()
    kill_manager(manager)
    manager.start().until_ready()

    assert postmasters(stopped) <= others
    assert postmasters(stopped)
    assert stopped.end() == 0


@pytest.mark.parametrize("content", ["whole", "cut"])
@pytest.mark.parametrize("whose", [dead_pid, pid_of_others], ids=["dead", "of another user"])
def test_a_pid_file_of_no_process_of_ours_does_not_block_the_start(
    stopped: Manager,
    times: Times,
    figures: Figures,
    whose: Callable[[Manager], int],
    content: str,
) -> None:
    """A dead process, or one of another user, is no postmaster of this directory."""
    rest = lines_after_pid(stopped) if content == "whole" else ""
    for _ in range(times(1, 3)):
        write_pid_file(stopped, f"{whose(stopped)}\n{rest}")
        serve(stopped, figures)


@pytest.mark.parametrize("sign", ["", "-"], ids=["postmaster", "single-user server"])
@pytest.mark.parametrize("content", ["whole", "cut"])
def test_a_pid_file_that_names_some_process_of_ours_does_not_block_the_start(
    stopped: Manager, times: Times, figures: Figures, content: str, sign: str
) -> None:
    """Postgres alone would refuse: the process lives. The manager knows that it is another one."""
    rest = lines_after_pid(stopped) if content == "whole" else ""
    for _ in range(times(1, 3)):
        with helper(stopped) as pid:
            write_pid_file(stopped, f"{sign}{pid}\n{rest}")
            serve(stopped, figures)
            assert is_alive(pid)


def test_a_pid_file_that_names_a_server_of_another_directory_does_not_block_the_start(
    manager: Manager, stopped: Manager, times: Times, figures: Figures
) -> None:
    """Program, user and start time fit; what it works in does not, and it is left alone."""
    manager.trust().start().until_ready()
    (other,) = postmasters(manager)
    started = (manager.data / "postmaster.pid").read_text().splitlines()[2]
    content = f"{other}\n{lines_after_pid(stopped).replace(LONG_AGO, started)}"
    for _ in range(times(1, 3)):
        write_pid_file(stopped, content)
        serve(stopped, figures)
        assert postmasters(manager) == {other}


def test_a_pid_file_that_names_a_backend_is_not_believed(
    manager: Manager, times: Times, figures: Figures
) -> None:
    """It works in the directory, but began later than the file says: it has an old pid again."""
    manager.trust()
    for _ in range(times(1, 3)):
        manager.log.unlink(missing_ok=True)
        manager.start().until_ready()
        with manager.sql() as connection:
            backend = connection.info.backend_pid
            os.kill(backend, signal.SIGSTOP)
            kill_manager(manager)
            os.kill(postmasters(manager).pop(), signal.SIGKILL)
            # The log's collector waits until nobody can write to it.
            until(lambda: len(manager.postgres_processes()) <= 2, "the others have ended")
            connection.close()
        write_pid_file(manager, f"{backend}\n{lines_after_pid(manager)}")
        serve(manager, figures)

        assert not is_alive(backend)
        assert own_words(manager, "stopping an old server of this data directory") == []


def test_a_pid_file_that_names_the_manager_does_not_block_the_start(
    stopped: Manager, times: Times, figures: Figures
) -> None:
    """In a container, the process that has the old pid is the manager itself, again and again."""
    path = write_pid_file(stopped, f"1\n{lines_after_pid(stopped)}")
    rest = f"printf '%s\\n' $$ '{stopped.data}' {LONG_AGO} > '{path}' && exec \"$@\""

    class Named(Manager):
        def command(self, *arguments: str) -> list[str]:
            return ["sh", "-c", rest, "sh", *super().command(*arguments)]

    named = Named(stopped.directory, stopped.server)
    named.settings = stopped.settings
    named.port, named.health_port = stopped.port, stopped.health_port
    for _ in range(times(1, 3)):
        serve(named, figures)


@pytest.mark.parametrize(
    "content",
    ["", "\n", "garbage\n", "\0" * 64, "0\n"],
    ids=["empty", "a line", "garbage", "zeros", "zero"],
)
def test_a_pid_file_that_names_no_process_is_removed(
    stopped: Manager, times: Times, figures: Figures, content: str
) -> None:
    """Postgres alone would refuse such a file: nothing in it can be judged, or be of use."""
    for _ in range(times(1, 3)):
        write_pid_file(stopped, content)
        stopped.log.unlink()
        serve(stopped, figures)
        assert own_words(stopped, "removed a postmaster.pid that names no process")


@pytest.mark.parametrize("kind", ["directory", "link", "fifo"])
def test_what_is_no_file_in_the_place_of_the_pid_file_is_refused(
    stopped: Manager, figures: Figures, kind: str
) -> None:
    """Nobody can tell what it is for, so a person decides."""
    path = stopped.data / "postmaster.pid"
    if kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("elsewhere")
    else:
        os.mkfifo(path)
    stopped.start()
    try:
        failure = stopped.until_phase("failed")["failure"]
        assert stopped.end() == 7
    finally:
        path.rmdir() if kind == "directory" else path.unlink()

    assert failure["code"] == "data-directory-unusable"
    assert failure["message"].startswith(f"cannot read '{path}'")
    assert "move away what is there" in failure["hint"]
    figures.add("12 no file in its place, refused")


def test_a_living_single_user_server_is_refused_and_the_start_goes_on_when_it_ends(
    stopped: Manager,
) -> None:
    """Somebody works with it: it is neither joined nor cut off."""
    with subprocess.Popen(
        [
            str(stopped.server.bin_directory / "postgres"),
            "--single",
            "-D",
            str(stopped.data),
            "postgres",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=stopped.data,
        **owner_of(stopped),
    ) as single:
        path = stopped.data / "postmaster.pid"
        until(
            lambda: single.poll() is not None or path.exists(), "the single-user server has begun"
        )
        stopped.start()
        failure = stopped.until_phase("failed")["failure"]
        assert single.poll() is None
        assert postmasters(stopped) == {single.pid}
        assert failure["code"] == "data-directory-in-use"
        assert f"single-user server, process {single.pid}" in failure["message"]
        single.kill()
    stopped.until_ready()

    assert stopped.end() == 0


def test_a_pid_file_that_was_taken_from_a_server_is_put_back_as_it_was(manager: Manager) -> None:
    """Postgres' own tools find the server by it again, and a second server is refused."""
    manager.trust().start().until_ready()
    path = manager.data / "postmaster.pid"
    until(lambda: path.read_text().endswith("ready   \n"), "the server has written all of it")
    content = path.read_bytes()
    assert manager.process is not None
    # It would put the file back by itself.
    manager.process.send_signal(signal.SIGSTOP)
    path.unlink()
    said = as_owner(
        manager,
        f"content = {content!r}\n"
        "print(pid_file.watch(DATA, content))\n"
        "print(pid_file.restore(DATA, content), pid_file.restore(DATA, b'other'))\n"
        "print(pid_file.watch(DATA, content), pid_file.judge(DATA).verdict)",
    )
    manager.process.send_signal(signal.SIGCONT)

    assert said.splitlines() == ["missing", "True False", "same living"]
    assert path.read_bytes() == content
    assert path.stat().st_mode & 0o777 == 0o600
    (postmaster,) = postmasters(manager)
    assert f"(PID {postmaster})" in refused_server(manager)
    assert manager.end() == 0
    assert not path.exists()


def refused_server(manager: Manager) -> str:
    """Start a server beside the manager's and return what it said."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [str(manager.server.bin_directory / "postgres"), "-D", str(manager.data), "-c", "port=1"],
        cwd=manager.data,
        **owner_of(manager),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    return done.stderr


def test_a_second_manager_is_refused_and_takes_over_from_a_killed_one(manager: Manager) -> None:
    """The first one's server is still alive then, and there never are two."""
    manager.trust().start().until_ready()
    second = rival(manager)
    with Postmasters(manager) as sampled:
        second.start()
        try:
            failure = second.until_phase("failed")["failure"]
            assert failure["code"] == "data-directory-in-use"
            assert "another manager" in failure["message"]
            (first,) = postmasters(manager)
            kill_manager(manager)
            second.until_ready()
            assert postmasters(manager) != {first}
            assert second.end() == 0
        finally:
            second.clean_up()

    assert sampled.most == 1
    assert first in sampled.seen


def opened(pid: int) -> list[str]:
    """What a process has open; it opens and closes while it is looked at."""
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(descriptor.readlink()))
    return found


def test_the_record_lock_is_kept_whatever_the_manager_does(manager: Manager) -> None:
    """It would be lost if the file were opened and closed once more in that process."""
    manager.trust().start().until_ready()
    assert manager.process is not None
    pid, path = manager.process.pid, manager.data / "instance-manager" / "manager.lock"
    inode = path.stat().st_ino

    def is_locked() -> bool:
        lines = map(str.split, Path("/proc/locks").read_text().splitlines())
        return any(
            line[1:4:2] == ["POSIX", "WRITE"]
            and line[4] == str(pid)
            and line[5].endswith(f":{inode}")
            for line in lines
        )

    assert is_locked()
    for operation in ("reload", "restart", "stop", "start"):
        assert manager.ask("POST", f"/v1/postgres/{operation}", Prefer="wait=60")[0] == 200
        assert is_locked()
    manager.process.send_signal(signal.SIGHUP)
    assert manager.run("check").returncode == 0
    assert manager.run("status").returncode == 0
    os.kill(postmasters(manager).pop(), signal.SIGKILL)
    until(lambda: len(postmasters(manager)) == 1, "postgres is restarted")
    manager.until_ready()
    assert is_locked()
    assert opened(pid).count(str(path)) == 1


def test_without_locks_a_second_manager_is_refused_and_takes_over_after_a_clean_end(
    unlocked: Manager,
) -> None:
    """A lease that was given back is taken at once."""
    unlocked.start().until_ready()
    assert own_words(unlocked, "the file system of the data directory can't lock")
    lease = unlocked.data / "instance-manager" / "lease.json"
    second = rival(unlocked, Unlocked)
    with Postmasters(unlocked) as sampled:
        second.start()
        try:
            failure = second.until_phase("failed")["failure"]
            assert failure["code"] == "data-directory-in-use"
            assert f"process {unlocked.process.pid}" in failure["message"]  # type: ignore[union-attr] # it was started
            assert unlocked.end() == 0
            second.until_ready()
            assert second.end() == 0
        finally:
            second.clean_up()

    assert sampled.most == 1
    assert not lease.exists()


def test_without_locks_a_second_manager_takes_over_from_a_killed_one(unlocked: Manager) -> None:
    """The lease was not given back, and its process is gone."""
    unlocked.start().until_ready()
    second = rival(unlocked, Unlocked)
    with Postmasters(unlocked) as sampled:
        second.start()
        try:
            second.until_phase("failed")
            kill_manager(unlocked)
            kill_server(unlocked)
            second.until_ready()
            assert second.end() == 0
        finally:
            second.clean_up()

    assert sampled.most == 1


def put_lease(manager: Manager, content: dict[str, Any]) -> None:
    """Put another lease into the place of the one that there is, at once for whoever reads it."""
    lease, owner = manager.data / "instance-manager" / "lease.json", manager.data.stat()
    made = lease.with_suffix(".other")
    made.write_text(json.dumps(content))
    os.chown(made, owner.st_uid, owner.st_gid)
    made.replace(lease)


def failure_told(manager: Manager) -> dict[str, Any] | None:
    """Return the event of a failure: the status may tell of another one a second later."""
    _, events = manager.ask("GET", "/v1/events")
    return next((event for event in events["items"] if event["reason"] == "Failed"), None)


def test_without_locks_a_lease_is_renewed_and_another_host_is_believed_to_live(
    unlocked: Manager,
) -> None:
    """Where processes can't be looked at, what changes is alive."""
    unlocked.start().until_ready()
    lease = unlocked.data / "instance-manager" / "lease.json"
    first = json.loads(lease.read_text())
    until(lambda: json.loads(lease.read_text())["counter"] > first["counter"], "it is renewed")
    assert unlocked.end() == 0
    elsewhere = first | {"boot_id": "another", "host": "elsewhere", "session": "other"}
    put_lease(unlocked, elsewhere)
    unlocked.log.unlink()
    unlocked.start()
    until(lambda: own_words(unlocked, "watching a lease that was not given back"), "it is watched")
    put_lease(unlocked, elsewhere | {"counter": 1000})
    failure = unlocked.until_phase("failed")["failure"]

    assert failure["code"] == "data-directory-in-use"
    assert "on host 'elsewhere'" in failure["message"]
    # It is not renewed any more: after three renewals it is free.
    unlocked.until_ready()
    assert unlocked.end() == 0


def test_without_locks_a_manager_that_has_lost_its_lease_ends_its_server(
    unlocked: Manager,
) -> None:
    """Somebody else's session in the lease means that somebody else uses the directory."""
    unlocked.start().until_ready()
    lease = unlocked.data / "instance-manager" / "lease.json"
    others = json.loads(lease.read_text()) | {"session": "another"}

    def taken() -> dict[str, Any] | None:
        # Again and again: a renewal that has read it before writes over it.
        put_lease(unlocked, others)
        return failure_told(unlocked)

    told = until(taken, "the lease is lost")
    assert told is not None
    assert told["details"]["code"] == "data-directory-in-use"
    assert "has taken its lease" in told["message"]
    assert unlocked.until_phase("failed")["failure"]["exit_code"] == 7
    assert unlocked.postgres_processes() == []
    assert lease.exists()
    assert unlocked.end() == 7


@pytest.mark.parametrize("storage", ["fails", "hangs"])
def test_without_locks_a_manager_that_cannot_renew_its_lease_ends_its_server(
    unlocked: Manager, storage: str
) -> None:
    """Another manager takes what was not renewed for six seconds, wherever it is."""
    unlocked.start().until_ready()
    lease = unlocked.data / "instance-manager" / "lease.json"
    if storage == "fails":
        lease.unlink()
        lease.mkdir()
    else:
        # Who reads a fifo waits until somebody writes to it.
        os.mkfifo(fifo := lease.with_suffix(".fifo"))
        fifo.replace(lease)
    told = until(lambda: failure_told(unlocked), "the lease is lost")
    try:
        assert told is not None
        assert told["details"]["code"] == "data-directory-in-use"
        assert "its lease could not be renewed for 4 s" in told["message"]
        assert unlocked.until_phase("failed")["failure"]["exit_code"] == 7
        assert unlocked.postgres_processes() == []
        assert bool(own_words(unlocked, "cannot renew the lease of the data directory")) == (
            storage == "fails"
        )
    finally:
        lease.rmdir() if storage == "fails" else lease.unlink()
    assert unlocked.end() == 7


def test_a_living_manager_and_its_server_are_spared_without_their_lock_file(
    manager: Manager,
) -> None:
    """Who removes the file lets another manager lock a new one: the first one is known yet."""
    manager.trust().start().until_ready()
    assert manager.process is not None
    server = postmasters(manager)
    # It would give up its server by itself.
    manager.process.send_signal(signal.SIGSTOP)
    (manager.data / "instance-manager" / "manager.lock").unlink()
    second = rival(manager)
    try:
        second.start()
        failure = second.until_phase("failed")["failure"]
        assert failure["code"] == "data-directory-in-use"
        assert f"another manager, process {manager.process.pid}" in failure["message"]
        # Without the other lock, only the server in the directory is left to be known by.
        lock = manager.data / "instance-manager" / "lock"
        for _ in range(2):
            # When it begins the next one, a try has ended.
            lock.unlink()
            until(lock.exists, "the second one tries again")
        assert second.end() == 7
        assert postmasters(manager) == server
        manager.process.send_signal(signal.SIGCONT)
        told = until(lambda: failure_told(manager), "the lock is lost")
        assert told is not None
        assert "is gone, or another's" in told["message"]
        # Nobody has it, so the first one locks it anew.
        manager.until_ready()
        assert manager.end() == 0
    finally:
        manager.process.send_signal(signal.SIGCONT)
        second.clean_up()
