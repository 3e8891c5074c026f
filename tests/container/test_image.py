"""What the operand image is made of, and what it leaves out."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.container.conftest import Images, Podman


BLOCKED = [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM]
PATH_WANTED = "give it the path of a program"


def configuration(podman: Podman, image: str) -> Any:
    """Return what an image says about how it is run."""
    return json.loads(podman("image", "inspect", image).checked().out)[0]["Config"]


def shell(podman: Podman, images: Images, script: str) -> str:
    """Return what a shell in the operand image prints."""
    options = (
        "--rm",
        "--network=none",
        "--ulimit=nofile=20000:20000",
        "--ulimit=nproc=10000:10000",
    )
    entrypoint = ("--entrypoint=sh", images.operand)
    return podman("run", *options, *entrypoint, "-c", script).checked().out.strip()


def test_the_entrypoint_blocks_signals_from_the_first_instruction(
    podman: Podman, images: Images
) -> None:
    """PID 1 begins with the mask set, so that no signal is lost before its handlers stand."""
    blocker, *command = configuration(podman, images.operand)["Entrypoint"]

    mask = shell(podman, images, f"exec {blocker} /usr/bin/grep SigBlk /proc/self/status")
    blocked = int(mask.split()[1], 16)
    assert command == ["/opt/instance-manager/bin/instance-manager", "run"]
    assert [number for number in range(1, 65) if blocked & 1 << number - 1] == BLOCKED


def test_the_blocker_of_signals_says_what_it_can_not_execute(
    podman: Podman, images: Images
) -> None:
    """As a shell does, it ends with 127 and a word on standard error."""
    blocker = configuration(podman, images.operand)["Entrypoint"][0]

    for arguments in ("", "/nonexistent", "/etc/passwd one two"):
        said = shell(podman, images, f"{blocker} {arguments} 2>&1; echo $?").splitlines()
        assert said == ["block-signals: cannot execute its first argument: " + PATH_WANTED, "127"]


def test_the_blocker_of_signals_gives_arguments_and_environment_on(
    podman: Podman, images: Images
) -> None:
    """What it becomes can't tell that it was there, but for the mask."""
    blocker = configuration(podman, images.operand)["Entrypoint"][0]
    script = f"A='b c' exec {blocker} /bin/bash -c 'echo \"$A|$#|$0|$1|$2\"' zero 'one two' ''"

    assert shell(podman, images, script) == "b c|2|zero|one two|"


def test_the_user_is_a_number(podman: Podman, images: Images) -> None:
    """A cluster can prove without looking into the image that it does not run as root."""
    user, group = configuration(podman, images.operand)["User"].split(":")

    assert int(user) > 0
    assert int(group) > 0


def test_the_image_leaves_the_data_directory_to_the_settings(
    podman: Podman, images: Images
) -> None:
    """No PGDATA and no anonymous volume are forced on anybody."""
    image = configuration(podman, images.operand)

    assert not [entry for entry in image["Env"] if entry.startswith("PGDATA=")]
    assert not image.get("Volumes")
    assert image["StopSignal"] == "SIGTERM"
    assert set(image["ExposedPorts"]) == {"5432/tcp", "8080/tcp", "8000/tcp"}


@pytest.mark.parametrize("image", ["operand", "pgvector"])
def test_labels_say_what_an_image_is(podman: Podman, images: Images, image: str) -> None:
    """The labels of the OCI name the title, the version and the licences."""
    labels = configuration(podman, getattr(images, image))["Labels"]
    prefix = "org.opencontainers.image"

    assert {f"{prefix}.{key}" for key in ("title", "description", "version", "licenses")} <= set(
        labels
    )
    assert "unknown" not in labels[f"{prefix}.version"]


@pytest.mark.parametrize(
    "program", ["pip", "pip3", "cc", "gcc", "make", "perl5", "systemctl", "man"]
)
def test_the_image_holds_no_tools(podman: Podman, images: Images, program: str) -> None:
    """Compilers, package managers of languages and documentation stay out."""
    found = shell(podman, images, f"command -v {program} || python3 -m {program} 2>&1 || true")

    assert "No module named" in found


def test_bytecode_is_compiled_for_every_module(podman: Podman, images: Images) -> None:
    """A read-only root can't keep bytecode that is made later."""
    script = (
        "cd /opt/instance-manager/lib/python3*/site-packages && "
        "for file in $(find instance_manager pydantic aiohttp psycopg -name '*.py'); do "
        "ls $(dirname $file)/__pycache__/$(basename $file .py).*.pyc > /dev/null || echo $file; "
        "done"
    )

    assert shell(podman, images, script) == ""


def test_the_extension_image_holds_an_extension_and_nothing_else(
    podman: Podman, images: Images
) -> None:
    """The layout of a volume: share/extension, lib and licenses."""
    files = set(podman.image_files(images.pgvector))
    outside = {
        file for file in files if not file.startswith(("share/extension/", "lib/", "licenses/"))
    }

    assert {"share/extension/vector.control", "lib/vector.so"} <= files
    assert not outside
    assert not [file for file in files if "bitcode" in file]
