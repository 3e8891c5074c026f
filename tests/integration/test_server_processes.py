"""What a real server waits for while it stops."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from instance_manager.postgres import account, control_data
from instance_manager.postgres.control_data import ClusterState
from instance_manager.postgres.embedded import Demonstration
from instance_manager.postgres.server_processes import look, processes_of
from instance_manager.postgres.stop_waits import Awaited, Awaits, ProcessKind
from tests.support.manager import ACCOUNT, DEADLINE_SECONDS, until

USER = "tester"
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}


class Server:
    """A bare server in a directory of its own; it is told to stop by signals alone."""

    def __init__(self, directory: Path, programs: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self._programs = programs
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, **parameters: str) -> Server:
        """Make the cluster and start the server; it accepts connections when this returns."""
        self.run("initdb", "-D", str(self.data), "-U", USER, "-A", "trust", "-N").wait()
        given = {"listen_addresses": "", "unix_socket_directories": str(self.directory)}
        options = [f"--{name}={value}" for name, value in (given | parameters).items()]
        self._process = self.run("postgres", "-D", str(self.data), *options)
        until(self._accepts, "the server accepts connections")
        return self

    def run(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start one of the server's programs as its account."""
        owner = account.find(ACCOUNT) if os.geteuid() == 0 else None
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(
                [str(self._programs / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=ENVIRONMENT,
                user=owner.uid if owner else None,
                group=owner.gid if owner else None,
                extra_groups=[] if owner else None,
            )

    @property
    def postmaster(self) -> int:
        """The postmaster's pid."""
        assert self._process is not None
        return self._process.pid

    def _accepts(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.directory / "log").read_text()
        with contextlib.suppress(psycopg.OperationalError), self.connect():
            return True
        return False

    def connect(self) -> psycopg.Connection[Any]:
        """Open a session."""
        return psycopg.connect(
            host=str(self.directory), user=USER, dbname="postgres", autocommit=True
        )

    def one(self, kind: ProcessKind) -> int:
        """Return the pid of the only process of a kind."""

        def found() -> list[int]:
            return [one.pid for one in processes_of(self.postmaster) if one.kind is kind]

        (pid,) = until(found, f"there is a {kind}")
        return pid

    def until_awaits(self, what: Awaits, told: str = "") -> Awaited:
        """Wait until the stop waits for *what*, with *told* in the message."""

        def awaits() -> Awaited | None:
            found = look(self.postmaster, self.data)
            return found if found and found.what is what and told in found.message else None

        return until(awaits, f"{what} are awaited {told}")  # type: ignore[return-value]

    def signal(self, number: signal.Signals) -> None:
        """Signal the postmaster."""
        os.kill(self.postmaster, number)

    def until_ended(self) -> None:
        """Wait for the postmaster's end, and for it to be a good one."""
        assert self._process is not None
        assert self._process.wait(DEADLINE_SECONDS) == 0, (self.directory / "log").read_text()

    def clean_up(self) -> None:
        """End the server, its children and what they started."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        until(self._none_is_left, "no process of the server is left")

    def _none_is_left(self) -> bool:
        left: list[int] = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (entry / "cwd").readlink().is_relative_to(self.data):
                    left.append(int(entry.name))
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left


@pytest.fixture
def bare(workspace: Path, server: Demonstration) -> Iterator[Server]:
    """Yield a server that is not started yet; nothing of it is left afterwards."""
    made = Server(workspace, server.bin_directory)
    yield made
    made.clean_up()


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a process by a signal, and let it go on afterwards."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("titles", ["on", "off"])
def test_every_process_of_a_server_is_known_by_its_title(bare: Server, titles: str) -> None:
    """Also with a name of the cluster, and where titles are set once only."""
    bare.start(cluster_name="shop: pg-0", update_process_title=titles, archive_mode="on")
    with bare.connect():
        expected = {
            ProcessKind.IO_WORKER,
            ProcessKind.CHECKPOINTER,
            ProcessKind.BACKGROUND_WRITER,
            ProcessKind.WALWRITER,
            ProcessKind.AUTOVACUUM_LAUNCHER,
            ProcessKind.ARCHIVER,
            ProcessKind.REPLICATION_LAUNCHER,
            ProcessKind.SESSION,
        }

        def kinds() -> set[ProcessKind]:
            return {one.kind for one in processes_of(bare.postmaster)}

        until(lambda: kinds() == expected, f"{expected} run, and nothing else")


def test_a_smart_stop_waits_for_the_sessions(bare: Server) -> None:
    """They are counted, and when they are closed the server ends."""
    bare.start()
    with bare.connect(), bare.connect():
        bare.signal(signal.SIGTERM)
        found = bare.until_awaits(Awaits.SESSIONS, "2 sessions")

        assert (found.count, found.message) == (2, "waiting for 2 sessions")
    bare.until_ended()
    assert look(bare.postmaster, bare.data) is None


def test_a_parallel_worker_is_awaited_with_its_session(bare: Server) -> None:
    """It is no session, but the stop waits for it as well."""
    bare.start(debug_parallel_query="on")
    with contextlib.closing(bare.connect()) as session:
        session.pgconn.send_query(b"SELECT pg_sleep(600)")
        worker = bare.one(ProcessKind.PARALLEL_WORKER)
        bare.signal(signal.SIGTERM)
        # One that has asked whether the server is up may still be on its way out.
        found = bare.until_awaits(Awaits.SESSIONS, "1 session, 1 parallel worker")

        assert found.message == "waiting for 1 session, 1 parallel worker"
        with frozen(worker):
            bare.signal(signal.SIGINT)
            bare.until_awaits(Awaits.SESSIONS, f"pid {worker} (parallel worker) is frozen")
    bare.until_ended()


def test_a_fast_stop_waits_for_the_shutdown_checkpoint(bare: Server) -> None:
    """A checkpointer that makes no headway is what is awaited, and named where it is frozen."""
    bare.start()
    with bare.connect() as session:
        session.execute("CREATE TABLE t AS SELECT generate_series(1, 200000)")
    checkpointer = bare.one(ProcessKind.CHECKPOINTER)
    with frozen(checkpointer):
        bare.signal(signal.SIGINT)
        found = bare.until_awaits(Awaits.CHECKPOINT)

        assert found.message == (
            f"waiting for the shutdown checkpoint; pid {checkpointer} (checkpointer) is frozen"
        )
    bare.until_ended()


def test_a_server_that_is_shut_down_waits_for_its_archiver(bare: Server) -> None:
    """A command that hangs holds up the end, though the cluster is whole by then."""
    release = bare.directory / "release"
    command = f"while [ ! -e {release} ]; do sleep 0.05; done"
    bare.start(archive_mode="on", archive_command=command)
    bare.signal(signal.SIGINT)
    found = bare.until_awaits(Awaits.ARCHIVER, "archiving")
    release.touch()

    assert found.message == "waiting for the archiver: archiving 000000010000000000000001"
    bare.until_ended()


@pytest.fixture
def receiver(bare: Server) -> Iterator[subprocess.Popen[bytes]]:
    """Start the server and a receiver of its WAL, and yield the receiver once it keeps pace."""
    bare.start()
    received = bare.directory / "received"
    received.mkdir()
    received.chmod(0o777)
    process = bare.run(
        "pg_receivewal", "-h", str(bare.directory), "-U", USER, "-D", str(received), "--no-loop"
    )
    query = "SELECT sent_lsn = pg_current_wal_lsn() FROM pg_stat_replication"
    with bare.connect() as session:
        until(lambda: session.execute(query).fetchone() == (True,), "the receiver keeps pace")
    yield process
    process.kill()
    process.wait()


def test_a_server_that_is_shut_down_waits_for_its_walsenders(
    bare: Server, receiver: subprocess.Popen[bytes]
) -> None:
    """A receiver that does not confirm the last WAL holds up the end until it goes on."""
    with frozen(receiver.pid):
        bare.signal(signal.SIGINT)
        until(lambda: control_data.read(bare.data).is_clean, "the cluster is shut down")
        found = bare.until_awaits(Awaits.WALSENDERS)

        assert (found.count, found.message) == (1, "waiting for 1 walsender")
    bare.until_ended()


def test_the_shutdown_checkpoint_waits_for_a_walsender_that_lags(
    bare: Server, receiver: subprocess.Popen[bytes]
) -> None:
    """A receiver that takes nothing holds up even the checkpoint until it goes on."""
    with frozen(receiver.pid):
        with bare.connect() as session:
            session.execute("CREATE TABLE t AS SELECT generate_series(1, 200000)")
        bare.signal(signal.SIGINT)
        found = bare.until_awaits(Awaits.WALSENDERS)

        assert found.message == "waiting for 1 walsender before the shutdown checkpoint"
        assert control_data.read(bare.data).state is ClusterState.IN_PRODUCTION
    bare.until_ended()


def test_a_frozen_session_is_named(bare: Server) -> None:
    """It does not hear the fast stop, and no waiting helps."""
    bare.start()
    with bare.connect() as session, frozen(session.info.backend_pid):
        bare.signal(signal.SIGINT)
        pid = session.info.backend_pid
        until(
            lambda: {one.kind for one in processes_of(bare.postmaster)}.isdisjoint(
                {ProcessKind.WALWRITER, ProcessKind.AUTOVACUUM_LAUNCHER}
            ),
            "the fast stop has ended the others",
        )

        found = bare.until_awaits(Awaits.SESSIONS, "1 session;")
        assert found.message == f"waiting for 1 session; pid {pid} (session) is frozen"
    bare.until_ended()


def test_a_frozen_postmaster_is_named(bare: Server) -> None:
    """It hears nothing, so its children are not even told."""
    bare.start()
    with frozen(bare.postmaster):
        bare.signal(signal.SIGINT)
        found = bare.until_awaits(Awaits.PROCESSES, "frozen")

        assert found.message == (
            f"waiting for the postmaster; pid {bare.postmaster} (postmaster) is frozen"
        )
    bare.until_ended()


SLEEPER = """
import os, sys
pipe, stop = sys.argv[1:]
child = os.fork()
if child == 0:
    # Until its new program's streams are open, the one who starts it sleeps uninterruptibly.
    while not os.path.exists(stop):
        pid = os.posix_spawn("/bin/true", ["true"], {}, file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, pipe, os.O_RDONLY, 0)])
        os.waitpid(pid, 0)
    os._exit(0)
