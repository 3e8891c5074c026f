"""A bootstrap that is stopped anywhere leaves nothing or a whole cluster.

The moves run for real, on a directory. A stop is made after each call of the operating system:
the interpreter's profiling hook sees the calls return, and raises where the power would go off.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import pytest

from instance_manager.errors import DataDirectoryError
from instance_manager.postgres import marker
from instance_manager.postgres.data_directory import OurFiles, is_empty
from instance_manager.postgres.marker import Marker

CLUSTER = {
    "PG_VERSION": "18\n",
    "base/1/112": "a table",
    "base/5/112": "another one",
    "global/pg_control": "the control file",
    "global/1262": "databases",
    "pg_hba.conf": "rules",
    "postgresql.conf": "parameters",
}
STEPS = frozenset({"rename", "unlink", "rmdir", "fsync", "mkdir"})
"""Calls that change what is on the disk, or make it last."""


class PowerOffError(BaseException):
    """Here everything stops; not an Exception, so that nobody handles it."""


@contextlib.contextmanager
def power_off_when(condition: Callable[[list[str]], bool]) -> Iterator[list[str]]:
    """Stop the body when the condition holds for the calls made; yield their names."""
    made: list[str] = []

    def watch(_: FrameType, event: str, called: object) -> None:
        name = getattr(called, "__name__", "")
        if event == "c_return" and name in STEPS:
            made.append(name)
            if condition(made):
                raise PowerOffError

    sys.setprofile(watch)
    try:
        yield made
    except PowerOffError:
        pass
    finally:
        sys.setprofile(None)


def after(calls: int) -> Callable[[list[str]], bool]:
    return lambda made: len(made) == calls


@dataclass(frozen=True)
class Site:
    """A data directory with a new cluster in its building place, and a WAL directory."""

    files: OurFiles
    wal: Path
    marker: Marker

    @classmethod
    def make(cls, directory: Path) -> Site:
        """Lay it out as initdb leaves it, the link to the WAL directory included."""
        files, wal = OurFiles(directory / "data"), directory / "wal"
        wal.mkdir(parents=True)
        for name, content in CLUSTER.items():
            (files.new_cluster / name).parent.mkdir(parents=True, exist_ok=True)
            (files.new_cluster / name).write_text(content)
        (wal / "000000010000000000000001").write_text("records")
        (files.new_cluster / "pg_wal").symlink_to(wal)
        begun = Marker(str(wal))
        marker.write(files, begun)
        return cls(files, wal, begun)

    def outcome(self) -> str:
        """Say what a start finds: nothing, a whole cluster, or the difference."""
        directory = self.files.data_directory
        ours = {entry.name for entry in self.files.directory.iterdir()}
        if ours:
            return f"left in our directory: {sorted(ours)}"
        if is_empty(directory):
            return "nothing" if not any(self.wal.iterdir()) else "WAL is left"
        found = {
            str(path.relative_to(directory)): path.read_text()
            for path in directory.rglob("*")
            if path.is_file() and not path.is_relative_to(directory / "pg_wal")
        }
        linked = (directory / "pg_wal").readlink() == self.wal and any(self.wal.iterdir())
        return "whole" if linked and found == CLUSTER else f"in between: {sorted(found)}"


def stopped_sites(
    directory: Path, body: Callable[[Site], object], prepare: Callable[[Site], object]
) -> Iterator[tuple[list[str], Site]]:
    """Yield a site for each call after which *body* can be stopped; the last one runs through."""
    calls = 0
    while True:
        calls += 1
        site = Site.make(directory / str(calls))
        prepare(site)
        with power_off_when(after(calls)) as made:
            body(site)
        yield made, site
        if len(made) < calls:
            return


def move_up(site: Site) -> None:
    marker.move_up(site.files, site.marker)


def recover(site: Site) -> None:
    while marker.recover(site.files):
        pass


def discard_temporary(site: Site) -> None:
    """Forget a marker that was not in its place yet: the next one replaces it."""
    site.files.marker.with_suffix(".tmp").unlink(missing_ok=True)


def test_a_stop_after_any_step_of_the_moves_leaves_nothing_or_a_whole_cluster(
    tmp_path: Path,
) -> None:
    """Once the control file has arrived everything is kept; before that, nothing."""
    seen: list[str] = []
    for made, site in stopped_sites(tmp_path, move_up, lambda _: None):
        arrived = (site.files.data_directory / "global" / "pg_control").exists()
        recover(site)
        discard_temporary(site)

        assert site.outcome() == ("whole" if arrived else "nothing"), made
        seen.append(site.outcome())
    assert len(seen) > len(marker_entries())
    assert seen == sorted(seen), "nothing first, and whole from one step on"
    assert {seen[0], seen[-1]} == {"nothing", "whole"}


@pytest.mark.parametrize("stage", ["built", "moving", "arrived"])
def test_a_stop_in_the_middle_of_the_recovery_is_recovered_too(tmp_path: Path, stage: str) -> None:
    """Whatever was half taken back, or half finished, goes the same way in the end."""

    def reach(site: Site) -> None:
        data = site.files.data_directory
        target = {"moving": data / "global", "arrived": data / "global" / "pg_control"}.get(stage)
        if target is not None:
            with power_off_when(lambda _: target.exists()):
                move_up(site)
            assert target.exists()

    expected = "whole" if stage == "arrived" else "nothing"
    for made, site in stopped_sites(tmp_path, lambda site: marker.recover(site.files), reach):
        recover(site)
        discard_temporary(site)

        assert site.outcome() == expected, made


def test_every_step_is_durable_before_the_next_one(tmp_path: Path) -> None:
    """The marker is synced before the first move, the moves before the control file's."""
    site = Site.make(tmp_path)
    with power_off_when(lambda _: False) as made:
        move_up(site)
    moves = f"(rename ){{{len(marker_entries())}}}"

    assert re.fullmatch(
        "rename (fsync )+"  # the control file is laid aside; the marker's content
        "rename (fsync )+"  # the marker's name
        f"{moves}(fsync )+"
        "rename (fsync )+"  # the control file
        "rmdir unlink (fsync )+",  # the building place, and then the marker
        " ".join([*made, ""]),
    ), made


