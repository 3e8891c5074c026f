from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from instance_manager.extensions.facts import ServerFacts
from instance_manager.extensions.objects import ObjectFiles, ObjectStore, prepare
from instance_manager.extensions.scan import examine
from instance_manager.settings.models import Settings
from tests.support.made_objects import make_object

OBJECT = make_object(machine="x86_64", exports=["a"], wants=["b"])


@pytest.fixture
def files(tmp_path: Path) -> ObjectFiles:
    """Return a view of an empty root."""
    return ObjectFiles(str(tmp_path), ObjectStore())


@pytest.mark.parametrize(
    ("target", "real"),
    [
        ("/lib/a.so", "/lib/a.so"),
        ("../lib/a.so", "/lib/a.so"),
        ("../../../../lib/a.so", "/lib/a.so"),
        ("./../usr/./again/a.so", "/lib/a.so"),
        ("/nowhere/a.so", "/nowhere/a.so"),
    ],
)
def test_links_stay_in_the_root(tmp_path: Path, target: str, real: str) -> None:
    """One that begins with a slash leads from there, and nothing leads out."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "usr").mkdir()
    (tmp_path / "usr" / "again").symlink_to("/lib")
    (tmp_path / "lib" / "a.so").write_bytes(OBJECT)
    (tmp_path / "usr" / "link.so").symlink_to(target)
    files = ObjectFiles(str(tmp_path), ObjectStore())

    assert files.real("/usr/link.so") == real
    found = files.find("/usr", "link.so")
    assert (found is not None) == (real == "/lib/a.so")
    assert found is None or (found.path, found.problem) == ("/usr/link.so", "")


def test_a_link_to_itself_is_nothing(tmp_path: Path, files: ObjectFiles) -> None:
    """The loader passes over it."""
    (tmp_path / "a.so").symlink_to("a.so")

    assert files.at("/a.so") is None
    assert ObjectFiles("/", ObjectStore()).at(str(tmp_path / "a.so")) is None


def test_what_is_no_file_stops_the_loader_and_not_us(tmp_path: Path, files: ObjectFiles) -> None:
    """It opens whatever bears the name; a FIFO would block it, and us."""
    (tmp_path / "a.so").mkdir()
    os.mkfifo(tmp_path / "b.so")
    found = [files.find("/", name) for name in ("a.so", "b.so")]

    assert [file and file.problem for file in found] == ["cannot read file data"] * 2
    assert files.symbols("/b.so").problem
    assert files.symbols("/none.so").problem


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    """As long as it stays the same it is read once, however many looks there are."""
    store, path = ObjectStore(), tmp_path / "a.so"
    path.write_bytes(OBJECT)
    first = ObjectFiles("/", store).at(str(path))
    again = ObjectFiles("/", store).at(str(path))
    path.write_bytes(make_object(machine="x86_64", soname="other"))
    changed = ObjectFiles("/", store).at(str(path))

    assert first
    assert again
    assert first.linkable is again.linkable
    assert changed
    assert changed.linkable
    assert changed.linkable.soname == "other"


def test_what_is_kept_is_bounded(tmp_path: Path) -> None:
    """The oldest is forgotten, and read again when it is asked for."""
    store = ObjectStore(maximum_weight=20_000)
    for number in range(50):
        path = tmp_path / f"{number}.so"
        path.write_bytes(OBJECT)
        files = ObjectFiles("/", store)
        assert files.at(str(path))
        assert files.symbols(str(path)).undefined == (b"b",)
        assert store.weight <= 20_000


@pytest.mark.parametrize("interpreter", [None, "/lib/ld-musl-x86_64.so.1", "/lib/ld.so"])
def test_a_server_of_an_unknown_loader_is_not_judged(
    tmp_path: Path, files: ObjectFiles, interpreter: str | None
) -> None:
    """What is not known gives no false errors."""
    (tmp_path / "postgres").write_bytes(make_object(machine="x86_64", interpreter=interpreter))

    assert prepare("/postgres", files) is None
    assert prepare("/none", files) is None


def test_volumes_of_a_server_that_is_not_known_are_looked_at_all_the_same(
    volume: Callable[..., Path], settings: Callable[..., Settings], module: bytes
) -> None:
    """The program is a script, or not there."""
    root = volume("v", {"lib/m.so": module, "program": "#!/bin/sh"}).parent
    for program in (f"{root}/v/program", "/nowhere/postgres", ""):
        server = ServerFacts(18, "x86_64", program=program)
        report = examine(
            settings(), server, base_path="", base_ld_library_path="", root=root
        ).report
        codes = [each.code for each in report.all_findings()]
        assert not [code for code in codes if code.startswith("EXT04")]
