"""``extension catalogue`` of layouts that are made up, and a manager that is given a catalogue."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from instance_manager.images import oci
from tests.support.made_objects import make_object
from tests.support.manager import Manager
from tests.support.package_repository import ARCHITECTURE, Content, put

SECONDS = 60
DESCRIBED: dict[str, Any] = {
    "name": "thing",
    "version": "1.0-1",
    "requires": ["far"],
    "shared_preload_libraries": ["thing"],
    "env": [{"name": "THING_DATA", "value": "${image_root}/share/thing"}],
}


def _layout(place: Path, name: str, files: dict[str, Content], **labels: str) -> Path:
    tree = place / f"{name}-tree"
    put(tree, files)
    labels = {"org.opencontainers.image.title": name, **labels}
    identity = oci.Identity(ARCHITECTURE, labels, 1_700_000_000, f"{name}:18")
    oci.write_layout(tree, place / name, identity)
    return place / name


def _thing(place: Path) -> Path:
    return _layout(
        place,
        "thing",
        {
            "share/instance-manager/extension.json": json.dumps(DESCRIBED),
            "share/extension/thing.control": "default_version = '1.10'\n",
            "share/extension/thing--1.10.sql": "",
            "system/libx.so.1": make_object(soname="libx.so.1"),
            "bin/thingctl": "#!/bin/sh\n",
        },
        **{"io.instance-manager.postgres.major": "18"},
    )


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "instance_manager", "extension", "catalogue"]
    return subprocess.run(
        [*program, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def test_layouts_and_archives_become_entries(tmp_path: Path) -> None:
    """The digest is the layout's; what the image says of itself is in the entry."""
    thing = _thing(tmp_path)
    far = _layout(tmp_path, "far", {"system/libfar.so.1": make_object(soname="libfar.so.1")})
    archive = tmp_path / "far.tar"
    oci.write_archive(far, archive)

    done = _run(thing, archive, "--registry=registry.example/set")

    assert done.returncode == 0, done.stderr
    first, second = yaml.safe_load(done.stdout)["images"]
    digest = json.loads((thing / "index.json").read_text())["manifests"][0]["digest"]
    assert second == {
        "name": "thing",
        "version": "1.0-1",
        "image": f"registry.example/set/thing:18@{digest}",
        "digest": digest,
        "postgres_major": 18,
        "architecture": ARCHITECTURE,
        "extension_control_path": ["share"],
        "ld_library_path": ["system"],
        "bin_path": ["bin"],
        "env": DESCRIBED["env"],
        "shared_preload_libraries": ["thing"],
        "requires": ["far"],
        "extensions": {"thing": "1.10"},
    }
    assert (first["name"], first["ld_library_path"]) == ("far", ["system"])
    assert first["image"].startswith("registry.example/set/far:latest@sha256:")


def test_the_operators_form_is_asked_for_with_its_server(tmp_path: Path) -> None:
    """Without the server's image it can't be written."""
    thing = _thing(tmp_path)
    form = "--format=cloudnativepg"

    done = _run(thing, form, "--postgres-image=18=registry.example/postgresql:18")
    assert done.returncode == 0, done.stderr
    (image,) = yaml.safe_load(done.stdout)["spec"]["images"]
    assert (image["image"], image["extensions"][0]["name"]) == (
        "registry.example/postgresql:18",
        "thing",
    )
    without = _run(thing, form)
    assert without.returncode == 2
    assert "--postgres-image 18=IMAGE" in without.stderr


