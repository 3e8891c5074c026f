"""The manifests of docker/: against the schemas of the API, the manager, and one another."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any, NoReturn

import kubernetes_validate
import pytest
import yaml

from instance_manager.configuration.checks import CHECKS
from instance_manager.settings.loading import load
from instance_manager.settings.models import Settings
from instance_manager.settings.sources import SettingsText
from tests.support.deployments import (
    DOCKER,
    KUSTOMIZATIONS,
    compose,
    mounts,
    pod_manifest,
    pod_spec,
    quadlet,
    rendered,
    renderer,
    the,
)

# The first that takes image volumes, the first that does so by default, and the newest known.
VERSIONS = ("1.33", "1.35", kubernetes_validate.latest_version())
# What the restricted profile lets a pod mount; image volumes since 1.33.
RESTRICTED_VOLUMES = {"configMap", "emptyDir", "image", "persistentVolumeClaim", "secret"}
EXTENSIONS = "/extensions/"
# For the kernel to end what was killed, for the last lines of the log, for the container.
AFTER_THE_LADDER = 15


@pytest.fixture(params=["pod.yaml", *KUSTOMIZATIONS])
def manifest(
    request: pytest.FixtureRequest, lacking: Callable[[str, str], NoReturn]
) -> list[dict[str, Any]]:
    """Give each manifest in turn, as it reaches the API."""
    if request.param == "pod.yaml":
        return pod_manifest()
    command = renderer()
    if command is None:
        lacking("kustomize", "neither kustomize nor kubectl is installed")
    return rendered(command, request.param)


def settings_of(manifest: list[dict[str, Any]]) -> Settings:
    """Return the settings that a manifest gives the manager."""
    text = the("ConfigMap", manifest)["data"]["config.yaml"]
    return load(SettingsText(file_name="config.yaml", file_text=text), CHECKS).settings


@pytest.mark.parametrize("version", VERSIONS)
def test_every_document_is_what_the_api_takes(
    manifest: list[dict[str, Any]], version: str
) -> None:
    """The strict schema refuses whatever the API does not know."""
    for document in manifest:
        kubernetes_validate.validate(document, version, strict=True)


def test_the_schema_knows_image_volumes() -> None:
    """A misspelled field of an image volume would be refused, so the test above says something."""
    pod = copy.deepcopy(the("Pod", pod_manifest()))
    (volume,) = [volume for volume in pod["spec"]["volumes"] if volume["name"] == "pgvector"]
    volume["image"]["address"] = volume["image"].pop("reference")

    with pytest.raises(kubernetes_validate.ValidationError, match="address"):
        kubernetes_validate.validate(pod, VERSIONS[0], strict=True)


def test_the_restricted_profile_admits_the_pod(manifest: list[dict[str, Any]]) -> None:
    """Each control of the profile that concerns a pod is met, at the place where it is asked."""
    spec = pod_spec(manifest)
    shared, (container,) = spec["securityContext"], spec["containers"]
    own = container["securityContext"]

    assert shared["runAsNonRoot"] is True
    assert shared["runAsUser"] == shared["runAsGroup"] == 26
    assert shared["seccompProfile"] == {"type": "RuntimeDefault"}
    assert own["allowPrivilegeEscalation"] is False
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert set(own) == {"readOnlyRootFilesystem", "allowPrivilegeEscalation", "capabilities"}
    assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & set(spec)
    assert all("hostPort" not in port for port in container["ports"])
    for volume in spec["volumes"]:
        assert set(volume) - {"name"} <= RESTRICTED_VOLUMES


def manager_pod(*, by_init_container: bool) -> dict[str, Any]:
    """Return the pod of the page about the manager's own image, whole, in one of its two ways."""
    page = (DOCKER.parent / "docs" / "manager-image.md").read_text(encoding="utf-8")
    pod, change = map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", page, re.DOTALL))
    if by_init_container:
        changed = {volume["name"]: volume for volume in change["spec"].pop("volumes")}
        kept = [volume for volume in pod["spec"]["volumes"] if volume["name"] not in changed]
        pod["spec"] |= change["spec"] | {"volumes": [*changed.values(), *kept]}
    whole: dict[str, Any] = pod
    return whole


