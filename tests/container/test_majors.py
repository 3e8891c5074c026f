"""The operand of other majors: the one before extension volumes, and the one that is to come."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.container.conftest import BUILD_SECONDS, CHECKOUT, PREFIX, Cluster, Images, Podman
from tests.container.test_extension_build import Built, build

OLD: Final = 17
NEXT: Final = 19
AUDIT: Final = Built("pgaudit", f"postgresql-{NEXT}-pgaudit", statements=(), preload=("pgaudit",))

Of = Callable[[int], Cluster]


@pytest.fixture
def of(request: pytest.FixtureRequest, podman: Podman, images: Images) -> Iterator[Of]:
    """Yield what gives the containers of a major, its image built as a user would."""
    clusters: list[Cluster] = []

    def cluster_of(major: int) -> Cluster:
        done = subprocess.run(
            [str(CHECKOUT / "docker/build"), "operand"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
            check=False,
            env={**os.environ, "PG_MAJOR": str(major)},
        )
        assert done.returncode == 0, done.stderr[-4000:]
        operand = f"{PREFIX}/postgresql:{major}"
        prefix = f"instance-manager-{os.getpid()}-{time.monotonic_ns()}"
        clusters.append(
            cluster := Cluster(podman, dataclasses.replace(images, operand=operand), prefix)
        )
        return cluster

    yield cluster_of
    for cluster in clusters:
        for name, log in cluster.logs().items():
            request.node.add_report_section("teardown", f"log of {name}", log)
        cluster.remove()


@pytest.fixture
def audit_image(podman: Podman) -> Iterator[Callable[[str, Path], str]]:
    """Yield what makes the image of a real extension for a base, and take it away after."""
    name = f"{PREFIX}/majors/pgaudit:{os.getpid()}"
    names = [name]

    def made(base: str, scratch: Path) -> str:
        build(AUDIT, base, scratch / "layout")
        pulled = podman("pull", "--quiet", f"oci:{scratch / 'layout'}", seconds=300).checked()
        names.append(pulled.out.split()[-1])
        podman("tag", names[-1], name).checked()
        return name

    yield made
    for each in names:
        podman("rmi", "--force", each)


def codes(report: Any) -> set[str]:
    """Return the codes of the findings in a report on extensions."""
    return {each["code"] for volume in report["volumes"] for each in volume["findings"]}


def test_a_server_without_extension_volumes_says_so_and_serves(of: Of) -> None:
    """PostgreSQL 17 starts; what is mounted is a finding, and the server runs without it."""
    cluster = of(OLD)
    operand = cluster.run(extensions={"pgvector": cluster.images.pgvector}).wait_ready()

    report = operand.get_json("/v1/extensions")
    version = operand.sql("SHOW server_version_num")
    refused = operand.psql("CREATE EXTENSION vector")
    code, _ = operand.stop()

    assert int(version) // 10000 == OLD
    assert [each["state"] for each in report["volumes"]] == ["quarantined"]
    assert "EXT007" in codes(report)
    assert 'extension "vector" is not available' in refused.error
    assert code == 0


def test_a_server_without_extension_volumes_needs_none(of: Of) -> None:
    """No parameter that PostgreSQL 17 does not know is given to it."""
    operand = of(OLD).run().wait_ready()

    assert codes(operand.get_json("/v1/extensions")) == set()
    assert operand.sql("SELECT 1") == "1"
    assert operand.stop()[0] == 0


def test_the_major_that_is_to_come_serves_an_extension_from_a_volume(
    of: Of, audit_image: Callable[[str, Path], str], tmp_path: Path
) -> None:
    """PostgreSQL 19 with pgaudit built for it: preloaded, created, and heard."""
    cluster = of(NEXT)
    image = audit_image(cluster.images.operand, tmp_path)
    operand = cluster.run(
        '--env=INSTANCE_MANAGER_POSTGRES__SHARED_PRELOAD_LIBRARIES=["pgaudit"]',
        '--env=INSTANCE_MANAGER_POSTGRES__PARAMETERS={"pgaudit.log": "ddl"}',
        extensions={"pgaudit": image},
    ).wait_ready()

    version = operand.sql("SHOW server_version_num")
    operand.sql("CREATE EXTENSION pgaudit")
    operand.sql("CREATE TABLE seen (number int)")
    report = operand.get_json("/v1/extensions")
    operand.wait_log("AUDIT: SESSION,")
    code, _ = operand.stop()

    assert int(version) // 10000 == NEXT
    assert [each["state"] for each in report["volumes"]] == ["ready"]
    assert code == 0


def test_a_volume_of_another_major_is_kept_from_the_one_to_come(of: Of) -> None:
    """What was compiled for 18 can't be loaded by 19: it is a finding, and the server runs."""
    cluster = of(NEXT)
    operand = cluster.run(extensions={"pgvector": cluster.images.pgvector}).wait_ready()

    report = operand.get_json("/v1/extensions")

    assert [each["state"] for each in report["volumes"]] == ["quarantined"]
    assert operand.sql("SELECT 1") == "1"
    assert operand.stop()[0] == 0


def test_another_machine_that_is_not_known_is_refused() -> None:
    """Before anything is built."""
    done = subprocess.run(
        [str(CHECKOUT / "docker/build"), "operand"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PLATFORM": "linux/s390x"},
    )

    assert done.returncode == 2
    assert "cannot build for PLATFORM=linux/s390x: know linux/amd64 and linux/arm64" in done.stderr
