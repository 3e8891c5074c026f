"""What ``extension build`` leaves where it is refused or interrupted, and what it replaces."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.build_site import NEEDS_APT, SCRIPT, SECONDS, THING, Site
from tests.support.made_objects import make_object
from tests.support.manager import until
from tests.support.package_repository import EXTENSIONS, SERVER_LIBRARIES
from tests.support.volumes import tmpfs

pytestmark = NEEDS_APT


def test_an_image_with_errors_is_written_by_force_only(site: Site) -> None:
    """An error of preflight refuses the image; --force writes it and tells."""
    broken = {f"{EXTENSIONS}/bad.control": "magic = 1\n", f"{EXTENSIONS}/bad--1.sql": SCRIPT}
    site.repository.add("postgresql-18-bad", broken)

    refused = site.run("--package=postgresql-18-bad", f"--output={site.results / 'bad'}")
    left = site.left()
    forced = site.built("--package=postgresql-18-bad", "--force", name="bad")

    assert (refused.returncode, left) == (3, [])
    assert "EXT012" in refused.stderr
    assert [each["code"] for each in forced["findings"] if each["severity"] == "error"] == [
        "EXT012"
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_leaves_nothing(site: Site, number: signal.Signals) -> None:
    """Neither a half result nor the directory that it was made in."""
    build = site.command(f"--package={THING}", f"--output={site.results / 'thing'}")
    # A shell has what it begins with & ignore it, this test and all that it starts.
    command = ["env", "--default-signal=INT", *build]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        until(site.left, "the build has begun")
        process.send_signal(number)
        process.communicate(timeout=SECONDS)

    assert process.returncode == 128 + signal.SIGINT
    assert site.left() == []


def test_what_a_killed_build_leaves_is_removed_by_the_next(site: Site) -> None:
    """It can't tidy up itself, and nobody would find a hidden directory."""
    command = site.command(f"--package={THING}", f"--output={site.results / 'thing'}")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        until(lambda: list(site.results.glob(".thing.*/lock")), "the build has begun")
        process.kill()
        process.communicate(timeout=SECONDS)
    assert site.left() != []

    site.built(f"--package={THING}")

    assert site.left() == ["thing"]


def test_a_full_disk_leaves_what_was_there(site: Site, tmp_path: Path) -> None:
    """The result of an earlier build is replaced by a whole one only."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a small file system")
    site.repository.add(
        "postgresql-18-big", {f"{SERVER_LIBRARIES}/big.so": make_object() + os.urandom(1 << 23)}
    )
    with tmpfs(tmp_path / "small", 1 << 22) as small:
        place = tmp_path / "small" / "result"
        first = site.run(f"--package={THING}", "--name=thing", f"--output={place}")
        before = (place / "index.json").read_bytes()
        result = site.run("--package=postgresql-18-big", f"--output={place}", "--overwrite")
        left = [each.name for each in (tmp_path / "small").iterdir() if each.name != "lost+found"]

        assert small is not None
        assert first.returncode == 0, first.stderr
        assert result.returncode == 4, result.stderr
        assert "no space left" in result.stderr
        assert left == ["result"]
        assert (place / "index.json").read_bytes() == before


def replaced(site: Site) -> Path:
    place = site.results / "thing"
    place.mkdir()
    (place / "precious").write_text("data")
    return place


def test_only_results_of_builds_are_replaced(site: Site) -> None:
    """A directory with something else is never taken away."""
    place = replaced(site)

    result = site.run(f"--package={THING}", f"--output={place}", "--overwrite")

    assert result.returncode == 2
    assert (place / "precious").read_text() == "data"


def test_a_result_can_be_replaced(site: Site) -> None:
    """By what is built anew, and only where that is asked for."""
    site.built(f"--package={THING}")
    refused = site.run(
        f"--package={THING}", "--name=thing", f"--output=dir:{site.results / 'thing'}"
    )

    site.built(f"--package={THING}", "--overwrite", "--exclude=bin/*")

    assert refused.returncode == 2
    assert "--overwrite" in refused.stderr
    assert not (site.results / "thing/bin").exists()
    assert site.left() == ["thing"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--package=-oDebug=1", "--output=x"), "no name of a package"),
        (("--output=x", "--name=x"), "from nothing"),
        (("--package=p-1", "--output=tar:x"), "--output"),
        (("--package=p-1", "--output=x", "--name=Bad"), "name a volume"),
        (("--package=p-1", "--output=/nowhere/x"), "no directory /nowhere"),
        (("--package=p-1", "--output=x", "--label=nothing"), "KEY=VALUE"),
        (("--package=p-1", "--output=x", "--parameter=nothing"), "NAME=VALUE"),
        (("--package=p-1", "--output=x", "--env=A=1", "--env=A=2"), "given twice"),
        (("--package=p-1", "--output=x", "--preload-after=a"), "LIBRARY=OTHER"),
        (("--package=p-1", "--output=x", "--path=bin_path=../x"), "within the volume"),
        (("--package=p-1", "--output=x", "--path=lib=x"), "fields are"),
        (("--package=p-1", "--output=x", "--revision=a\nb"), "short text"),
        (("--package=p-1", "--output=x", "--parameter=a.b=\n"), "printable"),
        (("--package=p-1", "--output=x", "--base=./gone"), "cannot use base './gone'"),
        (("--package=postgresql-17-p", "--output=x"), "no PostgreSQL 17 in it, but 18"),
        (("--package=postgresql-17-p", "--package=postgresql-18-p", "--output=x"), "one server"),
        (("--package=p-1", "--output=x", "--cache=/proc/x"), "cannot use --cache '/proc/x'"),
        (("--from-directory=.", "--name=x", "--output=x"), "nothing that a volume has"),
    ],
)
def test_what_can_not_be_asked_for_is_told(
    site: Site, arguments: tuple[str, ...], words: str
) -> None:
    """Before anything is fetched, with exit code 2."""
    result = site.run(*arguments, cwd=site.results)

    assert (result.returncode, site.left()) == (2, [])
    assert words in result.stderr
