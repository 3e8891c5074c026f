"""Why a real postmaster ended, and the crashes that a real server survives."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import psycopg
import pytest

from instance_manager.postgres import account
from instance_manager.postgres.embedded import Demonstration
from tests.support.manager import ACCOUNT, DEADLINE_SECONDS, Manager, until

PROGRAM = Path(__file__).parents[1] / "support" / "startup_program.py"
WAL_BYTES = 100 << 20


def serves(manager: Manager) -> bool:
    """Whether somebody can log in."""
    with contextlib.suppress(psycopg.OperationalError), manager.sql():
        return True
    return False


class Server:
    """Postmasters of the real start, without a supervisor over them."""

    def __init__(self, manager: Manager, wrapped: Sequence[str] = ()) -> None:
        self.manager = manager
        self.pid = 0
        manager.trust().write_settings()
        with manager.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*wrapped, sys.executable, str(PROGRAM), str(manager.config)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PROGRAM.parents[2])},
            )

    def tell(self, command: str) -> dict[str, Any]:
        """Give a command and return the answer."""
        self.ask(command)
        return self.answer()

    def ask(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        late = threading.Timer(DEADLINE_SECONDS, self.process.kill)
        late.start()
        try:
            answer = self.process.stdout.readline()
        finally:
            late.cancel()
        assert answer, self.manager.logged()
        found = json.loads(answer)
        assert isinstance(found, dict)
        return found

    def prepare(self) -> Server:
        self.tell("prepare")
        return self

    def set(self, line: str) -> Server:
        """Set what the manager's own checks would not let through."""
        with (self.manager.data / "postgresql.auto.conf").open("a") as file:
            file.write(line + "\n")
        return self

    def spawn(self) -> Server:
        self.pid = self.tell("spawn")["pid"]
        return self

    def ended(self) -> dict[str, Any]:
        return self.tell("ended")

    def until_serving(self) -> Server:
        until(lambda: serves(self.manager), "the server serves")
        return self

    def crashes(self) -> dict[str, Any]:
        return self.tell("crashes")

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def server_of(manager: Manager) -> Iterator[Callable[..., Server]]:
    """Yield what makes the server of the test, of which nothing is left afterwards."""
    with contextlib.ExitStack() as ends:

        def make(*wrapped: str) -> Server:
            made = Server(manager, wrapped)
            ends.callback(made.close)
            return made

        yield make


@pytest.fixture(scope="module")
def cluster(server: Demonstration) -> Iterator[Path]:
    """Yield a data directory to copy: making one takes longer than most tests."""
    directory = Path(tempfile.mkdtemp(prefix="im-", dir="/tmp"))
    directory.chmod(0o755)
    if os.geteuid() == 0:
        owner = account.find(ACCOUNT)
        os.chown(directory, owner.uid, owner.gid)
    made = Server(Manager(directory, server))
    made.prepare().close()
    yield made.manager.data
    shutil.rmtree(directory)


@pytest.fixture
def prepared(manager: Manager, cluster: Path, server_of: Callable[..., Server]) -> Server:
    """Return a server that could start at once."""
    subprocess.run(["cp", "-a", cluster, manager.data], check=True)
    return server_of().prepare()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nosuch_parameter = 1", 'unrecognized configuration parameter "nosuch_parameter"'),
        ("max_connections = lots", 'invalid value for parameter "max_connections": "lots"'),
        ("max_connections = 0", "outside the valid range"),
        ("wal_level = minimal", "wal_level"),
        ("superuser_reserved_connections = 300", "must be less than"),
    ],
)
def test_a_wrong_parameter_is_a_bad_configuration(prepared: Server, line: str, words: str) -> None:
    """Whatever is wrong with it, the server's own sentence names it."""
    ended = prepared.set(line).spawn().ended()

    assert (ended["status"], ended["cause"]) == ("exit code 1", "bad-configuration")
    assert words in ended["message"]


def test_wrong_access_rules_are_a_bad_configuration(prepared: Server) -> None:
    """The postmaster finds them after it has begun to listen."""
    rules = prepared.manager.data / "instance-manager" / "pg_hba.conf"
    rules.write_text("nonsense\n")
    ended = prepared.spawn().ended()

    assert ended["cause"] == "bad-configuration"
    assert 'invalid connection type "nonsense"; could not load' in ended["message"]
    assert ended["tail"][-1] == "LOG: database system is shut down"


def elf(server: Server) -> bytes:
    """Return a library that every server has."""
    tree = server.manager.server.bin_directory.parent
    return (tree / "lib" / "pg_stat_statements.so").read_bytes()


