from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instance_manager.configuration.hba import (
    HOST_AUTH_METHODS,
    host_auth_problem,
    host_auth_warning,
    include_line,
    line_problems,
    render_hba,
    render_ident,
)

NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0\n\r"), min_size=1, max_size=12
)

HBA = """\
# Written by instance-manager at each start and reload: changes made here are lost.
# What to set is in its settings, under postgres.hba.
local all "postgres" peer map=instance_manager
hostssl all all 10.0.0.0/8 cert
# a remark
local all all peer
host all all all scram-sha-256
"""

IDENT = """\
# Written by instance-manager at each start and reload: changes made here are lost.
# What to set is in its settings, under postgres.ident.
instance_manager "pg" "postgres"
people joe app
"""


def rules(text: str) -> list[str]:
    """Return the lines that are rules."""
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def tokens(line: str) -> list[str]:
    """Part a line as next_token() in hba.c does, quotes undone, without lists and comments."""
    found: list[str] = []
    word, in_quote, was_quote, started = "", False, False, False
    for char in f"{line} ":
        if char in " \t" and not in_quote:
            found += [word] if started else []
            word, was_quote, started = "", False, False
            continue
        if char != '"' or was_quote:
            word += char
        was_quote = not was_quote if in_quote and char == '"' else False
        in_quote = in_quote != (char == '"')
        started = True
    return found


def test_hba_puts_the_manager_first_and_the_rest_last() -> None:
    """The whole file, with lines of the user's between."""
    lines = ("hostssl all all 10.0.0.0/8 cert", "# a remark")

    assert render_hba(superuser="postgres", major=18, lines=lines) == HBA


def test_ident_maps_the_account_to_the_superuser_first() -> None:
    """The whole file, with a line of the user's."""
    text = render_ident(
        superuser="postgres", system_user="pg", major=18, lines=("people joe app",)
    )

    assert text == IDENT


def test_the_method_for_hosts_can_be_another() -> None:
    """It ends the last line, with its options."""
    text = render_hba(superuser="postgres", major=18, host_auth_method="ldap ldapserver=x")

    assert rules(text)[-1] == "host all all all ldap ldapserver=x"


def test_inherited_rules_count_only_where_the_user_has_none() -> None:
    """The user's lines replace those of the directory's own file."""
    inherited = include_line(Path("/data/pg_hba.conf"))
    own = render_hba(superuser="p", major=18, inherited=inherited)
    users = render_hba(superuser="p", major=18, inherited=inherited, lines=("host a b c md5",))

    assert rules(own)[1:3] == ['include_if_exists "/data/pg_hba.conf"', "local all all peer"]
    assert rules(users)[1:3] == ["host a b c md5", "local all all peer"]
    assert 'include_if_exists "/d/pg_ident.conf"' in render_ident(
        superuser="p", system_user="p", major=16, inherited=include_line(Path("/d/pg_ident.conf"))
    )


@pytest.mark.parametrize("end", ["", "\n", "\\", "\\\n", " \\\n\n\n", "# x \\\n"])
def test_a_copy_of_rules_can_not_swallow_the_next_line(end: str) -> None:
    """A backslash at the end joins lines; an empty one takes the blow."""
    text = render_hba(superuser="p", major=15, inherited=f"local all all trust {end}")

    joined = text.replace("\\\n", "")
    assert "local all all peer" in joined.splitlines()


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("postgres", '"postgres"'),
        ("all", '"all"'),
        ("+admins", '"+admins"'),
        ("@file", '"@file"'),
        ("a b", '"a b"'),
        ("a,b", '"a,b"'),
        ("#a", '"#a"'),
        ('we"ird', '"we""ird"'),
        ("bäcker", '"bäcker"'),
    ],
)
def test_names_are_quoted_so_that_they_are_only_names(name: str, written: str) -> None:
    """Keywords, groups, files, lists and comments lose their meaning."""
    assert rules(render_hba(superuser=name, major=18))[0] == (
        f"local all {written} peer map=instance_manager"
    )


def test_a_name_that_begins_with_a_slash_is_no_expression() -> None:
    """From 16 on quotes don't help, and an expression that means the name alone is written."""
    name = "/a.b*é x_1"

    assert '"/^\\/a\\.b\\*é x_1$"' in render_hba(superuser=name, major=16)
    assert '"/a.b*é x_1"' in render_hba(superuser=name, major=15)
    assert '"/^\\/a\\.b\\*é x_1$"' in render_ident(superuser=name, system_user="u", major=18)


@given(NAMES)
def test_every_name_is_one_token(name: str) -> None:
    """However odd, a name neither ends its token nor begins another."""
    line = rules(render_hba(superuser=name, major=15))[0] if name.isprintable() else ""
    mapping = render_ident(superuser=name, system_user=name, major=15).split("\n")[2]

    assert tokens(mapping) == ["instance_manager", name, name]
    assert not line or tokens(line) == ["local", "all", name, "peer", "map=instance_manager"]


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\0b"])
def test_a_name_with_a_line_break_is_refused(name: str) -> None:
    """It would begin a rule of its own."""
    with pytest.raises(ValueError, match="one line"):
        render_hba(superuser=name, major=18)
    with pytest.raises(ValueError, match="one line"):
        render_ident(superuser="p", system_user=name, major=18)


@pytest.mark.parametrize("line", ["a\nb", "a\r", "a\0", "host all all all trust \\"])
def test_a_users_line_is_one_line(line: str) -> None:
    """Line breaks, and what joins the next line, are told with their place."""
    (problem,) = line_problems(("local all all peer", line), "postgres.hba")

    assert problem.path == "postgres.hba.1"
    assert problem.message.startswith(f"cannot use {line!r}: ")


def test_lines_that_are_lines_have_no_problems() -> None:
    """Comments, empty lines and what only the server can judge pass."""
    assert list(line_problems(("", "# x", 'host "a\\b" c', "nonsense"), "postgres.hba")) == []


@pytest.mark.parametrize("method", [*sorted(HOST_AUTH_METHODS), "ldap ldapserver=x"])
def test_methods_that_a_host_line_takes_pass(method: str) -> None:
    """With or without options."""
    assert host_auth_problem(method) == ""


@pytest.mark.parametrize(
    "method", ["", " ", "peer", "cert", "Trust", "trust\nhost all all all trust", "scram"]
)
def test_other_methods_are_refused_with_those_that_can_be(method: str) -> None:
    """The server would refuse the whole file."""
    problem = host_auth_problem(method)

    assert repr(method) in problem
    assert "scram-sha-256" in problem


def test_trust_has_a_warning() -> None:
    """It is allowed, and nobody shall do it without knowing."""
    assert "without a password" in host_auth_warning("trust")
    assert host_auth_warning("scram-sha-256") == ""
