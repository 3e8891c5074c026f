"""A data directory that can't be used as it is: refused with a code, and mended without loss."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.figures import Figures
from tests.support.manager import Manager, until
from tests.support.storage import MIB, Volume, fill, tmpfs

SMALL_SEGMENTS = ["--wal-segsize=1"]


def with_data(manager: Manager) -> Manager:
    """Run the manager until a row is committed, and stop it cleanly."""
    manager.trust().start().until_ready()
    manager.query("CREATE TABLE kept AS SELECT 42 AS n")
    assert manager.end() == 0
    return manager


def until_refused(manager: Manager, code: str, exit_code: int = 7) -> dict[str, Any]:
    """Wait for the refusal with this code, served with liveness; return the failure."""
    failure: dict[str, Any] = manager.until_phase("failed")["failure"]
    assert (failure["code"], failure["exit_code"]) == (code, exit_code), failure
    assert manager.probe("livez")[0] == 200
    assert manager.probe("readyz")[0] == 503
    return failure


def until_mended(manager: Manager) -> None:
    """Ask for a start, which succeeds, and see that no data is lost."""
    code, operation = manager.ask("POST", "/v1/postgres/start", Prefer="wait=60")
    assert (code, operation["state"]) == (200, "succeeded"), operation
    assert manager.query("SELECT n FROM kept") == [(42,)]


def aside(manager: Manager) -> Path:
    """Return a place beside the data directory for what is taken out of it."""
    return manager.directory / "aside"


def flip_control(manager: Manager) -> None:
    """Flip a byte of the control file; once more, and it is whole again."""
    with (manager.data / "global" / "pg_control").open("r+b") as file:
        file.seek(40)
        byte = file.read(1)[0]
        file.seek(40)
        file.write(bytes([byte ^ 0x10]))


def hide(name: str) -> Callable[[Manager], None]:
    """Return what takes an entry out of the data directory."""

    def take_out(manager: Manager) -> None:
        shutil.move(manager.data / name, aside(manager))

    return take_out


def show(name: str) -> Callable[[Manager], None]:
    """Return what puts it back, over what is in its place."""

    def put_back(manager: Manager) -> None:
        place = manager.data / name
        if os.path.lexists(place):
            place.unlink()
        aside(manager).rename(place)

    return put_back


def replace(name: str, content: bytes) -> Callable[[Manager], None]:
    """Return what puts another file in the place of an entry."""

    def put(manager: Manager) -> None:
        hide(name)(manager)
        (manager.data / name).write_bytes(content)
        status = manager.data.stat()
        os.chown(manager.data / name, status.st_uid, status.st_gid)

    return put


def link_wal_to_nothing(manager: Manager) -> None:
    """Leave a link to a volume that is not there."""
    hide("pg_wal")(manager)
    (manager.data / "pg_wal").symlink_to(manager.directory / "volume")


def link_wal_to_an_empty_volume(manager: Manager) -> None:
    """Leave a link to a volume without anything of ours."""
    link_wal_to_nothing(manager)
    (manager.directory / "volume" / "lost+found").mkdir(parents=True, exist_ok=True)


def keep_only_ours(manager: Manager) -> None:
    """Take everything out of the data directory that is not the manager's own."""
    aside(manager).mkdir(exist_ok=True)
    for entry in manager.data.iterdir():
        if entry.name != "instance-manager":
            entry.rename(aside(manager) / entry.name)


def bring_all_back(manager: Manager) -> None:
    """Put everything back."""
    for entry in aside(manager).iterdir():
        entry.rename(manager.data / entry.name)


@dataclass(frozen=True)
class Case:
    """A damage, the refusal that it leads to, and what mends it."""

    code: str
    words: str
    damage: Callable[[Manager], None]
    mend: Callable[[Manager], None]


def owned_by(owner: Callable[[Manager], int], *names: str) -> Callable[[Manager], None]:
    """Return what gives entries of the data directory to somebody."""

    def give(manager: Manager) -> None:
        for name in names:
            for path in (manager.data / name, *(manager.data / name).glob("0*")):
                os.chown(path, owner(manager), owner(manager))

    return give