def with_needed(content: bytes) -> bytes:
    """Make a library depend on one that is nowhere."""
    return content.replace(b"libc.so.6\0", b"libn.so.6\0")


def of_other_machine(content: bytes) -> bytes:
    """Make a library one of a machine of 32 bits (e_ident[EI_CLASS])."""
    return content[:4] + b"\1" + content[5:]


@pytest.mark.parametrize("change", [None, with_needed, of_other_machine, lambda content: b""])
def test_a_library_that_can_not_be_loaded_is_missing(
    prepared: Server, change: Callable[[bytes], bytes] | None
) -> None:
    """It is absent, lacks another one, is of another machine, or is torn."""
    library = prepared.manager.directory / "library.so"
    if change is not None:
        library.write_bytes(change(elf(prepared)))
    ended = prepared.set(f"shared_preload_libraries = '{library}'").spawn().ended()

    assert (ended["status"], ended["cause"]) == ("exit code 1", "missing-library")
    assert "library.so" in ended["message"]


def test_memory_that_can_not_be_had_is_told(prepared: Server) -> None:
    """More shared memory than any host has."""
    ended = prepared.set("shared_buffers = 8000GB").spawn().ended()

    assert ended["cause"] == "out-of-memory"
    assert ended["message"].startswith("could not map anonymous shared memory")


