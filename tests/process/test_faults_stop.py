"""Signals to end in every situation: the control file decides the exit code."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import pytest

from instance_manager.supervision.shutdown import ORDER
from tests.support.faults import expected_code, freshly_spawned, postmaster_of
from tests.support.figures import Figures
from tests.support.ledger import Ledger
from tests.support.manager import Manager, until
from tests.support.processes import children_of, look, titled

Times = Callable[[int, int], int]

BUDGET = {"smart_seconds": 0, "fast_seconds": 4, "immediate_seconds": 4}
SHORT_BUDGET = BUDGET | {"fast_seconds": 1, "immediate_seconds": 1}
PATIENCE = BUDGET | {"fast_seconds": 40}
"""For a stop that is to end in order, on a host that may be busy with other things."""
MARGIN_SECONDS = 20
"""Added to a budget on a host that may be busy with other things."""
BOUND_SECONDS = 5.0
"""For an end that was measured over many rounds."""
HELD_OFF = {"checkpoint_timeout": "1d", "max_wal_size": "8GB"}
VOLUMES = 200
"""Enough for the look at them to take a while."""
REDO = "CREATE TABLE redo AS SELECT repeat('x', 100) FROM generate_series(1, 300000)"
MUCH_REDO = "CREATE TABLE redo AS SELECT repeat('x', 100) FROM generate_series(1, 5000000)"
"""For a recovery that takes several seconds."""
UNCLEAN = 8


def stoppable(manager: Manager) -> Manager:
    """Return the manager with a long ladder, and a server that writes no checkpoint by itself."""
    manager.settings["shutdown"] = dict(PATIENCE)
    manager.settings["postgres"]["parameters"] = dict(HELD_OFF)
    return manager.trust()


def modes(manager: Manager) -> list[str]:
    """Return the rungs of the ladder that were taken so far, in their order."""
    lines = [line for line in manager.logged().splitlines() if '"stopping postgres"' in line]
    return [json.loads(line)["mode"] for line in lines if line.endswith("}")]


def recovering(manager: Manager, statement: str = REDO) -> int:
    """Crash the server and start again; return its startup process, stopped amid the recovery."""
    startup = until(lambda: recovering_once(manager, statement), "recovery is stopped in time")
    assert startup is not None
    return startup


def recovering_once(manager: Manager, statement: str) -> int | None:
    """Return what :func:`recovering` does; None, and a ready server, where it was over first."""
    manager.query("DROP TABLE IF EXISTS redo")
    manager.query(statement)
    assert manager.end(signal.SIGQUIT) == UNCLEAN
    manager.start()
    # The one who writes WAL comes when there is nothing to recover any more.
    until(
        lambda: titled(manager.data, "startup") or titled(manager.data, "walwriter"),
        "postgres recovers",
    )
    for startup in titled(manager.data, "startup"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(startup, signal.SIGSTOP)
        if until(partial(state_of, startup), "it stands still, or has ended") == "T":
            manager.until_phase("recovering")
            return startup
    manager.until_ready()
    return None


def state_of(pid: int) -> str | None:
    """Return how a process that was stopped stands: T, or X where it has ended; None before."""
    one = look(pid)
    if one is None or one.state in "ZX":
        return "X"
    return one.state if one.state == "T" else None


def leave(manager: Manager) -> tuple[int, float]:
    """Send TERM; return the exit code, and how many seconds the end took."""
    began = time.monotonic()
    code = manager.end()
    return code, time.monotonic() - began


def during_initdb(manager: Manager) -> None:
    shutil.rmtree(manager.data, ignore_errors=True)
    manager.start()
    until(lambda: look_for(manager, "initdb"), "initdb runs")


def during_preflight(manager: Manager) -> None:
    root = manager.directory / "volumes"
    for number in range(VOLUMES):
        link_tree(manager.server.extensions / "pgvector", root / f"volume{number}")
    manager.settings["extensions"]["root"] = str(root)
    shutil.rmtree(manager.data, ignore_errors=True)
    manager.start()
    # The lock is taken right before the volumes are looked at.
    until((manager.data / "instance-manager" / "lock").exists, "the lock is taken")


def during_start(manager: Manager) -> None:
    manager.start()
    freshly_spawned(manager, before=0)


def during_recovery(manager: Manager) -> None:
    manager.start().until_ready()
    os.kill(recovering(manager), signal.SIGCONT)


def during_long_recovery(manager: Manager) -> None:
    manager.start().until_ready()
    os.kill(recovering(manager, MUCH_REDO), signal.SIGCONT)


def during_recovery_that_hangs(manager: Manager) -> None:
    # Every rung is waited for here, to its end.
    manager.settings["shutdown"] = dict(SHORT_BUDGET)
    manager.start().until_ready()
    recovering(manager)


def during_reload(manager: Manager) -> None:
    manager.start().until_ready()
    manager.settings["postgres"]["parameters"] = HELD_OFF | {"work_mem": "7MB"}
    manager.write_settings()
    assert manager.process is not None
    manager.process.send_signal(signal.SIGHUP)


def during_restart(manager: Manager) -> None:
    manager.start().until_ready()
    assert manager.ask("POST", "/v1/postgres/restart")[0] == 202


def during_stop(manager: Manager) -> None:
    manager.settings["shutdown"] = BUDGET | {"smart_seconds": 3600}
    manager.start().until_ready()
    os.kill(postmaster_of(manager), signal.SIGSTOP)
    assert manager.ask("POST", "/v1/postgres/stop", {"mode": "smart"})[0] == 202
    os.kill(postmaster_of(manager), signal.SIGCONT)


HANGS = "recovery that hangs"
MOMENTS = {
    "initdb": during_initdb,
    "preflight": during_preflight,
    "start": during_start,
    "recovery": during_recovery,
    HANGS: during_recovery_that_hangs,
    "reload": during_reload,
    "restart": during_restart,
    "stop": during_stop,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_term_ends_the_manager_whatever_is_under_way(
    manager: Manager, times: Times, figures: Figures, moment: str
) -> None:
    """The exit code is what the control file says, and the next start serves."""
    fault = f"5 TERM during {moment}, to the end"
    budget = sum((SHORT_BUDGET if moment == HANGS else BUDGET).values())
    begin = MOMENTS[moment]
    if begin is during_recovery and times(0, 1):
        begin = during_long_recovery
    stoppable(manager)
    if moment not in ("initdb", "preflight"):
        manager.start().until_ready()
        assert manager.end() == 0
    for _ in range(times(1, 20)):
        manager.settings["shutdown"] = dict(BUDGET)
        begin(manager)
        code, seconds = leave(manager)

        assert code == expected_code(manager), manager.logged()
        assert seconds < budget + MARGIN_SECONDS
        manager.settings["shutdown"] = dict(PATIENCE)
        manager.start().until_ready()
        assert manager.end() == 0, manager.logged()
        figures.add(fault, ready_seconds=seconds)
    figures.require(fault, ready_seconds=BOUND_SECONDS)


def test_term_during_preflight_leaves_no_cluster_behind(manager: Manager) -> None:
    """Nothing is made once the end was asked for."""
    during_preflight(stoppable(manager))
    code, _ = leave(manager)

    assert code == 0
    assert "making a new cluster" not in manager.logged()
    assert not (manager.data / "PG_VERSION").exists()


IDLE, LOADED, RECOVERING = "idle", "loaded", "recovering"
CODES = {
    (situation, number): UNCLEAN if number is signal.SIGQUIT else 0
    for situation in (IDLE, LOADED)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
} | {(RECOVERING, signal.SIGQUIT): UNCLEAN}
"""What a fast stop leaves of an unfinished recovery is PostgreSQL's affair: see pg_controldata."""


