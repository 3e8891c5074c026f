"""Kills of the postmaster and of what belongs to it, with acknowledged rows as the witness."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from tests.support.faults import (
    Recovery,
    freshly_spawned,
    is_zombie,
    kill_postmaster,
    load,
    postmaster_of,
    unlimited_restarts,
    until_answered,
    until_loaded,
    until_served,
    until_titled,
    until_zombie,
)
from tests.support.figures import Figures
from tests.support.ledger import Ledger
from tests.support.manager import Manager, until
from tests.support.processes import Sampler, look

Times = Callable[[int, int], int]

SERVER_PROCESSES = {
    "backend": "",
    "checkpointer": "checkpointer",
    "walwriter": "walwriter",
    "autovacuum launcher": "autovacuum launcher",
    "archiver": "archiver",
    "logging collector": "logger",
}
"""The server's own processes by what their titles hold; a backend is asked for its pid."""

SOON = {"detect_seconds": 3.0, "ready_seconds": 3.0}
"""Until the manager has seen the end, and until another postmaster serves."""

CPU_BOUND = "DO $$ BEGIN LOOP NULL; END LOOP; END $$"
"""Never waits for anything, hence never notices that the postmaster has died."""


@pytest.fixture
def killable(manager: Manager) -> Manager:
    """Return a ready manager that restarts postgres as often as it takes."""
    unlimited_restarts(manager).trust().start().until_ready()
    return manager


def count(figures: Figures, fault: str, recovery: Recovery, ledger: Ledger | None = None) -> None:
    """Leave the figures of one round, and fail if the rows are not as they must be."""
    balance = ledger.balance() if ledger else None
    figures.add(
        fault,
        detect_seconds=recovery.detect_seconds,
        ready_seconds=recovery.ready_seconds,
        lost=len(balance.lost) if balance else 0,
        duplicates=balance.duplicates if balance else 0,
    )
    if balance:
        balance.verify()


def kill_process_of_server(manager: Manager, name: str) -> Recovery:
    """Kill one of the server's processes with -9, and wait until the server has recovered."""
    # After a crash the postmaster starts all others anew; a lost collector is only replaced.
    witness = "logger" if name == "logging collector" else "checkpointer"
    before = until_titled(manager, witness)
    with manager.sql() as connection:
        if name == "backend":
            victim = connection.info.backend_pid
        else:
            victim = until_titled(manager, SERVER_PROCESSES[name])
        began = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        until_titled(manager, witness, other_than=before)
        connection.close()
    until_answered(manager)
    manager.until_ready()
    return Recovery(None, time.monotonic() - began)


def test_a_postmaster_killed_idle_is_replaced_by_one_and_no_more(
    killable: Manager, times: Times, figures: Figures
) -> None:
    """After each kill another postmaster serves, and there never are two."""
    rounds = times(5, 200)
    with Sampler(killable.data) as sampler:
        for _ in range(rounds):
            count(figures, "7 postmaster killed, idle", kill_postmaster(killable))
    sampler.verify()
    figures.require("7 postmaster killed, idle", **SOON)

    assert killable.until_phase("running")["postgres"]["restarts"] == rounds


def test_a_postmaster_killed_under_load_loses_no_acknowledged_row(
    killable: Manager, times: Times, figures: Figures
) -> None:
    """With clients at work, every promise is kept over every kill, and nothing is made up."""
    with Sampler(killable.data) as sampler, load(killable), Ledger(killable) as ledger:
        for _ in range(times(4, 200)):
            until_loaded(killable)
            ledger.until_more()
            count(figures, "7 postmaster killed, load", kill_postmaster(killable), ledger)
    sampler.verify()
    figures.require("7 postmaster killed, load", **SOON)


@pytest.mark.parametrize("state", ["busy", "frozen"])
def test_a_backend_that_outlives_its_postmaster_is_ended_and_does_not_hinder_the_next(
    killable: Manager, times: Times, figures: Figures, state: str
) -> None:
    """Whether it computes or is stopped, it is gone when the next server is ready."""
    with Sampler(killable.data) as sampler, Ledger(killable) as ledger:
        for _ in range(times(2, 20)):
            with killable.sql() as connection:
                backend = connection.info.backend_pid
                ledger.until_more()
                if state == "busy":
                    connection.pgconn.send_query(CPU_BOUND.encode())
                    assert until_titled(killable, " DO") == backend
                else:
                    os.kill(backend, signal.SIGSTOP)
                recovery = kill_postmaster(killable)
                connection.close()
            assert look(backend) is None
            count(figures, f"8 {state} backend left over", recovery, ledger)
    sampler.verify()
    figures.require(f"8 {state} backend left over", detect_seconds=3, ready_seconds=8)


