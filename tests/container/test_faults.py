"""What befalls a container from outside: signals at any moment, frozen processes, no memory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import programs
from tests.support.figures import Figures
from tests.support.manager import until

if TYPE_CHECKING:
    from tests.container.conftest import Cluster, Operand

Times = Callable[[int, int], int]

PERIODS_SECONDS = 3.0
"""The promise: three periods of a second."""
# A loaded host may need more to notice.
NOTICED_SECONDS = 20
DONE, UNCLEAN, KILLED = 0, 8, 137

FREEZE_STARTUP = (
    "(until grep -laE '^postgres:.*startup' /proc/[0-9]*/cmdline > /tmp/startup 2> /dev/null;"
    " do :; done; kill -STOP $(cut -d/ -f3 /tmp/startup)) & exec instance-manager run"
)
"""Stops crash recovery as it begins, so that a signal is sure to find it under way."""

EAT_MEMORY = (
    "SELECT cardinality(array_agg(repeat(md5(i::text), 1000))) FROM generate_series(1, 1000000) i"
)
MASK = "--block-signal=TERM,INT,QUIT,HUP"
END_CLIENTS = (
    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
    " WHERE query LIKE 'INSERT%' AND pid <> pg_backend_pid()"
)


def entrypoint(*command: str) -> str:
    """Return the option that starts *command* with the signals blocked."""
    return f"--entrypoint={json.dumps(['env', MASK, *command])}"


def start_and_send_term(operand: Operand, seconds: float) -> dict[str, Any]:
    """Start a created container, and send TERM so long after its mask, or at once if negative."""
    program, pid = programs.SIGNAL_AFTER_EXEC, operand.initialized_pid()
    with operand.podman.outside(program, str(pid), str(seconds)) as sender:
        assert sender.stdout is not None
        assert sender.stdout.readline() == "waiting\n"
        operand.start()
        out, error = sender.communicate()
    assert sender.returncode == 0, error
    sent: dict[str, Any] = json.loads(out)
    return sent


@pytest.mark.parametrize("milliseconds", range(11))
def test_no_signal_is_lost_once_the_entrypoint_has_blocked_it(
    cluster: Cluster,
    times: Times,
    figures: Figures,
    measured: Callable[[str, float], None],
    milliseconds: int,
) -> None:
    """The entrypoint's mask stands before Python begins, and keeps what comes for its handlers."""
    for _ in range(times(1, 3)):
        operand = cluster.create()
        sent = start_and_send_term(operand, milliseconds / 1000)
        began = time.monotonic()

        assert sent["protected"]
        assert operand.wait(60) == DONE
        figures.add(
            "3 TERM 0 to 10 ms after the entrypoint's mask",
            ready_seconds=time.monotonic() - began,
        )
        measured("milliseconds until the entrypoint blocks signals", sent["mask_milliseconds"])
        cluster.remove()


WITHOUT_MASK = f"sleep 1; exec env {MASK} instance-manager run"
"""The moment before the mask, made long enough to be hit for sure."""


@pytest.mark.parametrize("options", [(), ("sh",)], ids=["the image", "a late mask"])
def test_a_signal_before_the_mask_is_kept_or_lost_and_harms_nothing(
    cluster: Cluster, times: Times, figures: Figures, options: tuple[str, ...]
) -> None:
    """PID 1 without a handler is not ended by it: it serves until the next TERM, or the KILL."""
    late = f"--entrypoint={json.dumps(['sh', '-c', WITHOUT_MASK])}"
    for number in range(times(2, 50)):
        operand = cluster.create(*([late] if options else []))
        start_and_send_term(operand, -1)
        if ends_or_serves(operand):
            assert not options
            assert operand.wait(60) == DONE
            figures.add("3 TERM before the mask: kept")
        else:
            with operand.inserting() as inserts:
                inserts.wait_for_more(100)
                name, code = (("TERM", DONE), ("KILL", KILLED))[number % 2]
                operand.signal(name)
                assert operand.wait(60) == code
                began = time.monotonic()
                inserts.require_all(operand.start().wait_ready())
            how = "a late mask" if options else "the image"
            figures.add(
                f"3 TERM before the mask: lost ({how})",
                ready_seconds=time.monotonic() - began,
            )
        cluster.remove()


