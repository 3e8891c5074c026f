"""Whoever the container runs as, and whatever another image's manifest sets, it serves."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.support.figures import Figures

if TYPE_CHECKING:
    from pathlib import Path

    from tests.container.conftest import Cluster, Images, Operand, Result


def login(operand: Operand, password: str, statement: str) -> Result:
    """Run SQL over TCP, where a password is asked for."""
    command = ("psql", "--no-psqlrc", "--tuples-only", "--no-align", "--command", statement)
    address = f"host=127.0.0.1 user=app dbname=shop password={password}"
    return operand.exec(*command, address)


@pytest.mark.parametrize("user", ["12345:0", "12345:54321"])
def test_any_numeric_user_works(
    cluster: Cluster,
    images: Images,
    times: Callable[[int, int], int],
    figures: Figures,
    user: str,
) -> None:
    """A user id without a passwd entry makes a cluster, serves an extension and stops."""
    for _ in range(times(1, 5)):
        began = time.monotonic()
        operand = cluster.run(
            f"--user={user}", "--passwd=false", extensions={"pgvector": images.pgvector}
        ).wait_ready()
        seconds = time.monotonic() - began

        unknown = operand.exec("id", "--user", "--name")
        answer = operand.sql("CREATE EXTENSION vector; SELECT '[1,2]'::vector")
        code, _ = operand.stop()

        assert unknown.code != 0
        assert answer == "[1,2]"
        assert code == 0
        figures.add("any numeric user, a new cluster", ready_seconds=seconds)
        cluster.remove()


def test_the_environment_of_the_official_image_makes_database_and_owner(cluster: Cluster) -> None:
    """Manifests written for the official image keep working."""
    operand = cluster.run(
        "--env=POSTGRES_USER=app",
        "--env=POSTGRES_PASSWORD=pass-4711",
        "--env=POSTGRES_DB=shop",
    ).wait_ready()

    owner = login(
        operand,
        "pass-4711",
        "SELECT datdba::regrole FROM pg_database WHERE datname = current_database()",
    )
    refused = login(operand, "wrong", "SELECT 1")

    assert owner.checked().out.strip() == "app"
    assert "password authentication failed" in refused.error
    assert "pass-4711" not in operand.logs()


def test_a_password_can_come_from_a_file(cluster: Cluster, tmp_path: Path) -> None:
    """POSTGRES_PASSWORD_FILE is read where the secret of a cluster is mounted."""
    secret = cluster.secret("pass-0815\n", tmp_path / "password")

    operand = cluster.run(
        secret,
        "--env=POSTGRES_USER=app",
        "--env=POSTGRES_DB=shop",
        "--env=POSTGRES_PASSWORD_FILE=/etc/instance-manager/password",
    ).wait_ready()

    assert login(operand, "pass-0815", "SELECT current_user").checked().out.strip() == "app"


def test_a_password_is_in_no_environment_of_a_running_container(cluster: Cluster) -> None:
    """After the start neither the manager nor a process of postgres carries the secret."""
    operand = cluster.run("--env=POSTGRES_PASSWORD=pass-2342").wait_ready()

    # `podman exec` gives the container's variables to its own processes: those are not looked at.
    # A child may have ended since it was listed.
    processes = (
        "for pid in 1 $(cat /proc/1/task/1/children);"
        " do cat /proc/$pid/%s || ! [ -e /proc/$pid ] || exit 1; done"
    )
    environments = operand.exec("sh", "-c", processes % "environ").checked().out
    arguments = operand.exec("sh", "-c", processes % "cmdline").checked().out

    assert "PGDATA=" in environments or "PATH=" in environments
    assert "pass-2342" not in environments
    assert "pass-2342" not in arguments


GROUP = "1000660000"
FIRST, SECOND = "1000660000", "1000720000"


def random_user(number: str) -> tuple[str, ...]:
    """Return the options of a user that a cluster chose, in the group of its volumes."""
    return (f"--user={number}:0", f"--group-add={GROUP}", "--passwd=false")


def group_volume(cluster: Cluster) -> str:
    """Return a volume as ``fsGroup`` makes it: root's, and only a group may write there."""
    data = cluster.volume()
    capabilities = ("--cap-add=CHOWN", "--cap-add=FOWNER", "--cap-add=FSETID", "--user=0:0")
    cluster.tool(data, f"chgrp {GROUP} /data && chmod 2770 /data", *capabilities, at="/data")
    return data


def test_a_random_user_serves_from_the_volume_of_a_group(cluster: Cluster) -> None:
    """The data is made, served, and served again; every stop is clean."""
    data = group_volume(cluster)
    for start in range(2):
        operand = cluster.run(*random_user(FIRST), data=data).wait_ready()
        owner = operand.exec("stat", "--format=%u:%g %a", "/var/lib/postgresql/data").checked()
        made = operand.exec("stat", "--format=%u %a", "/var/lib/postgresql/data/pgdata").checked()
        if start == 0:
            operand.sql("CREATE TABLE kept AS SELECT 42 AS answer")
        answer = operand.sql("SELECT answer FROM kept")
        code, _ = operand.stop()

        assert owner.out.split() == [f"0:{GROUP}", "2770"]
        assert made.out.split()[0] == FIRST
        assert answer == "42"
        assert code == 0


def test_the_data_of_another_random_user_is_refused_by_name(cluster: Cluster) -> None:
    """Postgres serves its own data only: the status says whose it is, and nothing is changed."""
    data = group_volume(cluster)
    first = cluster.run(*random_user(FIRST), data=data).wait_ready()
    first.sql("CREATE TABLE kept AS SELECT 42 AS answer")
    assert first.stop()[0] == 0

    second = cluster.run(*random_user(SECOND), data=data)
    failure = second.wait_phase("failed")["failure"]
    answers = second.probes(ready=503)
    code, _ = second.stop()

    assert failure["code"] == "data-directory-owner"
    assert FIRST in failure["message"]
    assert SECOND in failure["message"]
    assert answers.live == [200]
    assert code == failure["exit_code"]
    third = cluster.run(*random_user(FIRST), data=data).wait_ready()
    assert third.sql("SELECT answer FROM kept") == "42"
