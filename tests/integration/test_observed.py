"""What the live server runs with, and what it would take to run what is on disk by now."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.manager import Manager, until
from tests.support.modules import Volumes


def rescan(manager: Manager) -> dict[str, Any]:
    code, report = manager.ask("POST", "/v1/extensions/rescan")
    assert code == 200, report
    assert isinstance(report, dict)
    return report


def operate(manager: Manager, what: str) -> None:
    code, operation = manager.ask("POST", f"/v1/postgres/{what}", Prefer="wait=60")
    assert (code, operation["state"]) == (200, "succeeded"), operation


def running(manager: Manager) -> dict[str, Any]:
    """Return what the server says that it runs with, once it has spoken."""

    def spoken() -> dict[str, Any]:
        report = manager.ask("GET", "/v1/extensions")[1]
        found = report["running"]
        assert isinstance(found, dict)
        return found

    return until(spoken, "the running server is known")


def environment_of(manager: Manager) -> dict[str, str]:
    """Return the postmaster's environment as the kernel shows it."""
    status = manager.status()
    assert status is not None
    content = Path(f"/proc/{status['postgres']['pid']}/environ").read_bytes().decode()
    return dict(one.split("=", 1) for one in content.split("\0") if one)


def metadata(volumes: Volumes, name: str, **fields: object) -> None:
    path = volumes.root / name / "share" / "instance-manager" / "extension.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields))


@pytest.fixture
def volumes(manager: Manager) -> Volumes:
    """Return the root of a manager whose server runs with pgvector."""
    made = Volumes(manager)
    made.pgvector()
    manager.settings["extensions"]["volumes"] = [{"name": "pgvector"}]
    manager.trust()
    return made


def test_a_look_says_what_each_change_needs(manager: Manager, volumes: Volumes) -> None:
    """Nothing, a reload, a restart, or a new container; and changes nothing by itself."""
    manager.start().until_ready()
    running(manager)
    assert rescan(manager)["pending_action"] == "none"

    volumes.control("plain")
    report = rescan(manager)
    assert report["pending_action"] == "reload"
    assert "plain" not in report["running"]["extension_control_path"]
    assert manager.ask("GET", "/v1/extensions")[1]["pending_action"] == "reload"
    operate(manager, "reload")
    assert rescan(manager)["pending_action"] == "none"

    metadata(volumes, "plain", env=[{"name": "PLAIN_DATA", "value": "${image_root}/data"}])
    assert rescan(manager)["pending_action"] == "restart"
    operate(manager, "restart")
    running(manager)
    assert rescan(manager)["pending_action"] == "none"
    assert environment_of(manager)["PLAIN_DATA"] == f"{volumes.root}/plain/data"

    metadata(volumes, "pgvector", shared_preload_libraries=["vector"])
    assert rescan(manager)["pending_action"] == "restart"

    shutil.rmtree(volumes.root / "pgvector")
    assert rescan(manager)["pending_action"] == "remount"
    reasons = [event["reason"] for event in manager.ask("GET", "/v1/events")[1]["items"]]
    assert "RescanRequested" in reasons


def test_a_finding_is_logged_when_it_is_new_with_its_volume_and_its_severity(
    manager: Manager, volumes: Volumes
) -> None:
    """Others that come and go don't have it said again; its own return does."""
    manager.start().until_ready()
    for _ in range(2):
        volumes.control("guest").write_text("default_version")
        rescan(manager)
        shutil.rmtree(volumes.root / "guest")
        rescan(manager)
    # Only then all lines are written.
    assert manager.end() == 0

    told = [
        (one["volume"], one["severity"], one["level"])
        for one in manager.records()
        if one.get("code") == "EXT001" or one.get("severity") == "error"
    ]
    assert told.count(("pgvector", "warning", "warning")) == 1
    assert told.count(("guest", "warning", "warning")) == 2
    assert told.count(("guest", "error", "error")) == 2


def test_conditions_change_whether_somebody_asks_or_not(
    manager: Manager, volumes: Volumes
) -> None:
    """Nobody looks at the status between a stop and a start, and its time shows them."""
    del volumes

    def since() -> str:
        status = manager.status()
        assert status is not None
        (ready,) = [one for one in status["conditions"] if one["type"] == "Ready"]
        assert ready["status"] == "True"
        return str(ready["last_transition_time"])

    manager.start().until_ready()
    before = since()
    operate(manager, "stop")
    operate(manager, "start")
    manager.until_ready()

    assert since() > before


def test_a_volume_that_nobody_listed_and_that_vanished_is_told(
    manager: Manager, volumes: Volumes
) -> None:
    """Its libraries are gone under the running server, which still looks for them there."""
    module = volumes.module("sample", volumes.vector())
    manager.start().until_ready()
    running(manager)
    shutil.rmtree(volumes.root / "sample")

    report = rescan(manager)

    assert report["pending_action"] == "reload"
    (gone,) = [one for one in report["findings"] if one["code"] == "EXT082"]
    assert gone["subject"] == str(module)
    assert "vanished" in gone["message"]
    assert "before postgres is restarted" in gone["hint"]
    operate(manager, "restart")
    running(manager)
    after = rescan(manager)
    assert after["pending_action"] == "none"
    assert "EXT082" not in [one["code"] for one in after["findings"]]


