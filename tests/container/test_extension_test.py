"""``extension test`` in the operand; the Dockerfile and the workflow, run with podman."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.container.conftest import CHECKOUT, CONFINED, PREFIX, Images, Podman
from tests.container.test_extension_build import PGVECTOR, build

CI: Final = CHECKOUT / "docker/extension/ci"
SECONDS: Final = 600


@pytest.fixture
def built_image(podman: Podman, images: Images, tmp_path: Path) -> Iterator[str]:
    """Yield the image of pgvector that the builder made, as podman has it."""
    build(PGVECTOR, images.operand, tmp_path / "layout")
    identifier = podman("pull", "--quiet", f"oci:{tmp_path / 'layout'}").checked().out.split()[-1]
    name = f"{PREFIX}/smoke/pgvector:{os.getpid()}"
    podman("tag", identifier, name).checked()
    yield name
    podman("rmi", "--force", name)


def test_a_mounted_image_is_tested_in_the_operand(
    podman: Podman, images: Images, built_image: str
) -> None:
    """By its own user, without a network, rights or a root that can be written to."""
    done = podman(
        *("run", "--rm", *CONFINED, "--entrypoint=instance-manager"),
        f"--mount=type=image,src={built_image},dst=/extensions/pgvector",
        images.operand,
        *("extension", "test", "--sql", "SELECT '[1,2]'::vector", "/extensions/pgvector"),
        seconds=120,
    ).checked()

    assert done.out.startswith("/extensions/pgvector: good, PostgreSQL ")
    assert "passed  statements: ran 1" in done.out


def steps() -> dict[str, dict[str, Any]]:
    """Return the steps of the workflow that run something, by name."""
    document = yaml.safe_load((CI / "extension-image.yaml").read_text())
    return {step["name"]: step for step in document["jobs"]["image"]["steps"] if "run" in step}


def test_the_workflow_builds_tests_and_makes_the_image(
    podman: Podman, images: Images, tmp_path: Path
) -> None:
    """Each step is run as the runner's shell would, but the one that needs a registry."""
    runtime = ("--runtime", shutil.which("runc") or "crun")
    engine = tmp_path / "engine"
    engine.write_text(f'#!/bin/sh\nexec podman {" ".join(runtime)} "$@"\n')
    engine.chmod(0o755)
    shutil.copy(CI / "Dockerfile", tmp_path)
    name = f"{PREFIX}/smoke/Workflow"
    environment = {
        **os.environ,
        "ENGINE": str(engine),
        "BASE": images.operand,
        "DOCKERFILE": "Dockerfile",
        "IMAGE": name,
        "VERSION": "feature/1",
        "ENGINE_OPTIONS": "--network=host --pull=never --layers=false",
        "BUILD_OPTIONS": "--apt-option=Acquire::Check-Valid-Until=false",
        "GITHUB_ENV": str(tmp_path / "github"),
    }
    testing, making, publishing = steps().values()
    said: list[str] = []
    try:
        for step in (testing, making):
            done = subprocess.run(
                ["bash", "-e", "-c", step["run"]],
                env=environment,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            said.append(done.stderr + done.stdout)
        image = (tmp_path / "github").read_text().strip().partition("=")[2]
        form = '--format={{index .Labels "org.opencontainers.image.version"}}'
        version = podman("image", "inspect", form, image).checked().out.strip()
        assert "/tmp/volume/pgvector: good, PostgreSQL " in said[0]
        assert (image, version) == (f"{name.lower()}:feature-1", "feature/1")
        assert "share/extension/vector.control" in podman.image_files(image)
    finally:
        podman("rmi", "--force", f"{name.lower()}:feature-1", *(one.split()[-1] for one in said))
    checked = subprocess.run(["bash", "-n", "-c", publishing["run"]], check=False)
    assert checked.returncode == 0


def test_the_workflow_is_one_of_github_actions() -> None:
    """Its keys are those that the runner knows; nothing from outside stands in a script."""
    document = yaml.safe_load((CI / "extension-image.yaml").read_text())

    # YAML 1.1 reads the key "on" as true.
    assert set(document) == {"name", True, "permissions", "env", "jobs"}
    assert set(document["jobs"]["image"]) == {"runs-on", "timeout-minutes", "steps"}
    assert all("${{" not in step["run"] for step in steps().values())
