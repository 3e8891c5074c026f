"""What a cluster must be before a server is started on it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from instance_manager.errors import (
    DataDirectoryDamagedError,
    DataDirectoryError,
    DataDirectoryOwnerError,
    DataDirectoryVersionError,
    WalDirectoryError,
)
from instance_manager.postgres import before_start
from tests.support.control_files import SAMPLES


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """Return a directory with all that is looked at."""
    for name in ("global", "base", "pg_wal", "instance-manager"):
        (tmp_path / name).mkdir()
    (tmp_path / "PG_VERSION").write_text("18\n")
    (tmp_path / "global" / "pg_control").write_bytes(SAMPLES[18])
    (tmp_path / "pg_wal" / "000000010000000000000001").touch()
    return tmp_path


def test_a_whole_cluster_of_ours_is_usable(cluster: Path) -> None:
    """Nothing is written to find that out."""
    before = sorted(cluster.rglob("*"))
    before_start.require_usable(cluster, 18, None)

    assert sorted(cluster.rglob("*")) == before


def test_the_version_comes_before_damage_and_damage_before_wal(cluster: Path) -> None:
    """A server of another version can't judge the rest, and WAL of a torn cluster helps nobody."""
    (cluster / "pg_wal" / "000000010000000000000001").unlink()
    (cluster / "global" / "pg_control").write_bytes(b"")
    with pytest.raises(DataDirectoryVersionError):
        before_start.require_usable(cluster, 17, None)
    with pytest.raises(DataDirectoryDamagedError):
        before_start.require_usable(cluster, 18, None)
    (cluster / "global" / "pg_control").write_bytes(SAMPLES[18])
    with pytest.raises(WalDirectoryError):
        before_start.require_usable(cluster, 18, None)


@pytest.mark.parametrize("kind", ["missing", "link"])
def test_a_cluster_without_its_version_is_damaged(cluster: Path, kind: str) -> None:
    """The control file says that one is here; a link to nowhere is no version."""
    (cluster / "PG_VERSION").unlink()
    if kind == "link":
        (cluster / "PG_VERSION").symlink_to("nowhere")

    with pytest.raises(DataDirectoryDamagedError, match="PG_VERSION is missing"):
        before_start.require_usable(cluster, 18, None)


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["notes"], ": 'notes'"),
        (["c", "a", "b", "instance-manager", "d"], ": 'a', 'b', 'c', …"),
    ],
)
def test_foreign_files_are_neither_a_cluster_nor_nothing(
    tmp_path: Path, names: list[str], shown: str
) -> None:
    """They are named: somebody may need them."""
    for name in names:
        (tmp_path / name).mkdir()
    with pytest.raises(DataDirectoryError, match="holds no cluster") as caught:
        before_start.require_usable(tmp_path, 18, None)

    assert caught.value.message.endswith(shown)
    assert type(caught.value) is DataDirectoryError


if os.geteuid() == 0:  # only root can give a file away

    @pytest.mark.parametrize("name", ["PG_VERSION", "global", "global/pg_control", "base"])
    def test_a_file_of_another_user_is_named_with_the_command_that_helps(
        cluster: Path, name: str
    ) -> None:
        """A restore made by another user leaves such files in a directory of ours."""
        os.chown(cluster / name, 12345, 12345)
        with pytest.raises(DataDirectoryOwnerError) as caught:
            before_start.require_usable(cluster, 18, None)

        assert f"{str(cluster / name)!r}: it belongs to uid 12345" in caught.value.message
        mend = f"chown -R {os.geteuid()}:{os.getegid()} {cluster}"
        assert caught.value.hint.endswith(mend)

    def test_configuration_may_belong_to_another_user(cluster: Path) -> None:
        """Who may change the server's settings is the owner's choice."""
        (cluster / "postgresql.conf").write_text("")
        os.chown(cluster / "postgresql.conf", 12345, 12345)

        before_start.require_usable(cluster, 18, None)
