from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from instance_manager.extensions.facts import ServerFacts
from instance_manager.extensions.scan import complete, examine
from instance_manager.extensions.scripts import uses_of
from instance_manager.settings.models import Settings

MakeVolume = Callable[..., Path]
MakeSettings = Callable[..., Settings]
SERVER = ServerFacts(18, "x86_64", libraries=frozenset({"plpgsql.so"}))
CONTROL = "default_version = '2'\nmodule_pathname = '$libdir/geo-3'\n"


def _findings(
    root: Path, settings: MakeSettings, server: ServerFacts = SERVER
) -> list[tuple[str, str]]:
    examination = examine(
        settings(root=str(root)), server, base_path="/usr/bin", base_ld_library_path=None
    )
    (before,) = examination.report.volumes
    (after,) = complete(examination, server).report.volumes
    assert after.findings[: len(before.findings)] == before.findings
    assert after.content_sha256
    return [(each.code, each.message) for each in after.findings[len(before.findings) :]]


@pytest.mark.parametrize(
    "text",
    [
        "LOAD '$libdir/geo-3';",
        "-- first\n  load\t\n '$libdir/geo-3';",
        "DO $$ BEGIN\n LOAD '$libdir/geo-3';\nEND $$",
        "EXECUTE 'LOAD ''$libdir/geo-3''';",
        "LOAD E'$libdir/geo-3'",
    ],
)
def test_a_statement_that_loads_from_the_servers_own_directory_is_seen(text: str) -> None:
    """In any form that the server would run."""
    assert uses_of(text.encode()).loaded == {"geo-3"}


@pytest.mark.parametrize(
    "text",
    [
        "LOAD 'geo-3';",
        "-- LOAD '$libdir/geo-3';",
        "CREATE FUNCTION f() RETURNS int AS '$libdir/geo-3', 'f' LANGUAGE C;",
        "UPLOAD '$libdir/geo-3'",
        "LOAD '$libdir/geo\n-3'",
        "",
    ],
)
def test_what_the_server_can_find_is_not_told(text: str) -> None:
    """The prefix is stripped where a function names its library."""
    uses = uses_of(text.encode())

    assert (uses.loaded, uses.nested, uses.loads_module) == (frozenset(), frozenset(), False)


def test_a_library_below_the_servers_own_directory_is_seen_wherever_it_is_named() -> None:
    """No statement finds it in a volume."""
    text = b"LOAD '$libdir/sub/a'; CREATE FUNCTION f() RETURNS int AS '$libdir/sub/b' LANGUAGE C;"
    assert uses_of(text).nested == {"sub/a", "sub/b"}


def test_each_library_is_told_once_with_the_statement_that_fails(
    volume: MakeVolume, settings: MakeSettings, module: bytes
) -> None:
    """Scripts of updates and of installations; what the server has itself works."""
    own = "LOAD '$libdir/plpgsql';"
    load = "LOAD '$libdir/geo-3';"
    place = volume(
        "geo",
        {
            "share/extension/geo.control": CONTROL,
            "share/extension/geo--1--2.sql": f"{own}\n{load}",
            "share/extension/geo--2.sql": "LOAD '$libdir/other'; SELECT '$libdir/sub/geo'",
            "share/extension/geo--ANY--2.sql": load,
            "share/extension/unrelated.sql": load,
            "lib/geo-3.so": module,
        },
    )

    assert _findings(place.parent, settings) == [
        (
            "EXT019",
            (
                "share/extension/geo--1--2.sql (and 1 more script) uses LOAD '$libdir/geo-3',"
                " which cannot be resolved from a volume; ALTER EXTENSION geo UPDATE will fail"
            ),
        ),
        (
            "EXT019",
            (
                "share/extension/geo--2.sql uses LOAD '$libdir/other', which cannot be resolved"
                " from a volume; CREATE EXTENSION geo will fail"
            ),
        ),
        (
            "EXT020",
            (
                "share/extension/geo--2.sql names '$libdir/sub/geo': a nested $libdir path is"
                " never searched in volumes"
            ),
        ),
    ]


@pytest.mark.parametrize(("pathname", "count"), [("$libdir/geo-3", 1), ("geo-3", 0)])
def test_what_stands_for_the_module_is_loaded_under_its_whole_name(
    volume: MakeVolume, settings: MakeSettings, module: bytes, pathname: str, count: int
) -> None:
    """The server puts module_pathname in its place, prefix and all."""
    place = volume(
        "geo",
        {
            "share/extension/geo.control": CONTROL.replace("$libdir/geo-3", pathname),
            "share/extension/geo--2.sql": "LOAD 'MODULE_PATHNAME';",
            "lib/geo-3.so": module,
        },
    )

    assert [code for code, _ in _findings(place.parent, settings)] == ["EXT019"] * count


def test_a_script_under_many_names_is_read_once_and_a_large_one_in_pieces(
    volume: MakeVolume, settings: MakeSettings, module: bytes
) -> None:
    """Hundreds of links to one script are usual; a statement may lie on a border."""
    text = " " * (1024 * 1024 - 10) + "LOAD '$libdir/geo-3';" + " " * (3 * 1024 * 1024)
    place = volume(
        "geo",
        {
            "share/extension/geo.control": CONTROL,
            "share/extension/geo--2.sql": "SELECT 1",
            "share/extension/geo--template.sql": text,
            "lib/geo-3.so": module,
        },
    )
    for version in range(100):
        link = place / f"share/extension/geo--{version}--ANY.sql"
        link.symlink_to("geo--template.sql")

    (found,) = _findings(place.parent, settings)

    assert found[0] == "EXT019"
    assert "(and 100 more scripts)" in found[1]


def test_what_can_not_be_read_any_more_is_passed_over(
    volume: MakeVolume, settings: MakeSettings
) -> None:
    """A volume may be taken away while it is read."""
    files = {
        "share/extension/geo.control": "default_version = '2'",
        "share/extension/geo--2.sql": "LOAD '$libdir/geo'",
    }
    root = volume("geo", files).parent
    examination = examine(
        settings(root=str(root)), SERVER, base_path="/usr/bin", base_ld_library_path=None
    )
    (root / "geo/share/extension/geo--2.sql").unlink()

    assert complete(examination, SERVER).report.all_findings() == examination.report.all_findings()


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([b"LOAD", b"'$libdir/", b"'", b" ", b"\n", b"--", b"\xff", b"a/"]))
)
def test_no_bytes_make_the_search_fail(parts: list[bytes]) -> None:
    """Scripts may be in any encoding, or in none."""
    assert uses_of(b"".join(parts))