@pytest.mark.parametrize("situation", [IDLE, LOADED, RECOVERING])
def test_the_exit_code_tells_whether_recovery_will_run(
    manager: Manager, times: Times, figures: Figures, situation: str
) -> None:
    """The control file decides: TERM and INT end cleanly, QUIT does not; no row is lost."""
    stoppable(manager).start().until_ready()
    client: AbstractContextManager[object] = nullcontext()
    for _ in range(times(1, 20)):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            if situation == LOADED:
                client = Ledger(manager)
            with client:
                code = end_in(manager, situation, number)
            assert code == expected_code(manager), manager.logged()
            assert code == CODES.get((situation, number), code)
            # The collector of the server's log ends when it has read the last line.
            until(lambda: not manager.postgres_processes(), "every process of the server is gone")
            manager.start().until_ready()
            if isinstance(client, Ledger):
                client.balance().verify()
            figures.add(f"exit codes, {situation}")


def end_in(manager: Manager, situation: str, number: signal.Signals) -> int:
    """Signal the manager in the situation, and return its exit code."""
    assert manager.process is not None
    if situation != RECOVERING:
        return manager.end(number)
    startup = recovering(manager)
    asked = len(modes(manager))
    manager.process.send_signal(number)
    until(lambda: len(modes(manager)) > asked, "the stop has begun")
    os.kill(startup, signal.SIGCONT)
    return manager.wait()


