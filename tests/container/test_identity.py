"""Whose the data is: one server at a time, whoever started it, and whatever user it runs as."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.support import programs
from tests.support.figures import Figures
from tests.support.manager import until

if TYPE_CHECKING:
    from tests.container.conftest import Cluster, Operand

MASK = "--block-signal=TERM,INT,QUIT,HUP"
BESIDE_SLEEP = (
    f'--entrypoint=["env", "{MASK}", "sh", "-c", "instance-manager run & exec sleep infinity"]'
)
"""PID 1 is another program, so the container outlives its manager."""

MANAGER = "$(grep -lx instance-manage /proc/[0-9]*/comm | cut -d/ -f3)"
IN_USE = "data-directory-in-use"
TWO_TRIES_SECONDS = 5
"""It tries again every second."""

Times = Callable[[int, int], int]


def remember(operand: Operand) -> None:
    """Write what a later start must find again."""
    operand.sql("CREATE TABLE kept AS SELECT 42 AS answer")


def kill_manager(operand: Operand) -> None:
    """End the manager in a container that goes on, and see that the server does too."""
    operand.exec("sh", "-c", programs.KILL.format(name="KILL", them=MANAGER)).checked()
    assert operand.sql("SELECT answer FROM kept") == "42"


def require_refused(operand: Operand, who: str) -> None:
    """Require that a container stays up and says who has the data."""
    failure = operand.wait_phase("failed")["failure"]

    assert (failure["code"], failure["exit_code"]) == (IN_USE, 7)
    assert f"in use by {who}" in failure["message"]


def test_a_second_container_waits_for_the_end_of_the_first(
    cluster: Cluster, times: Times, figures: Figures
) -> None:
    """It is refused while the first one lives, and serves its data once that was killed."""
    fault = "14 second container, the first killed"
    for _ in range(times(1, 10)):
        data = cluster.volume()
        first = cluster.run(data=data).wait_ready()
        remember(first)

        with cluster.counted_postmasters(data):
            second = cluster.run(data=data)
            require_refused(second, "another manager")
            refused_after = second.seconds_to("in use by another manager")
            first.signal("KILL")
            answers = second.probes(ready=200)

        assert answers.ready == 200
        assert second.sql("SELECT answer FROM kept") == "42"
        figures.add(fault, detect_seconds=refused_after, ready_seconds=answers.seconds)
        cluster.remove()
    figures.require(fault, detect_seconds=1, ready_seconds=5)


def test_a_server_without_its_manager_keeps_other_containers_away(
    cluster: Cluster, measured: Callable[[str, float], None]
) -> None:
    """Nobody can see it from there, but its lock holds until its last process ends."""
    data = cluster.volume()
    first = cluster.run(BESIDE_SLEEP, data=data).wait_ready()
    remember(first)
    postmaster = first.status()["postgres"]["pid"]

    with cluster.counted_postmasters(data):
        kill_manager(first)
        second = cluster.run(data=data)
        require_refused(second, "a server in another container")
        still = second.probes(ready=200, seconds=TWO_TRIES_SECONDS)
        assert (still.ready, still.live) == (503, [200])
        assert first.sql("SELECT answer FROM kept") == "42"
        first.signal_postgres("INT", postmaster)
        answers = second.probes(ready=200)

    measured("seconds from the server's end until the next one is ready", answers.seconds)
    assert second.sql("SELECT answer FROM kept") == "42"


def test_a_frozen_backend_in_another_container_is_a_server_still(cluster: Cluster) -> None:
    """Its postmaster was killed, but it may write again: the data stays locked until it ends."""
    data = cluster.volume()
    first = cluster.run(BESIDE_SLEEP, data=data).wait_ready()
    remember(first)
    postmaster = first.status()["postgres"]["pid"]
    backend = int(first.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'"))
    kill_manager(first)
    first.signal_postgres("STOP", backend)
    first.signal_postgres("KILL", postmaster)

    second = cluster.run(data=data)
    require_refused(second, "a server in another container")
    assert second.probes(ready=200, seconds=TWO_TRIES_SECONDS).ready == 503
    first.signal_postgres("KILL", backend)

    assert second.wait_ready().sql("SELECT answer FROM kept") == "42"


def test_a_server_outlives_its_manager_and_is_replaced_by_the_next(
    cluster: Cluster, times: Times, figures: Figures
) -> None:
    """A manager started again where the old server is ends it, and serves what it confirmed."""
    for _ in range(times(1, 10)):
        seconds = replace_manager(cluster)
        figures.add("15 manager killed, its server alive", ready_seconds=seconds)
        cluster.remove()


def replace_manager(cluster: Cluster) -> float:
    """Kill a manager and start another; return the seconds until that one is ready."""
    data = cluster.volume()
    operand = cluster.run(BESIDE_SLEEP, data=data).wait_ready()
    remember(operand)
    old = operand.status()["postgres"]["pid"]

    with operand.inserting() as inserts, cluster.counted_postmasters(data):
        inserts.wait_for_more(100)
        kill_manager(operand)
        inserts.wait_for_more(1000)
        operand.podman(
            "exec", "--detach", operand.name, "env", MASK, "instance-manager", "run"
        ).checked()
        answers = operand.probes(ready=200)
        inserts.require_all(operand)

    assert operand.status()["postgres"]["pid"] != old
    assert operand.sql("SELECT answer FROM kept") == "42"
    return answers.seconds


def test_a_server_without_its_manager_does_not_wait_for_a_reader_of_its_log(
    cluster: Cluster,
) -> None:
    """More lines than a pipe holds block no session once nobody reads them."""
    operand = cluster.run(BESIDE_SLEEP).wait_ready()
    remember(operand)
    kill_manager(operand)

    operand.sql(
        "DO $$ BEGIN FOR i IN 1..5000 LOOP RAISE LOG '%', repeat('x', 1000); END LOOP; END $$"
    )

    assert operand.sql("SELECT answer FROM kept") == "42"


FILESYSTEM_GROUP = "54321"
ANY_USER = (
    "--user=12345:12345",
    f"--group-add={FILESYSTEM_GROUP}",
    "--passwd=false",
)


def mount_as_a_kubelet(cluster: Cluster, data: str) -> None:
    """Do to a volume what ``fsGroup`` does at each mount: the group owns and may write all."""
    script = (
        f"chgrp -R {FILESYSTEM_GROUP} /data && chmod -R u+rw,g+rw /data"
        " && find /data -type d -exec chmod ug+x,g+s {} +"
    )
    capabilities = ("--cap-add=CHOWN", "--cap-add=FOWNER", "--cap-add=DAC_OVERRIDE", "--user=0:0")
    cluster.tool(data, script, *capabilities, "--cap-add=FSETID", at="/data")


@pytest.mark.parametrize("starts", [1, 3])
def test_any_user_of_a_group_that_may_write_the_volume_works(
    cluster: Cluster, times: Times, figures: Figures, starts: int
) -> None:
    """An id without a passwd entry, on a volume of root's: each start serves and stops cleanly."""
    data = cluster.volume()
    for start in range(starts * times(1, 3)):
        mount_as_a_kubelet(cluster, data)
        operand = cluster.run(*ANY_USER, data=data).wait_ready()
        assert operand.exec("id", "--user", "--name").code != 0
        root = operand.exec("stat", "--format=%u:%g %a", "/var/lib/postgresql/data").checked()
        assert root.out.split() == [f"0:{FILESYSTEM_GROUP}", "2775"]
        if start == 0:
            remember(operand)
        assert operand.sql("SELECT answer FROM kept") == "42"
        code, _ = operand.stop()
        assert code == 0
        assert cluster.control_state(data, *ANY_USER) == "shut down"
        figures.add("any numeric user, a group's volume")


def test_a_waiting_container_says_who_has_the_data_now(cluster: Cluster) -> None:
    """Another manager at first, and the server that it left behind once it was killed."""
    data = cluster.volume()
    first = cluster.run(BESIDE_SLEEP, data=data).wait_ready()
    remember(first)
    second = cluster.run(data=data)
    require_refused(second, "another manager")
    kill_manager(first)

    def told() -> bool:
        failure = second.status()["failure"]
        return failure is not None and "a server in another container" in failure["message"]

    until(told, "the status names the server that is left")
