"""The manifests of docker/, read as their tools read them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

DOCKER = Path(__file__).parents[2] / "docker"
KUBERNETES = DOCKER / "kubernetes"
KUSTOMIZATIONS = ("base", "overlays/small", "overlays/production", "overlays/third-extension")
RENDER_SECONDS = 60


def documents(text: str) -> list[dict[str, Any]]:
    """Return the documents of a manifest."""
    return [document for document in yaml.safe_load_all(text) if document]


def pod_manifest() -> list[dict[str, Any]]:
    """Return the documents of the single pod."""
    return documents((KUBERNETES / "pod.yaml").read_text(encoding="utf-8"))


def the(kind: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the only document of a kind."""
    (document,) = [document for document in found if document["kind"] == kind]
    return document


def renderer() -> list[str] | None:
    """Return the command that renders a kustomization, if this host has one."""
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    return ["kubectl", "kustomize"] if shutil.which("kubectl") else None


def rendered(command: list[str], kustomization: str) -> list[dict[str, Any]]:
    """Return what a kustomization becomes; its warnings are errors."""
    done = subprocess.run(
        [*command, str(KUBERNETES / kustomization)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RENDER_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return documents(done.stdout)


def pod_spec(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what a pod is made of, from a Pod or the template of a StatefulSet."""
    if any(document["kind"] == "Pod" for document in found):
        spec: dict[str, Any] = the("Pod", found)["spec"]
    else:
        spec = the("StatefulSet", found)["spec"]["template"]["spec"]
    return spec


def mounts(spec: dict[str, Any]) -> dict[str, str]:
    """Return the volume that each path of the container gets."""
    (container,) = spec["containers"]
    return {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}


def units(generated: str) -> dict[str, dict[str, str]]:
    """Return the keys of each unit that ``quadlet --dryrun`` wrote, the last one of a name."""
    found: dict[str, dict[str, str]] = {}
    name = ""
    for line in generated.splitlines():
        if line.startswith("---") and line.endswith("---"):
            name = line.strip("-")
            found[name] = {}
        elif "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found[name][key] = value
    return found


def quadlet() -> list[tuple[str, str]]:
    """Return the keys and values of the unit of the server, in their order."""
    text = (DOCKER / "quadlet" / "pg.container").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if "=" in line and not line.startswith("#")]
    return [(key, value) for key, _, value in (line.partition("=") for line in lines)]


def compose() -> dict[str, Any]:
    """Return the service of the Compose file."""
    document = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
    service: dict[str, Any] = document["services"]["postgres"]
    return service
