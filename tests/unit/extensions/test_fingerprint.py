from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from instance_manager.extensions.fingerprint import content_sha256

MakeVolume = Callable[..., Path]
FILES = {"share/extension/a.control": "x", "lib/a.so": b"\x7fELF", "empty/": ""}


def test_equal_volumes_have_equal_hashes(volume: MakeVolume) -> None:
    """Wherever they lie, whatever their names and times are."""
    first, second = volume("a", FILES), volume("b", FILES)
    os.utime(second / "lib/a.so", (1, 1))
    link = first.parent / "link"
    link.symlink_to(first)

    assert content_sha256(first) == content_sha256(second) == content_sha256(link)
    assert len(content_sha256(first)) == 64


@pytest.mark.parametrize("change", ["content", "mode", "name", "added", "removed", "link", "kind"])
def test_any_change_changes_the_hash(volume: MakeVolume, change: str) -> None:
    """Content, mode, names, links and kinds all count."""
    place = volume("a", FILES)
    library = place / "lib/a.so"
    (place / "lib/b.so").symlink_to("a.so")
    before = content_sha256(place)
    match change:
        case "content":
            library.write_bytes(b"\x7fELG")
        case "mode":
            library.chmod(0o600)
        case "name":
            library.rename(place / "lib/c.so")
        case "added":
            (place / "lib/new").mkdir()
        case "removed":
            (place / "empty").rmdir()
        case "link":
            (place / "lib/b.so").unlink()
            (place / "lib/b.so").symlink_to("c.so")
        case _:
            (place / "lib/b.so").unlink()
            (place / "lib/b.so").write_bytes(b"a.so")

    assert content_sha256(place) != before


def test_links_are_not_followed_and_fifos_not_opened(volume: MakeVolume) -> None:
    """A circle ends, a link to a huge tree costs nothing, and nothing blocks."""
    place = volume("a", FILES)
    (place / "up").symlink_to("..")
    (place / "proc").symlink_to("/proc")
    os.mkfifo(place / "fifo")

    assert content_sha256(place)


def test_a_volume_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """The caller says that it is not known."""
    with pytest.raises(FileNotFoundError):
        content_sha256(tmp_path / "none")