@pytest.mark.parametrize("by_init_container", [False, True])
def test_the_restricted_profile_admits_a_foreign_server(by_init_container: bool) -> None:
    """The pod of the manager's own image is valid, confined, and can't write its manager."""
    pod = manager_pod(by_init_container=by_init_container)
    for version in VERSIONS:
        kubernetes_validate.validate(pod, version, strict=True)
    spec, guide = pod["spec"], pod_spec(pod_manifest())
    (container,), (known,) = spec["containers"], guide["containers"]
    volumes = {volume.pop("name"): set(volume) for volume in spec["volumes"]}

    assert volumes["manager"] == {"emptyDir" if by_init_container else "image"}
    assert all(kinds <= RESTRICTED_VOLUMES for kinds in volumes.values())
    assert (
        spec["securityContext"].items()
        >= {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        }.items()
    )
    for each in (container, *spec.get("initContainers", ())):
        assert each["securityContext"] == known["securityContext"]
        assert {mount["name"] for mount in each["volumeMounts"]} <= set(volumes)
    (program,) = [mount for mount in container["volumeMounts"] if mount["name"] == "manager"]
    assert program["readOnly"] is True
    for name in ("ports", "startupProbe", "livenessProbe", "readinessProbe"):
        assert container[name] == known[name]
    assert spec["terminationGracePeriodSeconds"] == guide["terminationGracePeriodSeconds"]


def test_nothing_but_the_volumes_can_be_written(manifest: list[dict[str, Any]]) -> None:
    """The root is read-only, the data, its WAL and a tablespace have a volume each."""
    spec = pod_spec(manifest)
    at = mounts(spec)

    assert spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    assert at["/var/lib/postgresql/data"] == "data"
    assert at["/var/lib/postgresql/wal"] == "wal"
    assert at["/var/lib/postgresql/tablespaces/archive"] == "archive"
    assert {"/run", "/tmp", "/dev/shm"} <= set(at)


def test_every_mount_has_its_volume_and_every_volume_its_mount(
    manifest: list[dict[str, Any]],
) -> None:
    """A name that is misspelled in one place would be a pod that never starts."""
    spec = pod_spec(manifest)
    volumes = [volume["name"] for volume in spec["volumes"]]
    claims = [
        template["metadata"]["name"]
        for document in manifest
        for template in document.get("spec", {}).get("volumeClaimTemplates", [])
    ]

    assert sorted(mounts(spec).values()) == sorted([*volumes, *claims])


def test_the_settings_count_on_what_is_mounted(manifest: list[dict[str, Any]]) -> None:
    """The manager takes the settings, and each path and extension in them has its mount."""
    settings, at = settings_of(manifest), mounts(pod_spec(manifest))

    listed = {f"{EXTENSIONS}{volume.name}" for volume in settings.extensions.volumes}
    assert listed == {path for path in at if path.startswith(EXTENSIONS)}
    assert all(volume.required for volume in settings.extensions.volumes)
    assert str(settings.postgres.data_directory) == "/var/lib/postgresql/data/pgdata"
    assert str(settings.postgres.wal_directory) == "/var/lib/postgresql/wal/pg_wal"
    assert str(settings.bootstrap.owner_password_file) == "/etc/secrets/app/password"
    assert at["/etc/secrets/app"] == "app"


def test_the_grace_period_fits_the_stop_ladder(manifest: list[dict[str, Any]]) -> None:
    """The kubelet's SIGKILL comes after the last rung of the ladder, and not much later."""
    ladder = settings_of(manifest).shutdown
    seconds = ladder.smart_seconds + ladder.fast_seconds + ladder.immediate_seconds

    assert pod_spec(manifest)["terminationGracePeriodSeconds"] == seconds + AFTER_THE_LADDER


