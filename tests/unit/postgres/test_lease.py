"""The lease: kept while it is renewed, taken when it is not, and never by two."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from instance_manager.errors import DataDirectoryError, DataDirectoryInUseError
from instance_manager.postgres.lease import Holder, Lease

ELSEWHERE = replace(Holder.me(), boot_id="another", host="elsewhere")
"""A manager whose processes can't be seen from here."""


def far(session: str) -> Holder:
    return replace(ELSEWHERE, session=session)


def said(directory: Path) -> dict[str, Any]:
    document = json.loads((directory / "lease.json").read_text())
    assert isinstance(document, dict)
    return document


class Waits:
    """Stands for the time that passes: counts it, and lets something happen meanwhile."""

    def __init__(self, happens: Callable[[float], object] = lambda seconds: None) -> None:
        self.seconds = 0.0
        self._happens = happens

    def __call__(self, seconds: float) -> None:
        self.seconds += seconds
        self._happens(self.seconds)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a place for leases, two levels below like the real one."""
    path = tmp_path / "data" / "instance-manager"
    path.mkdir(parents=True)
    return path


def test_a_free_lease_is_taken_at_once_and_given_back(directory: Path) -> None:
    """It says whose it is; afterwards nothing is left."""
    waits = Waits()
    lease = Lease(directory, wait=waits)
    lease.take()
    assert lease.is_held
    document = said(directory)
    assert (document["pid"], document["counter"]) == (os.getpid(), 1)
    assert (directory / "lease.json").stat().st_mode & 0o777 == 0o600
    assert document["boot_id"]
    assert document["host"]
    lease.give_back()

    assert lease.finish()
    assert waits.seconds == 0
    assert not lease.is_held
    assert list(directory.iterdir()) == []


def test_a_renewal_changes_the_lease_and_not_its_length(directory: Path) -> None:
    """Written in place: whoever reads meanwhile must not meet the end of a longer one."""
    lease = Lease(directory)
    lease.take()
    before = (directory / "lease.json").stat()
    lease.renew()
    after = (directory / "lease.json").stat()

    assert said(directory)["counter"] == 2
    assert (before.st_ino, before.st_size) == (after.st_ino, after.st_size)


def test_a_lease_of_a_living_process_here_is_refused_at_once(directory: Path) -> None:
    """Where pids mean the same, nobody needs to wait."""
    Lease(directory).take()
    waits = Waits()
    with pytest.raises(DataDirectoryInUseError, match=f"process {os.getpid()} there") as caught:
        Lease(directory, wait=waits).take()

    assert waits.seconds == 0
    assert caught.value.exit_code == 7
    assert f"'{directory.parent}'" in caught.value.message


def test_a_lease_of_another_start_of_the_same_pid_here_is_not_watched(directory: Path) -> None:
    """The manager of a container has the same pid each time."""
    old = replace(Holder.me(), session="old", started_ticks=1)
    Lease(directory, old).take()
    waits = Waits()
    Lease(directory, wait=waits).take()

    assert waits.seconds == 2
    assert said(directory)["session"] != "old"


def test_a_lease_that_is_renewed_elsewhere_is_refused(directory: Path) -> None:
    """It changed while it was watched, so its manager lives."""
    first = Lease(directory, far("first"))
    first.take()
    waits = Waits(lambda seconds: first.renew() if seconds > 2 else None)
    with pytest.raises(DataDirectoryInUseError, match="on host 'elsewhere'"):
        Lease(directory, wait=waits).take()

    assert waits.seconds < 6
    first.renew()
    assert said(directory)["session"] == "first"


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\0" * 1024, b'{"session": 1}'])
def test_a_lease_that_nobody_renews_is_taken(directory: Path, content: bytes | None) -> None:
    """After three renewals, whatever it says; the old holder learns it from its next one."""
    first = Lease(directory, far("first"))
    first.take()
    if content is not None:
        (directory / "lease.json").write_bytes(content)
    waits = Waits()
    second = Lease(directory, replace(Holder.me(), session="second"), wait=waits)
    second.take()

    assert waits.seconds >= 6
    assert said(directory)["session"] == "second"
    with pytest.raises(DataDirectoryInUseError, match=r"session second .* has taken its lease"):
        first.renew()
    second.renew()


def test_a_lease_that_is_given_back_while_it_is_watched_is_taken(directory: Path) -> None:
    """Then there is nothing left to wait for."""
    first = Lease(directory, far("first"))
    first.take()

    def give_back(seconds: float) -> None:
        if seconds == 1:
            first.give_back()
            assert first.finish()

    waits = Waits(give_back)
    second = Lease(directory, wait=waits)
    second.take()

    assert waits.seconds == 1
    assert second.is_held


def test_of_two_that_take_an_old_lease_one_has_it(directory: Path) -> None:
    """Both have seen that nobody renews it; the one who wrote last has it."""
    Lease(directory, far("gone")).take()
    other = (directory / "lease.json").read_bytes().replace(b"gone", b"last")
    # During the wait after the first one has written: watching took six seconds.
    waits = Waits(
        lambda seconds: (directory / "lease.json").write_bytes(other) if seconds > 6 else None
    )
    with pytest.raises(DataDirectoryInUseError, match="in use by another manager"):
        Lease(directory, wait=waits).take()

    assert said(directory)["session"] == "last"


def test_a_lease_that_somebody_removed_is_made_again(directory: Path) -> None:
    """Who cleans up beside a manager does not take its directory away."""
    lease = Lease(directory)
    lease.take()
    (directory / "lease.json").unlink()
    lease.renew()

    assert said(directory)["counter"] == 2


def test_a_lease_that_was_given_back_is_not_renewed(directory: Path) -> None:
    """A renewal that comes late brings nothing back."""
    lease = Lease(directory)
    lease.take()
    lease.give_back()
    assert lease.finish()
    lease.renew()

    assert list(directory.iterdir()) == []


def test_somebody_elses_lease_is_not_given_back(directory: Path) -> None:
    """Who has lost it removes nothing."""
    lease = Lease(directory)
    lease.take()
    document = said(directory) | {"session": "another"}
    (directory / "lease.json").write_text(json.dumps(document))
    lease.give_back()

    assert lease.finish()
    assert said(directory)["session"] == "another"


class Clock:
    """Stands for the clock: shows what it is set to, and lets something happen at each look."""

    def __init__(self) -> None:
        self.seconds = 100.0
        self.happens: Callable[[], object] = lambda: None

    def __call__(self) -> float:
        self.happens()
        return self.seconds


def test_a_lease_is_trusted_for_less_than_others_watch_it(directory: Path) -> None:
    """Four seconds after the last renewal, another manager may be about to take it."""
    clock = Clock()
    lease = Lease(directory, clock=clock)
    lease.take()
    clock.seconds += 1
    assert (lease.is_due, lease.trusted_seconds) == (False, 3)
    clock.seconds += 1
    assert lease.is_due
    lease.renew()
    assert (lease.is_due, lease.trusted_seconds) == (False, 4)
    clock.seconds += 5
    with pytest.raises(DataDirectoryInUseError, match="could not be renewed for 4 s"):
        lease.renew()

    assert lease.trusted_seconds == 0
    assert said(directory)["counter"] == 2


def test_a_renewal_counts_from_its_beginning(directory: Path) -> None:
    """Who watches may have seen it from then on, however long the storage took to say so."""
    clock = Clock()
    lease = Lease(directory, clock=clock)
    lease.take()
    looks = iter(range(1000))
    # The looks of one renewal: whether it is late, then when it began.
    clock.happens = lambda: setattr(clock, "seconds", 100.0 + next(looks))
    lease.renew()
    clock.happens = lambda: None
    clock.seconds = 103

    assert lease.trusted_seconds == 2


def test_a_renewal_that_ends_after_the_lease_was_given_back_is_undone(directory: Path) -> None:
    """It hung in the storage: nobody renews what it has written."""
    clock = Clock()
    lease = Lease(directory, clock=clock)
    lease.take()
    clock.happens = lambda: setattr(lease, "is_held", False)
    lease.renew()

    assert list(directory.iterdir()) == []


def test_a_lease_of_ours_that_could_not_be_removed_is_taken_again(directory: Path) -> None:
    """The same run of a manager is not another one."""
    waits = Waits()
    lease = Lease(directory, wait=waits)
    lease.take()
    session = said(directory)["session"]
    lease.is_held = False
    lease.take()

    assert lease.is_held
    assert waits.seconds == 2
    assert said(directory)["session"] == session


def test_storage_that_hangs_keeps_nobody_who_gives_back_and_no_other_lease_is_taken(
    directory: Path,
) -> None:
    """What hangs may end later, and remove a lease that was taken meanwhile."""
    lease = Lease(directory)
    lease.take()
    path = directory / "lease.json"
    path.unlink()
    # Who opens it for reading waits until somebody opens it for writing.
    os.mkfifo(path)
    began = time.monotonic()
    lease.give_back()
    took = time.monotonic() - began
    try:
        with pytest.raises(DataDirectoryInUseError, match="still being given back"):
            lease.take()
    finally:
        os.close(os.open(path, os.O_WRONLY))

    assert lease.finish()
    # Nobody opens it for writing before this is measured.
    assert took < 30


@pytest.mark.parametrize("kind", ["link", "directory"])
def test_a_lease_that_is_no_file_is_refused(directory: Path, kind: str) -> None:
    """No link is followed to what may be another one's."""
    path = directory / "lease.json"
    path.symlink_to("elsewhere") if kind == "link" else path.mkdir()

    with pytest.raises(DataDirectoryError, match="cannot take lease"):
        Lease(directory, wait=Waits()).take()