def marker_entries() -> set[str]:
    """Return the names in a new cluster's directory."""
    return {name.partition("/")[0] for name in CLUSTER} | {"pg_wal"}


def test_without_a_marker_nothing_is_touched(tmp_path: Path) -> None:
    """A cluster that stands is left alone."""
    site = Site.make(tmp_path)
    move_up(site)

    assert marker.recover(site.files) is False
    assert site.outcome() == "whole"


def test_a_marker_survives_being_written_and_read(tmp_path: Path) -> None:
    """Names are kept as they are, whatever they hold."""
    files = OurFiles(tmp_path)
    files.directory.mkdir()
    for each in (Marker(None), Marker("/wal", ("base", "a b", "ü", "-rf"))):
        marker.write(files, each)

        assert marker.read(files) == each


def test_lost_and_found_and_foreign_files_are_never_taken_back(tmp_path: Path) -> None:
    """Only what the marker names is removed."""
    site = Site.make(tmp_path)
    (site.files.data_directory / "lost+found").mkdir()
    (site.files.data_directory / "notes").write_text("theirs")
    marker.write(site.files, Marker(str(site.wal), ("base", "PG_VERSION")))
    recover(site)

    left = {entry.name for entry in site.files.data_directory.iterdir()}
    assert left == {"lost+found", "notes", "instance-manager"}