def test_the_probes_are_those_that_the_guide_gives_reasons_for(
    manifest: list[dict[str, Any]],
) -> None:
    """Path, port and every number are the same."""
    guide = (DOCKER.parent / "docs" / "operator-guide.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL)
    (block,) = [block for block in blocks if "startupProbe" in block]
    (reasoned,) = yaml.safe_load(block)["spec"]["containers"]
    (container,) = pod_spec(manifest)["containers"]

    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe] == reasoned[probe]
    assert container["ports"] == reasoned["ports"]


def test_a_secret_is_for_the_group_alone(manifest: list[dict[str, Any]]) -> None:
    """The manager refuses a password that others can read."""
    for volume in pod_spec(manifest)["volumes"]:
        if "secret" in volume:
            assert volume["secret"]["defaultMode"] == 0o440


def test_the_single_pod_is_the_pod_of_the_stateful_set() -> None:
    """They differ in where their claims are named, and in nothing else."""
    base = DOCKER / "kubernetes" / "base"
    stateful = yaml.safe_load((base / "statefulset.yaml").read_text(encoding="utf-8"))
    expected = stateful["spec"]["template"]["spec"]
    alone = pod_spec(pod_manifest())
    claims = [volume for volume in alone["volumes"] if "persistentVolumeClaim" in volume]
    alone["volumes"] = [volume for volume in alone["volumes"] if volume not in claims]

    assert alone == expected
    assert [claim["name"] for claim in claims] == ["data", "wal", "archive"]
    config = (base / "config.yaml").read_text(encoding="utf-8")
    assert the("ConfigMap", pod_manifest())["data"]["config.yaml"] == config


def test_quadlet_mounts_what_the_pod_mounts() -> None:
    """The same settings serve both: each path of the pod is one of the unit, with its images."""
    spec = pod_spec(pod_manifest())
    values = [value for _, value in quadlet()]
    images = {
        each["name"]: each["image"]["reference"] for each in spec["volumes"] if "image" in each
    }

    for path, name in mounts(spec).items():
        if name in images:
            assert f"type=image,source=pg-{name}.image,destination={path}" in values
            unit = (DOCKER / "quadlet" / f"pg-{name}.image").read_text(encoding="utf-8")
            assert f"Image={images[name]}\n" in unit
        elif name in {"data", "wal", "archive"}:
            assert f"pg-{name}.volume:{path}" in values
    assert "%E/instance-manager:/etc/instance-manager:ro" in values
    assert {"/run", "/tmp"} <= set(values)
    operand = (DOCKER / "quadlet" / "pg-operand.image").read_text(encoding="utf-8")
    assert f"Image={spec['containers'][0]['image']}\n" in operand


def test_compose_mounts_the_images_of_the_pod() -> None:
    """Image by image, and its settings list what it mounts."""
    spec, service = pod_spec(pod_manifest()), compose()
    registry = "${REGISTRY:-registry.example.com/instance-manager}"
    mounted = {
        each["target"]: each["source"].replace(registry, "registry.example.com/instance-manager")
        for each in service["volumes"]
        if each["type"] == "image"
    }
    variables = {
        name: value for name, value in service["environment"].items() if not name.endswith("_FILE")
    }
    settings = load(SettingsText(environment=variables), CHECKS).settings

    assert mounted == {
        f"{EXTENSIONS}{each['name']}": each["image"]["reference"]
        for each in spec["volumes"]
        if "image" in each
    }
    assert [f"{EXTENSIONS}{volume.name}" for volume in settings.extensions.volumes] == list(
        mounted
    )
    assert settings.databases == settings_of(pod_manifest()).databases


def test_every_way_is_as_confined_and_as_patient() -> None:
    """Read-only, without capabilities, as the same user, and with the same time for a stop."""
    unit, service = dict(quadlet()), compose()
    spec = pod_spec(pod_manifest())
    grace, user = spec["terminationGracePeriodSeconds"], spec["securityContext"]["runAsUser"]

    assert (unit["ReadOnly"], unit["NoNewPrivileges"]) == ("true", "true")
    assert unit["DropCapability"] == "all"
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {service["user"], f"{unit['User']}:{unit['Group']}"} == {f"{user}:{user}"}
    assert int(unit["StopTimeout"]) == grace < int(unit["TimeoutStopSec"])
    assert service["stop_grace_period"] == f"{grace}s"
