"""What a stop waits for, by the titles of the server's processes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instance_manager.postgres.control_data import ClusterState
from instance_manager.postgres.stop_waits import (
    Awaits,
    ProcessKind,
    ServerProcess,
    awaited,
    kind_of,
)

TITLES = {
    "io worker 0": ProcessKind.IO_WORKER,
    "checkpointer": ProcessKind.CHECKPOINTER,
    "checkpointer performing shutdown checkpoint": ProcessKind.CHECKPOINTER,
    "background writer": ProcessKind.BACKGROUND_WRITER,
    "walwriter": ProcessKind.WALWRITER,
    "walsummarizer": ProcessKind.WALSUMMARIZER,
    "autovacuum launcher": ProcessKind.AUTOVACUUM_LAUNCHER,
    "autovacuum worker shop": ProcessKind.AUTOVACUUM_WORKER,
    "archiver": ProcessKind.ARCHIVER,
    "archiver archiving 000000010000000000000001": ProcessKind.ARCHIVER,
    "archiver last was 00000002.history": ProcessKind.ARCHIVER,
    "logger": ProcessKind.LOGGER,
    "startup recovering 000000010000000000000003": ProcessKind.STARTUP,
    "startup waiting for 000000010000000000000003": ProcessKind.STARTUP,
    "walreceiver streaming 0/3000060": ProcessKind.WALRECEIVER,
    "slotsync worker": ProcessKind.SLOTSYNC_WORKER,
    "logical replication launcher": ProcessKind.REPLICATION_LAUNCHER,
    "logical replication apply worker for subscription 16399": ProcessKind.BACKGROUND_WORKER,
    "pg_cron launcher": ProcessKind.BACKGROUND_WORKER,
    "parallel worker for PID 4711": ProcessKind.PARALLEL_WORKER,
    "walsender rep 10.0.0.1(4242) streaming 0/3000060": ProcessKind.WALSENDER,
    "walsender rep shop fe80::1(4242) START_REPLICATION": ProcessKind.WALSENDER,
    "walsender rep [local]": ProcessKind.WALSENDER,
    "alice db [local] idle": ProcessKind.SESSION,
    "alice db client.example(4242) idle in transaction": ProcessKind.SESSION,
    "alice db ::1(4242) SELECT waiting": ProcessKind.SESSION,
    "alice db [local]": ProcessKind.SESSION,
}


def process(
    kind: ProcessKind, pid: int = 7, state: str = "S", *, title: str = ""
) -> ServerProcess:
    return ServerProcess(pid, kind, title or f"postgres: {kind}", state)


def family(*kinds: ProcessKind) -> list[ServerProcess]:
    """Return a postmaster and children of these kinds."""
    return [
        process(kind, pid) for pid, kind in enumerate([ProcessKind.POSTMASTER, *kinds], start=40)
    ]


LAST = (ProcessKind.IO_WORKER, ProcessKind.CHECKPOINTER)
"""What lives to the end of a stop."""


@pytest.mark.parametrize("cluster", ["", "pg-0: ", "a: b: ", "x(1) y: "])
@pytest.mark.parametrize(("text", "kind"), TITLES.items())
def test_a_title_tells_the_kind(text: str, kind: ProcessKind, cluster: str) -> None:
    """With a name of the cluster and without, and with the blanks that the server leaves."""
    assert kind_of(f"postgres: {cluster}{text} ") is kind


@pytest.mark.parametrize("title", ["", "/usr/lib/postgresql/18/bin/postgres", "postgres: "])
def test_a_process_without_a_title_of_its_own_is_of_no_kind(title: str) -> None:
    """Just after the fork, a child still has the postmaster's command line."""
    assert kind_of(title) is ProcessKind.UNKNOWN


@pytest.mark.parametrize(
    "user",
    [
        "checkpointer",
        "x: checkpointer",
        "archiver archiving 1",
        "x: logger",
        "parallel worker for",
    ],
)
def test_no_name_of_a_user_hides_a_session(user: str) -> None:
    """Whoever may make roles can't make a stop say that it waits for something else."""
    assert kind_of(f"postgres: {user} db [local] idle") is ProcessKind.SESSION


@given(st.text())
def test_every_title_has_a_kind(text: str) -> None:
    """Whatever a process calls itself, nothing is raised."""
    assert kind_of(f"postgres: {text}") in ProcessKind


def test_sessions_come_first_and_are_counted() -> None:
    """A smart stop waits for them, whatever else still runs."""
    found = awaited(
        family(
            *LAST,
            ProcessKind.WALWRITER,
            ProcessKind.ARCHIVER,
            ProcessKind.REPLICATION_LAUNCHER,
            ProcessKind.SESSION,
            ProcessKind.SESSION,
            ProcessKind.PARALLEL_WORKER,
            ProcessKind.BACKGROUND_WORKER,
        ),
        ClusterState.IN_PRODUCTION,
    )

    assert found is not None
    assert (found.what, found.count) == (Awaits.SESSIONS, 4)
    assert found.message == "waiting for 2 sessions, 1 parallel worker, 1 background worker"


@pytest.mark.parametrize(
    ("children", "state"),
    [
        ((), ClusterState.IN_PRODUCTION),
        ((ProcessKind.ARCHIVER,), ClusterState.IN_ARCHIVE_RECOVERY),
        ((ProcessKind.ARCHIVER, ProcessKind.WALSENDER), ClusterState.SHUTTING_DOWN),
    ],
)
def test_without_sessions_the_checkpoint_is_awaited(
    children: tuple[ProcessKind, ...], state: ClusterState
) -> None:
    """Archiver and walsenders live too, but their turn comes after it."""
    found = awaited(family(*LAST, *children), state)

    assert found is not None
    assert found.what is Awaits.CHECKPOINT
    assert found.message == "waiting for the shutdown checkpoint"