@pytest.mark.parametrize(
    "numbers",
    [
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGTERM, signal.SIGTERM, signal.SIGTERM, signal.SIGTERM),
        (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT),
        (signal.SIGQUIT, signal.SIGINT, signal.SIGHUP),
        (signal.SIGINT, signal.SIGHUP, signal.SIGINT),
    ],
    ids=lambda numbers: "-".join(number.name[3:] for number in numbers),
)
def test_a_stop_never_becomes_milder(
    manager: Manager, times: Times, figures: Figures, numbers: tuple[signal.Signals, ...]
) -> None:
    """Each signal goes down the ladder or changes nothing, with a server that can't answer."""
    manager.settings["shutdown"] = {
        "smart_seconds": 3600,
        "fast_seconds": 3600,
        "immediate_seconds": 3600,
    }
    manager.trust()
    for _ in range(times(1, 5)):
        manager.log.unlink(missing_ok=True)
        manager.start().until_ready()
        harden(manager, numbers)
        began = time.monotonic()
        code = manager.wait()

        assert modes(manager) == RUNGS[numbers]
        assert modes(manager) == sorted(modes(manager), key=[str(rung) for rung in ORDER].index)
        assert code == expected_code(manager)
        figures.add("6 stop that is hardened", ready_seconds=time.monotonic() - began)


def harden(manager: Manager, numbers: tuple[signal.Signals, ...]) -> None:
    """Send one signal after the other while the server can't answer."""
    assert manager.process is not None
    with frozen(postmaster_of(manager)):
        for number in numbers:
            manager.process.send_signal(number)
            # The first rung comes after a last look at the databases, of a second at most.
            until(lambda: modes(manager), "the first rung is taken")
            # An answer that was computed after the signal; none where it was the last one.
            manager.status()
        until(lambda: len(modes(manager)) >= len(RUNGS[numbers]), "all rungs are taken")


RUNGS = {
    (signal.SIGTERM, signal.SIGTERM): ["smart", "fast"],
    (signal.SIGTERM,) * 4: ["smart", "fast", "immediate", "kill"],
    (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT): ["smart", "fast", "immediate"],
    (signal.SIGQUIT, signal.SIGINT, signal.SIGHUP): ["immediate"],
    (signal.SIGINT, signal.SIGHUP, signal.SIGINT): ["fast"],
}


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a process, and let it go on afterwards if it is still there."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def link_tree(source: Path, target: Path) -> None:
    """Copy a tree with links for its files: two hundred of them cost no space."""
    if not target.exists():
        shutil.copytree(source, target, copy_function=os.link)


def look_for(manager: Manager, command: str) -> bool:
    """Whether the manager has a child of that name."""
    assert manager.process is not None
    return any(one.command == command for one in children_of(manager.process.pid))
