"""The instruments of the fault tests themselves: each must see what it is there to see."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.faults import kill_postmaster, postmaster_of
from tests.support.figures import Figures, percentile_99
from tests.support.ledger import Ledger
from tests.support.manager import Manager, until
from tests.support.processes import Sampler, arguments_of, children_of, postmasters


@pytest.fixture
def ready(manager: Manager) -> Manager:
    """Return a ready manager."""
    return manager.trust().start().until_ready()


@contextmanager
def _frozen_postgres(ready: Manager) -> Iterator[subprocess.Popen[bytes]]:
    """Run a second postgres that stands still before its first step, and kill it at the end.

    Left alone, it lives for a few milliseconds: a stop that comes too late is tried again.
    """
    command = [str(ready.server.bin_directory / "postgres"), "-D", str(ready.data)]

    def frozen() -> subprocess.Popen[bytes] | None:
        process = subprocess.Popen(command, cwd=ready.data)
        process.send_signal(signal.SIGSTOP)
        if process.returncode is not None:  # Popen asks before it sends, and may find the end.
            return None
        end = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if end is not None and end.si_code == os.CLD_STOPPED:
            return process
        process.wait()
        return None

    process = until(frozen, "a second postgres is stopped in time")
    assert process is not None
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_the_sampler_sees_a_second_postmaster(ready: Manager) -> None:
    """One that was just executed counts, though it could never serve."""
    # One that was stopped too late would be seen, too.
    with _frozen_postgres(ready) as second, Sampler(ready.data) as sampler:
        until(lambda: sampler.too_many, "the second one is seen")

    assert set(sampler.too_many[0]) == {postmaster_of(ready), second.pid}
    with pytest.raises(AssertionError, match="more than one postmaster"):
        sampler.verify()


def test_a_backend_that_still_bears_the_postmasters_name_is_no_postmaster(ready: Manager) -> None:
    """Until its client says who it is, a backend has the command line that it was forked with."""
    postmaster = postmaster_of(ready)
    before = {one.pid for one in children_of(postmaster)}
    with socket.create_connection(("127.0.0.1", ready.port)):

        def nameless() -> int | None:
            new = [one.pid for one in children_of(postmaster) if one.pid not in before]
            same = arguments_of(postmaster)
            return next((pid for pid in new if arguments_of(pid) == same), None)

        until(nameless, "there is a backend without a title")
        assert postmasters(ready.data) == [postmaster]


def test_the_ledger_sees_what_is_lost_invented_or_there_twice(ready: Manager) -> None:
    """Each of the three ends the test that asks, and names the rows."""
    with Ledger(ready) as ledger:
        ledger.until_more(20)
    ledger.balance().verify()
    lost = min(ledger.acknowledged())
    twice = max(ledger.acknowledged())
    with ready.sql() as connection:
        connection.execute("ALTER TABLE ledger DROP CONSTRAINT ledger_pkey")
        connection.execute("DELETE FROM ledger WHERE key = %s", (lost,))
        connection.execute("INSERT INTO ledger VALUES (-1), (%s)", (twice,))
    balance = ledger.balance()

    assert balance.lost == frozenset({lost})
    assert balance.invented == frozenset({-1})
    assert balance.duplicates == 1
    with pytest.raises(AssertionError, match=f"lost: \\[{lost}\\]"):
        balance.verify()


def test_the_ledger_sees_a_server_that_promises_too_much(manager: Manager) -> None:
    """Where commits do not wait for the disk, a kill loses rows, and the ledger says so."""
    manager.settings["postgres"]["parameters"] = {
        "synchronous_commit": "off",
        "wal_writer_delay": "10s",
        "wal_writer_flush_after": "1GB",
    }
    manager.trust().start().until_ready()
    with Ledger(manager) as ledger:
        # The table itself must be there afterwards.
        manager.query("CHECKPOINT")
        ledger.until_more(100)
        kill_postmaster(manager)
        assert ledger.balance().lost


def test_figures_tell_the_worst_the_median_and_the_last_hundredth() -> None:
    """Rounds of one fault make one row, with times in milliseconds."""
    figures = Figures()
    for milliseconds in range(1, 101):
        figures.add("fault", detect_seconds=0.001, ready_seconds=milliseconds / 1000)
    figures.add("fault", lost=1)
    (row,) = figures.rows()

    assert (row.n, row.lost, row.duplicates) == (101, 1, 0)
    assert (row.ready_ms_median, row.ready_ms_p99, row.ready_ms_worst) == (50.5, 99.0, 100.0)
    assert percentile_99([]) is None
    assert percentile_99([7.0]) == 7.0
