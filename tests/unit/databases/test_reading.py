from __future__ import annotations

from pathlib import Path

import pytest

from instance_manager.databases.answers import databases_of, extensions_of
from instance_manager.databases.facts import Database, Installed, Inventory, Override, Reading
from instance_manager.databases.reading import Place


@pytest.mark.parametrize(("major", "is_known"), [(16, False), (17, True), (18, True)])
def test_login_triggers_are_off_where_there_are_such(major: int, is_known: bool) -> None:
    """An older server would refuse a session with a parameter that it doesn't know."""
    session = Place(Path("/run/postgresql"), 5432, "postgres", major).session()

    assert ("event_triggers" in session) is is_known
    assert session["session_preload_libraries"] == ""


def test_what_could_not_be_read_is_null_and_not_empty() -> None:
    """Programs must not take a database that was not read for one that uses nothing."""
    lost = Database("lost", 1, None, None, ("it is locked",))
    reading = Reading(Inventory("2026-01-01T00:00:00+00:00", (lost,)))
    (item,) = databases_of(reading).items

    assert (item.extensions, item.libraries, item.problems) == (None, None, ("it is locked",))
    assert extensions_of(reading, "nowhere") is None
    assert extensions_of(None, "lost") is None


def test_a_database_shows_its_own_overrides_and_those_of_all() -> None:
    """Not those of another one."""
    overrides = tuple(Override("dynamic_library_path", "/x", each) for each in ("a", "b", None))
    databases = (Database("a", 1, (Installed("vector", "1", "things"),), ()),)
    reading = Reading(Inventory("2026-01-01T00:00:00+00:00", databases, overrides))
    document = databases_of(reading).model_dump(mode="json", by_alias=True)

    assert document["read_at"] == "2026-01-01T00:00:00Z"
    (item,) = document["items"]
    assert [each["database"] for each in item["overrides"]] == ["a", None]
    assert item["extensions"] == [{"name": "vector", "version": "1", "schema": "things"}]