@pytest.mark.parametrize("name", SERVER_PROCESSES)
def test_a_killed_process_of_the_server_is_left_to_the_server(
    manager: Manager, times: Times, figures: Figures, name: str
) -> None:
    """The postmaster recovers by itself: it stays, and the manager tells and counts no restart."""
    manager.settings["postgres"]["parameters"] = {
        "archive_mode": "on",
        "archive_command": "true",
        "restart_after_crash": "on",
    }
    manager.trust().start().until_ready()
    postmaster = postmaster_of(manager)
    with Sampler(manager.data) as sampler, Ledger(manager) as ledger:
        for number in range(1, times(1, 50) + 1):
            ledger.until_more()
            recovery = kill_process_of_server(manager, name)
            ledger.until_more()
            # A lost collector is only replaced: that is no crash.
            until_crashes_told(manager, 0 if name == "logging collector" else number)
            count(figures, f"9 {name} killed", recovery, ledger)
    sampler.verify()

    assert postmaster_of(manager) == postmaster
    assert manager.until_phase("running")["postgres"]["restarts"] == 0
    assert "postgres ended on its own" not in manager.logged()


def test_a_postmaster_killed_while_it_starts_is_replaced_by_one_that_serves(
    killable: Manager, times: Times, figures: Figures
) -> None:
    """Whenever it dies between its spawn and its first answer, nothing hangs."""
    number = times(7, 61)
    with Sampler(killable.data) as sampler:
        for point in range(number):
            delay = 0.3 * point / (number - 1)
            before = postmaster_of(killable)
            code, operation = killable.ask("POST", "/v1/postgres/restart")
            assert code == 202, operation
            victim = freshly_spawned(killable, before).pid
            threading.Event().wait(delay)
            began = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            until_served(killable, victim)
            figures.add("10 killed while it starts", ready_seconds=time.monotonic() - began)
            until_finished(killable, operation["id"])
    sampler.verify()


def test_a_manager_that_was_frozen_starts_postgres_only_after_it_has_reaped_the_old_one(
    killable: Manager, times: Times, figures: Figures
) -> None:
    """A dead postmaster that nobody waited for yet is not mistaken for a living one."""
    assert killable.process is not None
    with Sampler(killable.data) as sampler:
        for _ in range(times(1, 20)):
            before = postmaster_of(killable)
            killable.process.send_signal(signal.SIGSTOP)
            os.kill(before, signal.SIGKILL)
            until_zombie(before)
            threading.Event().wait(3)
            assert is_zombie(before), "nobody but the manager may reap it"
            began = time.monotonic()
            killable.process.send_signal(signal.SIGCONT)
            spawned = freshly_spawned(killable, before)
            assert look(before) is None, "the old one is reaped before the new one is started"
            assert spawned.pid == until_served(killable, before)
            figures.add("11 manager frozen", ready_seconds=time.monotonic() - began)
    sampler.verify()

    assert 'lock file \\"postmaster.pid\\" already exists' not in killable.logged()


def until_crashes_told(manager: Manager, number: int) -> None:
    """Wait until events and metrics tell of so many crashes that the server recovered from."""

    def told() -> bool:
        _, events = manager.ask("GET", "/v1/events")
        reasons = [event["reason"] for event in events["items"]]
        counted = f"\npg_crashes_total {number}.0\n" in manager.probe("metrics")[1]
        return counted and reasons.count("CrashRecovered") == number

    until(told, f"{number} crashes are told")


def until_finished(manager: Manager, operation: str) -> None:
    """Wait until an operation of the API is over, for better or worse."""

    def over() -> bool:
        code, document = manager.ask("GET", f"/v1/operations/{operation}")
        return code == 200 and document["state"] not in ("pending", "running")

    until(over, "the operation is over")