def test_a_port_in_use_is_an_error(prepared: Server) -> None:
    """Somebody took it after it was seen to be free."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", prepared.manager.port))
        taken.listen()
        ended = prepared.spawn().ended()

    assert ended["cause"] == "error"
    assert "could not create any TCP/IP sockets" in ended["message"]


def test_a_lost_wal_segment_is_a_panic(prepared: Server) -> None:
    """The startup process panics, and the postmaster says who it was."""
    for segment in (prepared.manager.data / "pg_wal").iterdir():
        if segment.is_file():
            segment.unlink()
    ended = prepared.spawn().ended()

    assert (ended["status"], ended["cause"]) == ("exit code 1", "panic")
    assert ended["message"].startswith("startup process (PID ")
    assert "checkpoint" not in ended["message"]


@pytest.mark.parametrize(
    ("damage", "status", "cause", "words"),
    [
        (lambda content: content[:90] + b"?" + content[91:], "exit code 1", "error", "checksum"),
        (lambda content: b"", "signal SIGABRT", "panic", "could not read file"),
    ],
)
def test_a_damaged_control_file_is_told_in_the_postmasters_words(
    prepared: Server, damage: Callable[[bytes], bytes], status: str, cause: str, words: str
) -> None:
    """It fails, or panics, before its log works."""
    path = prepared.manager.data / "global" / "pg_control"
    path.write_bytes(damage(path.read_bytes()))
    ended = prepared.spawn().ended()

    assert (ended["status"], ended["cause"]) == (status, cause)
    assert words in ended["message"]


def test_memory_of_an_old_server_is_an_error(prepared: Server) -> None:
    """A backend that hangs holds on to it."""
    prepared.spawn().until_serving()
    with prepared.manager.sql() as connection:
        os.kill(connection.info.backend_pid, signal.SIGSTOP)
        os.kill(prepared.pid, signal.SIGKILL)
        assert prepared.ended()["cause"] == "signal"
        ended = prepared.spawn().ended()
        os.kill(connection.info.backend_pid, signal.SIGKILL)

    assert ended["cause"] == "error"
    assert "is still in use" in ended["message"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_killed_postmaster_ended_by_a_signal(prepared: Server, number: signal.Signals) -> None:
    """It has no last words; a statement that found no space before does not explain it."""
    prepared.spawn().until_serving()
    with pytest.raises(psycopg.errors.DiskFull):
        prepared.manager.query("DO $$ BEGIN RAISE USING ERRCODE = 'disk_full'; END $$")
    os.kill(prepared.pid, number)
    ended = prepared.ended()

    assert ended["status"] == f"signal {number.name}"
    assert (ended["cause"], ended["message"]) == ("signal", "")


def test_a_stop_of_somebody_is_clean(prepared: Server) -> None:
    """A postmaster that was asked by others ends with 0."""
    prepared.spawn().until_serving()
    os.kill(prepared.pid, signal.SIGINT)
    ended = prepared.ended()

    assert (ended["cause"], ended["message"]) == ("clean", "")
    assert "LOG: received fast shutdown request" in ended["tail"]


def test_a_crash_that_the_server_may_not_survive_is_its_end(prepared: Server) -> None:
    """With restart_after_crash off, the postmaster ends too, and says why."""
    prepared.set("restart_after_crash = off").spawn().until_serving()
    with prepared.manager.sql() as connection:
        os.kill(connection.info.backend_pid, signal.SIGKILL)
        ended = prepared.ended()

    assert (ended["cause"], ended["status"]) == ("error", "exit code 1")
    assert "was terminated by signal 9: Killed" in ended["message"]
    assert prepared.crashes() == {"sentences": [], "count": 0}


class SmallDisk:
    """A file system of its own for a program: mounted where it is wrapped, filled from here."""

    def __init__(self, path: Path, size: int, unshare: str) -> None:
        self.path = path
        self.filler = Path()
        script = f'mount -t tmpfs -o size={size},mode=777 none "$0" && exec "$@"'
        me, group = str(os.geteuid()), str(os.getegid())
        inner = ["sh", "-c", script, str(path)]
        self.wrapped = [unshare, "--mount", *inner]
        if os.geteuid() != 0:
            # Root of a namespace of its own may mount; postgres must be nobody's root again.
            back = [unshare, "--user", f"--map-user={me}", f"--map-group={group}"]
            self.wrapped = [unshare, "--user", "--map-root-user", "--mount", *inner, *back]

    def fill(self, server: Server) -> None:
        """Leave no space."""
        self.filler = Path(f"/proc/{server.process.pid}/root{self.path}") / "filler"
        with contextlib.suppress(OSError), self.filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def free(self) -> None:
        """Give the space back."""
        self.filler.unlink()


@pytest.fixture
def small_disk(workspace: Path, lacking: Callable[[str, str], NoReturn]) -> SmallDisk:
    """Return a small file system that is mounted for the server alone."""
    unshare = shutil.which("unshare") or lacking("containers", "there is no unshare")
    path = workspace / "disk"
    path.mkdir()
    if os.geteuid() == 0:
        owner = account.find(ACCOUNT)
        os.chown(path, owner.uid, owner.gid)
    return SmallDisk(path, WAL_BYTES, unshare)


def test_a_full_disk_at_the_start_is_told(
    manager: Manager, server_of: Callable[..., Server], small_disk: SmallDisk
) -> None:
    """The first thing that a postmaster writes is its lock file."""
    manager.data = small_disk.path / "data"
    manager.settings["postgres"]["data_directory"] = str(manager.data)
    server = server_of(*small_disk.wrapped).prepare()
    small_disk.fill(server)
    ended = server.spawn().ended()
    assert (ended["status"], ended["cause"]) == ("exit code 1", "disk-full")
    assert "postmaster.pid" in ended["message"]
    small_disk.free()

    server.prepare().spawn().until_serving()


def test_a_disk_that_gets_full_of_wal_is_told_and_nothing_is_lost(
    manager: Manager, server_of: Callable[..., Server], small_disk: SmallDisk
) -> None:
    """A backend panics, recovery finds no space either, and so does the next start."""
    manager.settings["postgres"]["wal_directory"] = str(small_disk.path / "wal")
    server = server_of(*small_disk.wrapped).prepare().spawn().until_serving()
    manager.query("CREATE TABLE kept AS SELECT 1")
    small_disk.fill(server)
    with pytest.raises(psycopg.OperationalError):
        manager.query("CREATE TABLE much AS SELECT repeat('x', 500) FROM generate_series(1, 2e5)")
    ended = [server.ended(), server.spawn().ended()]
    small_disk.free()
    server.spawn().until_serving()

    assert manager.query("SELECT count(*) FROM kept") == [(1,)]
    for each in ended:
        assert (each["status"], each["cause"]) == ("exit code 1", "disk-full")
        assert each["message"].startswith("startup process (PID ")
        assert "xlogtemp" not in str(each)
    assert server.crashes()["count"] == 1


BACKEND = "client backend"
EVERY_PROCESS = [
    # First: after an early crash it comes back a minute later.
    "archiver",
    "checkpointer",
    "walwriter",
    "background writer",
    "autovacuum launcher",
    "logical replication launcher",
    "io worker",
    BACKEND,
]
ARCHIVING = {"archive_mode": "on", "archive_command": "true"}


def kill_process(manager: Manager, kind: str, number: signal.Signals = signal.SIGKILL) -> None:
    """Kill a process of the server, by its kind, while a session that is idle lasts."""
    # Of the backends one that stays: others come and go, and are shown until they have gone.
    find = (
        "SELECT pid FROM pg_stat_activity WHERE backend_type = %s"
        " AND (backend_type <> 'client backend' OR pid = %s)"
    )
    with (
        contextlib.suppress(psycopg.OperationalError),
        manager.sql() as idle,
        manager.sql() as asking,
    ):
        which = [kind, idle.info.backend_pid]
        rows = until(lambda: asking.execute(find, which).fetchall(), f"there is a {kind}")
        os.kill(rows[0][0], number)


def until_count(seen: Callable[[], int], count: int) -> None:
    until(lambda: seen() >= count, f"{count} crashes are seen")


def test_a_crash_of_any_process_is_told_once(prepared: Server) -> None:
    """The sentence is the postmaster's, and it is the same postmaster that serves on."""
    server, manager = prepared, prepared.manager
    server.set("archive_mode = on").set("archive_command = 'true'").spawn().until_serving()
    manager.query("CREATE TABLE kept AS SELECT 1")
    for count, kind in enumerate(EVERY_PROCESS, 1):
        kill_process(manager, kind)
        until_count(lambda: int(server.crashes()["count"]), count)
        server.until_serving()
        told = server.crashes()

        assert told["count"] == len(told["sentences"]) == count, kind
        assert told["sentences"][-1].endswith("was terminated by signal 9: Killed"), kind
    assert server.pid in manager.postgres_processes()
    assert manager.query("SELECT count(*) FROM kept") == [(1,)]


