"""Start, stop, kill and start again: what PID 1 of a container owes its data."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.support.figures import Figures

if TYPE_CHECKING:
    from tests.container.conftest import Cluster, Images, Operand

# The promise is 3 seconds; a loaded host may need more for the container itself.
STOP_SECONDS = 10
END_SECONDS = 60
"""Where the time does not count."""

MASK = "--block-signal=TERM,INT,QUIT,HUP"


def remember(operand: Operand) -> None:
    """Write what a later start must find again."""
    operand.sql("CREATE TABLE kept AS SELECT 42 AS answer")


def test_data_is_kept_when_the_container_restarts(cluster: Cluster, images: Images) -> None:
    """The same container, stopped and started, has its data and its extension."""
    operand = cluster.run(extensions={"pgvector": images.pgvector}).wait_ready()
    operand.sql("CREATE EXTENSION vector")
    operand.sql("CREATE TABLE kept AS SELECT '[4,2]'::vector AS answer")

    operand.stop()
    operand.start().wait_ready()

    assert operand.sql("SELECT answer FROM kept") == "[4,2]"


def test_data_is_kept_for_another_container(cluster: Cluster) -> None:
    """A new container on the same volume serves the same cluster."""
    data = cluster.volume()
    first = cluster.run(data=data).wait_ready()
    remember(first)
    first.stop()

    second = cluster.run(data=data).wait_ready()

    assert second.sql("SELECT answer FROM kept") == "42"


def test_term_stops_the_server_cleanly_and_soon(
    cluster: Cluster, images: Images, measured: Callable[[str, float], None]
) -> None:
    """TERM ends the container with 0, open sessions or not; the next start needs no recovery."""
    operand = cluster.run(extensions={"pgvector": images.pgvector}).wait_ready()
    operand.podman(
        "exec", "--detach", operand.name, "psql", "-U", "postgres", "-c", "SELECT pg_sleep(600)"
    ).checked()

    code, seconds = operand.stop()

    measured("seconds from TERM to the end of the container", seconds)
    assert code == 0
    assert seconds < STOP_SECONDS
    operand.start().wait_ready()
    assert "was not properly shut down" not in operand.logs()


def test_a_killed_container_recovers(cluster: Cluster) -> None:
    """KILL leaves no lock and no stale pid in the way of the next start."""
    operand = cluster.run().wait_ready()
    remember(operand)

    operand.signal("KILL")
    operand.wait(END_SECONDS)
    operand.start().wait_ready()

    assert operand.sql("SELECT answer FROM kept") == "42"


def test_a_second_container_is_kept_away_from_the_data(cluster: Cluster) -> None:
    """Two containers can't see each other's processes, but never share a data directory."""
    data = cluster.volume()
    first = cluster.run(data=data).wait_ready()
    remember(first)

    second = cluster.run("--env=INSTANCE_MANAGER_FAILURE=exit", data=data)
    code = second.wait(END_SECONDS)

    assert code == 7
    assert "in use" in second.logs()
    assert first.sql("SELECT answer FROM kept") == "42"


def test_a_fence_outlives_its_container(cluster: Cluster) -> None:
    """Stopped or killed and started again, or another one on the volume: fenced until unfenced."""
    data = cluster.volume()
    first = cluster.run(data=data).wait_ready()
    remember(first)
    first.exec("instance-manager", "fence").checked()
    assert first.stop()[0] == 0
    first.start().wait_phase("fenced")
    first.signal("KILL")
    first.wait(END_SECONDS)
    first.start().wait_phase("fenced")
    assert first.stop()[0] == 0

    second = cluster.run(data=data)
    assert second.wait_phase("fenced")["postgres"]["pid"] is None
    assert second.probes(ready=200, seconds=2).live == [200]
    second.exec("instance-manager", "unfence").checked()
    assert second.wait_ready().sql("SELECT answer FROM kept") == "42"


def test_every_line_of_the_log_is_one_json_object(cluster: Cluster) -> None:
    """What stdout carries is for programs: lines of the manager and of postgres alike."""
    operand = cluster.run().wait_ready()
    operand.psql("SELECT 1/0")
    operand.stop()

    events = operand.events()

    assert events
    assert all(isinstance(event, dict) for event in events)
    assert [event for event in events if "division by zero" in str(event)]


def test_term_at_any_early_moment_ends_the_container_and_harms_nothing(
    cluster: Cluster,
    times: Callable[[int, int], int],
    figures: Figures,
) -> None:
    """In the first second of a first start and of the next one, TERM is a clean end."""
    last = times(4, 100)
    for moment in range(last + 1):
        delay = moment / last
        for seconds in end_early(cluster, delay):
            figures.add("4 TERM early in the start of a container", ready_seconds=seconds)
        # So many clusters would fill a disk.
        cluster.remove()


def end_early(cluster: Cluster, delay: float) -> list[float]:
    """Send TERM *delay* seconds into two starts; return how long each took to end."""
    data = cluster.volume()
    script = f"(sleep {delay}; kill -TERM 1) & exec instance-manager run"
    # The mask is the image's: the signal can be sent from the first moment.
    option = f'--entrypoint=["env", "{MASK}", "sh", "-c", "{script}"]'
    seconds: list[float] = []
    for _ in range(2):
        operand = cluster.run(option, data=data)
        assert operand.wait(END_SECONDS) == 0
        seconds.append(operand.seconds_alive() - delay)
    assert cluster.run(data=data).wait_ready().sql("SELECT 1") == "1"
    assert cluster.control_state(data) == "in production"
    return seconds


@pytest.mark.parametrize("milliseconds", [100, 300, 500, 700, 900, 1100])
def test_kill_at_any_early_moment_harms_nothing(cluster: Cluster, milliseconds: int) -> None:
    """A first start that was cut off is cleared away or completed by the next one."""
    data = cluster.volume()
    operand = cluster.run(data=data)
    # The moment is what is tested: there is no condition to wait for.
    time.sleep(milliseconds / 1000)
    operand.signal("KILL")
    operand.wait(END_SECONDS)

    assert cluster.run(data=data).wait_ready().sql("SELECT 1") == "1"


@pytest.mark.parametrize("signal", ["TERM", "INT", "QUIT"])
def test_a_signal_right_after_the_start_is_not_lost(cluster: Cluster, signal: str) -> None:
    """What podman sends as soon as it can ends the container."""
    operand = cluster.run()
    operand.signal(signal)

    # What was lost, it would wait for until it is killed.
    operand.wait(END_SECONDS)
