"""A server that ends at once, again and again: an end to it, the cause, and a way back."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from tests.support.faults import postmaster_of
from tests.support.figures import Figures
from tests.support.manager import Manager, until

Times = Callable[[int, int], int]

MAXIMUM = 3
CAUSE = "contains errors"
NOT_STARTED = 5
CRASH_LOOP = 6


@pytest.fixture
def broken(manager: Manager) -> Manager:
    """Return a manager that has given up on a broken line in the user's own file."""
    manager.settings["restart"] = {"maximum": MAXIMUM, "window_seconds": 300}
    manager.trust().start().until_ready()
    assert manager.ask("POST", "/v1/postgres/stop", Prefer="wait=30")[0] == 200
    break_configuration(manager)
    return manager


def break_configuration(manager: Manager) -> None:
    """Add a line that no server takes, and ask for a start."""
    path, before = manager.data / "postgresql.conf", starts(manager)
    path.write_text(path.read_text() + "broken = = line\n")
    manager.ask("POST", "/v1/postgres/start")
    manager.until_phase("failed")
    until(lambda: starts(manager) > before, "the start in vain is logged")


def mend_configuration(manager: Manager) -> None:
    """Take the line away and ask for a start."""
    path = manager.data / "postgresql.conf"
    path.write_text(path.read_text().replace("broken = = line\n", ""))
    assert manager.ask("POST", "/v1/postgres/start", Prefer="wait=30")[0] == 200
    manager.until_ready()


def starts(manager: Manager) -> int:
    """Return how often postgres was started in vain."""
    return manager.logged().count('contains errors"}')


def test_a_crash_loop_ends_in_failed_after_the_restarts_that_are_allowed(
    manager: Manager,
) -> None:
    """A postmaster that is killed whenever it runs is started so often and no more."""
    manager.settings["restart"] = {"maximum": MAXIMUM, "window_seconds": 300}
    manager.trust().start().until_ready()
    killed: set[int] = set()

    def given_up() -> bool:
        status = manager.status()
        pid = status["postgres"]["pid"] if status and status["phase"] == "running" else None
        if pid is not None and pid not in killed:
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)
        return status is not None and status["phase"] == "failed"

    until(given_up, "the phase is failed")
    failure = manager.until_phase("failed")["failure"]
    assert (failure["code"], failure["exit_code"]) == ("crash-loop", CRASH_LOOP)
    assert len(killed) <= MAXIMUM + 1
    _, events = manager.ask("GET", "/v1/events")
    ends = [event for event in events["items"] if event["reason"] == "PostgresEnded"]
    assert len(ends) == len(killed)
    assert {event["details"]["cause"] for event in ends} == {"signal"}
    assert manager.probe("livez")[0] == 200
    assert manager.end() == CRASH_LOOP


def test_a_broken_configuration_ends_in_failed_with_its_cause_and_the_api_serves(
    broken: Manager,
) -> None:
    """It is not tried again and again; the manager lives and tells why."""
    status = broken.until_phase("failed")

    assert starts(broken) == 1
    assert status["failure"]["code"] == "start-failed"
    assert status["postgres"]["last_exit"]["cause"] == "bad-configuration"
    assert CAUSE in status["failure"]["message"]
    assert CAUSE in status["postgres"]["last_exit"]["message"]
    until(
        lambda: any(
            record["level"] == "error" and CAUSE in record["message"]
            for record in broken.records()
        ),
        "the cause is logged",
    )
    assert broken.probe("livez")[0] == 200
    assert broken.probe("startupz")[0] == 200
    assert broken.probe("readyz")[0] == 503
    assert broken.end() == NOT_STARTED


def test_a_start_brings_a_mended_server_back_with_a_budget_as_new(
    broken: Manager, times: Times, figures: Figures
) -> None:
    """Mend the cause, ask for a start; the next broken line is told as the first one was."""
    for number in range(1, times(1, 20) + 1):
        began = time.monotonic()
        mend_configuration(broken)
        figures.add("17 crash loop, mended", ready_seconds=time.monotonic() - began)
        assert broken.until_phase("running")["failure"] is None
        postmaster_of(broken)
        assert broken.ask("POST", "/v1/postgres/stop", Prefer="wait=30")[0] == 200
        break_configuration(broken)
        assert starts(broken) == number + 1
    mend_configuration(broken)
    assert broken.end() == 0