@pytest.mark.parametrize("is_preloaded", [False, True])
def test_a_library_that_is_replaced_is_told(
    manager: Manager, volumes: Volumes, is_preloaded: bool
) -> None:
    """With who runs the old code; and a restart, which mends it, is what is pending."""
    if is_preloaded:
        manager.settings["postgres"]["shared_preload_libraries"] = ["vector"]
    manager.start().until_ready()
    running(manager)
    module = volumes.root / "pgvector" / "lib" / "vector.so"
    new = module.with_name("new")
    new.write_bytes(volumes.vector())
    new.rename(module)

    report = rescan(manager)

    assert report["pending_action"] == "restart"
    (found,) = [one for one in report["findings"] if one["code"] == "EXT082"]
    assert (found["severity"], found["subject"]) == ("warning", str(module))
    assert ("the server and all its sessions" in found["message"]) == is_preloaded
    events = manager.ask("GET", "/v1/events")[1]["items"]
    types = [event["type"] for event in events if event["reason"] == "LibraryReplaced"]
    assert types == ["Warning"]
    operate(manager, "restart")
    running(manager)
    assert rescan(manager)["pending_action"] == "none"


def test_a_library_that_is_written_anew_in_its_place_is_told(
    manager: Manager, volumes: Volumes
) -> None:
    """The same file with the same size and time of change is another one by its inode's."""
    manager.start().until_ready()
    running(manager)
    module = volumes.root / "pgvector" / "lib" / "vector.so"
    before = module.stat()
    module.write_bytes(volumes.vector())
    os.utime(module, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert "EXT082" in [one["code"] for one in rescan(manager)["findings"]]


def test_a_reload_notices_what_was_replaced_too(manager: Manager, volumes: Volumes) -> None:
    """Every look compares, not only the one that is asked for."""
    manager.start().until_ready()
    running(manager)
    (volumes.root / "pgvector" / "lib" / "vector.so").touch()
    operate(manager, "reload")

    def told() -> bool:
        report = manager.ask("GET", "/v1/extensions")[1]
        return "EXT082" in [one["code"] for one in report["findings"]]

    until(told, "the finding is there")


def test_what_runs_is_the_servers_own_environment(manager: Manager, volumes: Volumes) -> None:
    """Loader path, PATH and variables, as the kernel shows them, through reload and restart."""
    volumes.control("plain")
    (volumes.root / "plain" / "bin").mkdir()
    metadata(
        volumes,
        "plain",
        env=[{"name": "PLAIN_DATA", "value": "x"}, {"name": "PLAIN_MORE", "value": ""}],
    )
    manager.environment["LD_LIBRARY_PATH"] = str(manager.directory)
    manager.start().until_ready()
    own = environment_of(manager)
    seen = running(manager)

    assert seen["env"] == {"PLAIN_DATA": "x", "PLAIN_MORE": ""}
    assert seen["path"] == own["PATH"]
    assert seen["path"].endswith(f"{volumes.root}/plain/bin")
    assert seen["ld_library_path"] == own["LD_LIBRARY_PATH"] == str(manager.directory)
    assert rescan(manager)["pending_action"] == "none"

    metadata(volumes, "plain")
    operate(manager, "reload")
    assert running(manager)["env"] == {"PLAIN_DATA": "x", "PLAIN_MORE": ""}
    assert rescan(manager)["pending_action"] == "restart"
    operate(manager, "restart")
    assert running(manager)["env"] == {}
    assert "PLAIN_DATA" not in environment_of(manager)
    assert rescan(manager)["pending_action"] == "none"


def test_what_gets_past_a_stale_pid_file_is_no_pending_change(
    manager: Manager, volumes: Volumes
) -> None:
    """The variable for it is ours, and not of a volume that is gone."""
    del volumes
    manager.start().until_ready()
    pid_file = manager.data / "postmaster.pid"
    content = pid_file.read_text().splitlines()
    assert manager.end() == 0
    owner = manager.data.stat()
    with subprocess.Popen(["sleep", "600"], user=owner.st_uid) as other:
        pid_file.write_text("\n".join([str(other.pid), *content[1:]]) + "\n")
        os.chown(pid_file, owner.st_uid, owner.st_gid)
        manager.start().until_ready()
        running(manager)

        assert environment_of(manager)["PG_GRANDPARENT_PID"] == str(other.pid)
        report = rescan(manager)
        assert report["running"]["env"] == {}
        assert report["pending_action"] == "none"
        other.kill()


def test_an_override_by_alter_system_is_what_runs(manager: Manager, volumes: Volumes) -> None:
    """The server's word counts, and a reload takes the override back."""
    del volumes
    manager.settings["postgres"]["allow_alter_system"] = "on"
    manager.start().until_ready()
    with manager.sql() as session:
        session.execute("alter system set dynamic_library_path = '$libdir'")
        session.execute("select pg_reload_conf()")

    def seen() -> bool:
        found = manager.ask("GET", "/v1/extensions")[1]
        return (found["running"] or {}).get("dynamic_library_path") == "$libdir"

    until(seen, "the override is seen")
    assert rescan(manager)["pending_action"] == "reload"
    operate(manager, "reload")
    until(lambda: rescan(manager)["pending_action"] == "none", "the override is gone")


def test_a_look_at_a_stopped_instance_starts_nothing(manager: Manager, volumes: Volumes) -> None:
    """It answers with what is found, and what was asked for stays: stopped."""
    del volumes
    manager.start().until_ready()
    operate(manager, "stop")

    report = rescan(manager)

    assert report["running"] == {}
    assert report["pending_action"] == "none"
    assert manager.until_phase("stopped")


def test_a_volume_named_as_the_call_is_still_shown(manager: Manager, volumes: Volumes) -> None:
    """The path of the one is that of the other."""
    volumes.control("rescan")
    manager.start().until_ready()

    code, volume = manager.ask("GET", "/v1/extensions/rescan")

    assert (code, volume["name"]) == (200, "rescan")
    assert manager.ask("POST", "/v1/extensions/pgvector")[0] == 405
