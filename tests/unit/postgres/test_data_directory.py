"""The data directory: made, mended, and refused with the way out."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from instance_manager.errors import (
    DataDirectoryDamagedError,
    DataDirectoryError,
    DataDirectoryOwnerError,
    DataDirectoryVersionError,
)
from instance_manager.postgres import data_directory

STRANGER = 12345


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def give_away(path: Path) -> None:
    """Make the path another user's; only root can."""
    os.chown(path, STRANGER, STRANGER)


def test_missing_directories_are_made_for_their_owner_alone(tmp_path: Path) -> None:
    """Above the data directory as the umask says, it and ours closed to others."""
    files = data_directory.prepare(tmp_path / "a" / "b" / "data")

    assert mode(files.data_directory) == 0o700
    assert mode(files.directory) == 0o700
    assert files.directory == files.data_directory / "instance-manager"


def test_preparing_twice_changes_nothing(tmp_path: Path) -> None:
    """A second start finds what the first one made."""
    files = data_directory.prepare(tmp_path / "data")
    (files.directory / "kept").write_text("")

    assert data_directory.prepare(tmp_path / "data") == files
    assert (files.directory / "kept").exists()


@pytest.mark.parametrize("wrong", [0o2770, 0o770, 0o777, 0o755, 0o2750, 0o1777, 0o701])
def test_a_mode_that_postgres_refuses_is_repaired_and_said_so(tmp_path: Path, wrong: int) -> None:
    """A volume driver that sets group bits and set-gid does not keep the server from starting."""
    directory = tmp_path / "data"
    directory.mkdir()
    directory.chmod(wrong)
    with capture_logs() as lines:
        data_directory.prepare(directory)

    assert mode(directory) == 0o700
    assert [line["was"] for line in lines] == [f"{wrong:04o}"]
    assert lines[0]["log_level"] == "warning"


@pytest.mark.parametrize("right", [0o700, 0o750])
def test_a_mode_that_postgres_accepts_is_left_alone(tmp_path: Path, right: int) -> None:
    """A group that may read is the owner's choice."""
    directory = tmp_path / "data"
    directory.mkdir()
    directory.chmod(right)

    with capture_logs() as lines:
        data_directory.prepare(directory)
    assert lines == []
    assert mode(directory) == right


if os.geteuid() == 0:  # only root can give a directory away

    @pytest.mark.parametrize("place", ["data", "data/instance-manager"])
    def test_a_directory_of_another_user_is_refused_with_the_way_there(
        tmp_path: Path, place: str
    ) -> None:
        """Both owners and every directory above are in the message."""
        (tmp_path / "data" / "instance-manager").mkdir(parents=True)
        give_away(tmp_path / place)

        with pytest.raises(DataDirectoryOwnerError) as caught:
            data_directory.prepare(tmp_path / "data")
        assert f"{str(tmp_path / place)!r}: it belongs to uid {STRANGER}" in caught.value.message
        assert f"would run as uid {os.geteuid()}" in caught.value.message
        assert f"run as uid {STRANGER}" in caught.value.hint
        assert f"{tmp_path} ({os.geteuid()}:{os.getegid()} 0700)" in caught.value.hint


if os.geteuid() == 0:  # only root can give a directory away

    def test_a_directory_of_another_user_is_not_mended(tmp_path: Path) -> None:
        """Refused is untouched: neither its mode is changed nor anything made in it."""
        directory = tmp_path / "data"
        directory.mkdir()
        directory.chmod(0o777)
        give_away(directory)

        with pytest.raises(DataDirectoryError):
            data_directory.prepare(directory)
        assert mode(directory) == 0o777
        assert list(directory.iterdir()) == []


@pytest.mark.parametrize("place", ["data", "data/instance-manager", "above/data"])
def test_a_file_in_the_way_is_refused(tmp_path: Path, place: str) -> None:
    """It is named with its reason, and stays."""
    blocker = tmp_path / place.replace("above/data", "above")
    blocker.parent.mkdir(exist_ok=True)
    blocker.write_text("theirs")
    directory = tmp_path / ("above/data" if place.startswith("above") else "data")

    with pytest.raises(DataDirectoryError, match="cannot make directory") as caught:
        data_directory.prepare(directory)
    assert str(tmp_path) in caught.value.hint
    assert blocker.read_text() == "theirs"


def test_a_link_to_nowhere_is_refused(tmp_path: Path) -> None:
    """A volume that is not there yet is not replaced by a directory beside it."""
    (tmp_path / "data").symlink_to(tmp_path / "volume" / "data")

    with pytest.raises(DataDirectoryError):
        data_directory.prepare(tmp_path / "data")
    assert not (tmp_path / "volume").exists()


def test_a_link_to_a_directory_is_a_data_directory(tmp_path: Path) -> None:
    """Where it leads is prepared; the link stays."""
    (tmp_path / "volume").mkdir(mode=0o755)
    (tmp_path / "data").symlink_to(tmp_path / "volume")
    data_directory.prepare(tmp_path / "data")

    assert (tmp_path / "data").is_symlink()
    assert mode(tmp_path / "volume") == 0o700
    assert (tmp_path / "volume" / "instance-manager").is_dir()


