from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instance_manager.extensions.control import (
    ControlProblem,
    installable_versions,
    parse,
    parse_boolean,
    split_identifiers,
)

VECTOR = b"""\
# vector extension
comment = 'vector data type and ivfflat and hnsw access methods'
default_version = '0.8.7'
module_pathname = '$libdir/vector'
relocatable = true
"""


def test_a_real_control_file_is_read_whole() -> None:
    """The values of pgvector's file come out, the rest has the server's defaults."""
    control = parse(VECTOR)

    assert control.default_version == "0.8.7"
    assert control.module_pathname == "$libdir/vector"
    assert control.module == "vector"
    assert control.relocatable
    assert not control.trusted
    assert control.requires == ()
    assert control.directory is control.schema is None
    assert control.problems == ()


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (b"comment = 'it''s'", "it's"),
        (b"comment = 'a\\'b'", "a'b"),
        (b"comment = 'tab\\tend\\n'", "tab\tend\n"),
        (b"comment = '\\101\\60\\1012'", "A0A2"),
        (b"comment = 'a\\qb\\\\'", "aqb\\"),
        (b"comment = '# no comment' # a comment", "# no comment"),
        (b"comment 'no equal sign'", "no equal sign"),
        (b"comment'tight'", "tight"),
        (b"\t comment\t=\r word/of:a-kind.x \r", "word/of:a-kind.x"),
        (b"comment = 1.5e-3", "1.5e-3"),
        (b"comment = -0x1Fkb", "-0x1Fkb"),
        (b"comment = ''", ""),
        ("comment = 'größe'".encode(), "größe"),
        (b"comment = '\xff'", "\\xff"),
        (b"comment = '\\303\\244'", "ä"),
        (b"comment = 'a\\000b'", "a"),
    ],
)
def test_a_value_is_read_as_the_servers_scanner_reads_it(line: bytes, value: str) -> None:
    """Quotes, doubling, escapes, comments, numbers and bare words mean what guc-file.l says."""
    content = line.replace(b"comment", b"default_version", 1)

    control = parse(content)

    assert control.problems == ()
    assert control.default_version == value


@pytest.mark.parametrize(
    "line",
    [
        b"comment",
        b"comment =",
        b"= 'x'",
        b"'comment' = 'x'",
        b"comment = 'x' 'y'",
        b"comment = = 'x'",
        b"comment = 'open",
        b"comment = 'open\\'",
        b'comment = "x"',
        b"comment = 1.2.3",
        b"comment = a.b",
        b"comment = 1e5",
        b"comm-ent = 'x'",
        b"a.b.c = 'x'",
        b"3comment = 'x'",
        b"comment = @x",
        b"comment = 'x'\0",
    ],
)
def test_a_line_that_the_server_refuses_is_a_syntax_error(line: bytes) -> None:
    """The problem carries the number of the line."""
    assert parse(b"\n# x\n" + line).problems == (ControlProblem(3, "syntax error"),)


def test_every_problem_is_reported_not_only_the_first() -> None:
    """Three bad lines give three problems, each with its line."""
    problems = parse(b"magic_sauce = 1\ntrusted = perhaps\nrequires = 'a b'\n").problems

    assert problems == (
        ControlProblem(1, 'unrecognized parameter "magic_sauce"'),
        ControlProblem(2, 'parameter "trusted" requires a Boolean value'),
        ControlProblem(3, 'parameter "requires" must be a list of extension names'),
    )


@pytest.mark.parametrize("name", ["Comment", "directory.x", "default_versio"])
def test_names_of_parameters_are_exact(name: str) -> None:
    """Another case, a qualified name or a shorter one is not recognized."""
    (problem,) = parse(f"{name} = 'x'".encode()).problems

    assert problem.reason == f'unrecognized parameter "{name}"'


@pytest.mark.parametrize("name", ["include", "include_if_exists", "INCLUDE_DIR"])
def test_a_control_file_that_includes_others_is_a_problem(name: str) -> None:
    """What lies elsewhere can't be proven from the volume."""
    (problem,) = parse(f"{name} 'other'".encode()).problems

    assert problem.reason == f'"{name}" is not supported in a control file'


def test_a_schema_and_relocatable_exclude_each_other() -> None:
    """The server refuses both together, in whatever order."""
    (problem,) = parse(b"schema = s\nrelocatable = yes").problems

    assert problem.line == 0
    assert "cannot be specified" in problem.reason
    assert parse(b"schema = s\nrelocatable = no").problems == ()


@pytest.mark.parametrize("name", ["directory", "default_version"])
def test_a_secondary_file_cannot_set_what_belongs_to_the_primary(name: str) -> None:
    """``name--version.control`` must not move the scripts or the default."""
    content = f"{name} = 'x'".encode()

    assert parse(content).problems == ()
    assert "secondary" in parse(content, secondary=True).problems[0].reason


