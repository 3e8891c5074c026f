from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instance_manager.extensions.paths import (
    bare_name,
    display,
    inner_path,
    is_searchable,
    is_volume_name,
    join_search_path,
    split_search_path,
)


@pytest.mark.parametrize("name", ["pgvector", "a", "9", "pg_cron", "postgis-3", "a" * 59])
def test_a_name_of_lower_case_letters_digits_and_inner_marks_is_a_volume(name: str) -> None:
    """The names that the contract allows are allowed."""
    assert is_volume_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "-a", "a-", "_a", "A", "a:b", "a b", "a\n", "a.b", "ä", "a" * 60, "..", "a/b", "٣"],
)
def test_any_other_name_is_no_volume(name: str) -> None:
    """A name with anything else, or too long, is refused."""
    assert not is_volume_name(name)


@pytest.mark.parametrize("text", ["", "/a:b", "/a;b", "/a$ORIGIN", "/a\nb", "/a\x7f", "/\udcff"])
def test_a_path_that_would_change_a_search_path_is_not_searchable(text: str) -> None:
    """Separators, expansions, control characters and undecodable bytes are refused."""
    assert not is_searchable(text)


@pytest.mark.parametrize("text", ["/extensions/pgvector/lib", "/mnt/my ext/ä", "/a'b,c"])
def test_an_ordinary_path_is_searchable(text: str) -> None:
    """Blanks, quotes, commas and letters of any language separate nothing."""
    assert is_searchable(text)


@pytest.mark.parametrize(
    ("text", "path"),
    [("share", "share"), ("./lib//x/", "lib/x"), (".", "."), ("a/..b", "a/..b")],
)
def test_a_path_inside_the_volume_takes_its_shortest_form(text: str, path: str) -> None:
    """Superfluous parts go."""
    assert inner_path(text) == path


@pytest.mark.parametrize("text", ["", "/lib", "..", "a/../b", "../lib", "a:b", "//x"])
def test_a_path_that_leaves_the_volume_is_none(text: str) -> None:
    """Absolute paths, parents and separators are refused."""
    assert inner_path(text) is None


def test_a_search_path_has_no_duplicate_and_no_empty_element() -> None:
    """The first of equals stays, whatever list it is in."""
    assert join_search_path(["$system", "", "/a"], ["/b", "/a"], ["$system", "/c"]) == (
        "$system:/a:/b:/c"
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.text(alphabet="ab$/", max_size=3), max_size=4), max_size=3))
def test_what_was_joined_splits_into_distinct_elements(lists: list[list[str]]) -> None:
    """Splitting gives each element once, in the order of the lists."""
    elements = split_search_path(join_search_path(*lists))

    assert list(elements) == list(dict.fromkeys(e for part in lists for e in part if e))


def test_no_search_path_splits_into_nothing() -> None:
    """An unset and an empty search path have no elements."""
    assert split_search_path(None) == split_search_path("") == split_search_path("::") == ()


def test_a_name_that_is_not_utf8_is_shown_with_escapes() -> None:
    """What the file system gives can always be printed and written as JSON."""
    assert display("a\udcff") == "a\\xff"
    assert display("ä") == "ä"


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ("vector", "vector"),
        ("$libdir/vector", "vector"),
        (" vector.so ", "vector"),
        ("$libdir/vector.so", "vector"),
        ("/opt/lib/vector.so", "/opt/lib/vector.so"),
        ("$libdir/plugins/x", "$libdir/plugins/x"),
        ("timescaledb-2.31.0", "timescaledb-2.31.0"),
    ],
)
def test_a_library_is_asked_for_by_its_bare_name(entry: str, name: str) -> None:
    """The macro and the suffix go, but a path stays what it is."""
    assert bare_name(entry) == name
