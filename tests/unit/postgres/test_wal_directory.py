"""``pg_wal``: there, the right one, and usable, or refused with what helps."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from instance_manager.errors import WalDirectoryError
from instance_manager.postgres import wal_directory

SEGMENT = "00000001000000000000002A"
MIB = 1024 * 1024


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a data directory whose WAL lies inside, with one segment."""
    (tmp_path / "data" / "pg_wal").mkdir(parents=True)
    (tmp_path / "data" / "pg_wal" / SEGMENT).touch()
    return tmp_path / "data"


def refusal(data: Path, configured: Path | None = None) -> WalDirectoryError:
    """Return the error that the directory is refused with."""
    with pytest.raises(WalDirectoryError) as caught:
        wal_directory.require_in_place(data, configured)
    assert caught.value.exit_code == 7
    assert str(data / "pg_wal") in caught.value.message
    return caught.value


def move_wal(data: Path, name: str = "volume") -> Path:
    """Move the WAL elsewhere, with a link in its place; return where it is."""
    target = data.parent / name
    (data / "pg_wal").rename(target)
    (data / "pg_wal").symlink_to(target)
    return target


def test_wal_inside_or_behind_a_link_is_accepted(data: Path) -> None:
    """Both are what initdb makes."""
    wal_directory.require_in_place(data, None)
    target = move_wal(data)
    wal_directory.require_in_place(data, None)
    wal_directory.require_in_place(data, target)
    wal_directory.require_writable(data)


def test_the_configured_directory_may_have_another_name(data: Path) -> None:
    """Links lead to one place by many paths."""
    target = move_wal(data)
    (data.parent / "alias").symlink_to(target)

    wal_directory.require_in_place(data, data.parent / "alias")


def test_a_missing_directory_is_refused(data: Path) -> None:
    """Postgres would refuse it too, but only in its log."""
    (data / "pg_wal").rename(data.parent / "gone")

    assert refusal(data).message.endswith("it is missing")
    assert "backup" in refusal(data).hint


def test_a_missing_link_to_configured_wal_is_made_by_the_hint(data: Path) -> None:
    """The command is ready to be used."""
    target = data.parent / "a volume"
    (data / "pg_wal").rename(target)
    command = refusal(data, target).hint.removeprefix("make the link again: ")
    assert shlex.split(command) == ["ln", "-s", str(target), str(data / "pg_wal")]
    (data / "pg_wal").symlink_to(target)

    wal_directory.require_in_place(data, target)


def test_a_link_that_leads_nowhere_names_both_ends(data: Path) -> None:
    """The volume is not mounted, or was moved."""
    move_wal(data).rename(data.parent / "moved")
    error = refusal(data)

    assert f"a link to {str(data.parent / 'volume')!r}, which is not there" in error.message
    assert "mount the volume of the WAL" in error.hint
    assert f"ln -sfn NEW_PLACE {data / 'pg_wal'}" in error.hint


def test_a_link_to_itself_and_a_file_are_refused(data: Path) -> None:
    """Whatever it is, it is named with the reason."""
    (data / "pg_wal").rename(data.parent / "gone")
    (data / "pg_wal").symlink_to("pg_wal")
    assert "symbolic links" in refusal(data).message
    (data / "pg_wal").unlink()
    (data / "pg_wal").write_text("")
    assert "Not a directory" in refusal(data).message


@pytest.mark.parametrize("content", [[], ["lost+found"], ["archive_status", "summaries"]])
def test_a_directory_without_a_segment_is_an_empty_volume(data: Path, content: list[str]) -> None:
    """What a new file system or the server's first step leaves there is no WAL."""
    target = move_wal(data)
    (target / SEGMENT).unlink()
    for name in content:
        (target / name).mkdir()
    error = refusal(data)

    assert error.message.endswith(f"({target}): it holds no WAL segment")
    assert "an empty volume may be mounted there" in error.hint


@pytest.mark.parametrize("signal", ["standby.signal", "recovery.signal"])
def test_wal_that_comes_from_elsewhere_need_not_be_here(data: Path, signal: str) -> None:
    """A backup without WAL is restored from an archive, or streams it."""
    (data / "pg_wal" / SEGMENT).unlink()
    (data / signal).touch()

    wal_directory.require_in_place(data, None)


def test_another_directory_than_the_configured_one_is_refused(data: Path) -> None:
    """A setting that has no effect is no setting: the commands that move the WAL are said."""
    configured = data.parent / "the volume"
    error = refusal(data, configured)

    assert error.message == (
        f"cannot use WAL directory {str(data / 'pg_wal')!r}: postgres.wal_directory is"
        f" {str(configured)!r}"
    )
    assert error.hint.startswith("unset postgres.wal_directory, or move the WAL: cp -a ")


@pytest.mark.parametrize(
    ("name", "is_segment"),
    [
        (SEGMENT, True),
        (SEGMENT.lower(), False),
        (f"{SEGMENT}.partial", False),
        ("00000002.history", False),
        ("xlogtemp.42", False),
        (SEGMENT + "0", False),
    ],
)
def test_only_the_name_of_a_segment_is_one(tmp_path: Path, name: str, is_segment: bool) -> None:
    """Histories, labels and temporary files are no WAL."""
    (tmp_path / name).touch()

    assert (wal_directory.first_segment(tmp_path) is not None) is is_segment


def test_a_place_that_is_not_there_holds_no_segment(tmp_path: Path) -> None:
    """A configured directory may be made by a new cluster."""
    assert wal_directory.first_segment(tmp_path / "missing") is None


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1 * MIB, 1 * MIB),
        (64 * MIB, 64 * MIB),
        (1024 * MIB, 1024 * MIB),
        (0, 16 * MIB),
        (512, 16 * MIB),
        (3 * MIB, 16 * MIB),
        (2048 * MIB, 16 * MIB),
    ],
)
def test_the_size_of_a_segment_is_that_of_one_that_is_there(
    tmp_path: Path, size: int, expected: int
) -> None:
    """A size that initdb does not allow is that of a broken file."""
    assert wal_directory.segment_bytes(tmp_path) == 16 * MIB
    with (tmp_path / SEGMENT).open("wb") as file:
        file.truncate(size)

    assert wal_directory.segment_bytes(tmp_path) == expected


if os.geteuid() == 0:  # only root can give a file away

    def test_a_segment_of_another_user_is_refused_by_name(data: Path) -> None:
        """A restore by another user leaves such files in a directory of ours."""
        os.chown(data / "pg_wal" / SEGMENT, 12345, 12345)
        with pytest.raises(WalDirectoryError, match=f"'{SEGMENT}' belongs to uid 12345") as caught:
            wal_directory.require_writable(data)

        assert f"chown -RH {os.geteuid()}:{os.getegid()} {data / 'pg_wal'}" in caught.value.hint

else:  # root may write everything

    @pytest.mark.parametrize("mode", [0o500, 0o600])
    def test_a_directory_that_can_not_be_written_is_refused(data: Path, mode: int) -> None:
        """Owner and mode are named."""
        (data / "pg_wal").chmod(mode)
        with pytest.raises(WalDirectoryError, match=f"mode {mode:04o}"):
            wal_directory.require_writable(data)
        (data / "pg_wal").chmod(0o700)

    def test_a_directory_that_can_not_be_read_is_refused(data: Path) -> None:
        """Whether WAL is there can't be told."""
        (data / "pg_wal").chmod(0o300)
        assert "has mode 0300" in refusal(data).message
        (data / "pg_wal").chmod(0o700)
