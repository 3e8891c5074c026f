"""postgresql.conf as text: what we write, and single lines of what others wrote. Pure.

The grammar is that of guc-file.l: one parameter a line, no string goes over a line's end.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

from instance_manager.configuration.parameters import DIRECTIVES, OWN_PREFIX, is_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

HASH_PARAMETER: Final = f"{OWN_PREFIX}config_sha256"
HEADER: Final = (
    "# Written by instance-manager at each start and reload: changes made here are lost.\n"
    "# What to set is in its settings, under postgres.\n"
)

_NAMED: Final[Mapping[str, str]] = {"\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
_ESCAPES: Final = {code: f"\\{code:03o}" for code in (*range(1, 32), 127)} | {
    **{ord(char): f"\\{letter}" for char, letter in _NAMED.items()},
    ord("'"): "''",
    ord("\\"): "\\\\",
}
_LETTERS: Final = {letter: char for char, letter in _NAMED.items()}

_LINE: Final = re.compile(
    r"""[ \t\r]*
    (?P<name>[^\W\d]\w*(?:\.[^\W\d]\w*)?)
    (?:[ \t\r]*=[ \t\r]*|[ \t\r]+|(?='))
    (?:'(?P<quoted>(?:[^'\\]|\\.|'')*)'|(?P<bare>
        [^\W\d][\w.:/-]*
        | [+-]?(?:0x[0-9a-fA-F]+|[0-9]+)[a-zA-Z]*
        | [+-]?[0-9]*\.[0-9]*(?:[eE][+-]?[0-9]+)?
    ))
    [ \t\r]*(?:\#.*)?""",
    re.VERBOSE,
)
_ESCAPED: Final = re.compile(r"\\([0-7]{1,3}|.)|''")


def render(parameters: Mapping[str, str], beside: Iterable[str] = ()) -> str:
    """Return the file that tells the server *parameters*, sorted, the hash of it all at its end.

    The server gives the hash back (``SHOW instance_manager.config_sha256``), which tells whether
    it has loaded this very text, and the texts of the files *beside* it, which it reads with it
    and says nothing of.

    Raises:
        ValueError: a name or a value that no file can carry; callers have looked before.
    """
    body = HEADER + "".join(f"{line}\n" for line in render_lines(parameters))
    return f"{body}{render_line(HASH_PARAMETER, sha256_of(body, *beside))}\n"


def render_lines(parameters: Mapping[str, str]) -> list[str]:
    """Return one line for each of *parameters*, sorted by name."""
    return [render_line(name, value) for name, value in sorted(parameters.items())]


def without(text: str, names: Collection[str]) -> str:
    """Return a text of ours without the lines of some parameters."""
    lines = text.split("\n")
    return "\n".join(
        line for line in lines if not ((parsed := parse_line(line)) and parsed[0] in names)
    )


def render_line(name: str, value: str) -> str:
    """Return ``name = 'value'``.

    Raises:
        ValueError: as for :func:`render`.
    """
    # Whatever a caller has missed: one bad line keeps the server from reading any of the file.
    if not is_name(name) or name.lower() in DIRECTIVES or "\0" in value:
        raise ValueError(f"cannot render parameter {name!r}: no file can carry it")
    return f"{name} = {quote(value)}"


def quote(value: str) -> str:
    """Quote *value* for the file: every quote, backslash and control character is escaped."""
    return f"'{value.translate(_ESCAPES)}'"


def sha256_of(*texts: str) -> str:
    """Return the hash that the last line carries, of the lines before it and of other files."""
    return hashlib.sha256("".join(texts).encode(errors="surrogateescape")).hexdigest()


def values_of(text: str) -> dict[str, str]:
    """Return the parameters that the lines of a text set, the last of a name.

    A line ends where the server ends it: what else ``splitlines`` takes for an end, such as
    U+2028, may be part of a value.
    """
    return dict(filter(None, map(parse_line, text.split("\n"))))


def parse_line(line: str) -> tuple[str, str] | None:
    """Return the parameter, or directive, and the value of a line; None if it holds none.

    A line that the server would not understand has none either.
    """
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    bare = match["bare"]
    if bare is None:
        return match["name"], _ESCAPED.sub(_unescape, match["quoted"])
    # Two names with a dot are a token of their own, which is no value.
    return None if "." in bare and is_name(bare) else (match["name"], bare)


def _unescape(match: re.Match[str]) -> str:
    """Undo one escape as DeescapeQuotedString does (guc-file.l)."""
    escaped = match[1]
    if escaped is None:
        return "'"
    if escaped[0] in "01234567":
        return chr(int(escaped, 8) & 0xFF)
    return _LETTERS.get(escaped, escaped)
