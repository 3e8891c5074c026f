"""Storage that is full, hangs, fails, disappears or loses power under a real server."""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

import psycopg
import pytest

from tests.support.faults import postmaster_of, until_answered
from tests.support.figures import Figures, percentile_99
from tests.support.ledger import Ledger
from tests.support.manager import Manager, until
from tests.support.volumes import MIB, Volume, ext4, tmpfs

Times = Callable[[int, int], int]

DATA_BYTES: Final = 192 * MIB
WAL_BYTES: Final = 96 * MIB
SMALL_WAL: Final = {"min_wal_size": "32MB", "max_wal_size": "32MB"}
MUCH_WAL: Final = (
    "SELECT pg_logical_emit_message(true, 'test', repeat('x', 1000000))"
    " FROM generate_series(1, 1000)"
)
ROWS: Final = 1000
FREEZE_SECONDS: Final = 30
FROZEN: Final = "24 storage frozen"


@pytest.fixture(autouse=True)
def _as_root(lacking: Callable[[str, str], NoReturn]) -> None:
    if os.geteuid() != 0:
        lacking("postgres", "mounting a file system needs root")


@contextlib.contextmanager
def data_on_a_volume(manager: Manager, directory: str = "data") -> Iterator[Volume]:
    """Give the manager a data directory on a volume of its own; end the manager afterwards."""
    with ext4(manager.directory / "volume", DATA_BYTES) as volume:
        manager.data = volume.path / directory
        manager.settings["postgres"]["data_directory"] = str(manager.data)
        with ended(manager):
            yield volume


@contextlib.contextmanager
def ended(manager: Manager) -> Iterator[None]:
    """Leave no process behind that uses a volume, also one that was taken away."""
    try:
        yield
    finally:
        manager.clean_up()
        for pid in started_for(manager.data):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        until(lambda: not started_for(manager.data), "no postmaster is left")


def started_for(data: Path) -> list[int]:
    """Return the processes that were started for a data directory, wherever it is by now."""
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            if arguments[1:3] == [b"-D", os.fsencode(data)]:
                found.append(int(entry.name))
    return found


@pytest.fixture
def data_volume(manager: Manager) -> Iterator[Volume]:
    """Yield the volume of the manager's data directory; the manager is not started."""
    with data_on_a_volume(manager) as volume:
        yield volume


@pytest.fixture
def wal_volume(manager: Manager) -> Iterator[Volume]:
    """Yield the volume of the manager's WAL, which holds a few segments."""
    with ext4(manager.directory / "wal", WAL_BYTES) as volume:
        manager.settings["postgres"]["wal_directory"] = str(volume.path / "pg_wal")
        manager.settings["postgres"]["parameters"] = dict(SMALL_WAL)
        with ended(manager):
            yield volume


@dataclass
class Answers:
    """What was answered while something lasted: the status codes, and the seconds of each."""

    codes: set[int] = field(default_factory=set[int])
    seconds: list[float] = field(default_factory=list[float])

    def until_more(self, number: int) -> None:
        """Wait until *number* more answers came."""
        wanted = len(self.seconds) + number
        until(lambda: len(self.seconds) >= wanted, f"{number} more answers came")


@contextlib.contextmanager
def asking(question: Callable[[], int]) -> Iterator[Answers]:
    """Ask again and again while the context lasts."""
    answers, over = Answers(), threading.Event()

    def ask() -> None:
        while not over.wait(0.01):
            began = time.monotonic()
            answers.codes.add(question())
            answers.seconds.append(time.monotonic() - began)

    thread = threading.Thread(target=ask, name="asking")
    thread.start()
    try:
        yield answers
    finally:
        over.set()
        thread.join()


def livez(manager: Manager) -> int:
    return manager.probe("livez")[0]


def status_code(manager: Manager) -> int:
    return manager.ask("GET", "/v1/status")[0]


@contextlib.contextmanager
def beside(function: Callable[[], object]) -> Iterator[threading.Thread]:
    """Do something that blocks in a thread, and wait for its end; its database errors are lost."""

    def work() -> None:
        with contextlib.suppress(psycopg.Error):
            function()

    thread = threading.Thread(target=work, name="beside")
    thread.start()
    try:
        yield thread
    finally:
        thread.join()


def ready_with_rows(manager: Manager) -> Manager:
    """Start the manager and make a table of :data:`ROWS` rows."""
    manager.trust().start().until_ready()
    manager.query(f"CREATE TABLE kept AS SELECT generate_series(1, {ROWS}) AS key")
    return manager


