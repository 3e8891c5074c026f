"""``install``: what a shell sees of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from pathlib import Path
sys.frozen, sys.executable = True, sys.argv.pop(1) + "/instance-manager"
from instance_manager.__main__ import main
sys.exit(main())
"""


def install(source: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as if *source* were its bundle."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(source), "install", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make a directory like a bundle, of 2 MB."""
    root = tmp_path / "source"
    (root / "lib").mkdir(parents=True)
    (root / "instance-manager").write_bytes(b"x" * 2_000_000)
    return root


def test_one_line_says_what_was_done(source: Path, tmp_path: Path) -> None:
    """The second time, that nothing was to do."""
    first = install(source, str(tmp_path))
    second = install(source, str(tmp_path))

    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.startswith("install: done, version ")
    assert first.stdout.endswith("(2 MB)\n")
    assert (second.returncode, second.stderr) == (0, "")
    assert second.stdout.startswith("install: nothing to do, ")


def test_a_document_says_what_was_done(source: Path, tmp_path: Path) -> None:
    """An error is one, too."""
    done = json.loads(install(source, str(tmp_path), "--output", "json").stdout)
    failed = install(source, str(tmp_path / "nowhere"), "--output", "json")

    assert done["changed"] is True
    assert done["program"] == str(tmp_path / "instance-manager" / "instance-manager")
    assert done["size_bytes"] == 2_000_000
    assert failed.returncode == 2
    assert json.loads(failed.stdout)["error"]["code"] == "usage"


def test_a_full_disk_leaves_nothing(source: Path, tmp_path: Path) -> None:
    """Exit code 4, what is needed, and the directory as it was."""
    program = 'mount -t tmpfs -o size=1m none $1 && shift && trap "ls -A $DIR" EXIT && "$@"'
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(
        [
            *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", program, "sh"),
            *(str(place), sys.executable, "-c", PROGRAM, str(source), "install", str(place)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"DIR": str(place), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
    )

    assert done.returncode == 4
    assert done.stdout == ""
    assert "No space left on device\n  2 MB are needed" in done.stderr


def test_an_installation_refuses_with_the_way_out(tmp_path: Path) -> None:
    """The usual way to run it wrongly."""
    done = subprocess.run(
        [sys.executable, "-m", "instance_manager", "install", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 2
    assert "cannot install: this is an installation" in done.stderr
    assert "docs/manager-image.md" in done.stderr