def us(manager: Manager) -> int:
    return manager.data.stat().st_uid


def somebody_else(_: Manager) -> int:
    return 12345


def mode_of_wal(mode: int) -> Callable[[Manager], None]:
    return lambda manager: (manager.data / "pg_wal").chmod(mode)


CONTROL, VERSION = "global/pg_control", "PG_VERSION"
DAMAGED, WAL = "data-directory-damaged", "wal-directory-unusable"
CASES = {
    "torn control file": Case(DAMAGED, "checksum does not fit", flip_control, flip_control),
    "empty control file": Case(DAMAGED, "0 bytes", replace(CONTROL, b""), show(CONTROL)),
    "no control file": Case(DAMAGED, "pg_control is missing", hide(CONTROL), show(CONTROL)),
    "no version": Case(DAMAGED, "PG_VERSION is missing", hide(VERSION), show(VERSION)),
    "garbage version": Case(DAMAGED, "is no version", replace(VERSION, b"\0\0"), show(VERSION)),
    "another version": Case(
        "data-directory-version", "PostgreSQL 17", replace(VERSION, b"17\n"), show(VERSION)
    ),
    "no WAL directory": Case(WAL, "it is missing", hide("pg_wal"), show("pg_wal")),
    "link to nothing": Case(WAL, "which is not there", link_wal_to_nothing, show("pg_wal")),
    "empty volume": Case(WAL, "no WAL segment", link_wal_to_an_empty_volume, show("pg_wal")),
    "read-only mode": Case(WAL, "has mode 0500", mode_of_wal(0o500), mode_of_wal(0o700)),
    "only ours is left": Case(
        "data-directory-lost", "nothing else is left", keep_only_ours, bring_all_back
    ),
}
if os.geteuid() == 0:  # only root can give files away
    CASES |= {
        f"{name} of somebody else": Case(
            code,
            "belongs to uid 12345",
            owned_by(somebody_else, name),
            owned_by(us, name),
        )
        for name, code in {
            VERSION: "data-directory-owner",
            CONTROL: "data-directory-owner",
            "pg_wal": WAL,
        }.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_what_can_not_be_used_is_refused_with_its_code_and_runs_when_it_is_mended(
    manager: Manager, times: Callable[[int, int], int], figures: Figures, name: str
) -> None:
    """Postgres is not even started on it, and a stop ends with the code of the cause."""
    case = CASES[name]
    with_data(manager)
    for _ in range(times(1, 3)):
        case.damage(manager)
        manager.start()
        assert case.words in until_refused(manager, case.code)["message"]
        assert manager.postgres_processes() == []
        assert manager.end() == 7

        manager.start()
        until_refused(manager, case.code)
        case.mend(manager)
        began = time.monotonic()
        until_mended(manager)
        figures.add("26 data that can't be used, mended", ready_seconds=time.monotonic() - began)
        assert manager.end() == 0


def test_a_control_file_that_is_torn_after_the_stop_is_not_clean(manager: Manager) -> None:
    """Whether recovery is needed is read after the stop: what can't be read is no yes."""
    manager.trust().start().until_ready()
    code, _ = manager.ask("POST", "/v1/postgres/stop", Prefer="wait=60")
    assert code == 200
    flip_control(manager)

    assert manager.end() == 8


def test_wal_elsewhere_than_configured_is_moved_by_the_commands_of_the_hint(
    manager: Manager,
) -> None:
    """The setting has no effect on a cluster that is there: people are told what has."""
    with_data(manager)
    wal = manager.directory / "a wal volume"
    wal.mkdir(mode=0o700)
    status = manager.data.stat()
    os.chown(wal, status.st_uid, status.st_gid)
    manager.settings["postgres"]["wal_directory"] = str(wal)
    manager.start()
    failure = until_refused(manager, WAL)
    assert f"postgres.wal_directory is {str(wal)!r}" in failure["message"]

    subprocess.run(["sh", "-ec", failure["hint"].split("move the WAL: ")[1]], check=True)
    until_mended(manager)
    assert (manager.data / "pg_wal").resolve() == wal
    assert manager.end() == 0
    del manager.settings["postgres"]["wal_directory"]
    manager.start().until_ready()


def test_a_new_cluster_is_made_where_one_was_when_a_person_says_so(manager: Manager) -> None:
    """The command of the hint is the way."""
    with_data(manager)
    keep_only_ours(manager)
    manager.start()
    hint = until_refused(manager, "data-directory-lost")["hint"]
    subprocess.run(["sh", "-ec", hint.split("to make a new one instead: ")[1]], check=True)
    code, operation = manager.ask("POST", "/v1/postgres/start", Prefer="wait=60")

    assert (code, operation["state"]) == (200, "succeeded"), operation
    assert manager.query("SELECT count(*) FROM pg_class WHERE relname = 'kept'") == [(0,)]


def test_wal_without_its_data_is_never_joined_by_a_new_cluster(manager: Manager) -> None:
    """An empty data directory beside WAL is a volume that is not mounted."""
    wal = manager.directory / "wal"
    manager.settings["postgres"]["wal_directory"] = str(wal)
    with_data(manager)
    before = sorted(wal.rglob("*"))
    manager.data.rename(aside(manager))
    manager.start()

    assert str(wal) in until_refused(manager, "data-directory-lost")["message"]
    assert sorted(wal.rglob("*")) == before
    shutil.rmtree(manager.data)
    aside(manager).rename(manager.data)
    until_mended(manager)


def copy(source: Path, target: Path) -> None:
    """Copy a tree with its owners, as a restored backup comes."""
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


@pytest.mark.parametrize("what_is_left", ["nothing", "an empty directory"])
@pytest.mark.parametrize("way_back", ["the same", "a copy"])
def test_data_that_vanishes_under_a_server_is_never_replaced_by_a_new_cluster(
    manager: Manager, what_is_left: str, way_back: str
) -> None:
    """The manager knows that data was there; a volume that comes back is locked anew."""
    manager.trust().start().until_ready()
    manager.query("CREATE TABLE kept AS SELECT 42 AS n")
    postmaster = manager.until_phase("running")["postgres"]["pid"]
    status = manager.data.stat()
    manager.data.rename(aside(manager))
    if what_is_left != "nothing":
        manager.data.mkdir(mode=0o700)
        os.chown(manager.data, status.st_uid, status.st_gid)
    os.kill(postmaster, signal.SIGKILL)
    until_refused(manager, "data-directory-lost")
    code, operation = manager.ask("POST", "/v1/postgres/start", Prefer="wait=60")
    assert (code, operation["error"]["code"]) == (200, "data-directory-lost")
    assert not manager.data.exists() or not any(manager.data.iterdir())

    if manager.data.exists():
        manager.data.rmdir()
    if way_back == "a copy":
        copy(aside(manager), manager.data)
    else:
        aside(manager).rename(manager.data)
    until_mended(manager)
    second = run_beside(manager)
    assert second.returncode == 7
    assert "in use by another manager" in second.stdout
    assert manager.end() == 0


def run_beside(manager: Manager) -> subprocess.CompletedProcess[str]:
    """Run a second manager on the same data to its end."""
    second = Manager(manager.directory / "second", manager.server)
    second.directory.mkdir()
    owner = manager.directory.stat()
    os.chown(second.directory, owner.st_uid, owner.st_gid)
    second.settings["postgres"]["data_directory"] = str(manager.data)
    second.settings["failure"] = "exit"
    return second.run("run")


def test_a_mode_that_a_volume_driver_set_is_repaired_and_said(manager: Manager) -> None:
    """The set-gid and group bits of Kubernetes' fsGroup keep nobody from starting."""
    with_data(manager)
    manager.data.chmod(0o2770)
    manager.start().until_ready()

    lines = [line for line in manager.records() if "mode of the data directory" in line["message"]]
    assert [(line["was"], line["now"]) for line in lines] == [("2770", "0700")]
    assert manager.query("SELECT n FROM kept") == [(42,)]


@pytest.fixture
def volume(manager: Manager) -> Iterator[Volume]:
    """Yield a small file system of the manager's."""
    with tmpfs(manager.directory / "volume", 192 * MIB, inodes=4000) as made:
        manager.prefix = made.prefix
        yield made
        manager.clean_up()


def put_on(volume: Volume, manager: Manager, purpose: str) -> Path:
    """Put data or WAL on the volume; return where the tests find it."""
    manager.settings["postgres"][f"{purpose}_directory"] = str(volume.path / purpose)
    manager.settings["bootstrap"]["initdb_arguments"] = SMALL_SEGMENTS
    if purpose == "data":
        manager.data = volume.path / purpose
    return volume.seen / purpose


@pytest.mark.parametrize("purpose", ["data", "wal"])
def test_a_read_only_volume_is_told_as_such(
    manager: Manager, volume: Volume, purpose: str
) -> None:
    """Nothing is tried on it, and mounted read-write it runs."""
    place = put_on(volume, manager, purpose)
    with_data(manager)
    volume.become("ro")
    manager.start()
    failure = until_refused(manager, "data-directory-read-only")
    assert "its file system is read-only" in failure["message"]
    assert failure["hint"].startswith("mount a volume there, read-write")
    assert not (place / "postmaster.pid").exists()
    assert manager.end() == 7

    manager.start()
    until_refused(manager, "data-directory-read-only")
    volume.become("rw")
    until_mended(manager)
    assert manager.end() == 0


@pytest.mark.parametrize(("purpose", "needed"), [("data", MIB), ("wal", MIB)])
def test_a_volume_without_space_for_a_start_is_waited_for(
    manager: Manager, volume: Volume, purpose: str, needed: int
) -> None:
    """Free and needed bytes are said, and the start comes by itself when there is space."""
    put_on(volume, manager, purpose)
    with_data(manager)
    filler = fill(volume.seen, leave_bytes=needed // 2)
    manager.start()
    failure = until_refused(manager, "disk-full", 4)
    found = re.search(
        r"(\d+) bytes are free on .*'(.*)', and (\d+) are needed", failure["message"]
    )
    assert found
    assert int(found[1]) <= needed // 2
    assert found[2].startswith(str(volume.path / purpose))
    assert int(found[3]) == needed
    assert manager.end() == 4

    manager.start()
    until_refused(manager, "disk-full", 4)
    filler.unlink()
    manager.until_ready()
    assert manager.query("SELECT n FROM kept") == [(42,)]
    assert manager.end() == 0


def test_a_volume_without_inodes_is_waited_for(manager: Manager, volume: Volume) -> None:
    """Space alone makes no file."""
    put_on(volume, manager, "wal")
    with_data(manager)
    many = volume.seen / "many"
    many.mkdir()
    for number in range(os.statvfs(volume.seen).f_favail):
        (many / str(number)).touch()
    manager.start()
    assert "no inode is free" in until_refused(manager, "disk-full", 4)["message"]

    shutil.rmtree(many)
    manager.until_ready()
    assert manager.query("SELECT n FROM kept") == [(42,)]
    assert manager.end() == 0


def test_a_volume_that_is_unmounted_under_a_server_is_never_replaced(
    manager: Manager, volume: Volume
) -> None:
    """What its mount point holds is not what people mean by their data."""
    put_on(volume, manager, "data")
    manager.trust().start().until_ready()
    postmaster = manager.until_phase("running")["postgres"]["pid"]
    volume.unmount()
    os.kill(postmaster, signal.SIGKILL)
    until_refused(manager, "data-directory-lost")

    assert list(volume.seen.iterdir()) == []
    until(lambda: not Path(f"/proc/{postmaster}").exists(), "the server has ended")
    assert manager.end() == 7