def starts(manager: Manager) -> int:
    """Return how many postmasters have said so far that they start."""
    return sum(one["message"].startswith("starting PostgreSQL") for one in manager.records())


def rows(manager: Manager) -> int:
    return int(manager.query("SELECT count(*) FROM kept")[0][0])


def do(manager: Manager, verb: str, seconds: int = 60) -> dict[str, Any]:
    """Ask for an operation and return it, over or not after that many seconds."""
    code, operation = manager.ask("POST", f"/v1/postgres/{verb}", Prefer=f"wait={seconds}")
    assert code in (200, 202), operation
    assert isinstance(operation, dict)
    return operation


def until_failed(manager: Manager, code: str, exit_code: int) -> dict[str, Any]:
    """Wait for the phase failed, and expect this reason; the API is up."""
    status = manager.until_phase("failed")
    assert (status["failure"]["code"], status["failure"]["exit_code"]) == (code, exit_code), status
    assert livez(manager) == 200
    return status


def our_files(manager: Manager) -> dict[str, bytes]:
    """Return what the manager keeps in the data directory."""
    directory = manager.data / "instance-manager"
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def test_a_full_wal_volume_is_waited_for_and_costs_no_acknowledged_row(
    manager: Manager, wal_volume: Volume, times: Times, figures: Figures
) -> None:
    """The server panics once, is not started over and over, and comes back when there is space."""
    manager.trust().start().until_ready()
    with Ledger(manager) as ledger:
        for _ in range(times(1, 5)):
            before = starts(manager)
            with asking(lambda: livez(manager)) as live:
                began = time.monotonic()
                until_wal_is_full(manager, wal_volume)
                seen = time.monotonic() - began
                live.until_more(times(400, 1000))
            assert live.codes == {200}
            assert starts(manager) == before

            wal_volume.free()
            began = time.monotonic()
            manager.until_ready()
            ready = time.monotonic() - began
            figures.add("19 WAL volume full", detect_seconds=seen, ready_seconds=ready)
            ledger.until_more()
            ledger.balance().verify()
            assert manager.until_phase("running")["postgres"]["restarts"] == 0
            assert starts(manager) == before + 1
    figures.require("19 WAL volume full", ready_seconds=15)
    assert manager.end() == 0


def until_wal_is_full(manager: Manager, volume: Volume) -> None:
    """Fill the volume of the WAL and write more, until the manager says so."""
    volume.fill()
    with pytest.raises(psycopg.Error):
        manager.query(MUCH_WAL)
    status = until_failed(manager, "disk-full", 4)
    assert "No space left on device" in manager.logged()
    assert status["postgres"]["last_exit"]["cause"] == "disk-full"


@pytest.fixture
def wal_elsewhere(manager: Manager) -> None:
    """Keep the WAL off the volume of the data directory."""
    manager.settings["postgres"]["wal_directory"] = str(manager.directory / "pg_wal")


@pytest.mark.usefixtures("wal_elsewhere")
def test_a_full_data_volume_stops_no_reader_and_tears_no_file(
    manager: Manager, data_volume: Volume
) -> None:
    """Writers get their error, a new configuration is refused, and nothing else changes."""
    ready_with_rows(manager)
    server = postmaster_of(manager)
    data_volume.fill()
    with pytest.raises(psycopg.errors.DiskFull):
        manager.query("INSERT INTO kept SELECT generate_series(1, 100000)")
    assert rows(manager) == ROWS

    before = our_files(manager)
    manager.settings["postgres"]["parameters"] = {"work_mem": "5MB"}
    manager.write_settings()
    failed = do(manager, "reload")
    assert (failed["state"], failed["error"]["code"]) == ("failed", "disk-full")
    assert our_files(manager) == before
    assert postmaster_of(manager) == server
    assert manager.until_phase("running")["postgres"]["pid"] == server


