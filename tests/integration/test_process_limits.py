"""What the kernel is told of the server: whom to kill first, and what a core holds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from instance_manager.postgres import memory, process
from tests.support.manager import Manager, until
from tests.support.processes import children_of, working_in

OURS = Path("/proc/self/oom_score_adj")


@contextlib.contextmanager
def adjusted(value: int) -> Iterator[None]:
    """Let what is started meanwhile inherit an adjustment."""
    before = OURS.read_text()
    OURS.write_text(str(value))
    try:
        yield
    finally:
        OURS.write_text(before)


def adjustment_of(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())
    return None


def filter_of(pid: int) -> str | None:
    """Return the filter of a process's cores; a process that ends has none."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/coredump_filter").read_text().strip() or None
    return None


def may_protect() -> bool:
    """Whether this process may set a negative adjustment: CAP_SYS_RESOURCE is needed."""
    try:
        with adjusted(-1):
            return True
    except PermissionError:
        return False


RAISED = max(int(OURS.read_text()), 0) + 100
GIVEN = process.oom_adjustment(RAISED, memory.limit_bytes())
CASES = [(RAISED, int(GIVEN.get("PG_OOM_ADJUST_VALUE", RAISED)))]
CASES += [(-500, 0)] if may_protect() else []
"""What the manager is given, and what the children of its postmaster have."""


@pytest.mark.parametrize(("given", "expected"), CASES)
def test_the_children_of_the_postmaster_go_before_it(
    manager: Manager, given: int, expected: int
) -> None:
    """They give up a protection, and get none that the postmaster doesn't have, limit or not."""
    with adjusted(given):
        manager.trust().start()
    postmaster = manager.until_ready().until_phase("running")["postgres"]["pid"]

    assert adjustment_of(postmaster) == given
    # A session that just began has not done it yet, and one of a probe ends soon.
    until(
        lambda: {adjustment_of(one.pid) for one in children_of(postmaster)} - {None} == {expected},
        f"the children have {expected}",
    )
    assert manager.end() == 0


def test_no_core_of_the_server_holds_shared_memory(manager: Manager) -> None:
    """Every process of the server has the filter that keeps shared buffers out."""
    manager.trust().start().until_ready()
    pids = [one.pid for one in working_in(manager.data)]

    assert len(pids) > 1
    assert {filter_of(pid) for pid in pids} - {None} == {"00000031"}
    assert manager.end() == 0