def test_what_is_no_image_is_told(tmp_path: Path) -> None:
    """Without a trace, whatever it is, and nothing is printed."""
    thing = _thing(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no archive")
    broken = _thing(tmp_path / "other")
    (broken / "index.json").write_text('{"manifests": []}')
    bad = _layout(tmp_path, "bad", {"share/instance-manager/extension.json": '{"name": "A B"}'})
    cases: tuple[tuple[tuple[object, ...], str], ...] = (
        ((tmp_path / "empty",), "is no OCI layout has no digest"),
        ((tmp_path / "text",), "truncated header"),
        ((broken,), "is no whole OCI layout"),
        ((bad,), "cannot catalogue"),
        ((thing, thing), "are both 'thing' for PostgreSQL 18"),
        ((thing, "--registry=a b"), "it is no registry's name"),
        ((thing, "--postgres-image=x"), "it must be MAJOR=IMAGE"),
        ((thing, "--name=A_B"), "Kubernetes takes no such name"),
    )
    for arguments, told in cases:
        done = _run(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), (arguments, done.stderr)
        assert told in done.stderr
        assert "Traceback" not in done.stderr


def test_of_several_images_the_one_that_was_looked_into_is_named(tmp_path: Path) -> None:
    """Its digest stands beside its contents, wherever it is in the list."""
    thing, far = _thing(tmp_path), _layout(tmp_path, "far", {"bin/far": "#!/bin/sh\n"})
    foreign = "arm64" if ARCHITECTURE == "amd64" else "amd64"
    documents = [json.loads((each / "index.json").read_text()) for each in (far, thing)]
    documents[0]["manifests"][0]["platform"]["architecture"] = foreign
    both = {**documents[1], "manifests": [each["manifests"][0] for each in documents]}
    for blob in (far / "blobs/sha256").iterdir():
        blob.rename(thing / "blobs/sha256" / blob.name)
    (thing / "index.json").write_text(json.dumps(both))

    done = _run(thing)

    assert done.returncode == 0, done.stderr
    (image,) = yaml.safe_load(done.stdout)["images"]
    assert image["digest"] == both["manifests"][1]["digest"]
    assert (image["name"], image["architecture"]) == ("thing", ARCHITECTURE)


def _member(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("lie", ["circle", "nest"])
def test_an_archive_that_has_a_name_twice_is_told_from_a_good_one(
    tmp_path: Path, lie: str
) -> None:
    """The first of them is what nobody else reads: a circle of indexes, or a nest without end."""
    archive = tmp_path / "thing.tar"
    layout = _thing(tmp_path)
    index = json.loads((layout / "index.json").read_text())
    digest = index["manifests"][0]["digest"]
    name = f"blobs/sha256/{digest.removeprefix('sha256:')}"
    contents = {
        "circle": json.dumps({"manifests": [{"digest": digest}]}).encode(),
        "nest": b"[" * 100_000,
    }
    with tarfile.open(archive, "w") as file:
        _member(file, name, contents[lie])
        file.add(layout, ".")
        _member(file, f"./{name}", (layout / name).read_bytes())

    done = _run(archive)

    assert done.returncode == 0, done.stderr
    (image,) = yaml.safe_load(done.stdout)["images"]
    assert image["digest"] == digest


def test_names_of_an_image_do_not_move_the_cursor(tmp_path: Path) -> None:
    """What is wrong with them is told, escaped."""
    bad = _layout(
        tmp_path, "bad", {f"share/extension/{'a' * 70}\x1b[2J.control": "default_version = '1'\n"}
    )

    done = _run(bad)

    assert (done.returncode, done.stdout) == (2, "")
    assert r"\x1b[2J" in done.stderr
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot read the file"),
        ("format: 1\nimages: [{}]", "images.0.name is not given"),
        (r'{format: 1, "\e[2J": 1}', r"\x1b[2J unknown key"),
    ],
)
def test_a_catalogue_that_can_not_be_used_refuses_the_start(
    tmp_path: Path, content: str | None, told: str
) -> None:
    """With the exit code of wrong settings, the key, the file and the line."""
    place = tmp_path / "catalogue.yaml"
    if content is not None:
        place.write_text(content)
    done = subprocess.run(
        [sys.executable, "-m", "instance_manager", "run", f"--set=extensions.catalogue={place}"],
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 78
    output = done.stdout + done.stderr
    assert "extensions.catalogue" in output
    assert str(place) in output
    assert told in output
    assert "\x1b" not in output


def test_a_catalogue_that_breaks_under_a_running_server_leaves_it_alone(
    manager: Manager,
) -> None:
    """It goes on with what it had, and the rest is reloaded; what is mended is read."""
    place = manager.config.with_name("catalogue.yaml")
    place.write_text("format: 1\nimages: [{name: gone, image: 'r/gone:18'}]\n")
    manager.settings["extensions"] = {
        **manager.settings.get("extensions", {}),
        "catalogue": str(place),
        "volumes": [{"name": "gone"}],
    }
    manager.write_settings()
    manager.trust().start().until_ready()
    assert _hint_of_the_absent(manager).startswith("mount r/gone:18 of the catalogue")

    place.write_text("format: 1\nimages: [{}]\n")
    manager.settings["postgres"]["parameters"] = {"work_mem": "5MB"}
    manager.write_settings()
    _reload(manager)
    assert manager.query("SHOW work_mem") == [("5MB",)]
    assert _hint_of_the_absent(manager).startswith("mount r/gone:18 of the catalogue")
    assert f"images.0.name is not given ({place}, line 2)" in _unread(manager)

    place.write_text("format: 1\nimages: [{name: gone, image: 'r/new:18'}]\n")
    _reload(manager)
    assert _hint_of_the_absent(manager).startswith("mount r/new:18 of the catalogue")
    assert _unread(manager) == ""


@pytest.mark.parametrize("fault", ["text", "key", "large", "absent", "directory"])
def test_a_broken_catalogue_holds_up_no_configuration(manager: Manager, fault: str) -> None:
    """A PUT is accepted, and one event tells; another file that is none is refused as ever."""
    place = manager.config.with_name("catalogue.yaml")
    place.write_text("format: 1\nimages: [{name: gone, image: 'r/gone:18'}]\n")
    manager.settings |= {
        "configuration": {"source": "api"},
        "extensions": {**manager.settings.get("extensions", {}), "catalogue": str(place)},
    }
    manager.write_settings()
    manager.trust().start().until_ready()

    place.unlink()
    if fault == "directory":
        place.mkdir()
    elif fault != "absent":
        texts = {"text": "{", "key": "format: 1\nedition: 1\n", "large": "#" * (2 << 20)}
        place.write_text(texts[fault])
    for value in ("5MB", "6MB"):
        document = manager.ask("GET", "/v1/configuration")[1]
        document["parameters"]["work_mem"] = value
        document["volumes"] = [{"name": "gone"}]
        code, answer = manager.ask("PUT", "/v1/configuration", document, **{"If-Match": "*"})
        assert code == 200, answer
        assert manager.query("SHOW work_mem") == [(value,)]
    assert _hint_of_the_absent(manager).startswith("mount r/gone:18 of the catalogue")
    assert str(place) in _unread(manager)
    events = manager.ask("GET", "/v1/events")[1]["items"]
    (told,) = (each for each in events if each["reason"] == "CatalogueRejected")
    assert (told["type"], str(place) in told["message"]) == ("Warning", True)

    manager.settings["extensions"]["catalogue"] = str(place.with_name("other.yaml"))
    manager.write_settings()
    _, operation = manager.ask("POST", "/v1/postgres/reload", Prefer="wait=60")
    assert operation["error"]["code"] == "settings-invalid"
    assert "extensions.catalogue: cannot read the file" in operation["error"]["detail"]


def _reload(manager: Manager) -> None:
    _, operation = manager.ask("POST", "/v1/postgres/reload", Prefer="wait=60")
    assert operation["state"] == "succeeded", operation


def _unread(manager: Manager) -> str:
    """Return what is said of a catalogue that can't be used; empty for nothing."""
    report = manager.ask("GET", "/v1/extensions")[1]
    return "".join(each["message"] for each in report["findings"] if each["code"] == "EXT029")


def _hint_of_the_absent(manager: Manager) -> str:
    report = manager.ask("GET", "/v1/extensions")[1]
    (hint,) = (str(each["hint"]) for each in report["findings"] if each["code"] == "EXT008")
    return hint
