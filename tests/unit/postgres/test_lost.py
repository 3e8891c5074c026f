"""An empty directory that was not always so is never filled with a new cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from instance_manager.errors import DataDirectoryLostError
from instance_manager.postgres import data_directory, lost
from instance_manager.postgres.data_directory import OurFiles

SEGMENT = "000000010000000000000001"
KNOWN = {"system_identifier": "7300000000000000001", "instance": "pg-0", "made_here": True}


@pytest.fixture
def files(tmp_path: Path) -> OurFiles:
    """Return the files of ours in a data directory that holds nothing else."""
    return data_directory.prepare(tmp_path / "data")


def test_a_directory_that_nobody_used_is_free(files: OurFiles, tmp_path: Path) -> None:
    """A WAL directory that is missing or empty says nothing."""
    lost.require_never_used(files, None)
    lost.require_never_used(files, tmp_path / "wal")
    (tmp_path / "wal").mkdir()
    (tmp_path / "wal" / "lost+found").mkdir()
    lost.require_never_used(files, tmp_path / "wal")


def test_our_own_file_says_that_a_cluster_lived_here(files: OurFiles) -> None:
    """It is named with the cluster, and removing it is the way to a new one."""
    files.instance.write_text(json.dumps(KNOWN))
    with pytest.raises(DataDirectoryLostError, match="cluster 7300000000000000001") as caught:
        lost.require_never_used(files, None)

    assert caught.value.exit_code == 7
    assert f"rm {files.instance}" in caught.value.hint
    files.instance.unlink()
    lost.require_never_used(files, None)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "\x00"])
def test_our_own_file_counts_also_where_it_can_not_be_read(files: OurFiles, content: str) -> None:
    """That it is there is enough: better a question too many."""
    files.instance.write_text(content)

    with pytest.raises(DataDirectoryLostError, match="a cluster lived here"):
        lost.require_never_used(files, None)


def test_wal_in_the_configured_directory_says_that_its_data_is_missing(
    files: OurFiles, tmp_path: Path
) -> None:
    """Data and WAL go together: one without the other is a volume that is not mounted."""
    (tmp_path / "wal").mkdir()
    (tmp_path / "wal" / SEGMENT).touch()
    with pytest.raises(DataDirectoryLostError, match=f"such as '{SEGMENT}'") as caught:
        lost.require_never_used(files, tmp_path / "wal")

    assert "mount the volume of the data" in caught.value.hint


def test_a_directory_that_held_a_cluster_may_not_become_empty_or_go(files: OurFiles) -> None:
    """Whatever else is left in it, such as what is ours."""
    with pytest.raises(DataDirectoryLostError, match="it is empty"):
        lost.require_not_vanished(files.data_directory)
    (files.data_directory / "PG_VERSION").touch()
    lost.require_not_vanished(files.data_directory)

    files.data_directory.rename(files.data_directory.with_name("moved"))
    with pytest.raises(DataDirectoryLostError, match="it is gone"):
        lost.require_not_vanished(files.data_directory)
    assert not files.data_directory.exists()
