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
import sys
import tarfile
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn, Self

import pytest

from tests.support import programs
from tests.support.manager import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHECKOUT = Path(__file__).parents[2]
MAJOR = os.environ.get("PG_MAJOR", "18")
PREFIX = os.environ.get("IMAGE_PREFIX") or "localhost/instance-manager"
READY_SECONDS = 120
COMMAND_SECONDS = 150
"""More than the former, which a command may wait for."""
BUILD_SECONDS = 900
OPERAND_USER = 26
SECRET = "/etc/instance-manager/password"

CONFINED = (
    *("--read-only", "--tmpfs=/tmp", "--tmpfs=/run"),
    *("--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none"),
    # A host may not be allowed to raise its limits to podman's own.
    *("--ulimit=nofile=20000:20000", "--ulimit=nproc=10000:10000"),
)


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


@dataclass(frozen=True)
class Answers:
    """What the probes answered: readiness last, liveness ever; the seconds until the former."""

    ready: int
    live: list[int]
    seconds: float


class Podman:
    """The podman of this host, with the options that a plain host needs."""

    def __init__(self, scratch: Path) -> None:
        # Where a container ran out of memory, podman leaves a file in its working directory.
        self._scratch = scratch
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
            cwd=self._scratch,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def started(self, *arguments: str, stderr: IO[bytes]) -> subprocess.Popen[str]:
        """Start a command of podman's that goes on."""
        return subprocess.Popen(
            [*self._command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            text=True,
        )

    def outside(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a Python program that sees all containers' processes as their owner does."""
        # Without root, those belong to other users, who are ours within a user namespace.
        enter = [] if os.geteuid() == 0 else ["podman", "unshare"]
        return subprocess.Popen(
            [*enter, sys.executable, "-I", "-c", program, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def place_of(self, volume: str) -> str:
        """Return the directory of a volume."""
        return self("volume", "inspect", "--format={{.Mountpoint}}", volume).checked().out.strip()

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
        return self.exec("python3", "-I", "-c", programs.GET, url, str(seconds)).checked().out

    def get_json(self, path: str) -> Any:
        """Return what a GET on the control listener answers."""
        return json.loads(self.get(path))

    def status(self) -> Any:
        """Return the status document, waiting for the listener."""
        return json.loads(self.get("/v1/status", seconds=READY_SECONDS))

    def wait_phase(self, *phases: str) -> Any:
        """Return the status once it shows one of *phases*."""

        def reached() -> Any:
            status = self.status()
            return status if status["phase"] in phases else None

        return until(reached, f"{self.name} is {' or '.join(phases)}")

    def probes(self, *, ready: int, seconds: float = READY_SECONDS) -> Answers:
        """Return what the probes answered until readiness answered *ready*, or too long."""
        program = ("python3", "-I", "-c", programs.PROBES, str(ready), str(seconds))
        result = self.podman("exec", self.name, *program, seconds=seconds + COMMAND_SECONDS)
        return Answers(**json.loads(result.checked().out))

    def signal_postgres(self, name: str, *pids: int) -> None:
        """Send a signal to some processes of postgres, or to all."""
        them = " ".join(map(str, pids)) or "$(grep -lx postgres /proc/[0-9]*/comm | cut -d/ -f3)"
        self.exec("sh", "-c", programs.KILL.format(name=name, them=them)).checked()

    def wait_ready(self) -> Self:
        """Return when postgres accepts connections."""
        url = "http://127.0.0.1:8080/readyz"
        program = ("python3", "-I", "-c", programs.GET, url, str(READY_SECONDS))
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

    @contextmanager
    def inserting(self) -> Iterator[Inserts]:
        """Yield a client that inserts without a pause."""
        self.sql("CREATE TABLE inserted (number int)")
        with (
            tempfile.TemporaryFile() as said,
            self.podman.started(
                "exec", self.name, "sh", "-c", programs.INSERTS, stderr=said
            ) as client,
        ):
            try:
                yield Inserts(client, said)
            finally:
                client.kill()

    def logs(self) -> str:
        """Return all that the container wrote, stderr too."""
        result = self.podman("logs", self.name)
        return result.out + result.error

    def events(self) -> list[dict[str, Any]]:
        """Return the lines of stdout, each of which is a JSON object."""
        lines = self.podman("logs", self.name).checked().out.splitlines()
        return [json.loads(line) for line in lines]

    def lines_with(self, words: str) -> int:
        """Return how many lines of the log hold *words*."""
        return sum(words in line for line in self.logs().splitlines())

    def wait_log(self, words: str, *, times: int = 1) -> None:
        """Return when that many lines of the log hold *words*."""
        until(lambda: self.lines_with(words) >= times, f"{words!r} is in {times} lines of the log")

    def seconds_alive(self) -> float:
        """Return how long the container ran that has ended."""
        form = "--format={{.State.StartedAt.UnixMilli}} {{.State.FinishedAt.UnixMilli}}"
        began, ended = self.podman("inspect", form, self.name).checked().out.split()
        return (int(ended) - int(began)) / 1000

    def seconds_to(self, words: str) -> float:
        """Return the seconds from the container's start to the line with *words*."""
        form = "--format={{.State.StartedAt.UnixMilli}}"
        began = int(self.podman("inspect", form, self.name).checked().out) / 1000
        line = next(event for event in self.events() if words in event["message"])
        return datetime.fromisoformat(line["ts"]).timestamp() - began

    def signal(self, name: str) -> None:
        """Send a signal to PID 1."""
        self.podman("kill", "--signal", name, self.name).checked()

    def wait(self, seconds: float) -> int:
        """Return the exit code of a container that ends within *seconds*."""
        return int(self.podman("wait", self.name, seconds=seconds).checked().out)

    def stop(self, seconds: float = 60) -> tuple[int, float]:
        """Send TERM; return the exit code and the seconds that it took."""
        began = time.monotonic()
        self.signal("TERM")
        return self.wait(seconds), time.monotonic() - began

    def initialized_pid(self) -> int:
        """Prepare a created container's start; return the pid that its entrypoint will have."""
        self.podman("init", self.name).checked()
        return int(self.podman("inspect", "--format={{.State.Pid}}", self.name).checked().out)

    def start(self) -> Self:
        """Start the stopped container again."""
        self.podman("start", self.name).checked()
        return self


class Inserts:
    """A client that inserts 1, 2, 3 … into a table, until its server is gone.

    It writes to the file *said*, so that it never waits for a reader.
    """

    def __init__(self, client: subprocess.Popen[str], said: IO[bytes]) -> None:
        self._client = client
        self._said = said

    def _confirmed(self) -> int:
        size = os.fstat(self._said.fileno()).st_size
        lines = os.pread(self._said.fileno(), size, 0).decode().splitlines(keepends=True)
        return max((int(line) for line in lines if line.rstrip("\n").isdecimal()), default=0)

    def wait_for_more(self, number: int) -> None:
        """Return when *number* more than now were confirmed."""
        enough = self._confirmed() + number
        until(lambda: self._confirmed() >= enough, f"{enough} inserts were confirmed")

    def require_all(self, operand: Operand) -> None:
        """Require of the next server what was confirmed, and but one more, that was under way."""
        self._client.wait(COMMAND_SECONDS)
        confirmed = self._confirmed()
        found = operand.sql("SELECT count(*), coalesce(max(number), 0) FROM inserted")
        assert found in {f"{number}|{number}" for number in (confirmed, confirmed + 1)}


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
        at: str = "/var/lib/postgresql/data",
        extensions: dict[str, str] | None = None,
        command: tuple[str, ...] = (),
        beside: Operand | None = None,
    ) -> Operand:
        """Start a container.

        Args:
            options: more options of ``podman run``.
            data: the volume for the data; a new one by default.
            at: where it is mounted.
            extensions: images by the name of their volume.
            command: what comes after the image.
            beside: the container whose network it shares; none by default.
        """
        confined: tuple[str, ...] = CONFINED
        if beside:
            network = f"--network=container:{beside.name}"
            confined = tuple(network if one == "--network=none" else one for one in CONFINED)
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
            *confined,
            f"--volume={data or self.volume()}:{at}",
            *mounts,
            *options,
            self.images.operand,
            *command,
        ).checked()
        return operand

    def create(self, *options: str) -> Operand:
        """Make a container on a new volume that does not run yet."""
        self._containers.append(operand := Operand(self.podman, next(self._names)))
        volume = f"--volume={self.volume()}:/var/lib/postgresql/data"
        name = f"--name={operand.name}"
        self.podman("create", name, *CONFINED, volume, *options, self.images.operand).checked()
        return operand

    def tool(
        self, data: str, script: str, *options: str, at: str = "/var/lib/postgresql/data"
    ) -> str:
        """Return what a shell in the image prints, beside no manager, on a volume at *at*."""
        mount, shell = f"--volume={data}:{at}", ("--entrypoint=sh", self.images.operand)
        run = ("run", "--rm", *CONFINED, mount, *options, *shell, "-euc", script)
        return self.podman(*run).checked().out.strip()

    def control_state(self, data: str, *options: str) -> str:
        """Return what pg_control says of a volume's cluster, such as ``shut down``."""
        script = "pg_controldata /var/lib/postgresql/data/pgdata | grep '^Database cluster state'"
        return self.tool(data, script, *options).partition(":")[2].strip()

    @contextmanager
    def counted_postmasters(self, data: str) -> Iterator[None]:
        """Require that a volume's cluster never has two postmasters, wherever they run."""
        place = f"{self.podman.place_of(data)}/pgdata"
        with self.podman.outside(programs.COUNT_POSTMASTERS, place) as counter:
            try:
                yield
            finally:
                # Whatever else failed: a second postmaster is the worst of all.
                out, error = counter.communicate("enough")
                seen = json.loads(out or "{}")
                assert set(seen) <= {"0", "1"}, f"more than one postmaster: {seen}"
        assert "1" in seen, error

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
        self._containers, self._volumes, self._secrets = [], [], []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what lies here, and give the first test the time that the images take."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.container)
            # A long run brings its own limit, and so do those who build more.
            if not config.getoption("--soak") and not item.get_closest_marker("timeout"):
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
def podman(
    lacking: Callable[[str, str], NoReturn], tmp_path_factory: pytest.TempPathFactory
) -> Podman:
    """Return the podman of this host."""
    if shutil.which("podman") is None:
        lacking("containers", "podman is not installed")
    return Podman(tmp_path_factory.mktemp("podman"))


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
