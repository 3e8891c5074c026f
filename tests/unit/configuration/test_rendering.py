from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instance_manager.configuration.parameters import DIRECTIVES
from instance_manager.configuration.rendering import (
    HASH_PARAMETER,
    parse_line,
    quote,
    render,
    render_line,
    render_lines,
)

NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,8}(\.[a-z_][a-z0-9_]{0,8})?", fullmatch=True).filter(
    lambda name: name not in DIRECTIVES
)
VALUES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
TRICKY = st.text("'\\\n\r\t\b\f\v\x01\x7f #=an0123é\u2028", max_size=20)

GOLDEN = """\
# Written by instance-manager at each start and reload: changes made here are lost.
# What to set is in its settings, under postgres.
archive_command = 'test ! -f /wal/%f && cp %p ''/wal/%f'''
cron.database_name = 'postgres'
log_line_prefix = '\\\\d\\n\\t\\001'
port = '5432'
instance_manager.config_sha256 = '{}'
"""


def test_the_file_is_sorted_quoted_and_ends_with_its_hash() -> None:
    """The whole file, byte for byte."""
    text = render(
        {
            "port": "5432",
            "log_line_prefix": "\\d\n\t\x01",
            "cron.database_name": "postgres",
            "archive_command": "test ! -f /wal/%f && cp %p '/wal/%f'",
        }
    )

    body = GOLDEN.rsplit("\n", 2)[0] + "\n"
    assert text == GOLDEN.format(hashlib.sha256(body.encode()).hexdigest())


def test_the_order_of_the_parameters_does_not_matter() -> None:
    """The same configuration is the same file, with the same hash."""
    assert render({"a": "1", "b": "2"}) == render({"b": "2", "a": "1"})
    assert render({"a": "1", "b": "2"}) != render({"a": "1", "b": "3"})


def test_the_hash_covers_the_files_beside() -> None:
    """The server says nothing of them: that it has loaded the one tells of the others."""
    one, other = render({"a": "1"}, ["local all all trust\n"]), render({"a": "1"}, ["# none\n"])

    assert one != other
    assert one.split("\n")[:-2] == other.split("\n")[:-2]


@settings(max_examples=50)
@given(st.dictionaries(NAMES, VALUES | TRICKY, max_size=5))
def test_what_is_rendered_is_what_is_read(parameters: dict[str, str]) -> None:
    """Every value comes back, whatever it holds, one line each."""
    lines = render(parameters).split("\n")
    read = [parsed for line in lines if (parsed := parse_line(line))]

    assert read[-1][0] == HASH_PARAMETER
    assert dict(read[:-1]) == parameters
    assert len(read) == len(parameters) + 1


@given(TRICKY)
def test_a_quoted_value_never_leaves_its_line(value: str) -> None:
    """No value can end its string or begin another line."""
    quoted = quote(value)

    assert "\n" not in quoted
    assert parse_line(f"a = {quoted} # end") == ("a", value)


@pytest.mark.parametrize("name", ["", "a b", "a'", "a\nb", "1", "a.b.c", "include", "Include_Dir"])
def test_a_name_that_is_none_is_not_rendered(name: str) -> None:
    """Callers have refused it before; here nothing slips through."""
    with pytest.raises(ValueError, match="cannot render parameter"):
        render({name: "x"})


def test_a_nul_is_not_rendered() -> None:
    """The server would read the line only as far as that."""
    with pytest.raises(ValueError, match="cannot render parameter 'a'"):
        render_line("a", "x\0y")


def test_lines_can_be_had_alone() -> None:
    """For people who write the file themselves."""
    assert render_lines({"b": "2", "a": "it's"}) == ["a = 'it''s'", "b = '2'"]


@pytest.mark.parametrize(
    ("line", "parsed"),
    [
        ("port = 5432", ("port", "5432")),
        ("port 5432 # comment", ("port", "5432")),
        ("  Port='5432'", ("Port", "5432")),
        ("\tport\t=\t'5432'\r", ("port", "5432")),
        ("port'5432'", ("port", "5432")),
        ("a.b = on", ("a.b", "on")),
        ("a = -1.5e3", ("a", "-1.5e3")),
        ("a = 10min", ("a", "10min")),
        ("a = x/y:z-1.2", ("a", "x/y:z-1.2")),
        ("a = 0x1F", ("a", "0x1F")),
        ("a = .5", ("a", ".5")),
        ("a = ''", ("a", "")),
        ("a = 'it''s'", ("a", "it's")),
        (r"a = 'it\'s'", ("a", "it's")),
        (r"a = 'x\\y'", ("a", "x\\y")),
        (r"a = '\b\f\n\r\t\q'", ("a", "\b\f\n\r\tq")),
        (r"a = '\101\60\0012'", ("a", "A0\x012")),
        ("a = 'x # y'", ("a", "x # y")),
        ("include_if_exists 'x'", ("include_if_exists", "x")),
    ],
)
def test_lines_of_others_are_read_as_the_server_reads_them(
    line: str, parsed: tuple[str, str]
) -> None:
    """The grammar of guc-file.l, one line at a time."""
    assert parse_line(line) == parsed


@pytest.mark.parametrize(
    "line",
    [
        "",
        "# port = 1",
        "port",
        "port =",
        "a b c",
        "a = 'x",
        "a = 'x' 'y'",
        "1 = 2",
        "= 1",
        "a = /x",
        "a = b.c",
    ],
)
def test_lines_without_a_parameter_have_none(line: str) -> None:
    """Comments, empty lines and what the server would not understand."""
    assert parse_line(line) is None


@given(st.text(max_size=40))
def test_any_line_is_read_without_a_fault(line: str) -> None:
    """No line makes the reader fail."""
    parsed = parse_line(line)

    assert parsed is None or parsed[0]
