"""Where files go in a volume."""

from __future__ import annotations

import pytest

from instance_manager.images import layout


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("usr/lib/postgresql/18/lib/x.so", "lib/x.so"),
        ("usr/lib/postgresql/18/lib/sub/x.so", "lib/sub/x.so"),
        ("usr/lib/postgresql/18/bin/x", "bin/x"),
        ("usr/share/postgresql/18/extension/x.control", "share/extension/x.control"),
        ("usr/share/postgresql/18/tsearch_data/x.stop", "share/tsearch_data/x.stop"),
        ("usr/lib/postgresql/17/lib/x.so", ""),
        ("usr/lib/postgresql/18/lib/bitcode/x/x.bc", ""),
        ("usr/lib/postgresql/18/lib/pgxs/src/Makefile", ""),
        ("usr/share/postgresql/18/man/man1/x.1", ""),
        ("usr/share/postgresql/18/contrib/x/x.sql", ""),
        ("usr/share/doc/x/copyright", ""),
        ("usr/include/x.h", ""),
        ("etc/x.conf", ""),
    ],
)
def test_a_file_of_a_package_has_its_place(path: str, place: str) -> None:
    """What a server uses goes where it looks; the rest is left out."""
    assert layout.place_of(path, 18).place == place


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("usr/local/pgsql/lib/x.so", "lib/x.so"),
        ("usr/lib/postgresql/18/lib/x.so", "lib/x.so"),
        ("opt/pg/share/postgresql/extension/x--1.sql", "share/extension/x--1.sql"),
        ("usr/share/postgresql/18/extension/x.control", "share/extension/x.control"),
        ("usr/local/pgsql/bin/x", "bin/x"),
        ("LICENSE.md", "licenses/LICENSE.md"),
        ("usr/local/pgsql/lib/bitcode/x/x.bc", ""),
        ("usr/local/pgsql/include/server/x.h", ""),
        ("usr/local/pgsql/share/doc/extension/x.md", ""),
    ],
)
def test_a_file_of_an_installed_tree_has_its_place(path: str, place: str) -> None:
    """Whatever the prefix."""
    assert layout.place_in_tree(path).place == place


@pytest.mark.parametrize(
    ("before", "after", "count"),
    [
        (b"LOAD '$libdir/x';", b"LOAD 'x';", 1),
        (b"  load  '$libdir/x-3';\nLOAD '$libdir/y';", b"  load  'x-3';\nLOAD 'y';", 2),
        (b"EXECUTE 'LOAD ''$libdir/x''';", b"EXECUTE 'LOAD ''x''';", 1),
        (b"AS '$libdir/x', 'f'", b"AS '$libdir/x', 'f'", 0),
        (b"LOAD '$libdir/sub/x';", b"LOAD '$libdir/sub/x';", 0),
        (b"UPLOAD '$libdir/x'", b"UPLOAD '$libdir/x'", 0),
    ],
)
def test_loads_are_rewritten_and_nothing_else(before: bytes, after: bytes, count: int) -> None:
    """The server itself finds what a function names."""
    assert layout.rewrite_script(before) == (after, count)


def test_what_is_excluded_has_no_place() -> None:
    """A pattern is one of the volume's paths."""
    where = layout.Placed("lib/x.so")

    assert layout.without(where, ["lib/y*", "lib/x*"]).place == ""
    assert layout.without(where, ["x.so"]).place == "lib/x.so"