@pytest.mark.usefixtures("wal_elsewhere")
def test_a_configuration_for_a_full_data_volume_is_refused_and_nothing_of_it_stays(
    manager: Manager, data_volume: Volume
) -> None:
    """Over HTTP: what is told to be in force is what the server has, before and after."""
    manager.settings["configuration"] = {"source": "api"}
    ready_with_rows(manager)
    document = manager.ask("GET", "/v1/configuration")[1]
    wanted = {**document, "parameters": {"work_mem": "5MB"}}
    data_volume.fill()

    code, answer = manager.ask("PUT", "/v1/configuration", wanted, **{"If-Match": "*"})

    assert (code, answer["code"]) == (507, "disk-full"), answer
    assert manager.ask("GET", "/v1/configuration")[1] == document
    assert manager.query("SHOW work_mem")[0][0] == "4MB"
    data_volume.free()
    assert manager.ask("PUT", "/v1/configuration", wanted, **{"If-Match": "*"})[0] == 200
    assert manager.query("SHOW work_mem")[0][0] == "5MB"
    assert manager.end() == 0
    assert manager.start().until_ready().query("SHOW work_mem")[0][0] == "5MB"


@pytest.mark.usefixtures("wal_elsewhere")
def test_a_start_on_a_full_data_volume_is_refused_until_there_is_space(
    manager: Manager, data_volume: Volume, times: Times, figures: Figures
) -> None:
    """A stop works, a start says what it waits for, and makes itself good when space is free."""
    ready_with_rows(manager)
    for _ in range(times(1, 10)):
        data_volume.fill()
        assert do(manager, "stop")["state"] == "succeeded"
        failed = do(manager, "start")
        assert (failed["state"], failed["error"]["code"]) == ("failed", "disk-full")
        status = until_failed(manager, "disk-full", 4)
        assert str(data_volume.path) in status["failure"]["message"]

        data_volume.free()
        began = time.monotonic()
        manager.until_ready()
        figures.add("20 data volume full at a start", ready_seconds=time.monotonic() - began)
        assert rows(manager) == ROWS
    assert manager.end() == 0


def test_a_manager_with_no_space_for_files_of_its_own_leaves_the_database_alone(
    manager: Manager,
) -> None:
    """A full runtime directory keeps nobody from reading, writing, asking or restarting."""
    with tmpfs(manager.directory / "runtime", MIB) as volume, ended(manager):
        manager.socket = volume.path / "control.sock"
        manager.settings["control"]["socket"] = str(manager.socket)
        ready_with_rows(manager)
        volume.fill()
        manager.query("INSERT INTO kept VALUES (0)")
        assert do(manager, "reload")["state"] == "succeeded"
        assert do(manager, "restart")["state"] == "succeeded"
        assert rows(manager) == ROWS + 1
        assert manager.end() == 0
        ready = manager.start().until_ready()
        assert ready.end() == 0


def test_frozen_storage_stops_writers_and_nobody_else(
    manager: Manager, data_volume: Volume, times: Times, figures: Figures
) -> None:
    """Probes and status are answered at once, readers go on, and all goes on after the thaw."""
    ready_with_rows(manager)
    for number in range(1, times(1, 5) + 1):
        manager.settings["postgres"]["parameters"] = {"work_mem": f"{number}MB"}
        manager.write_settings()
        freeze_amid_work(manager, data_volume, times(0, FREEZE_SECONDS), figures)
        assert rows(manager) == ROWS + number
    figures.require(FROZEN, ready_seconds=5)
    for name in ("livez", "status"):
        figures.require(f"{FROZEN}: {name}", ready_seconds=0.05)
    assert manager.end() == 0


def freeze_amid_work(manager: Manager, volume: Volume, seconds: float, figures: Figures) -> None:
    """Freeze the volume for *seconds* at least, with a writer, a reload and everybody who asks."""
    with contextlib.ExitStack() as waiting:
        with volume.frozen(), asking(lambda: livez(manager)) as live:
            end, before = time.monotonic() + seconds, rows(manager)
            write = waiting.enter_context(
                beside(lambda: manager.query("INSERT INTO kept VALUES (0)"))
            )
            with asking(lambda: status_code(manager)) as asked:
                reload = do(manager, "reload", seconds=0)
                live.until_more(200)
                until(lambda: time.monotonic() >= end, "it was frozen for so long")
            assert rows(manager) == before
            assert manager.probe("readyz")[0] == 200
            assert write.is_alive()
            began = time.monotonic()
        write.join()
        figures.add(FROZEN, ready_seconds=time.monotonic() - began)
    path = f"/v1/operations/{reload['id']}"
    until(lambda: manager.ask("GET", path)[1]["state"] == "succeeded", "the reload goes on")
    for name, answers in (("livez", live), ("status", asked)):
        assert answers.codes == {200}
        for one in answers.seconds:
            figures.add(f"{FROZEN}: {name}", ready_seconds=one)
        assert (percentile_99(answers.seconds) or 0) < 1


