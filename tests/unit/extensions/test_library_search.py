from __future__ import annotations

import pytest

from instance_manager.extensions.library_search import Search, split_list

FILES = {
    "/pg/lib/plpgsql.so",
    "/pg/lib/plugins/auth.so",
    "/pg/lib/twice.so",
    "/v/lib/vector.so",
    "/v/lib/twice.so",
    "/v/lib/bare",
    "/v/lib/bare.so",
    "/w/lib/bare.so",
    "/opt/lib/own.so",
}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("plpgsql", "/pg/lib/plpgsql.so"),
        ("plpgsql.so", "/pg/lib/plpgsql.so"),
        ("vector", "/v/lib/vector.so"),
        ("twice", "/pg/lib/twice.so"),
        ("own", "/opt/lib/own.so"),
        ("bare", "/v/lib/bare"),
        ("$libdir/plpgsql", "/pg/lib/plpgsql.so"),
        ("$libdir/vector", None),
        ("$libdir/plugins/auth", "/pg/lib/plugins/auth.so"),
        ("/v/lib/vector", "/v/lib/vector.so"),
        ("/v/lib/vector.so", "/v/lib/vector.so"),
        ("$other/vector", None),
        ("lib/vector", None),
        ("nowhere", None),
        ("", None),
    ],
)
def test_a_library_is_found_as_the_server_finds_it(name: str, found: str | None) -> None:
    """A file without a suffix goes before all others; a path with a slash is not searched for."""
    path = "$libdir:/w/lib:/v/lib:/opt/lib"
    assert Search(path, "/pg/lib", FILES.__contains__).find(name) == found


@pytest.mark.parametrize(
    "path", ["/v/lib::/opt/lib", "/v/lib:lib", "/v/lib:$other", "$libdir/x:a"]
)
def test_a_bad_element_ends_every_search(path: str) -> None:
    """The server looks for the name without a suffix in all of them first, and so meets it."""
    search = Search(path, "/pg/lib", FILES.__contains__)

    assert search.find("vector") is None
    assert search.find("/v/lib/vector") == "/v/lib/vector.so"


def test_an_empty_path_finds_nothing() -> None:
    """No element is not the same as an empty one."""
    assert Search("", "/pg/lib", FILES.__contains__).find("plpgsql") is None


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        ("  ", ()),
        ("a", ("a",)),
        (" a , b\t,c ", ("a", "b", "c")),
        ("a b", ("a b",)),
        ('"a, ""b""" , c', ('a, "b"', "c")),
        ('"",a', ("", "a")),
        ("a,", None),
        (",a", None),
        ("a,,b", None),
        ('"a', None),
        ('"a" b', None),
        ("$libdir/a, /b/c", ("$libdir/a", "/b/c")),
    ],
)
def test_a_list_is_split_as_the_server_splits_it(text: str, names: tuple[str, ...] | None) -> None:
    """None is what it can't read: it logs that, and loads nothing."""
    assert split_list(text) == names