def test_a_link_is_removed_and_what_it_leads_to_is_not(tmp_path: Path) -> None:
    """A named entry that is a link costs the link alone."""
    site = Site.make(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").write_text("theirs")
    (site.files.data_directory / "base").symlink_to(tmp_path / "elsewhere")
    (site.wal / "link").symlink_to(tmp_path / "elsewhere")
    marker.write(site.files, Marker(str(site.wal), ("base",)))
    recover(site)

    assert site.outcome() == "nothing"
    assert (tmp_path / "elsewhere" / "kept").read_text() == "theirs"


def test_a_wal_directory_that_is_gone_is_no_hindrance(tmp_path: Path) -> None:
    """A volume that was taken away is empty enough."""
    site = Site.make(tmp_path)
    marker.write(site.files, Marker(str(tmp_path / "gone")))
    recover(site)

    assert is_empty(site.files.data_directory)


def test_taking_back_never_leaves_the_name_of_a_cluster_without_the_marker(
    tmp_path: Path,
) -> None:
    """Alone in an empty directory, it would say that a cluster was lost there."""

    def know(site: Site) -> None:
        site.files.instance.write_text("{}")

    for _, site in stopped_sites(tmp_path, recover, know):
        assert site.files.marker.exists() or not site.files.instance.exists()


def test_finishing_keeps_the_name_of_the_cluster(tmp_path: Path) -> None:
    """Where everything has arrived, only the marker goes."""
    site = Site.make(tmp_path)
    site.files.instance.write_text("{}")
    move_up(site)
    marker.write(site.files, Marker(None, ("PG_VERSION", "base", "global")))
    recover(site)

    assert site.files.instance.exists()
    assert (site.files.data_directory / "PG_VERSION").exists()


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../victim", "/etc", "base/..", "instance-manager", "a\0b", 7, None, ["base"]],
)
def test_a_marker_that_names_anything_but_an_entry_is_refused(
    tmp_path: Path, name: object
) -> None:
    """A hostile or damaged marker removes nothing, and its file is named."""
    site = Site.make(tmp_path)
    (tmp_path / "victim").write_text("theirs")
    site.files.marker.write_text(json.dumps({"wal_directory": None, "entries": ["base", name]}))

    with pytest.raises(DataDirectoryError, match=r"bootstrap\.json"):
        marker.recover(site.files)
    assert (tmp_path / "victim").exists()
    assert (site.files.new_cluster / "PG_VERSION").exists()


@pytest.mark.parametrize("wal", [7, ["wal"], {"wal": 1}, True, "relative", "", "."])
def test_a_marker_whose_wal_directory_is_no_absolute_path_is_refused(
    tmp_path: Path, wal: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would be emptied must be certain: a relative path depends on where we stand."""
    site = Site.make(tmp_path / "site")
    (tmp_path / "here" / "relative").mkdir(parents=True)
    (tmp_path / "here" / "relative" / "kept").write_text("theirs")
    monkeypatch.chdir(tmp_path / "here")
    site.files.marker.write_text(json.dumps({"wal_directory": wal, "entries": []}))

    with pytest.raises(DataDirectoryError, match=r"bootstrap\.json"):
        marker.recover(site.files)
    assert (tmp_path / "here" / "relative" / "kept").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b"{}",
        b'{"wal_directory": null}',
        b'{"entries": []}',
        b'{"wal_directory": null, "entries": null}',
        b'{"wal_directory": null, "entries": "base"}',
        b"\xff\xfe",
        pytest.param(b"[" * 100_000, id="nested too deeply"),
    ],
)
def test_a_marker_that_can_not_be_understood_is_refused(tmp_path: Path, content: bytes) -> None:
    """Nothing is guessed: a person must look, and the way out is said."""
    site = Site.make(tmp_path)
    site.files.marker.write_bytes(content)

    with pytest.raises(DataDirectoryError) as caught:
        marker.recover(site.files)
    assert str(site.files.marker) in caught.value.message
    assert "empty it" in caught.value.hint
    assert (site.files.new_cluster / "PG_VERSION").exists()


def test_a_directory_in_place_of_the_marker_is_refused(tmp_path: Path) -> None:
    """It is no marker, and not ours to remove."""
    files = OurFiles(tmp_path)
    files.marker.mkdir(parents=True)

    with pytest.raises(DataDirectoryError, match="Is a directory"):
        marker.recover(files)
    assert files.marker.is_dir()
