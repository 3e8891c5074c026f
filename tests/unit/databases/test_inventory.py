from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instance_manager.databases import inventory as room
from instance_manager.databases.facts import Database, Installed, Inventory, Library, Override
from instance_manager.postgres.data_directory import OurFiles

KEPT = Inventory(
    "2026-01-01T00:00:00+00:00",
    (
        Database(
            "app",
            16384,
            (Installed("vector", "0.8.0", "public"),),
            (Library("$libdir/vector", "vector", ("hnsw",), ("c",)), Library("/x.so")),
        ),
        Database("lost", 5, problems=("it is damaged",)),
    ),
    (Override("dynamic_library_path", "/x", None, "somebody"),),
)
READ = KEPT._replace(databases=(KEPT.databases[0], Database("lost", 5)))


@pytest.fixture
def files(tmp_path: Path) -> OurFiles:
    """Return the files of a data directory that has no cluster."""
    files = OurFiles(tmp_path)
    files.directory.mkdir()
    return files


def test_what_is_kept_is_read_again(files: OurFiles) -> None:
    """All of it but what went wrong; the same again leaves the file alone."""
    assert room.load(files, "pg-0") is None
    assert room.store(files, "pg-0", KEPT)
    assert room.load(files, "pg-0") == READ
    status = files.inventory.stat()

    assert not room.store(files, "pg-0", READ)
    assert files.inventory.stat() == status
    assert status.st_mode & 0o777 == 0o600


def test_another_name_in_the_same_directory_is_the_same_instance(files: OurFiles) -> None:
    """A container's name is new each time."""
    room.store(files, "pg-0", KEPT)

    assert room.load(files, "pg-1") == READ


def test_a_copy_under_another_name_is_foreign(files: OurFiles, tmp_path: Path) -> None:
    """The directory's number tells."""
    room.store(files, "pg-0", KEPT)
    copy = OurFiles(tmp_path / "copy")
    copy.directory.mkdir(parents=True)
    copy.inventory.write_bytes(files.inventory.read_bytes())

    with pytest.raises(room.UnusableInventoryError) as caught:
        room.load(copy, "pg-1")
    assert caught.value.is_foreign
    assert room.load(copy, "pg-0") == READ


WHOLE = json.loads(
    json.dumps(
        {
            "system_identifier": None,
            "instance": "pg-0",
            "directory": 1,
            "read_at": "x",
            "databases": [["app", 1, [["vector", "1", "public"]], [["x", None, [], []]], []]],
            "overrides": [["a", "b", None, None]],
        }
    )
)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b"{}",
        b"[" * 100_000,
        json.dumps(WHOLE | {"databases": 1}).encode(),
        json.dumps(WHOLE | {"databases": [[1, 2, None, None, []]]}).encode(),
        json.dumps(WHOLE | {"databases": [["a", "b", None, None, []]]}).encode(),
        json.dumps(WHOLE | {"databases": [["a", 1, [["x"]], None, []]]}).encode(),
        json.dumps(WHOLE | {"overrides": [["a"]]}).encode(),
        json.dumps(WHOLE | {"read_at": 5}).encode(),
        json.dumps(WHOLE | {"read_at": "\ud800"}).encode(),
    ],
)
def test_damage_is_no_inventory(files: OurFiles, content: bytes) -> None:
    """Whatever stands in the file: one error, which says the path."""
    files.inventory.write_bytes(content)

    with pytest.raises(room.UnusableInventoryError, match=r"inventory\.json") as caught:
        room.load(files, "pg-0")
    assert not caught.value.is_foreign


def test_what_cannot_be_read_is_told_with_its_path_once(files: OurFiles) -> None:
    """In words, without the number that Python puts before them."""
    files.inventory.mkdir()

    with pytest.raises(room.UnusableInventoryError) as caught:
        room.load(files, "pg-0")
    assert str(caught.value).count("inventory.json") == 1
    assert "Errno" not in str(caught.value)


@given(at=st.integers(min_value=0), change=st.binary(max_size=4))
def test_no_damage_is_another_error(
    tmp_path_factory: pytest.TempPathFactory, at: int, change: bytes
) -> None:
    """Some bytes put in place of others: an inventory, or the one error."""
    files = OurFiles(tmp_path_factory.mktemp("data"))
    files.directory.mkdir()
    content = json.dumps(WHOLE).encode()
    at %= len(content)
    files.inventory.write_bytes(content[:at] + change + content[at + len(change) :])

    with suppress(room.UnusableInventoryError):
        room.load(files, "pg-0")


def test_a_link_in_its_place_is_not_followed(files: OurFiles, tmp_path: Path) -> None:
    """Who may write in the data directory can put one there."""
    (tmp_path / "elsewhere").write_text(json.dumps(WHOLE))
    files.inventory.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(room.UnusableInventoryError):
        room.load(files, "pg-0")


def test_one_that_is_too_long_to_be_read_is_not_kept(
    files: OurFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is the one before it, which may be wrong by now."""
    room.store(files, "pg-0", KEPT)
    monkeypatch.setattr(room, "LIMIT_BYTES", 100)
    room.store(files, "pg-0", KEPT)

    assert not files.inventory.exists()
