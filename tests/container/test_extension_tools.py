"""What other tools make of the images that the builder writes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from instance_manager.images import oci
from instance_manager.postgres.embedded import Demonstration
from tests.container.conftest import CHECKOUT, PREFIX, Images, Podman
from tests.container.test_extension_build import PGVECTOR, build
from tests.support.manager import ACCOUNT
from tests.support.sql_extensions import write

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = 120


@pytest.fixture
def program(lacking: Callable[[str, str], NoReturn]) -> Callable[[str], None]:
    """Return what requires a program of the host, as podman is required."""

    def require(name: str) -> None:
        if shutil.which(name) is None:
            lacking("containers", f"there is no {name} here: apt-get install {name}")

    return require


def test_skopeo_takes_an_image_as_it_is(
    program: Callable[[str], None], images: Images, tmp_path: Path
) -> None:
    """The digest stays the same on the way; the archive of a layout is as good as the layout."""
    program("skopeo")
    digest = build(PGVECTOR, images.operand, tmp_path / "layout")["digest"]
    archive = f"oci-archive:{tmp_path / 'image.tar'}"
    assert build(PGVECTOR, images.operand, archive, "--no-update")["digest"] == digest

    def skopeo(*arguments: str) -> str:
        done = subprocess.run(
            ["skopeo", *arguments], capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    for number, source in enumerate((f"oci:{tmp_path / 'layout'}", archive)):
        said = json.loads(skopeo("inspect", source))
        assert said["Digest"] == digest
        assert said["Labels"]["org.opencontainers.image.title"] == "pgvector"
        copy = tmp_path / str(number)
        skopeo("copy", "--quiet", source, f"dir:{copy}")
        assert f"sha256:{sha256((copy / 'manifest.json').read_bytes()).hexdigest()}" == digest


def test_podman_takes_a_layer_of_zstd(
    program: Callable[[str], None], podman: Podman, images: Images, tmp_path: Path
) -> None:
    """It has the files that are in the layer."""
    program("zstd")
    build(PGVECTOR, images.operand, tmp_path / "layout", "--compression=zstd")
    said = podman("pull", "--quiet", f"oci:{tmp_path / 'layout'}").checked().out
    identifier = said.split()[-1]
    try:
        assert "lib/vector.so" in podman.image_files(identifier)
    finally:
        podman("rmi", "--force", identifier)


def test_an_image_is_tested_by_the_name_that_podman_has_for_it(
    podman: Podman, server: Demonstration, workspace: Path, tmp_path: Path
) -> None:
    """It is taken out of podman's store; a name that podman does not know is told."""
    write(workspace, "thing", {"1.0": "CREATE TABLE t (x int);"})
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    labels = {"org.opencontainers.image.title": "thing"}
    oci.write_layout(
        workspace / "made-up", tmp_path / "layout", oci.Identity(machine, labels, 1, "thing:1")
    )
    said = podman("pull", "--quiet", f"oci:{tmp_path / 'layout'}").checked().out
    identifier, name = said.split()[-1], f"{PREFIX}/thing:{os.getpid()}"
    podman("tag", identifier, name).checked()

    def tested(source: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "instance_manager", "extension", "test", source],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            env={
                **os.environ,
                "PYTHONPATH": str(CHECKOUT),
                "INSTANCE_MANAGER_POSTGRES__BIN_DIRECTORY": str(server.bin_directory),
                "INSTANCE_MANAGER_POSTGRES__RUN_AS": ACCOUNT,
            },
        )

    try:
        good, missing = tested(name), tested(f"{name}-not")
    finally:
        podman("rmi", "--force", name, identifier)
    assert good.returncode == 0, good.stdout + good.stderr
    assert good.stdout.startswith(f"{name}: good, PostgreSQL ")
    assert missing.returncode == 2
    assert "no image of podman" in missing.stderr