def test_the_checkpoint_waits_for_walsenders_that_lag() -> None:
    """It has not begun while the control file says that the cluster is in production."""
    found = awaited(family(*LAST, ProcessKind.WALSENDER), ClusterState.IN_PRODUCTION)

    assert found is not None
    assert (found.what, found.count) == (Awaits.WALSENDERS, 1)
    assert found.message == "waiting for 1 walsender before the shutdown checkpoint"


@pytest.mark.parametrize(
    "checkpointer",
    [
        process(
            ProcessKind.CHECKPOINTER,
            title="postgres: checkpointer performing shutdown restartpoint",
        ),
        process(ProcessKind.CHECKPOINTER, state="T"),
    ],
)
def test_a_checkpointer_that_works_or_can_not_is_what_is_awaited(
    checkpointer: ServerProcess,
) -> None:
    """The control file of a standby does not say when its last restartpoint begins."""
    found = awaited(
        [*family(ProcessKind.WALSENDER), checkpointer], ClusterState.IN_ARCHIVE_RECOVERY
    )

    assert found is not None
    assert found.what is Awaits.CHECKPOINT


def test_what_must_end_before_the_checkpoint_is_named_until_it_does() -> None:
    """The checkpoint does not begin while the startup process or a worker still runs."""
    recovering = process(
        ProcessKind.STARTUP, title="postgres: pg: startup recovering 0000000100000000000000A1 "
    )
    found = awaited(
        [*family(*LAST, ProcessKind.WALRECEIVER), recovering], ClusterState.IN_PRODUCTION
    )

    assert found is not None
    assert (found.what, found.count) == (Awaits.PROCESSES, 2)
    assert found.message == (
        "waiting for 2 processes: walreceiver, startup: recovering 0000000100000000000000A1"
    )


def test_a_shut_down_cluster_waits_for_its_archiver_and_says_where_it_is() -> None:
    """The segment comes from the title; a walsender beside it is awaited as well."""
    archiver = process(
        ProcessKind.ARCHIVER, title="postgres: archiver archiving 00000001000000000000000A"
    )
    found = awaited([*family(*LAST, ProcessKind.WALSENDER), archiver], ClusterState.SHUT_DOWN)

    assert found is not None
    assert (found.what, found.count) == (Awaits.ARCHIVER, 1)
    assert found.message == (
        "waiting for the archiver: archiving 00000001000000000000000A, and for 1 walsender"
    )


def test_a_shut_down_cluster_waits_for_its_walsenders() -> None:
    """They are counted; who they serve stays out."""
    found = awaited(
        family(*LAST, ProcessKind.WALSENDER, ProcessKind.WALSENDER), ClusterState.SHUT_DOWN
    )

    assert found is not None
    assert (found.what, found.count) == (Awaits.WALSENDERS, 2)
    assert found.message == "waiting for 2 walsenders"


def test_the_last_processes_are_named() -> None:
    """Several of a kind are named once."""
    found = awaited(
        family(ProcessKind.IO_WORKER, ProcessKind.IO_WORKER, ProcessKind.LOGGER),
        ClusterState.SHUT_DOWN,
    )

    assert found is not None
    assert (found.what, found.count) == (Awaits.PROCESSES, 3)
    assert found.message == "waiting for 3 processes: io worker, logger"


@pytest.mark.parametrize("processes", [[], family()])
def test_a_server_without_children_waits_for_nothing(processes: list[ServerProcess]) -> None:
    """Gone, or about to be."""
    assert awaited(processes, ClusterState.SHUT_DOWN) is None


def test_a_frozen_process_is_named_beside_what_is_awaited() -> None:
    """Nobody finds out by waiting that a signal has stopped it."""
    found = awaited(
        [*family(*LAST), process(ProcessKind.SESSION, 99, "T")], ClusterState.IN_PRODUCTION
    )

    assert found is not None
    assert found.what is Awaits.SESSIONS
    assert found.message == "waiting for 1 session; pid 99 (session) is frozen"


def test_a_frozen_postmaster_is_what_is_awaited() -> None:
    """It takes no request: its sessions were not even told."""
    frozen = process(ProcessKind.POSTMASTER, 40, "T")
    found = awaited([frozen, *family(ProcessKind.SESSION)[1:]], ClusterState.IN_PRODUCTION)

    assert found is not None
    assert (found.what, found.count) == (Awaits.PROCESSES, 1)
    assert found.message == "waiting for the postmaster; pid 40 (postmaster) is frozen"


def test_a_process_stuck_in_the_kernel_is_the_storage() -> None:
    """No signal helps against it, so it comes before all else."""
    stuck = [ServerProcess(pid, ProcessKind.UNKNOWN, "", "D", is_stuck=True) for pid in (42, 43)]
    one = awaited([*family(ProcessKind.SESSION), stuck[0]], ClusterState.IN_PRODUCTION)
    two = awaited(stuck, ClusterState.SHUT_DOWN)

    assert one is not None
    assert (one.what, one.count) == (Awaits.STORAGE, 1)
    assert one.message == "waiting for storage: pid 42 is in an uninterruptible sleep"
    assert two is not None
    assert two.message == "waiting for storage: pids 42, 43 are in an uninterruptible sleep"


def test_a_title_stays_out_of_what_a_log_would_show() -> None:
    """It names users and databases."""
    assert "alice" not in repr(
        process(ProcessKind.SESSION, title="postgres: alice db [local] idle")
    )
