"""The bundle's copy, on real file systems; the bundle itself is a made one."""

from __future__ import annotations

import fcntl
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from instance_manager import installing
from instance_manager.errors import PermanentError, TransientError, UsageError

PROGRAM = "instance-manager"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make a directory like a bundle."""
    root = tmp_path / "source"
    (root / "lib" / "deep").mkdir(parents=True)
    (root / PROGRAM).write_text("#!/bin/sh\n")
    (root / PROGRAM).chmod(0o500)
    (root / "lib" / "deep" / "module.so").write_bytes(b"\x7fELF" * 1000)
    (root / "lib" / "module.so").symlink_to("deep/module.so")
    return root


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Make a directory to install into."""
    place = tmp_path / "target"
    place.mkdir()
    return place


def hidden(target: Path) -> list[Path]:
    """Return the bundles in a target, linked to or not, and what is left of copies."""
    return sorted(path for path in target.iterdir() if path.name != PROGRAM)


def test_a_bundle_is_copied_whole(source: Path, target: Path) -> None:
    """Contents, links, and modes that anybody can use, whatever the umask is."""
    before = os.umask(0o077)
    try:
        installed = installing.install_from(source, target)
    finally:
        os.umask(before)

    place = target / PROGRAM
    assert installed.changed
    assert (place / PROGRAM).stat().st_mode & 0o777 == 0o755
    assert (place / "lib" / "deep").stat().st_mode & 0o777 == 0o755
    assert place.resolve().stat().st_mode & 0o777 == 0o755
    assert (place / "lib" / "module.so").readlink() == Path("deep/module.so")
    assert (place / "lib" / "module.so").stat().st_mode & 0o777 == 0o644
    assert installing.fingerprint(place) == installing.fingerprint(source, as_copied=True)


def test_a_second_run_has_nothing_to_do(source: Path, target: Path) -> None:
    """The same bundle is known by its contents."""
    installing.install_from(source, target)
    place = (target / PROGRAM).resolve()

    assert not installing.install_from(source, target).changed
    assert (target / PROGRAM).resolve() == place


@pytest.mark.parametrize("path", [PROGRAM, "lib/deep/module.so"])
def test_a_damaged_bundle_is_replaced(source: Path, target: Path, path: str) -> None:
    """Its version alone says nothing."""
    installing.install_from(source, target)
    (target / PROGRAM / path).write_text("else")

    assert installing.install_from(source, target).changed
    assert (target / PROGRAM / path).read_bytes() == (source / path).read_bytes()


def test_the_last_bundle_stays_for_whoever_runs_from_it(source: Path, target: Path) -> None:
    """Its directory keeps its name; the one before is gone."""
    places: list[Path] = []
    for content in ("one", "two", "three"):
        (source / "lib" / "version").write_text(content)
        installing.install_from(source, target)
        places.append((target / PROGRAM).resolve())

    assert hidden(target) == sorted(places[1:])
    assert (places[1] / "lib" / "version").read_text() == "two"


def test_what_a_killed_run_left_is_removed(source: Path, target: Path) -> None:
    """A part of a copy, a link that was not put in place, and a whole that no link led to."""
    for name in (".instance-manager.partial-1", ".instance-manager-0-2"):
        (target / name / "lib").mkdir(parents=True)
    (target / ".instance-manager.partial-3").symlink_to("nothing")

    installing.install_from(source, target)

    assert hidden(target) == [(target / PROGRAM).resolve()]