def test_a_link_in_the_place_of_our_own_directory_is_refused(tmp_path: Path) -> None:
    """What is ours is inside the data directory, and nowhere else."""
    (tmp_path / "data").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data" / "instance-manager").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(DataDirectoryError, match="instance-manager"):
        data_directory.prepare(tmp_path / "data")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_the_way_to_a_path_shows_owner_group_and_mode_of_each_step(tmp_path: Path) -> None:
    """It begins at the root and ends at the path."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a").chmod(0o2751)
    steps = data_directory.chain_of(tmp_path / "a").split(" > ")

    assert steps[0].startswith("/ (")
    assert steps[-1] == f"{tmp_path / 'a'} ({os.geteuid()}:{os.getegid()} 2751)"
    assert len(steps) == len((tmp_path / "a").parts)


def test_the_way_to_a_path_ends_where_it_breaks_off(tmp_path: Path) -> None:
    """What is beyond a missing step can't be told."""
    steps = data_directory.chain_of(tmp_path / "missing" / "data").split(" > ")

    assert steps[-1] == f"{tmp_path / 'missing'} (No such file or directory)"


@pytest.mark.parametrize(
    ("names", "empty"),
    [
        ([], True),
        (["lost+found"], True),
        (["instance-manager"], True),
        (["lost+found", "instance-manager"], True),
        ([".snapshot"], False),
        (["PG_VERSION"], False),
        (["lost+found", "base"], False),
        (["instance-manager.old"], False),
    ],
)
def test_only_lost_and_found_and_what_is_ours_count_as_empty(
    tmp_path: Path, names: list[str], empty: bool
) -> None:
    """Anything else may be somebody's data, whatever it is called."""
    for name in names:
        (tmp_path / name).mkdir()

    assert data_directory.is_empty(tmp_path) is empty


def test_a_link_to_nowhere_is_not_empty(tmp_path: Path) -> None:
    """It is something that somebody put there."""
    (tmp_path / "pg_wal").symlink_to("nowhere")

    assert not data_directory.is_empty(tmp_path)


@pytest.mark.parametrize(("text", "major"), [("18\n", 18), ("15", 15), ("9.6\n", 9)])
def test_the_major_version_is_the_first_number_of_the_file(
    tmp_path: Path, text: str, major: int
) -> None:
    """As initdb writes it, in every age."""
    (tmp_path / "PG_VERSION").write_text(text)

    assert data_directory.major_of(tmp_path) == major


def test_no_file_is_no_cluster(tmp_path: Path) -> None:
    """An empty directory has no version, and any server may use it."""
    assert data_directory.major_of(tmp_path) is None
    assert not data_directory.has_cluster(tmp_path)
    data_directory.require_major(tmp_path, 18)


@pytest.mark.parametrize(
    "content", [b"", b"eighteen", b"1_8", b"-18", b"\xff\xfe", "\u0661\u0668".encode()]
)
def test_a_version_that_is_none_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    """A damaged cluster is told from none."""
    (tmp_path / "PG_VERSION").write_bytes(content)

    with pytest.raises(DataDirectoryDamagedError, match=r"cannot read '.*/PG_VERSION'"):
        data_directory.major_of(tmp_path)
    assert data_directory.has_cluster(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=100))
def test_any_version_file_is_understood_or_refused(tmp_path: Path, content: bytes) -> None:
    """Nothing but the error for damage comes of it."""
    (tmp_path / "PG_VERSION").write_bytes(content)
    try:
        major = data_directory.major_of(tmp_path)
    except DataDirectoryDamagedError:
        return
    assert content.strip().startswith(str(major)[:1].encode())


def test_another_major_version_is_refused_with_both(tmp_path: Path) -> None:
    """The way out is the other image, or an upgrade."""
    (tmp_path / "PG_VERSION").write_text("17\n")
    data_directory.require_major(tmp_path, 17)

    with pytest.raises(DataDirectoryVersionError, match="of PostgreSQL 17, the server is 18"):
        data_directory.require_major(tmp_path, 18)


@pytest.mark.parametrize("above", ["", "above", "above/more"])
def test_a_cluster_in_any_directory_above_is_never_hidden(tmp_path: Path, above: str) -> None:
    """However far above it lies, both places are named."""
    (tmp_path / "above" / "more").mkdir(parents=True)
    (tmp_path / above / "PG_VERSION").write_text("18\n")
    wanted = tmp_path / "above" / "more" / "data"

    with pytest.raises(DataDirectoryError) as caught:
        data_directory.require_no_data_nearby(wanted)
    assert repr(str(wanted)) in caught.value.message
    assert repr(str(tmp_path / above)) in caught.value.message
    assert repr(str(tmp_path / above)) in caught.value.hint


def test_a_version_file_that_leads_nowhere_is_a_cluster_too(tmp_path: Path) -> None:
    """A volume that is not mounted now is data all the same."""
    (tmp_path / "PG_VERSION").symlink_to("nowhere")

    with pytest.raises(DataDirectoryError):
        data_directory.require_no_data_nearby(tmp_path / "data")


def test_the_data_directory_itself_and_its_neighbours_are_not_nearby(tmp_path: Path) -> None:
    """A cluster of its own hides nothing."""
    for name in ("data", "neighbour"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "PG_VERSION").write_text("18\n")

    data_directory.require_no_data_nearby(tmp_path / "data")


@pytest.mark.parametrize("holder", ["real", "named"])
def test_a_link_hides_no_cluster_above_either_end(tmp_path: Path, holder: str) -> None:
    """Neither above the name that was given, nor above the place where it leads."""
    (tmp_path / "real" / "data").mkdir(parents=True)
    (tmp_path / "named").mkdir()
    (tmp_path / "named" / "data").symlink_to(tmp_path / "real" / "data")
    (tmp_path / holder / "PG_VERSION").write_text("18\n")

    with pytest.raises(DataDirectoryError, match=str(tmp_path / holder)):
        data_directory.require_no_data_nearby(tmp_path / "named" / "data")


def test_a_configured_directory_is_taken_as_it_is(tmp_path: Path) -> None:
    """Nobody else's cluster changes what a setting says."""
    assert data_directory.resolve(tmp_path / "data") == tmp_path / "data"