def test_a_stop_while_storage_is_frozen_says_what_it_waits_for(
    manager: Manager, data_volume: Volume
) -> None:
    """It names storage, and ends cleanly when that goes on."""
    ready_with_rows(manager)

    def awaited() -> str:
        stopping = (manager.status() or {})["stopping"]
        return stopping["waiting_for"] if stopping else ""

    with asking(lambda: livez(manager)) as live, data_volume.frozen():
        stop = do(manager, "stop", seconds=0)
        assert stop["state"] == "running"
        until(lambda: "storage" in awaited(), "the stop says that it waits for storage", 15)
    assert manager.until_phase("stopped")["failure"] is None
    assert live.codes == {200}
    assert manager.end() == 0


def test_a_fence_while_storage_is_frozen_ends_and_says_what_is_missing(
    manager: Manager, data_volume: Volume
) -> None:
    """It can't be kept there, which takes the slot for ten seconds and not for ever."""
    ready_with_rows(manager)
    with data_volume.frozen():
        fence = do(manager, "fence")
        assert (fence["state"], fence["error"]["code"]) == ("failed", "unresponsive")
    assert manager.until_phase("fenced")["operation"] is None

    assert do(manager, "unfence")["state"] == "succeeded"
    assert rows(manager) == ROWS


def remove(data: Path, names: str = "") -> None:
    """Remove a directory, or what *names* match in it, beside a server that makes files anew."""
    command = f'rm -rf "$1"{names}'
    until(
        lambda: subprocess.run(["sh", "-c", command, "sh", data], check=False).returncode == 0,
        "it is removed",
    )


