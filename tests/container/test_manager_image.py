"""The manager's own image, in PostgreSQL images that were not made for it and stay as they are."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from instance_manager import __version__
from tests.container.conftest import (
    BUILD_SECONDS,
    CHECKOUT,
    CONFINED,
    MAJOR,
    PREFIX,
    READY_SECONDS,
)
from tests.support import foreign_images
from tests.support.foreign_images import FOREIGN, Foreign
from tests.support.manager import until

if TYPE_CHECKING:
    from tests.container.conftest import Podman, Result

pytestmark = pytest.mark.timeout(BUILD_SECONDS + foreign_images.MAKE_SECONDS)

BUNDLE = "/manager/instance-manager"
PROGRAM = f"{BUNDLE}/instance-manager"
ENTRYPOINT = json.dumps([f"{BUNDLE}/block-signals", PROGRAM, "run"])
IDS = [f"{each.name}-{each.major}" for each in FOREIGN]
OFFICIAL_18 = FOREIGN[2]
LIMITS = ("--ulimit=nofile=20000:20000", "--ulimit=nproc=10000:10000")
_MOUNT_POINT = re.compile("[AC] /(manager|extensions|run|var|etc)(/|$)")
_OF_PODMAN = re.compile(r"^(dev|etc|proc|sys|run)/|sbom\.spdx")
_LEFT_OVER = re.compile(r"tkinter|/tests?/|pip/|setuptools|hypothesis")
COMMANDS = (
    ("run",),
    ("check",),
    ("compose",),
    ("extension",),
    *(("extension", each) for each in ("inspect", "build", "dockerfile", "test")),
    ("status",),
    ("events",),
    *((each,) for each in ("start", "stop", "restart", "reload", "checkpoint", "fence")),
    ("unfence",),
    ("config",),
    *(("config", each) for each in ("show", "schema")),
    ("openapi",),
    ("install",),
    ("completion",),
)


@pytest.fixture(scope="module")
def manager(podman: Podman, lacking: Callable[[str, str], NoReturn]) -> str:
    """Build the manager's image, and an extension's; what is there already is used again."""
    built = subprocess.run(
        [str(CHECKOUT / "docker" / "build"), "manager", "pgvector"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    if built.returncode != 0:
        lacking("containers", f"docker/build failed:\n{built.stderr[-4000:]}")
    return f"{PREFIX}/manager:{__version__}"


@pytest.fixture(scope="module")
def foreign(podman: Podman, lacking: Callable[[str, str], NoReturn]) -> None:
    """Make the images that were not made for the manager."""
    if shutil.which("mmdebstrap") is None:
        lacking("containers", "mmdebstrap is not installed")

    def checked(*arguments: str) -> object:
        return podman(*arguments, seconds=foreign_images.MAKE_SECONDS).checked()

    def exists(image: str) -> bool:
        return podman("image", "exists", image).code == 0

    foreign_images.make(checked, exists, PREFIX)


class Server:
    """A container of a foreign image, whose PID 1 is the bundle."""

    def __init__(self, podman: Podman, image: str, name: str) -> None:
        self.podman = podman
        self.image = image
        self.name = name

    def run(self, *options: str) -> None:
        """Start it, confined; nothing of its image can change."""
        self.podman(
            *("run", "--detach", f"--name={self.name}", "--entrypoint", ENTRYPOINT),
            *(each for each in CONFINED if each != "--tmpfs=/run"),
            *("--tmpfs=/run/instance-manager", "--volume=/run/postgresql"),
            *options,
            self.image,
        ).checked()

    def exec(self, *command: str) -> Result:
        """Run a command in it."""
        return self.podman("exec", self.name, *command)

    def command(self, *words: str) -> Result:
        """Run a command of the bundle in it."""
        return self.exec(PROGRAM, *words)

    def wait_ready(self) -> None:
        """Return when it is ready, and fail with what it said when it has ended."""
        form = "--format={{.State.Running}}"

        def is_ready() -> bool:
            running = self.podman("inspect", form, self.name).checked().out.strip()
            assert running == "true", self.logs()
            return self.command("status").code == 0

        until(is_ready, f"{self.name} is ready", seconds=READY_SECONDS)

    def sql(self, statement: str) -> str:
        """Return what a statement answers, over the socket where clients look for it."""
        words = ("--no-psqlrc", "--tuples-only", "--no-align", "--quiet", "--username=postgres")
        stop = ("--set=ON_ERROR_STOP=1", "--dbname=postgres", "--command", statement)
        return self.exec("psql", *words, *stop).checked().out.strip()

    def environment_of_postgres(self) -> dict[str, str]:
        """Return the environment of the server and of all its processes."""
        script = (
            "for place in /proc/[0-9]*; do "
            "if grep -qx postgres $place/comm 2> /dev/null; "
            # It may have ended since.
            "then cat $place/environ || ! [ -e $place ] || exit 1; fi; done"
        )
        lines = self.exec("sh", "-c", script).checked().out.split("\0")
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def stop(self) -> int:
        """Send TERM and return the exit code."""
        self.podman("kill", "--signal=TERM", self.name).checked()
        return int(self.podman("wait", self.name).checked().out)

    def logs(self) -> str:
        """Return all that it wrote."""
        result = self.podman("logs", self.name)
        return result.out + result.error


@pytest.fixture
def server(
    request: pytest.FixtureRequest, podman: Podman, foreign: None
) -> Iterator[Callable[[Foreign], Server]]:
    """Give a test servers of foreign images, with their volumes, and take them away."""
    made: list[Server] = []

    def make(which: Foreign) -> Server:
        name = f"instance-manager-{os.getpid()}-{time.monotonic_ns()}"
        made.append(Server(podman, f"{PREFIX}/{which.tag}", name))
        return made[-1]

    yield make
    for one in made:
        request.node.add_report_section("teardown", f"log of {one.name}", one.logs())
        podman("rm", "--force", "--volumes", one.name)
        podman("volume", "rm", "--force", one.name)


def mounted(manager: str) -> str:
    """Return the option that mounts the bundle."""
    return f"--mount=type=image,src={manager},dst=/manager"


def placed(which: Foreign, server: Server) -> tuple[str, ...]:
    """Return the options that say where data is, and who postgres is."""
    return (
        f"--volume={server.name}:{which.volume}",
        f"--user={which.user}",
        f"--env=PGDATA={which.data}",
    )


def require_life(server: Server, which: Foreign) -> None:
    """Require a ready server, a query, a restart over the API, and a clean end."""
    server.wait_ready()
    assert server.sql("SHOW server_version").startswith(str(which.major))
    started = server.sql("SELECT pg_postmaster_start_time()")

    assert server.command("restart").checked().out == "restart: done\n"

    assert server.sql("SELECT pg_postmaster_start_time()") != started
    assert server.stop() == 0


@pytest.mark.parametrize("which", FOREIGN, ids=IDS)
def test_a_foreign_image_is_served_from_an_image_volume(
    server: Callable[[Foreign], Server], manager: str, which: Foreign
) -> None:
    """Read-only, without a Python, as PID 1: ready, asked, restarted and stopped."""
    one = server(which)
    one.run(mounted(manager), *placed(which, one))

    one.wait_ready()
    none = one.exec("sh", "-c", "ls /usr/bin/python3* /usr/local/bin/python3* 2> /dev/null")
    first = one.exec("cat", "/proc/1/comm").checked().out
    changed = one.podman("diff", one.name).checked().out.splitlines()
    handed = one.environment_of_postgres()

    assert none.out == ""
    assert first == "instance-manage\n"
    # What is left are places that something was mounted at.
    assert [line for line in changed if not _MOUNT_POINT.match(line)] == []
    assert not [name for name in handed if name.startswith(("LD_", "_PYI", "PYTHON"))]
    require_life(one, which)


def test_a_foreign_image_is_served_from_an_init_container(
    podman: Podman, server: Callable[[Foreign], Server], manager: str
) -> None:
    """`install` copies the bundle to a volume, from a read-only root, as any user."""
    one = server(OFFICIAL_18)
    volume = f"{one.name}-bundle"
    podman("volume", "create", volume).checked()
    try:
        command = (
            *("run", "--rm", "--read-only", "--network=none", "--cap-drop=ALL", *LIMITS),
            *("--user=0:0", f"--volume={volume}:/manager", manager, "install", "/manager"),
        )
        first = podman(*command).checked().out
        second = podman(*command).checked().out
        one.run(f"--volume={volume}:/manager:ro", *placed(OFFICIAL_18, one))

        assert first.startswith("install: done, version ")
        assert second.startswith("install: nothing to do, version ")
        require_life(one, OFFICIAL_18)
    finally:
        podman("rm", "--force", one.name)
        podman("volume", "rm", "--force", volume)


def test_an_extension_volume_is_used_in_a_foreign_image(
    server: Callable[[Foreign], Server], manager: str
) -> None:
    """Two image volumes, and nothing of either in the image."""
    one = server(OFFICIAL_18)
    extension = f"--mount=type=image,src={PREFIX}/pgvector:{MAJOR},dst=/extensions/pgvector"
    one.run(mounted(manager), extension, *placed(OFFICIAL_18, one))
    one.wait_ready()

    assert one.sql("CREATE EXTENSION vector; SELECT '[1,2]'::vector") == "[1,2]"
    assert json.loads(one.command("status", "--output", "json").out)["phase"] == "running"
    assert one.stop() == 0


def test_a_user_without_a_name_is_served(
    server: Callable[[Foreign], Server], manager: str
) -> None:
    """CloudNativePG's layout has no libnss_wrapper; the bundle has its own."""
    which = FOREIGN[3]
    one = server(which)
    one.run(
        mounted(manager),
        f"--volume={one.name}:{which.volume}",
        *("--user=12345:999", "--passwd=false", f"--env=PGDATA={which.data}"),
    )
    one.wait_ready()

    wrapper = one.environment_of_postgres()["LD_PRELOAD"]
    assert wrapper == f"{BUNDLE}/lib/libnss_wrapper.so"
    assert one.stop() == 0


