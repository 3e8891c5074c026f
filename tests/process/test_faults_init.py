"""The manager as PID 1 of a PID namespace: orphans of others, and signals that nobody meant."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from instance_manager.postgres.embedded import Demonstration
from tests.support.faults import postmaster_of
from tests.support.figures import Figures
from tests.support.manager import Manager, until
from tests.support.namespace import NamespacedManager
from tests.support.processes import look, memory_bytes

Times = Callable[[int, int], int]

CODES = (0, 1, 2, 139)
"""2 and 139 are those that postgres, were it PID 1, would take for a crash of its own."""
GROWTH_BYTES = 1 << 20

HANDLED = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP}
"""What these do is documented, and tested elsewhere."""
NEVER_MEANT = sorted(
    {signal.Signals(number) for number in range(1, 32)}
    - HANDLED
    - {signal.SIGKILL, signal.SIGSTOP}
)
HARMLESS = {
    signal.SIGCHLD,
    signal.SIGCONT,
    signal.SIGPIPE,
    signal.SIGURG,
    signal.SIGWINCH,
    signal.SIGXFSZ,
}
"""What does nothing to an ordinary manager either."""


@pytest.fixture
def init(workspace: Path, server: Demonstration) -> Iterator[NamespacedManager]:
    """Yield a ready manager that is PID 1."""
    made = NamespacedManager(workspace, server)
    try:
        made.trust().start().until_ready()
        yield made
    finally:
        made.clean_up()


def reaped(manager: Manager) -> int:
    """Return how many orphans the metrics say were reaped."""
    found = re.search(
        r"^instance_manager_orphans_reaped_total (\S+)$", manager.probe("metrics")[1], re.MULTILINE
    )
    assert found
    return int(float(found[1]))


def test_the_manager_is_pid_1_of_its_namespace(init: NamespacedManager) -> None:
    """What the other tests here rest on: it calls itself 1, and so does the status."""
    assert init.until_phase("running")["instance"]["pid"] == 1
    assert init.end() == 0


def test_orphans_of_others_are_reaped_counted_and_harm_nobody(
    init: NamespacedManager, times: Times, figures: Figures
) -> None:
    """However they end, no zombie stays, no connection is lost, and memory does not grow."""
    number = times(200, 1000)
    postmaster = look(postmaster_of(init))
    others = reaped(init)
    with init.sql() as session:
        # The first round pays for what is made once.
        init.leave_orphans(number, *CODES)
        until(lambda: reaped(init) == others + number, "the first orphans are counted")
        before = memory_bytes(init.pid)
        init.leave_orphans(number, *CODES)
        until(lambda: not init.zombies(), "no zombie is left")
        assert session.execute("SELECT 1").fetchone() == (1,)

    until(lambda: reaped(init) == others + 2 * number, "each orphan is counted once")
    assert memory_bytes(init.pid) - before < GROWTH_BYTES
    assert postmaster is not None
    now = look(postmaster.pid)
    assert now is not None
    assert now.started == postmaster.started
    assert init.until_phase("running")["postgres"]["restarts"] == 0
    figures.add("1 orphans", number=2 * number)


def test_no_signal_that_nobody_meant_ends_pid_1_or_its_server(
    init: NamespacedManager, times: Times, figures: Figures
) -> None:
    """All but KILL, STOP and the documented four leave both as they were."""
    postmaster = postmaster_of(init)
    for number in NEVER_MEANT * times(1, 10):
        init.send(number)
        # An answer that was computed after the signal.
        assert init.status() is not None, f"no answer after {number.name}"
        figures.add("3 signal that nobody meant")
    assert init.probe("livez")[0] == 200
    assert postmaster_of(init) == postmaster
    assert init.until_phase("running")["postgres"]["restarts"] == 0
    assert "a fault of the manager" not in init.logged()
    assert init.end() == 0


def test_signals_that_are_ignored_by_default_do_nothing_to_an_ordinary_manager(
    manager: Manager,
) -> None:
    """A window that changes its size, a broken pipe or a child's end asks for nothing."""
    manager.trust().start().until_ready()
    postmaster = postmaster_of(manager)
    assert manager.process is not None
    for number in sorted(HARMLESS):
        os.kill(manager.process.pid, number)
        assert manager.status() is not None, f"no answer after {number.name}"
    assert postmaster_of(manager) == postmaster
    assert manager.end() == 0