LOSSES: Final[dict[str, Callable[[Manager, Volume], None]]] = {
    "directory removed": lambda manager, volume: remove(manager.data),
    "contents removed": lambda manager, volume: remove(manager.data, "/*"),
    "volume detached": lambda manager, volume: volume.detach(),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_data_directory_that_is_lost_while_it_is_in_use_never_becomes_a_new_one(
    manager: Manager, data_volume: Volume, loss: str
) -> None:
    """When the server has ended, the manager says what is missing, however often it is asked."""
    ready_with_rows(manager)
    server = postmaster_of(manager)
    LOSSES[loss](manager, data_volume)
    # The manager may have seen the loss, and ended it.
    with contextlib.suppress(ProcessLookupError):
        os.kill(server, 9)
    expect_lost(manager)


def test_what_lies_below_a_volume_that_is_lost_never_becomes_a_new_cluster(
    manager: Manager,
) -> None:
    """Where the mount point was used before without its volume, there is a directory of ours."""
    below = manager.directory / "volume" / "instance-manager"
    owner = manager.directory.stat()
    for directory in (below.parent, below):
        directory.mkdir(mode=0o700)
        os.chown(directory, owner.st_uid, owner.st_gid)
    with data_on_a_volume(manager, ".") as volume:
        manager.data.chmod(0o700)
        ready_with_rows(manager)
        server = postmaster_of(manager)
        volume.detach()
        with contextlib.suppress(ProcessLookupError):
            os.kill(server, 9)
        expect_lost(manager)
        assert list(below.parent.iterdir()) == [below]

        volume.mount()
        assert do(manager, "start")["state"] == "succeeded"
        assert rows(manager) == ROWS
        assert manager.end() == 0


def expect_lost(manager: Manager) -> None:
    """Expect the phase failed for good, and that no cluster is made."""
    until_failed(manager, "data-directory-lost", 7)
    failed = do(manager, "start")
    assert (failed["state"], failed["error"]["code"]) == ("failed", "data-directory-lost")
    assert not (manager.data / "PG_VERSION").exists()
    assert manager.logged().count("making a new cluster") == 1


def test_a_data_volume_that_becomes_read_only_ends_in_failed(
    manager: Manager, data_volume: Volume
) -> None:
    """As the kernel makes it when a disk fails: the server ends, and is not started in vain."""
    before = starts(ready_with_rows(manager))
    with manager.sql() as connection:
        data_volume.fail()
        with contextlib.suppress(psycopg.Error):
            connection.execute("INSERT INTO kept VALUES (0)")
        until_failed(manager, "data-directory-read-only", 7)
        connection.close()
    assert starts(manager) == before
    assert manager.end() == 7

    data_volume.mount_anew()
    manager.start().until_ready()
    assert rows(manager) >= ROWS
    assert manager.end() == 0


def test_a_read_only_data_volume_is_refused_and_used_when_it_can_be_written(
    manager: Manager, data_volume: Volume
) -> None:
    """A start names the file system; asked again after a remount, it goes on."""
    assert ready_with_rows(manager).end() == 0
    data_volume.remount("ro")
    manager.start()
    until_failed(manager, "data-directory-read-only", 7)

    data_volume.remount("rw")
    assert do(manager, "start")["state"] == "succeeded"
    assert rows(manager) == ROWS
    assert manager.end() == 0


@pytest.mark.usefixtures("data_volume")
def test_a_mode_that_a_volume_driver_changed_under_a_server_is_mended_at_a_restart(
    manager: Manager,
) -> None:
    """Kubernetes' fsGroup sets the group's bits and set-gid at each mount, which may come late."""
    ready_with_rows(manager)
    manager.data.chmod(0o2770)
    assert do(manager, "restart")["state"] == "succeeded"
    assert "the mode of the data directory was repaired" in manager.logged()
    assert rows(manager) == ROWS
    assert manager.end() == 0


@pytest.mark.usefixtures("data_volume")
def test_what_was_changed_while_postgres_was_stopped_is_refused_and_can_be_mended(
    manager: Manager,
) -> None:
    """Owner, version and control file are judged anew at each start of the same manager."""
    ready_with_rows(manager)
    control, version = manager.data / "global" / "pg_control", manager.data / "PG_VERSION"
    owner = manager.data.stat()
    assert do(manager, "stop")["state"] == "succeeded"

    manager.data.chmod(0o755)
    os.chown(manager.data, 0, 0)
    assert f"{manager.data} (0:0 0755)" in refused_with_7(manager)
    os.chown(manager.data, owner.st_uid, owner.st_gid)
    manager.data.chmod(0o700)
    version.write_text("17\n")
    assert "PostgreSQL 17" in refused_with_7(manager)
    version.write_text("18\n")
    control.rename(control.with_name("aside"))
    assert "pg_control is missing" in refused_with_7(manager)
    control.with_name("aside").rename(control)

    assert do(manager, "start")["state"] == "succeeded"
    assert rows(manager) == ROWS
    assert manager.end() == 0


def refused_with_7(manager: Manager) -> str:
    """Ask for a start that is refused, and return its reason and the way out."""
    assert do(manager, "start")["state"] == "failed"
    failure = manager.until_phase("failed")["failure"]
    assert failure["exit_code"] == 7, failure
    return f"{failure['message']} {failure['hint']}"


def test_a_power_cut_costs_no_acknowledged_row_and_tears_no_file(
    manager: Manager, data_volume: Volume, times: Times, figures: Figures
) -> None:
    """Cut off at any moment, also while it writes files of its own, all is as it was promised."""
    manager.trust().start().until_ready()
    for turn in range(times(2, 20)):
        with Ledger(manager) as ledger:
            with beside(lambda: reload_again_and_again(manager)):
                ledger.until_more(secrets.randbelow(200))
                data_volume.cut_power()
                assert manager.process is not None
                manager.process.kill()
                manager.process.wait()
            manager.clean_up()
            data_volume.mount_anew()
            expect_whole(our_files(manager))

            began = time.monotonic()
            manager.start().until_ready()
            until_answered(manager)
            figures.add("22 power cut", ready_seconds=time.monotonic() - began)
            ledger.until_more()
            ledger.balance().verify()
        assert "making a new cluster" in manager.logged(), turn
    assert manager.end() == 0


def reload_again_and_again(manager: Manager) -> None:
    """Have the configuration written with other values, until the manager has ended."""
    turn = 0
    with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
        while True:
            turn += 1
            manager.settings["postgres"]["parameters"] = {"work_mem": f"{1000 + turn}kB"}
            manager.write_settings()
            # The next one is refused before this one has ended.
            do(manager, "reload", seconds=50)


def expect_whole(files: dict[str, bytes]) -> None:
    """Expect each file of ours to be all of one version."""
    from instance_manager.configuration.rendering import parse_line, sha256_of

    text = files["postgresql.conf"].decode()
    *lines, last = text.splitlines(keepends=True)
    assert parse_line(last.strip()) == (
        "instance_manager.config_sha256",
        sha256_of("".join(lines), files["pg_hba.conf"].decode(), files["pg_ident.conf"].decode()),
    )
    assert files["pg_hba.conf"].endswith(b"\n")
    assert files["instance.json"].endswith(b"}\n")