@pytest.mark.parametrize("name", ["utf8", "UTF-8", "latin1", "LATIN 10", "win1252", "SQL_ASCII"])
def test_a_server_encoding_is_known_by_all_its_names(name: str) -> None:
    """Case and punctuation don't count, as in the server."""
    assert parse(f"encoding = '{name}'".encode()).problems == ()


@pytest.mark.parametrize("name", ["utf9", "sjis", "big5", "", "latin11", "iso885911"])
def test_an_unknown_or_client_encoding_is_a_problem(name: str) -> None:
    """A control file with it breaks the views."""
    assert "is not a valid encoding name" in parse(f"encoding = '{name}'".encode()).problems[0][1]


@pytest.mark.parametrize(
    ("path", "module"),
    [
        ("$libdir/vector", "vector"),
        ("vector", "vector"),
        ("$libdir/sub/vector", None),
        ("/usr/lib/vector.so", None),
        ("", None),
    ],
)
def test_the_module_is_the_name_that_the_server_searches_for(
    path: str, module: str | None
) -> None:
    """Only a single-level ``$libdir/`` is stripped; paths are not searched."""
    assert parse(f"module_pathname = '{path}'".encode()).module == module


def test_the_last_of_repeated_parameters_wins() -> None:
    """As in the server."""
    assert parse(b"default_version = 1.0\ndefault_version = '2.0'").default_version == "2.0"


@pytest.mark.parametrize("text", ["t", "TRUE", "tr", "y", "yes", "on", "1"])
def test_unique_prefixes_mean_true(text: str) -> None:
    """As ``parse_bool`` takes them."""
    assert parse_boolean(text) is True


@pytest.mark.parametrize("text", ["f", "False", "n", "no", "of", "off", "0"])
def test_unique_prefixes_mean_false(text: str) -> None:
    """As ``parse_bool`` takes them."""
    assert parse_boolean(text) is False


@pytest.mark.parametrize("text", ["", "o", "truest", "2", "10", " on", "one", "yes!"])
def test_anything_else_is_no_boolean(text: str) -> None:
    """An ambiguous prefix counts for nothing."""
    assert parse_boolean(text) is None


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        ("  ", ()),
        ("cube", ("cube",)),
        (" cube , EarthDistance ", ("cube", "earthdistance")),
        ('"Mixed Case","a""b",c', ("Mixed Case", 'a"b', "c")),
    ],
)
def test_a_list_of_identifiers_is_split_as_the_server_splits_it(
    text: str, names: tuple[str, ...]
) -> None:
    """Bare names are folded to lower case, quoted ones stay."""
    assert split_identifiers(text) == names


@pytest.mark.parametrize("text", ["a,", ",a", "a,,b", "a b", '"a', '"a"b', ","])
def test_a_list_that_the_server_refuses_is_none(text: str) -> None:
    """Empty elements, missing commas and open quotes are refused."""
    assert split_identifiers(text) is None


def test_a_version_with_an_installation_script_can_be_installed() -> None:
    """Scripts of other extensions and other files don't count."""
    names = ["vector--0.8.7.sql", "vectors--1.sql", "vector--1.control", "vector.sql", "vector--"]

    assert installable_versions("vector", names) == ("0.8.7",)


def test_a_version_can_be_reached_over_updates() -> None:
    """A chain that begins at an installation script counts, one that does not begin there not."""
    names = ["x--1.0.sql", "x--1.0--1.1.sql", "x--1.1--2.0.sql", "x--3.0--3.1.sql"]

    assert installable_versions("x", names) == ("1.0", "1.1", "2.0")


def test_updates_that_go_in_a_circle_end() -> None:
    """Downgrade scripts make cycles, which are walked once."""
    names = ["x--1.sql", "x--1--2.sql", "x--2--1.sql", "x--2--2.sql"]

    assert installable_versions("x", names) == ("1", "2")


def test_a_name_with_a_third_part_is_ignored() -> None:
    """The server takes ``a--b--c--d.sql`` for no script."""
    assert installable_versions("x", ["x--1.sql", "x--1--2--3.sql"]) == ("1",)


def test_versions_are_ordered_by_their_numbers() -> None:
    """0.9 comes before 0.10, and words after numbers."""
    names = [f"x--{version}.sql" for version in ("0.10.0", "next", "0.9", "0.10", "1.0rc1")]

    assert installable_versions("x", names) == ("0.9", "0.10", "0.10.0", "1.0rc1", "next")


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_make_the_parser_fail(content: bytes) -> None:
    """Every problem is on a line that exists."""
    control = parse(content)

    assert all(0 <= each.line <= content.count(b"\n") + 1 for each in control.problems)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab'\\#= \t\r\"ä€", max_size=40))
def test_a_quoted_value_comes_back_as_it_was(text: str) -> None:
    """Quoting with doubled quotes and backslashes and parsing is the identity."""
    quoted = text.replace("\\", "\\\\").replace("'", "''")

    control = parse(f"default_version = '{quoted}'".encode())

    assert control.problems == ()
    assert control.default_version == text