def ends_or_serves(operand: Operand) -> bool:
    """Wait until a container has ended or serves; return whether it is the former."""
    until(lambda: has_ended(operand) or is_ready(operand), "it has ended, or serves")
    return has_ended(operand)


def has_ended(operand: Operand) -> bool:
    form = "--format={{.State.Running}}"
    return operand.podman("inspect", form, operand.name).checked().out.strip() == "false"


def is_ready(operand: Operand) -> bool:
    url = "http://127.0.0.1:8080/readyz"
    return operand.exec("python3", "-I", "-c", programs.GET, url, "0").code == 0


@pytest.mark.parametrize(
    ("signal", "code", "state"),
    [
        ("TERM", DONE, "shut down"),
        ("INT", DONE, "shut down"),
        ("QUIT", UNCLEAN, "in production"),
    ],
)
@pytest.mark.parametrize("loaded", [False, True], ids=["idle", "loaded"])
def test_the_exit_code_tells_how_the_server_was_stopped(
    cluster: Cluster, signal: str, code: int, state: str, *, loaded: bool
) -> None:
    """It is 0 exactly where pg_control says that nothing is to be recovered."""
    data = cluster.volume()
    operand = cluster.run(data=data).wait_ready()
    with operand.inserting() as inserts:
        inserts.wait_for_more(1000)
        if not loaded:
            operand.sql(END_CLIENTS)
        operand.signal(signal)

        assert operand.wait(60) == code
        assert cluster.control_state(data) == state
        inserts.require_all(operand.start().wait_ready())


def frozen_in_recovery(cluster: Cluster, data: str) -> Operand | None:
    """Return a server whose recovery stands still; where it was over first, kill it."""
    operand = cluster.run(entrypoint("sh", "-c", FREEZE_STARTUP), data=data)
    phase = operand.wait_phase("recovering", "running")["phase"]
    stands = operand.exec("sh", "-c", "grep '^State:.T' /proc/$(cut -d/ -f3 /tmp/startup)/status")
    if phase == "recovering" and stands.code == 0:
        return operand
    operand.signal("KILL")
    assert operand.wait(60) == KILLED
    return None


@pytest.mark.parametrize(
    ("signal", "code", "states"),
    [
        ("TERM", DONE, {"shut down in recovery"}),
        ("INT", DONE, {"shut down in recovery"}),
        # The latter, if it had not come to note the beginning of recovery.
        ("QUIT", UNCLEAN, {"in crash recovery", "in production"}),
    ],
)
def test_the_exit_code_tells_how_a_recovering_server_was_stopped(
    cluster: Cluster, signal: str, code: int, states: set[str]
) -> None:
    """Whatever is left of the recovery, the next start completes it."""
    data = cluster.volume()
    killed = cluster.run(data=data).wait_ready()
    with killed.inserting() as inserts:
        inserts.wait_for_more(1000)
        killed.signal("KILL")
        assert killed.wait(60) == KILLED
        frozen = until(lambda: frozen_in_recovery(cluster, data), "recovery is stopped in time")
        assert frozen is not None

        frozen.signal(signal)
        frozen.exec("sh", "-c", "kill -CONT $(cut -d/ -f3 /tmp/startup)")

        assert frozen.wait(60) == code
        assert cluster.control_state(data) in states
        inserts.require_all(cluster.run(data=data).wait_ready())


@pytest.mark.parametrize("whom", ["all", "the postmaster"])
def test_a_frozen_server_is_not_ready_and_its_manager_lives(
    cluster: Cluster, times: Times, figures: Figures, whom: str
) -> None:
    """Readiness says so within three periods, liveness says nothing, and both know its return."""
    fault = f"38 {whom} of postgres frozen" if whom == "all" else f"38 {whom} frozen"
    operand = cluster.run().wait_ready()
    before = operand.status()["postgres"]
    pids = () if whom == "all" else (before["pid"],)

    for _ in range(times(1, 10)):
        operand.signal_postgres("STOP", *pids)
        frozen = operand.probes(ready=503)
        still = operand.probes(ready=200, seconds=3)
        operand.signal_postgres("CONT", *pids)
        thawed = operand.probes(ready=200)

        assert (frozen.ready, still.ready, thawed.ready) == (503, 503, 200)
        assert frozen.seconds < NOTICED_SECONDS
        assert frozen.live == still.live == thawed.live == [200]
        assert operand.status()["postgres"]["pid"] == before["pid"]
        figures.add(fault, detect_seconds=frozen.seconds, ready_seconds=thawed.seconds)
    figures.require(fault, detect_seconds=PERIODS_SECONDS)


