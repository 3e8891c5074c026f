from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from instance_manager.extensions.discovery import discover

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from instance_manager.extensions.facts import VolumeFacts

NOBODY = 65534


def _obstacles(volume: VolumeFacts) -> list[str]:
    return [f"{each.code} {each.message}" for each in volume.obstacles]


@pytest.fixture
def reachable() -> Iterator[Path]:
    """Yield a directory that everybody can reach, unlike pytest's own."""
    directory = Path(tempfile.mkdtemp(dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    for path in (directory, *directory.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(directory)


@pytest.fixture
def unprivileged() -> Iterator[Callable[[], None]]:
    """Yield a switch to a user for whom file modes count."""

    def switch() -> None:
        if os.geteuid() == 0:
            os.seteuid(NOBODY)

    yield switch
    os.seteuid(os.getuid())


def test_volumes_behind_a_root_that_can_not_be_searched_are_findings(
    reachable: Path, unprivileged: Callable[[], None]
) -> None:
    """Their names can be seen and nothing else."""
    (reachable / "a").mkdir()
    (reachable / "b").symlink_to("a")
    reachable.chmod(0o444)
    unprivileged()

    volumes = discover(reachable, []).volumes

    assert [_obstacles(volume) for volume in volumes] == [
        [f"EXT006 {reachable}/a is not readable: Permission denied"],
        [f"EXT006 {reachable}/b is not readable: Permission denied"],
    ]


def test_what_the_user_can_not_read_is_a_finding(
    reachable: Path, unprivileged: Callable[[], None], module: bytes
) -> None:
    """Files and directories alike, with the user's number; nothing raises."""
    files = {"a/share/extension/x.control": b"comment = x", "a/lib/x.so": module}
    for name, content in files.items():
        (reachable / name).parent.mkdir(parents=True)
        (reachable / name).write_bytes(content)
        (reachable / name).chmod(0)
    (reachable / "a/system").mkdir(mode=0)
    (reachable / "b").mkdir(mode=0)
    (reachable / "b").chmod(0)
    (reachable / "a/system").chmod(0)
    unprivileged()

    first, second = discover(reachable, []).volumes

    reason = f"is not readable by the server's user (uid {os.geteuid()})"
    assert _obstacles(first) == [
        f"EXT006 {name} {reason}" for name in ("share/extension/x.control", "lib/x.so", "system")
    ]
    assert {each.code for each in second.obstacles} == {"EXT006"}
