"""What docker/ has for podman and Kubernetes, run by a podman that knows image volumes everywhere.

The distribution's podman of a test host may be too old for them in pods. So one of today runs in a
container, with the images under the names that the manifests have.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.container.conftest import (
    BUILD_SECONDS,
    CONFINED,
    MAJOR,
    PREFIX,
    Images,
    Podman,
    Result,
)
from tests.container.test_extension_build import Built, build
from tests.support.deployments import DOCKER, KUBERNETES, pod_manifest, pod_spec, units
from tests.support.manager import until

REGISTRY = "registry.example.com/instance-manager"
NAMES = ("postgresql", "pgvector", "pgaudit")
PGAUDIT = Built("pgaudit", "postgresql-18-pgaudit", (), preload=("pgaudit",))
LIMITS = [option for option in CONFINED if option.startswith("--ulimit")]
DOCKERFILE = """\
FROM docker.io/library/debian:forky-slim
RUN apt-get update \\
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \\
      catatonit podman podman-compose runc \\
 && rm --recursive --force /var/lib/apt/lists/*
"""
# A host may not be allowed to raise its limits to podman's own, and has no systemd in a container.
CONFIGURATION = """\
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=10000:10000"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
SECRET = """\
apiVersion: v1
kind: Secret
metadata: {name: pg-app}
stringData: {password: example}
"""
# The network of a test is loopback alone.
OVERRIDE = """\
services:
  postgres:
    network_mode: none
    ports: !reset []
"""
EXTENSIONS = "SELECT string_agg(extname || ' ' || extversion, ', ' ORDER BY extname)"
CONFIGURED_AT = "%E/instance-manager"
GRACE_SECONDS = pod_spec(pod_manifest())["terminationGracePeriodSeconds"]
OF_THE_SHOP = f"{EXTENSIONS} FROM pg_extension WHERE extname <> 'plpgsql'"


@dataclass(frozen=True)
class Machine:
    """A podman of today, in a container of the host's."""

    podman: Podman
    name: str
    folder: Path
    """The directory of the host that it sees as /work."""

    def run(self, *command: str, seconds: float = 120) -> Result:
        """Run a command in the machine."""
        inside = ("exec", "--workdir=/work", f"--env=REGISTRY={REGISTRY}", self.name)
        return self.podman(*inside, *command, seconds=seconds)

    def sql(self, container: str, statement: str) -> str:
        """Return what a statement answers in the database of the shop."""
        return self._psql(container, statement).checked().out.strip()

    def _psql(self, container: str, statement: str) -> Result:
        psql = ("psql", "--no-psqlrc", "-U", "postgres", "-d", "shop", "-Atqc", statement)
        return self.run("podman", "exec", container, *psql)

    def until_declared(self, container: str) -> None:
        """Return when the server has both extensions."""
        try:
            until(
                lambda: self._psql(container, OF_THE_SHOP).out.count(",") == 1,
                "both extensions are in the database",
            )
        except AssertionError as error:
            logs = self.run("podman", "logs", "--tail=20", container)
            raise AssertionError(f"{error}\n{logs.out}{logs.error}") from error

    def require_work(self, container: str) -> None:
        """Require that both extensions are there and do what they are for."""
        self.until_declared(container)
        assert self.sql(container, "SHOW shared_preload_libraries") == "pgaudit"
        assert self.sql(container, "SELECT '[1,2]'::vector <-> '[1,5]'") == "3"
        for name in ("pgaudit", "pgvector"):
            touch = self.run("podman", "exec", container, "touch", f"/extensions/{name}/new")
            assert "Read-only file system" in touch.error

    def stop_seconds(self, container: str) -> int:
        """Return how long podman lets a container stop before it kills it."""
        form = "--format={{.Config.StopTimeout}}"
        return int(self.run("podman", "container", "inspect", form, container).checked().out)

    def stop(self, container: str) -> None:
        """Stop a container as its own stop time says; postgres must have ended by itself."""
        self.run("podman", "stop", container).checked()
        self.require_clean_end(container)

    def require_clean_end(self, container: str) -> None:
        """Require that the manager ended by itself, which is after postgres."""
        form = "--format={{.State.Status}} {{.State.ExitCode}}"
        state = self.run("podman", "container", "inspect", form, container).checked().out
        assert state.strip() == "exited 0"


def archives(podman: Podman, images: Images, folder: Path) -> None:
    """Write the images that the manifests name into *folder*."""
    build(PGAUDIT, images.operand, f"oci-archive:{folder / 'pgaudit.tar'}")
    for name, image in (("postgresql", images.operand), ("pgvector", images.pgvector)):
        file = f"--output={folder / name}.tar"
        podman("save", "--quiet", "--format=oci-archive", file, image, seconds=300).checked()


@pytest.fixture(scope="module")
def started(
    podman: Podman, images: Images, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """Give the tests a podman of today that has the images."""
    if os.geteuid() != 0:
        pytest.skip("only root can run podman in a container here")
    if MAJOR != "18":
        pytest.skip("the manifests are for PostgreSQL 18")
    folder = tmp_path_factory.mktemp("machine")
    (folder / "Dockerfile").write_text(DOCKERFILE)
    (folder / "containers.conf").write_text(CONFIGURATION)
    (folder / "secret.yaml").write_text(SECRET)
    (folder / "password.txt").write_text("example\n")
    (folder / "override.yaml").write_text(OVERRIDE)
    image = f"{PREFIX}/podman-of-today"
    made = ("build", "--quiet", "--network=host", "--pull=never", f"--tag={image}")
    podman(*made, f"--file={folder}/Dockerfile", str(folder), seconds=BUILD_SECONDS).checked()
    archives(podman, images, folder)

    name = f"instance-manager-machine-{os.getpid()}"
    podman(
        *("run", "--detach", "--privileged", "--network=none", f"--name={name}", *LIMITS),
        # Its containers have cgroups beside the host's, and layers on what overlayfs can use.
        *("--cgroupns=host", "--volume=/sys/fs/cgroup:/sys/fs/cgroup"),
        f"--volume={name}:/var/lib/containers",
        f"--volume={folder}:/work",
        f"--volume={DOCKER}:/docker:ro",
        "--env=CONTAINERS_CONF=/work/containers.conf",
        "--env=PODMAN_IGNORE_CGROUPSV1_WARNING=1",
        *(image, "sleep", "infinity"),
    ).checked()
    machine = Machine(podman, name, folder)
    try:
        for each in NAMES:
            pulled = machine.run("podman", "pull", "--quiet", f"oci-archive:{each}.tar").checked()
            machine.run("podman", "tag", pulled.out.strip(), f"{REGISTRY}/{each}:18").checked()
        yield machine
    finally:
        podman("rm", "--force", "--time=0", name)
        podman("volume", "rm", "--force", name)


@pytest.fixture
def machine(started: Machine) -> Iterator[Machine]:
    """Give a test the machine, and take away what it made in it, but not the images."""
    yield started
    started.run("podman", "pod", "rm", "--all", "--force", "--time=0")
    started.run("podman", "rm", "--all", "--force", "--time=0")
    started.run("podman", "volume", "rm", "--all", "--force")
    started.run("podman", "secret", "rm", "--all")


def played(machine: Machine) -> str:
    """Start the pod of pod.yaml; return the name of its container."""
    manifest = "/docker/kubernetes/pod.yaml"
    play = ("podman", "kube", "play", "--network=none", "--start=false", manifest)
    machine.run(*play).checked()
    # What the kubelet does with the volumes of a pod that has an fsGroup, and podman does not.
    place = ("podman", "volume", "inspect", "--format={{.Mountpoint}}", "pg-app")
    machine.run("chgrp", "-R", "26", machine.run(*place).checked().out.strip()).checked()
    machine.run("podman", "pod", "start", "pg").checked()
    return "pg-postgres"


def test_the_pod_runs_as_it_is_written(machine: Machine) -> None:
    """Image volumes, three volumes of data, the stop, and the next pod on what this one left."""
    at = "/var/lib/postgresql/tablespaces/archive/data"
    machine.run("podman", "kube", "play", "secret.yaml").checked()
    pod = played(machine)
    machine.require_work(pod)
    machine.run("podman", "exec", pod, "mkdir", "--mode=700", at).checked()
    machine.sql(pod, f"CREATE TABLESPACE archive LOCATION '{at}'")
    machine.sql(pod, "CREATE TABLE old TABLESPACE archive AS SELECT 1 AS number")
    wal = ("podman", "exec", pod, "readlink", "/var/lib/postgresql/data/pgdata/pg_wal")
    assert machine.run(*wal).checked().out.strip() == "/var/lib/postgresql/wal/pg_wal"

    assert machine.stop_seconds(pod) == GRACE_SECONDS
    machine.stop(pod)
    machine.run("podman", "pod", "rm", "--force", "pg").checked()
    machine.until_declared(played(machine))
    assert machine.sql(pod, "SELECT number FROM old") == "1"
    machine.stop(pod)


def test_the_services_of_quadlet_run_the_server(machine: Machine) -> None:
    """The generator knows every key, and the command that it writes starts what it should."""
    (machine.folder / "etc").mkdir()
    shutil.copy(KUBERNETES / "base" / "config.yaml", machine.folder / "etc")
    generator = ("env", "QUADLET_UNIT_DIRS=/docker/quadlet", "/usr/libexec/podman/quadlet")
    said = machine.run(*generator, "--dryrun").checked()
    services = units(said.out)
    assert set(services) == {
        *("pg.service", "pg-operand-image.service", "pg-pgaudit-image.service"),
        *("pg-pgvector-image.service", "pg-data-volume.service", "pg-wal-volume.service"),
        "pg-archive-volume.service",
    }
    assert "unsupported" not in said.error.lower()

    machine.run("sh", "-c", "printf example | podman secret create pg-app -").checked()
    command = shlex.split(services["pg.service"]["ExecStart"].replace(CONFIGURED_AT, "/work/etc"))
    # There is neither systemd nor a network here, and what is left of the end is to be looked at.
    left_out = {"--cgroups=split", "--sdnotify=conmon", "--publish", "--rm"}
    kept = [word for word in command if word not in left_out and "127.0.0.1:" not in word]
    machine.run(*kept[:2], "--network=none", *kept[2:]).checked()

    machine.require_work("pg")
    grace = machine.stop_seconds("pg")
    assert grace == GRACE_SECONDS < int(services["pg.service"]["TimeoutStopSec"])
    machine.stop("pg")


def test_compose_runs_the_server(machine: Machine) -> None:
    """podman-compose mounts the images, and sees that the server is healthy."""
    shutil.copy(DOCKER / "compose.yaml", machine.folder)
    machine.run(*shlex.split("install -o 26 -g 26 -m 400 password.txt password")).checked()
    compose = ("podman-compose", "-f", "compose.yaml", "-f", "override.yaml")
    machine.run(*compose, "up", "--detach").checked()

    machine.require_work("pg_postgres_1")
    machine.run("podman", "healthcheck", "run", "pg_postgres_1").checked()
    machine.run(*compose, "stop").checked()
    machine.require_clean_end("pg_postgres_1")