def test_a_frozen_manager_gives_no_sign_of_life_and_its_replacement_loses_nothing(
    cluster: Cluster, times: Times, figures: Figures
) -> None:
    """The kubelet gets no answer, asks it to end in vain, kills it, and starts it again."""
    for _ in range(times(1, 10)):
        operand = cluster.run().wait_ready()
        with operand.inserting() as inserts:
            inserts.wait_for_more(100)
            operand.signal("STOP")
            silent = operand.probes(ready=200, seconds=3)
            inserts.wait_for_more(1000)
            operand.podman("stop", "--time=2", operand.name).checked()

            assert (silent.ready, silent.live) == (0, [0])
            assert operand.wait(60) == KILLED
            began = time.monotonic()
            operand.start().wait_ready()
            figures.add("40 manager frozen and killed", ready_seconds=time.monotonic() - began)
            inserts.require_all(operand)
        assert operand.stop()[0] == DONE
        cluster.remove()


def test_a_manager_that_was_frozen_goes_on_with_the_same_server(cluster: Cluster) -> None:
    """A pause harms nobody: the server was at work all the while."""
    operand = cluster.run().wait_ready()
    before = operand.status()["postgres"]["pid"]

    operand.signal("STOP")
    silent = operand.probes(ready=200, seconds=15)
    operand.signal("CONT")

    assert silent.live == [0]
    assert operand.probes(ready=200).ready == 200
    assert operand.status()["postgres"]["pid"] == before
    assert operand.stop()[0] == DONE


def test_a_query_that_eats_all_memory_costs_only_its_server_a_recovery(
    cluster: Cluster, times: Callable[[int, int], int], figures: Figures
) -> None:
    """The kernel kills that backend, postgres recovers by itself, and the manager lives on."""
    operand = cluster.run("--memory=300m", "--memory-swap=300m").wait_ready()
    operand.sql("CREATE TABLE kept AS SELECT 42 AS answer")
    before = operand.status()

    for number in range(1, times(3, 20) + 1):
        assert "lost" in operand.psql(EAT_MEMORY).error
        began = time.monotonic()
        # More lines than one tell the signal.
        operand.wait_log('"message":"client backend (PID ', times=number)
        assert operand.lines_with('"message":"client backend (PID ') == number
        operand.wait_log("was terminated by signal 9", times=number)
        operand.wait_log("reinitializing", times=number)
        # Readiness is asked once a period: it may not have seen the server's short absence.
        until(lambda: operand.psql("SELECT 1").code == 0, "the server answers again")
        figures.add("memory eaten by one query", ready_seconds=time.monotonic() - began)
        assert operand.sql("SELECT answer FROM kept") == "42"

    after = operand.status()
    assert after["instance"] == before["instance"]
    assert after["postgres"]["pid"] == before["postgres"]["pid"]
    assert after["postgres"]["restarts"] == 0
    assert operand.stop()[0] == DONE


SESSION = (
    'psql --username=postgres --quiet --command "SELECT pg_sleep(30),'
    ' cardinality(array_agg(repeat(md5(i::text), 1000))) FROM generate_series(1, 120) i"'
)
"""Memory of middling size, for half a minute."""


def test_many_sessions_that_eat_all_memory_never_cost_the_manager(cluster: Cluster) -> None:
    """The kernel ends a backend, whichever; the manager and the postmaster live on."""
    operand = cluster.run(
        *("--memory=256m", "--memory-swap=256m"),
        command=("--set", 'postgres.parameters={"max_connections": "200"}'),
    ).wait_ready()
    before = operand.status()

    sessions = f"for i in $(seq 60); do {SESSION} > /dev/null 2>&1 & done; wait"
    operand.podman("exec", operand.name, "sh", "-c", sessions, seconds=300)

    operand.wait_log("was terminated by signal 9")
    operand.wait_ready()
    after = operand.status()
    assert after["instance"] == before["instance"]
    assert after["postgres"]["pid"] == before["postgres"]["pid"]
