"""Where a build works, and the step that puts its result into its place."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path, PosixPath

import pytest

from instance_manager.images import placing


def made(place: Path, word: str) -> Path:
    place.mkdir(mode=0o700)
    (place / "word").write_text(word)
    return place


def test_at_no_moment_a_result_is_missing(tmp_path: Path) -> None:
    """Whoever reads it, or kills the build, finds the old one or the new one."""
    place, over = made(tmp_path / "result", "0"), threading.Event()
    missing: list[str] = []

    def look() -> None:
        while not over.is_set():
            if not place.exists():
                missing.append("gone")

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for number in range(1, 201):
            with placing.workplace(place) as work:
                placing.put(made(work / "new", str(number)), place)
    finally:
        over.set()
        watcher.join()

    assert missing == []
    assert (place / "word").read_text() == "200"
    assert place.stat().st_mode & 0o777 == 0o755
    assert [each.name for each in tmp_path.iterdir()] == ["result"]


def test_a_result_is_replaced_where_directories_cannot_be_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In two steps; where the second fails, the first is taken back."""
    monkeypatch.setattr(placing, "_exchange", lambda *_: False)
    place = made(tmp_path / "result", "old")

    with placing.workplace(place) as work:
        made(work / "new", "new")
        with pytest.raises(FileNotFoundError):
            placing.put(_Vanishing(work / "new"), place)
        assert (place / "word").read_text() == "old"
    with placing.workplace(place) as work:
        placing.put(made(work / "new", "new"), place)

    assert (place / "word").read_text() == "new"
    assert list(tmp_path.iterdir()) == [place]


def test_a_kill_between_the_two_steps_loses_nothing(tmp_path: Path) -> None:
    """The old result is beside its place, and stays there through the next build's beginning."""
    place = made(tmp_path / "result", "old")
    program = (
        "import os, pathlib, signal, sys\n"
        "from instance_manager.images import placing\n"
        "placing._exchange = lambda *_: False\n"
        "class Killing(type(pathlib.Path())):\n"
        "    def rename(self, target):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "place = pathlib.Path(sys.argv[1])\n"
        "with placing.workplace(place) as work:\n"
        "    (work / 'new').mkdir()\n"
        "    placing.put(Killing(work / 'new'), place)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(place)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL

    with placing.workplace(place):
        assert not place.exists()
        assert (tmp_path / ".result.replaced/word").read_text() == "old"


class _Vanishing(PosixPath):
    """A directory that is gone when it is moved."""

    def rename(self, target: str | os.PathLike[str]) -> _Vanishing:
        if self.name == "new":
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        return super().rename(target)


def test_what_a_killed_build_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    """Not where another build is at work, nor what only looks alike."""
    result = tmp_path / "result"
    left = made(tmp_path / ".result.building-left", "left")
    (left / "lock").touch()
    other = made(tmp_path / ".result.building-other", "of somebody")
    neighbour = made(tmp_path / ".results.building-x", "of another result")
    (neighbour / "lock").touch()

    with placing.workplace(result) as first, placing.workplace(result) as second:
        assert not left.exists()
        assert first.exists()
        assert second.exists()

    assert sorted(tmp_path.iterdir()) == [other, neighbour]


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    """What it leads to is nobody's to lock, and the directory is left."""
    (tmp_path / "elsewhere").touch()
    left = made(tmp_path / ".result.building-left", "left")
    (left / "lock").symlink_to(tmp_path / "elsewhere")

    with placing.workplace(tmp_path / "result"):
        pass

    assert left.exists()
