"""Who may log in: pg_hba.conf and pg_ident.conf as text. Pure.

The manager's own line comes first, so that no rule can shut it out. Tokens are those of
next_token() in hba.c: within double quotes nothing is a keyword, a group or a list, and two
quotes stand for one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from instance_manager.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MAP_NAME: Final = "instance_manager"
DEFAULT_HOST_AUTH_METHOD: Final = "scram-sha-256"
FIRST_MAJOR_WITH_INCLUDE: Final = 16
"""From here on the files know ``include``, and names that begin with / are regular expressions."""

# Of those that the grammar knows: not `peer` and `cert`, which it refuses in a line of `host`,
# nor those of other systems.
HOST_AUTH_METHODS: Final = frozenset(
    {
        "gss",
        "ident",
        "ldap",
        "md5",
        "oauth",
        "pam",
        "password",
        "radius",
        "reject",
        "scram-sha-256",
        "trust",
    }
)

# In a regular expression of the server's, a backslash makes these, and only these, plain.
_PUNCTUATION: Final = re.compile(r"[!-/:-@\[-^`{-~]")
_BACKSLASHED: Final = r"\\\g<0>"

_HEADER: Final = (
    "# Written by instance-manager at each start and reload: changes made here are lost.\n"
    "# What to set is in its settings, under {key}.\n"
)


def render_hba(
    *,
    superuser: str,
    major: int,
    lines: Sequence[str] = (),
    inherited: str = "",
    host_auth_method: str = DEFAULT_HOST_AUTH_METHOD,
) -> str:
    """Return pg_hba.conf: the manager, the user's lines, and what holds for everybody else.

    Args:
        superuser: the role that the manager logs in as.
        major: of the server; it decides how odd names are written.
        lines: the user's, without :func:`line_problems`.
        inherited: takes their place where there are none (see :func:`include_line`).
        host_auth_method: for the last line; it has no :func:`host_auth_problem`.
    """
    return _document(
        "postgres.hba",
        # The first rule that fits decides (hba.c, check_hba): behind the user's, a reject could
        # shut us out.
        f"local all {_role(superuser, major)} peer map={MAP_NAME}",
        lines,
        inherited,
        # Last, so that they hold only for whom no line before them fits.
        ("local all all peer", f"host all all all {host_auth_method}"),
    )


def render_ident(
    *,
    superuser: str,
    system_user: str,
    major: int,
    lines: Sequence[str] = (),
    inherited: str = "",
) -> str:
    """Return pg_ident.conf: the manager's account is the superuser, then the user's lines.

    Args:
        superuser: as for :func:`render_hba`.
        system_user: the account's name, as the server's own look-up will find it.
        major: as for :func:`render_hba`.
        lines: as for :func:`render_hba`.
        inherited: as for :func:`render_hba`.
    """
    own = f"{MAP_NAME} {_quote(system_user)} {_role(superuser, major)}"
    return _document("postgres.ident", own, lines, inherited, ())


def _document(
    key: str, own: str, lines: Sequence[str], inherited: str, last: Sequence[str]
) -> str:
    middle = "".join(f"{line}\n" for line in lines)
    if not lines and inherited:
        # The empty line ends what a backslash at the end of the text would join to our next.
        middle = f"{inherited.rstrip(chr(10))}\n\n"
    return _HEADER.format(key=key) + f"{own}\n" + middle + "".join(f"{line}\n" for line in last)


def include_line(path: Path) -> str:
    """Return the line that reads *path*, if it exists; for servers from 16 on."""
    return f"include_if_exists {_quote(str(path))}"


def _role(name: str, major: int) -> str:
    """Write one role's name so that it means that role alone."""
    if name.startswith("/") and major >= FIRST_MAJOR_WITH_INCLUDE:
        # Quotes don't keep a name that begins with / from being a regular expression.
        name = f"/^{_PUNCTUATION.sub(_BACKSLASHED, name)}$"
    return _quote(name)


def _quote(text: str) -> str:
    """Quote one token.

    Raises:
        ValueError: it holds what would end the line; settings have refused it before.
    """
    if not {"\n", "\r", "\0"}.isdisjoint(text):
        raise ValueError(f"cannot write {text!r}: a rule has one line")
    return '"' + text.replace('"', '""') + '"'


def line_problems(lines: Sequence[str], path: str) -> Iterator[Problem]:
    """Find lines of the user's that are not one line. *path* is the key where they stand.

    Their syntax is the server's to judge.
    """
    for index, line in enumerate(lines):
        where = f"{path}.{index}"
        if not {"\n", "\r", "\0"}.isdisjoint(line):
            yield Problem(
                where, f"cannot use {line!r}: each item is one line, without line breaks"
            )
        # A backslash at its end joins lines since PostgreSQL 14.
        elif line.endswith("\\"):
            yield Problem(
                where, f"cannot use {line!r}: a backslash at its end joins the next line"
            )


def host_auth_problem(method: str) -> str:
    """Return why *method*, with its options, can't end the last line; empty if it can."""
    # Options may follow, as in the variable of the official image; they are the server's to judge.
    words = method.split()
    if {"\n", "\r", "\0"}.isdisjoint(method) and words and words[0] in HOST_AUTH_METHODS:
        return ""
    return f"must be one of {', '.join(sorted(HOST_AUTH_METHODS))}, not {method!r}"


def host_auth_warning(method: str) -> str:
    """Return what to tell people about *method*; empty if nothing."""
    if method.split()[:1] != ["trust"]:
        return ""
    return (
        "POSTGRES_HOST_AUTH_METHOD is 'trust': anybody who reaches the port is any user, without"
        " a password"
    )
