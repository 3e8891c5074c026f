from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from instance_manager.extensions.facts import ServerFacts
from instance_manager.extensions.models import ExtensionsReport
from instance_manager.extensions.scan import Examination, examine
from instance_manager.settings.models import Settings

MakeVolume = Callable[..., Path]
MakeSettings = Callable[..., Settings]
_LOOK = """
import sys
import instance_manager.commands.run
from pathlib import Path
from instance_manager.extensions.facts import ServerFacts
from instance_manager.extensions.scan import examine
from instance_manager.settings.models import Settings
settings, server = Settings.model_validate({}), ServerFacts(18, "x86_64", program="/bin/sh")
root = Path(sys.argv[1])
examine(settings, server, base_path="", base_ld_library_path=None, root=root)
print(*sys.modules)
"""
_ONLY_FOR_VOLUMES = {
    f"instance_manager.{name}"
    for name in (
        *("databases", "postgres.rehearsal", "extensions.exploration", "extensions.elf"),
        *("extensions.magic", "extensions.control", "extensions.objects", "extensions.links"),
        *("extensions.linking", "extensions.loader_trace", "extensions.advice"),
    )
}
CONTROL = "default_version = '1.0'\nmodule_pathname = '$libdir/sample'\n"


def _files(module: bytes) -> dict[str, bytes | str]:
    return {
        "share/extension/sample.control": CONTROL,
        "share/extension/sample--1.0.sql": "select 1;",
        "lib/sample.so": module,
    }


def _examine(settings: Settings, server: ServerFacts, root: Path | None = None) -> Examination:
    times = iter((10.0, 10.25))
    return examine(
        settings,
        server,
        base_path="/usr/bin",
        base_ld_library_path=None,
        root=root,
        clock=lambda: next(times),
    )


@pytest.fixture
def server() -> ServerFacts:
    """Return the server of these tests."""
    return ServerFacts(18, "x86_64", libraries=frozenset({"plpgsql.so"}))


def test_the_report_has_exactly_the_contracts_shape(
    volume: MakeVolume, settings: MakeSettings, server: ServerFacts, module: bytes
) -> None:
    """It is what ``GET /v1/extensions`` answers."""
    root = volume("sample", _files(module)).parent

    report = _examine(settings(root=str(root)), server).report

    document = json.loads(report.model_dump_json())
    assert list(document) == [
        *("root", "scan_seconds", "volumes", "findings", "composed", "running", "pending_action"),
    ]
    assert document["root"] == str(root)
    assert document["scan_seconds"] == 0.25
    assert document["composed"] == {
        "extension_control_path": f"$system:{root}/sample/share",
        "dynamic_library_path": f"$libdir:{root}/sample/lib",
        "shared_preload_libraries": "",
        "ld_library_path": "",
        "path": "/usr/bin",
        "env": {},
    }
    assert document["running"] == {}
    assert document["pending_action"] == "none"
    assert ExtensionsReport.model_validate_json(report.model_dump_json()) == report


def test_a_volume_for_another_machine_is_quarantined_and_the_rest_composed(
    volume: MakeVolume,
    settings: MakeSettings,
    server: ServerFacts,
    module: bytes,
    elf: Callable[..., bytes],
    magic_block: Callable[..., bytes],
) -> None:
    """One bad image does not take the others with it."""
    foreign = elf(machine=183, style="adrp+add", magic=magic_block())
    volume("arm", {"lib/arm.so": foreign})
    root = volume("sample", _files(module)).parent
    volume("a:b", {})

    report = _examine(settings(), server, root).report

    states = {each.name: each.state.value for each in report.volumes}
    assert states == {"a:b": "quarantined", "arm": "quarantined", "sample": "ready"}
    assert report.composed.dynamic_library_path == f"$libdir:{root}/sample/lib"


def test_parameters_of_the_metadata_are_given_beside_the_report(
    volume: MakeVolume, settings: MakeSettings, server: ServerFacts, module: bytes
) -> None:
    """The room that renders the configuration takes them from there."""
    described = json.dumps({"postgresql_parameters": {"sample.size": 3}})
    files = {**_files(module), "share/instance-manager/extension.json": described}
    root = volume("sample", files).parent

    assert _examine(settings(), server, root).parameters == {"sample.size": "3"}


@pytest.mark.parametrize("required", [True, False])
def test_an_absent_volume_needs_a_new_mount(
    settings: MakeSettings, server: ServerFacts, tmp_path: Path, *, required: bool
) -> None:
    """No reload and no restart brings it."""
    listed = settings(volumes=[{"name": "gone", "required": required}])

    report = _examine(listed, server, tmp_path).report

    assert report.pending_action == "remount"
    assert len(report.findings) == 1


def test_a_relative_root_is_made_absolute(
    settings: MakeSettings, server: ServerFacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server runs in another directory."""
    monkeypatch.chdir(tmp_path)

    assert _examine(settings(), server, Path("volumes")).report.root == f"{tmp_path}/volumes"


def _imported(root: Path) -> set[str]:
    """Return what a manager that is to run has imported once it has looked."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", _LOOK, str(root)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return set(done.stdout.split())


def test_a_start_without_volumes_imports_nothing_that_only_volumes_need(
    volume: MakeVolume, module: bytes, tmp_path: Path
) -> None:
    """It costs milliseconds on the way to the first connection."""
    (tmp_path / "none").mkdir()
    root = volume("sample", _files(module)).parent

    assert not _imported(tmp_path / "none") & _ONLY_FOR_VOLUMES
    assert "instance_manager.extensions.exploration" in _imported(root)