def test_an_interruption_at_the_last_step_leaves_a_bundle(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link leads to the new one by then, which must not be cleared away under it."""
    fsync = os.fsync

    def interrupt(descriptor: int) -> None:
        if (target / PROGRAM).is_symlink():
            raise KeyboardInterrupt
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        installing.install_from(source, target)

    assert installing.fingerprint(target / PROGRAM) == installing.fingerprint(
        source, as_copied=True
    )


def test_nothing_is_written_where_a_link_leads_that_somebody_puts_there(
    source: Path, target: Path, tmp_path: Path
) -> None:
    """Root may copy into a directory of another user, who may exchange what is being written."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (elsewhere / "lib").mkdir(mode=0o700)
    # The copy waits at this one, which comes before all others.
    os.mkfifo(source / "a-pause")
    with ThreadPoolExecutor(1) as pool:
        copying = pool.submit(installing.install_from, source, target)
        with (source / "a-pause").open("wb"):
            (partial,) = hidden(target)
            partial.rename(tmp_path / "moved")
            partial.symlink_to(elsewhere)
        copying.result(60)

    assert [path.name for path in elsewhere.rglob("*")] == ["lib"]
    assert (elsewhere / "lib").stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives directories away")
def test_a_directory_of_another_user_in_the_place_of_the_own_is_refused(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who it belongs to could have links in it at any time."""
    original = os.open

    def exchange(path: str | Path, *arguments: Any, **options: Any) -> int:
        if Path(path).parent == target:
            os.chown(path, 12345, -1)
        return original(path, *arguments, **options)

    monkeypatch.setattr(os, "open", exchange)
    with pytest.raises(PermanentError, match="belongs to another user"):
        installing.install_from(source, target)

    assert list(target.iterdir()) == []


@pytest.mark.parametrize("path", [PROGRAM, "lib/deep/module.so"])
def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(
    source: Path, target: Path, path: str
) -> None:
    """It is a bundle that is damaged, and waits for no writer."""
    installing.install_from(source, target)
    (target / PROGRAM / path).unlink()
    os.mkfifo(target / PROGRAM / path)

    assert installing.install_from(source, target).changed
    assert (target / PROGRAM / path).read_bytes() == (source / path).read_bytes()


def test_a_link_to_nothing_is_mended(source: Path, target: Path) -> None:
    """The bundle that it led to was removed."""
    (target / PROGRAM).symlink_to(".instance-manager-0-1")

    assert installing.install_from(source, target).changed
    assert (target / PROGRAM / PROGRAM).is_file()


@pytest.mark.parametrize("kind", ["file", "directory", "link", "link-to-elsewhere"])
def test_something_else_is_left_alone(source: Path, target: Path, kind: str) -> None:
    """The name is taken by what is not ours."""
    place = target / PROGRAM
    if kind == "file":
        place.write_text("theirs")
    elif kind == "directory":
        place.mkdir()
    elif kind == "link":
        place.symlink_to("theirs")
    else:
        place.symlink_to("../.instance-manager-0-1")

    with pytest.raises(UsageError, match="something else is there"):
        installing.install_from(source, target)

    assert hidden(target) == []


@pytest.mark.parametrize("name", ["missing", "file"])
def test_a_place_that_is_no_directory_is_refused(source: Path, tmp_path: Path, name: str) -> None:
    """Nothing is made where the volume was forgotten."""
    (tmp_path / "file").touch()

    with pytest.raises(UsageError, match="it is no directory"):
        installing.install_from(source, tmp_path / name)


def test_a_lock_of_somebody_else_holds_nobody_up_for_good(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may read a directory can lock it; the pod must say what it waits for."""
    monkeypatch.setattr(installing, "_OTHERS_SECONDS", 0.2)
    descriptor = os.open(target, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        with pytest.raises(TransientError, match=r"kept it locked for 0\.2 seconds"):
            installing.install_from(source, target)
    finally:
        os.close(descriptor)
    assert list(target.iterdir()) == []

    assert installing.install_from(source, target).changed


def test_an_installation_says_that_it_is_none_to_copy(target: Path) -> None:
    """It names the way out."""
    with pytest.raises(UsageError, match="this is an installation") as refused:
        installing.install(target)

    assert "image" in refused.value.hint
    assert hidden(target) == []


def test_a_name_of_any_bytes_is_copied(source: Path, target: Path) -> None:
    """Names are bytes."""
    name = os.fsdecode(b"a\xffb\n")
    (source / "lib" / name).touch()

    installing.install_from(source, target)

    assert (target / PROGRAM / "lib" / name).is_file()
    assert sys.getfilesystemencoding() == "utf-8"
