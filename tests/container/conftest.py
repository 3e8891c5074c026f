"""Real containers under podman, as strict as a cluster would run them.

Each container has a read-only root, no capability, no network but loopback and an unprivileged
user; what it may write is /tmp, /run and the volume of its data.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import subprocess
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHECKOUT = Path(__file__).parents[2]
MAJOR = os.environ.get("PG_MAJOR", "18")
PREFIX = os.environ.get("IMAGE_PREFIX") or "localhost/instance-manager"
READY_SECONDS = 60
COMMAND_SECONDS = 60
BUILD_SECONDS = 900
OPERAND_USER = 26
SECRET = "/etc/instance-manager/password"

# Python, because the image has no HTTP client: waits for an answer of 200, or says the last one.
GET = """
import sys, time, urllib.error, urllib.request
deadline = time.monotonic() + float(sys.argv[2])
while True:
    try:
        answer = urllib.request.urlopen(sys.argv[1], timeout=5)
        sys.exit(print(answer.read().decode()))
    except urllib.error.HTTPError as error:
        last = f"{error.code} {error.read().decode()}"
    except OSError as error:
        last = str(error)
    if time.monotonic() > deadline:
        sys.exit(last)
    time.sleep(0.05)
"""


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    error: str

    def checked(self) -> Self:
        """Return the result of a command that must not fail."""
        assert self.code == 0, f"exit code {self.code}\n{self.error}\n{self.out}"
        return self


class Podman:
    """The podman of this host, with the options that a plain host needs."""

    def __init__(self) -> None:
        # crun refuses hosts that mix both cgroup versions; runc runs on all.
        self._command = ["podman", *(("--runtime", "runc") if shutil.which("runc") else ())]

    def __call__(self, *arguments: str, seconds: float = COMMAND_SECONDS) -> Result:
        """Run a command of podman's; it may fail, but must end within *seconds*."""
        done = subprocess.run(
            [*self._command, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def _archive(self, image: str) -> tarfile.TarFile:
        container = self("create", image, "nothing").checked().out.strip()
        try:
            done = subprocess.run(
                [*self._command, "export", container],
                capture_output=True,
                timeout=COMMAND_SECONDS,
                check=True,
            )
        finally:
            self("rm", container).checked()
        return tarfile.open(fileobj=io.BytesIO(done.stdout))

    def image_files(self, image: str) -> list[str]:
        """Return the paths of the files in an image that has nothing to run."""
        with self._archive(image) as archive:
            return [member.name for member in archive if member.isfile()]

    def image_bytes(self, image: str, path: str) -> bytes:
        """Return one file of such an image."""
        with self._archive(image) as archive:
            member = archive.extractfile(path)
            assert member is not None
            return member.read()

    def import_image(self, name: str, files: dict[str, bytes], scratch: Path) -> None:
        """Make an image of *files*, by their path without a leading slash."""
        path = scratch / "image.tar"
        with tarfile.open(path, "w") as archive:
            for file, content in files.items():
                member = tarfile.TarInfo(file)
                member.size, member.mode = len(content), 0o644
                archive.addfile(member, io.BytesIO(content))
        self("import", "--quiet", str(path), name).checked()


@dataclass(frozen=True)
class Images:
    """The images under test."""

    operand: str
    pgvector: str
    foreign: str
    """pgvector, its library for another machine."""


class Operand:
    """One container of the operand image."""

    def __init__(self, podman: Podman, name: str) -> None:
        self.podman = podman
        self.name = name

    def exec(self, *command: str) -> Result:
        """Run a command in the container, as its user."""
        return self.podman("exec", self.name, *command)

    def get(self, path: str, *, port: int = 8000, seconds: float = 0) -> str:
        """Return the body of a 200 answer, waiting for it at most *seconds*."""
        url = f"http://127.0.0.1:{port}{path}"
        return self.exec("python3", "-I", "-c", GET, url, str(seconds)).checked().out

    def get_json(self, path: str) -> Any:
        """Return what a GET on the control listener answers."""
        return json.loads(self.get(path))

    def wait_ready(self) -> Self:
        """Return when postgres accepts connections."""
        url = "http://127.0.0.1:8080/readyz"
        program = ("python3", "-I", "-c", GET, url, str(READY_SECONDS))
        result = self.podman("exec", self.name, *program, seconds=READY_SECONDS + 30)
        assert result.code == 0, f"never ready: {result.error}\n{self.logs()}"
        return self

    def psql(self, statement: str, *options: str) -> Result:
        """Run SQL over the unix socket as the superuser."""
        command = ("psql", "--no-psqlrc", "--tuples-only", "--no-align", "--quiet")
        user = ("--username=postgres", "--dbname=postgres", "--set=ON_ERROR_STOP=1")
        return self.exec(*command, *user, *options, "--command", statement)

    def sql(self, statement: str) -> str:
        """Return what a statement answers."""
        return self.psql(statement).checked().out.strip()

    def logs(self) -> str:
        """Return all that the container wrote, stderr too."""
        result = self.podman("logs", self.name)
        return result.out + result.error

    def events(self) -> list[dict[str, Any]]:
        """Return the lines of stdout, each of which is a JSON object."""
        lines = self.podman("logs", self.name).checked().out.splitlines()
        return [json.loads(line) for line in lines]

    def signal(self, name: str) -> None:
        """Send a signal to PID 1."""
        self.podman("kill", "--signal", name, self.name).checked()

    def wait(self, seconds: float) -> int:
        """Return the exit code of a container that ends within *seconds*."""
        return int(self.podman("wait", self.name, seconds=seconds).checked().out)

    def stop(self, seconds: float = 30) -> tuple[int, float]:
        """Send TERM; return the exit code and the seconds that it took."""
        began = time.monotonic()
        self.signal("TERM")
        return self.wait(seconds), time.monotonic() - began

    def start(self) -> Self:
        """Start the stopped container again."""
        self.podman("start", self.name).checked()
        return self


class Cluster:
    """Makes containers for one test, and takes all away after it."""

    def __init__(self, podman: Podman, images: Images, prefix: str) -> None:
        self.podman = podman
        self.images = images
        self._names = (f"{prefix}-{number}" for number in itertools.count())
        self._containers: list[Operand] = []
        self._volumes: list[str] = []
        self._secrets: list[str] = []

    def volume(self) -> str:
        """Return a new volume for data."""
        name = next(self._names)
        self.podman("volume", "create", name).checked()
        self._volumes.append(name)
        return name

    def secret(self, content: str, path: Path) -> str:
        """Return the option that gives a container *content* as a file that only it can read."""
        name = next(self._names)
        path.write_text(content)
        self.podman("secret", "create", name, str(path)).checked()
        self._secrets.append(name)
        return f"--secret={name},target={SECRET},uid={OPERAND_USER},mode=0400"

    def run(
        self,
        *options: str,
        data: str | None = None,
        extensions: dict[str, str] | None = None,
        command: tuple[str, ...] = (),
    ) -> Operand:
        """Start a container.

        Args:
            options: more options of ``podman run``.
            data: the volume for the data; a new one by default.
            extensions: images by the name of their volume.
            command: what comes after the image.
        """
        name = next(self._names)
        mounts = [
            f"--mount=type=image,src={image},dst=/extensions/{volume}"
            for volume, image in (extensions or {}).items()
        ]
        self._containers.append(operand := Operand(self.podman, name))
        self.podman(
            "run",
            "--detach",
            f"--name={name}",
            *("--read-only", "--tmpfs=/tmp", "--tmpfs=/run"),
            *("--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none"),
            # A host may not be allowed to raise its limits to podman's own.
            *("--ulimit=nofile=20000:20000", "--ulimit=nproc=10000:10000"),
            f"--volume={data or self.volume()}:/var/lib/postgresql/data",
            *mounts,
            *options,
            self.images.operand,
            *command,
        ).checked()
        return operand

    def logs(self) -> dict[str, str]:
        """Return what each container wrote."""
        return {operand.name: operand.logs() for operand in self._containers}

    def remove(self) -> None:
        """Remove all containers, volumes and secrets."""
        for operand in self._containers:
            self.podman("rm", "--force", "--time=0", operand.name)
        for volume in self._volumes:
            self.podman("volume", "rm", "--force", volume)
        for secret in self._secrets:
            self.podman("secret", "rm", secret)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies here, and give the first test the time that the images take."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.container)
            item.add_marker(pytest.mark.timeout(BUILD_SECONDS))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the tests measured."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str, float], None]:
    """Return ``measured(name, value)``: a figure to print, whatever it is."""
    return lambda name, value: request.node.user_properties.append((name, f"{value:.2f}"))


@pytest.fixture(scope="session")
def podman(lacking: Callable[[str, str], NoReturn]) -> Podman:
    """Return the podman of this host."""
    if shutil.which("podman") is None:
        lacking("containers", "podman is not installed")
    return Podman()


@pytest.fixture(scope="session")
def images(
    podman: Podman,
    lacking: Callable[[str, str], NoReturn],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Images]:
    """Build the images as a user would; layers that are already there are used again."""
    built = subprocess.run(
        [str(CHECKOUT / "docker" / "build")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    if built.returncode != 0:
        lacking("containers", f"docker/build failed:\n{built.stderr[-4000:]}")
    foreign = f"{PREFIX}/foreign:{os.getpid()}"
    images = Images(f"{PREFIX}/postgresql:{MAJOR}", f"{PREFIX}/pgvector:{MAJOR}", foreign)
    podman.import_image(foreign, foreign_files(podman, images), tmp_path_factory.mktemp("foreign"))
    yield images
    podman("rmi", "--force", foreign).checked()


def foreign_files(podman: Podman, images: Images) -> dict[str, bytes]:
    """Return the files of pgvector with the library of another machine."""
    control = podman.image_bytes(images.pgvector, "share/extension/vector.control")
    library = bytearray(podman.image_bytes(images.pgvector, "lib/vector.so"))
    x86_64, aarch64 = 62, 183
    other = x86_64 if int.from_bytes(library[18:20], "little") == aarch64 else aarch64
    library[18:20] = other.to_bytes(2, "little")
    version = control.decode().split("default_version = '")[1].split("'")[0]
    script = f"share/extension/vector--{version}.sql"
    return {
        "lib/vector.so": bytes(library),
        "share/extension/vector.control": control,
        script: podman.image_bytes(images.pgvector, script),
    }


@pytest.fixture
def cluster(request: pytest.FixtureRequest, podman: Podman, images: Images) -> Iterator[Cluster]:
    """Give a test its containers; a failure shows what they wrote."""
    cluster = Cluster(podman, images, f"instance-manager-{os.getpid()}-{time.monotonic_ns()}")
    yield cluster
    for name, log in cluster.logs().items():
        request.node.add_report_section("teardown", f"log of {name}", log)
    cluster.remove()