def test_an_abort_of_a_backend_is_told_once(prepared: Server) -> None:
    """As after a panic, or a failed assertion."""
    kill_process(prepared.spawn().until_serving().manager, BACKEND, signal.SIGABRT)
    until(lambda: prepared.crashes()["count"], "it is told")
    prepared.until_serving()
    (sentence,) = prepared.crashes()["sentences"]

    assert sentence.startswith("client backend (PID ")
    assert sentence.endswith("was terminated by signal 6: Aborted")


def test_a_kill_after_a_crash_that_was_survived_is_a_kill(prepared: Server) -> None:
    """Each is told by itself."""
    kill_process(prepared.spawn().until_serving().manager, BACKEND)
    until(lambda: prepared.crashes()["count"], "it is told")
    os.kill(prepared.pid, signal.SIGKILL)

    assert prepared.ended()["cause"] == "signal"
    assert prepared.crashes()["count"] == 1


def collectors(manager: Manager) -> list[int]:
    """Return the pids of the server's logging collectors: one, unless it is being replaced."""
    found: list[int] = []
    for pid in manager.postgres_processes():
        with contextlib.suppress(OSError):
            if b"logger" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def test_a_logging_collector_that_is_killed_is_replaced_without_a_crash(
    prepared: Server,
) -> None:
    """Last words come through the new one, however late it is with them."""
    manager = prepared.set("restart_after_crash = off").spawn().until_serving().manager
    (old,) = collectors(manager)
    os.kill(old, signal.SIGKILL)
    until(lambda: "system logger process" in manager.logged(), "the end of the collector is told")
    assert prepared.crashes() == {"sentences": [], "count": 0}
    (new,) = until(
        lambda: [pid for pid in collectors(manager) if pid != old], "there is a new collector"
    )
    os.kill(new, signal.SIGSTOP)
    kill_process(manager, BACKEND)
    prepared.ask("ended")
    until(lambda: not Path(f"/proc/{prepared.pid}").exists(), "the postmaster has ended")
    os.kill(new, signal.SIGCONT)
    ended = prepared.answer()

    assert "was terminated by signal 9: Killed" in ended["message"]
    assert ended["tail"][-1] == "LOG: database system is shut down"


def test_the_manager_leaves_every_crash_to_postgres(manager: Manager) -> None:
    """It restarts nothing: the postmaster's pid stays, and all data is there."""
    manager.settings["postgres"]["parameters"] = ARCHIVING
    manager.trust().start().until_ready()
    manager.query("CREATE TABLE kept AS SELECT 1")
    postmaster = manager.until_phase("running")["postgres"]["pid"]
    crash = "all server processes terminated; reinitializing"
    for count, kind in enumerate(EVERY_PROCESS, 1):
        kill_process(manager, kind)
        # A line says it twice: as its message, and in the record.
        until_count(lambda: manager.logged().count(crash) // 2, count)
        until(lambda: serves(manager), f"{kind}: it serves again")
    manager.until_ready()

    after = manager.until_phase("running")["postgres"]
    assert (after["pid"], after["restarts"], after["last_exit"]) == (postmaster, 0, None)
    assert manager.query("SELECT count(*) FROM kept") == [(1,)]