def test_an_image_that_starts_as_root_is_served(
    server: Callable[[Foreign], Server], manager: str
) -> None:
    """As the official image does; the manager becomes postgres for good."""
    one = server(OFFICIAL_18)
    powers = "--cap-add=SETUID,SETGID,CHOWN,FOWNER,DAC_OVERRIDE"
    one.run(mounted(manager), powers, f"--volume={one.name}:{OFFICIAL_18.volume}")
    one.wait_ready()

    users = one.exec("sh", "-c", "grep ^Uid /proc/1/status").checked().out.split()
    assert users == ["Uid:", *["999"] * 4]
    assert one.stop() == 0


def test_the_secret_of_the_environment_is_forgotten(
    server: Callable[[Foreign], Server], manager: str
) -> None:
    """The bundle executes itself once more; no memory of the first time is left in /proc."""
    one = server(OFFICIAL_18)
    one.run(mounted(manager), *placed(OFFICIAL_18, one), "--env=POSTGRES_PASSWORD=pass-2342")
    one.wait_ready()
    environments = one.exec("sh", "-c", "cat /proc/1/environ /proc/1/cmdline").checked().out

    assert "PGDATA=" in environments
    assert "pass-2342" not in environments
    assert "pass-2342" not in one.logs()
    assert one.stop() == 0