print(child, flush=True)
os.waitpid(child, 0)
"""


@dataclass(frozen=True)
class Sleeper:
    """A child that sleeps uninterruptibly, until it is woken and falls asleep again."""

    directory: Path
    parent: subprocess.Popen[bytes]
    pid: int

    def is_asleep(self) -> bool:
        """Whether it sleeps right now."""
        return [one.state for one in processes_of(self.parent.pid)] == ["D"]

    def wake(self) -> None:
        """Wake it, if it sleeps."""
        with contextlib.suppress(OSError):
            os.close(os.open(self.directory / "pipe", os.O_WRONLY | os.O_NONBLOCK))

    def wake_until_ended(self) -> None:
        """Wake it whenever it sleeps, until it ends."""

        def ended() -> bool:
            self.wake()
            return self.parent.poll() is not None

        until(ended, "the sleeper ends")


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Sleeper]:
    """Yield a child that sleeps by now."""
    pipe, stop = tmp_path / "pipe", tmp_path / "stop"
    os.mkfifo(pipe)
    command = [sys.executable, "-c", SLEEPER, str(pipe), str(stop)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        made = Sleeper(tmp_path, parent, int(parent.stdout.readline()))
        until(made.is_asleep, "the child sleeps")
        yield made
        stop.touch()
        made.wake_until_ended()


def test_an_uninterruptible_sleep_is_blamed_on_the_storage(sleeper: Sleeper) -> None:
    """One that lasts as long as the look."""
    found = look(sleeper.parent.pid, sleeper.directory)

    assert found is not None
    assert (found.what, found.count) == (Awaits.STORAGE, 1)
    assert found.message == (
        f"waiting for storage: pid {sleeper.pid} is in an uninterruptible sleep"
    )


def test_a_process_that_sleeps_again_and_again_is_not_stuck(sleeper: Sleeper) -> None:
    """It is busy with its disk: it wakes, and is asleep at the next look."""
    waking = threading.Thread(target=sleeper.wake_until_ended)
    waking.start()
    found = look(sleeper.parent.pid, sleeper.directory)
    (sleeper.directory / "stop").touch()
    waking.join()

    assert found is not None
    assert found.what is not Awaits.STORAGE


def test_processes_that_vanish_meanwhile_are_no_fault() -> None:
    """Children come and go while they are looked at."""
    script = "i=0; while [ $i -lt 2000 ]; do /bin/true & i=$((i+1)); done; wait"
    with subprocess.Popen(["/bin/sh", "-c", script]) as shell:
        looks = 0
        while shell.poll() is None:
            processes_of(shell.pid)
            looks += 1

    assert looks > 0
    assert processes_of(shell.pid) == ()