def test_a_signal_of_the_first_instant_is_not_lost(
    podman: Podman, server: Callable[[Foreign], Server], manager: str
) -> None:
    """TERM comes before the interpreter is there; nothing is started, or it is stopped."""
    one = server(OFFICIAL_18)
    podman(
        *("create", f"--name={one.name}", "--entrypoint", ENTRYPOINT),
        *(each for each in CONFINED if each != "--tmpfs=/run"),
        *("--tmpfs=/run/instance-manager", "--volume=/run/postgresql"),
        *(mounted(manager), *placed(OFFICIAL_18, one), one.image),
    ).checked()
    podman("start", one.name).checked()

    assert one.stop() == 0


def inside(podman: Podman, manager: str, script: str, *options: str) -> Result:
    """Run a shell with the bundle, in the oldest foreign image, with next to no environment."""
    image = f"{PREFIX}/{FOREIGN[0].tag}"
    return podman(
        *("run", "--rm", "--network=none", "--read-only", "--cap-drop=ALL", "--user=999:999"),
        *(*LIMITS, mounted(manager), *options, "--entrypoint=sh", image, "-c", script),
    )


def test_every_command_is_in_the_bundle(podman: Podman, manager: str, foreign: None) -> None:
    """Each has its help: its module was collected, with all that it imports first."""
    script = "; ".join(
        f"{PROGRAM} {' '.join(command)} --help > /dev/null && echo {'.'.join(command)}"
        for command in COMMANDS
    )
    told = inside(podman, manager, script).checked()

    assert told.error == ""
    assert told.out.split() == [".".join(command) for command in COMMANDS]


def test_the_bundle_says_what_an_installation_says(
    podman: Podman, manager: str, foreign: None
) -> None:
    """Documents, schema and completion, byte for byte, where /tmp can't be written."""
    for words in (("openapi",), ("config", "schema"), ("completion", "bash"), ("--version",)):
        told = inside(podman, manager, f"exec {PROGRAM} {' '.join(words)}").checked()
        assert told.error == ""
        assert told.out == installation(*words)


def installation(*words: str) -> str:
    """Return what the program of the checkout prints."""
    command = [sys.executable, "-m", "instance_manager", *words]
    return subprocess.run(
        command, cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=60
    ).stdout


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ("status", 1, "cannot"),
        ("check", 0, "run would make a new cluster"),
        ("extension inspect /manager", 3, "EXT007"),
        ("config show", 0, "postgres.port"),
        ("compose", 0, ""),
        ("extension dockerfile --package postgresql-18-pgvector --base x:1", 0, "ARG BASE=x:1"),
        ("install /tmp", 4, "No space left on device"),
    ],
)
def test_commands_work_from_the_bundle(
    podman: Podman, manager: str, foreign: None, words: str, code: int, told: str
) -> None:
    """Also those of which the manager itself has no need."""
    small = ("--tmpfs=/run/postgresql", "--tmpfs=/run/instance-manager", "--tmpfs=/tmp:size=4m")
    done = inside(podman, manager, f"{PROGRAM} {words}; code=$?; ls -A /tmp; exit $code", *small)

    assert done.code == code, done
    assert told in done.out + done.error
    assert "Traceback" not in done.error
    assert "\n.instance-manager" not in f"\n{done.out}"


def test_the_image_says_what_it_is_made_of(podman: Podman, manager: str) -> None:
    """Labels, a number for a user, a list of parts that is true, licences, and no leftovers."""
    described: Any = json.loads(podman("image", "inspect", manager).checked().out)[0]["Config"]
    files = podman.image_files(manager)
    bill = json.loads(podman.image_bytes(manager, "instance-manager/sbom.spdx.json"))
    names = {each["name"] for each in bill["packages"]}

    assert described["Labels"]["org.opencontainers.image.version"] == __version__
    assert int(described["User"].split(":")[0]) > 0
    assert {"libc6", "libssl3", "libnss-wrapper", "psycopg-binary", "aiohttp"} <= names
    listed = {each["fileName"].removeprefix("./") for each in bill["files"]}
    assert listed == {each for each in files if not _OF_PODMAN.search(each)}
    assert "instance-manager/licenses/libssl3/copyright" in files
    assert "instance-manager/lib/instance_manager/py.typed" in files
    assert not [each for each in files if _LEFT_OVER.search(each)]
