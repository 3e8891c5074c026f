"""Control files and script names, read as PostgreSQL 18 reads them.

Pure: bytes and names in, values and problems out. The syntax is that of ``guc-file.l``, the keys
are those of ``parse_extension_control_file``, the update paths those of ``get_ext_ver_list``
(``src/backend/commands/extension.c``). The server stops at the first problem; this room collects
all of them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from instance_manager.extensions.paths import display

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_WORD_CHARACTER: Final = r"A-Za-z_0-9\x80-\xff"
_TOKEN: Final = re.compile(
    rf"""(?P<word>[A-Za-z_\x80-\xff][{_WORD_CHARACTER}\-._:/]*)
    |(?P<string>'(?:[^'\\]|\\.|'')*')
    |(?P<number>[+-]?(?:[0-9]*\.[0-9]*(?:[Ee][+-]?[0-9]+)?
        |(?:0x[0-9a-fA-F]+|[0-9]+)[A-Za-z]*))
    |(?P<equals>=)
    |(?P<end>\#.*|\Z)""",
    re.VERBOSE | re.DOTALL,
)
_NAME: Final = re.compile(rf"(?!\d)[{_WORD_CHARACTER}]+(?:\.(?!\d)[{_WORD_CHARACTER}]+)?")
_ESCAPE: Final = re.compile(r"\\([0-7]{1,3}|.)|''", re.DOTALL)
_LETTER_ESCAPES: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_IDENTIFIER: Final = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^\s,"][^\s,]*))\s*', re.ASCII)

_PRIMARY_ONLY: Final = frozenset({"directory", "default_version"})
_TEXTS: Final = _PRIMARY_ONLY | {"module_pathname", "comment", "schema", "encoding"}
_BOOLEANS: Final = frozenset({"relocatable", "superuser", "trusted"})
_LISTS: Final = frozenset({"requires", "no_relocate"})
# The server encodings and their aliases of pg_encname_tbl (encnames.c), cleaned as it does.
_ENCODINGS: Final = frozenset(
    {"eucjp", "eucjis2004", "euccn", "euckr", "euctw", "utf8", "unicode", "sqlascii"}
    | {"koi8", "koi8r", "koi8u", "alt", "win", "abc", "vscii", "tcvn", "tcvn5712", "muleinternal"}
    | {f"latin{part}" for part in range(1, 11)}
    | {f"iso8859{part}" for part in range(1, 17) if part not in {11, 12}}
    | {f"{word}{page}" for word in ("win", "windows") for page in (866, 874, *range(1250, 1259))}
)
# The server's scanner would act on them: what they lead to is none of the volume's.
_INCLUDES: Final = frozenset({"include", "include_if_exists", "include_dir"})


class ControlProblem(NamedTuple):
    """What is wrong in a line; *line* counts from 1, 0 stands for the whole file."""

    line: int
    reason: str


class ControlFile(NamedTuple):
    """The values of a control file, with the server's defaults for what it does not set."""

    default_version: str | None
    module_pathname: str | None
    directory: str | None
    schema: str | None
    requires: tuple[str, ...]
    relocatable: bool
    trusted: bool
    problems: tuple[ControlProblem, ...]

    @property
    def module(self) -> str | None:
        """The bare name of the library, or ``None`` where the server does not search for it.

        ``$libdir/`` is stripped only before a name without a slash
        (``load_external_function``, dfmgr.c).
        """
        if not self.module_pathname:
            return None
        name = self.module_pathname.removeprefix("$libdir/")
        return None if "/" in name else name

    @property
    def is_nested(self) -> bool:
        """Whether the library is asked for below the server's own directory alone."""
        return (self.module_pathname or "").startswith("$libdir/") and self.module is None


class _Setting(NamedTuple):
    line: int
    name: str
    value: str


def parse(content: bytes, *, secondary: bool = False) -> ControlFile:
    """Return what a control file says, and every problem in it.

    Args:
        content: the file, in whatever encoding: the server reads bytes.
        secondary: it is the ``name--version.control`` of one version.
    """
    problems: list[ControlProblem] = []
    values: dict[str, str] = {}
    for setting in _settings(content, problems):
        reason = _refusal(setting, secondary=secondary)
        if reason:
            problems.append(ControlProblem(setting.line, reason))
        else:
            values[setting.name] = setting.value
    # Judged once all lines are read, as the server does: the two may stand in either order.
    relocatable = parse_boolean(values.get("relocatable", "off")) is True
    if relocatable and "schema" in values:
        reason = 'parameter "schema" cannot be specified when "relocatable" is true'
        problems.append(ControlProblem(0, reason))
    return ControlFile(
        default_version=values.get("default_version"),
        module_pathname=values.get("module_pathname"),
        directory=values.get("directory"),
        schema=values.get("schema"),
        # A list that is none is among the problems already.
        requires=split_identifiers(values.get("requires", "")) or (),
        relocatable=relocatable,
        trusted=parse_boolean(values.get("trusted", "off")) is True,
        problems=tuple(problems),
    )


def _settings(content: bytes, problems: list[ControlProblem]) -> Iterator[_Setting]:
    # Latin-1 maps each byte to one character, which is how the server's scanner sees them.
    for number, line in enumerate(content.decode("latin-1").split("\n"), start=1):
        tokens = _tokens(line)
        if tokens is None:
            problems.append(ControlProblem(number, "syntax error"))
        elif tokens:
            setting = _setting(number, tokens)
            if setting is None:
                problems.append(ControlProblem(number, "syntax error"))
            else:
                yield setting


def _tokens(line: str) -> list[tuple[str, str]] | None:
    tokens: list[tuple[str, str]] = []
    position = 0
    while True:
        # A carriage return is a blank to guc-file.l, so that lines of DOS are valid.
        while position < len(line) and line[position] in " \t\r":
            position += 1
        match = _TOKEN.match(line, position)
        if match is None:
            return None
        if match.lastgroup == "end":
            return tokens
        tokens.append((str(match.lastgroup), match[0]))
        position = match.end()


def _setting(number: int, tokens: list[tuple[str, str]]) -> _Setting | None:
    (kind, name), *rest = tokens
    # The token for values also takes `-`, `:` and `/`, which no name has.
    if kind != "word" or not _NAME.fullmatch(name):
        return None
    # The equals sign is optional in this syntax.
    if rest and rest[0][0] == "equals":
        del rest[0]
    if len(rest) != 1 or rest[0][0] == "equals":
        return None
    kind, raw = rest[0]
    if kind == "word" and "." in raw and _NAME.fullmatch(raw):
        # The server takes it for the name of a parameter, which is no value.
        return None
    value = _unescape(raw[1:-1]) if kind == "string" else raw
    # The server's strings end at the first NUL.
    return _Setting(number, _as_text(name), _as_text(value.partition("\0")[0]))


def _as_text(latin: str) -> str:
    return latin.encode("latin-1").decode("utf-8", "backslashreplace")


def _unescape(quoted: str) -> str:
    """Undo doubled quotes and backslash escapes, as ``DeescapeQuotedString`` (guc-file.l)."""
    return _ESCAPE.sub(_unescaped, quoted)


def _unescaped(match: re.Match[str]) -> str:
    escape: str | None = match[1]
    if escape is None:
        return "'"
    if escape in _LETTER_ESCAPES:
        return _LETTER_ESCAPES[escape]
    # Three octal digits go up to 511; the server keeps what fits into a byte.
    return chr(int(escape, 8) & 0xFF) if escape[0] in "01234567" else escape


def _refusal(setting: _Setting, *, secondary: bool) -> str:
    """Say why the server would refuse this setting, or nothing."""
    name, value = setting.name, setting.value
    if secondary and name in _PRIMARY_ONLY:
        return f'parameter "{name}" cannot be set in a secondary extension control file'
    # The parser takes these in any case, before the keys are compared letter by letter (strcmp).
    if name.lower() in _INCLUDES:
        return f'"{name}" is not supported in a control file'
    if name not in _TEXTS | _BOOLEANS | _LISTS:
        return f'unrecognized parameter "{name}"'
    return _misfit(name, value)


def _misfit(name: str, value: str) -> str:
    if name == "encoding" and not _is_server_encoding(value):
        return f'"{value}" is not a valid encoding name'
    if name in _BOOLEANS and parse_boolean(value) is None:
        return f'parameter "{name}" requires a Boolean value'
    if name in _LISTS and split_identifiers(value) is None:
        return f'parameter "{name}" must be a list of extension names'
    return ""


def _is_server_encoding(name: str) -> bool:
    return re.sub(r"[\W_]", "", name.lower(), flags=re.ASCII) in _ENCODINGS


def parse_boolean(text: str) -> bool | None:
    """Return what ``parse_bool`` (bool.c) makes of *text*: unique prefixes count; else None."""
    word = text.lower()
    if not word:
        return None
    # A lone "o" could be the beginning of both "on" and "off": those take two letters at least.
    if word == "1" or "true".startswith(word) or "yes".startswith(word) or word == "on":
        return True
    is_off = word in {"of", "off"}
    if word == "0" or "false".startswith(word) or "no".startswith(word) or is_off:
        return False
    return None


def split_identifiers(text: str) -> tuple[str, ...] | None:
    """Split a list as ``SplitIdentifierString`` (varlena.c): None where it is no list."""
    if not text.strip(" \t\n\r\f\v"):
        return ()
    names: list[str] = []
    position = 0
    while True:
        match = _IDENTIFIER.match(text, position)
        if match is None:
            return None
        quoted, bare = match[1], match[2]
        # Folded like an identifier in SQL, unless it is quoted.
        names.append(bare.lower() if quoted is None else quoted.replace('""', '"'))
        position = match.end()
        # A comma at the end is an error: after one, a name must follow.
        if position == len(text):
            return tuple(names)
        if text[position] != ",":
            return None
        position += 1


def installable_versions(extension: str, file_names: Iterable[str]) -> tuple[str, ...]:
    """Return the versions that ``CREATE EXTENSION`` can reach, oldest first.

    A version is reachable if it has an installation script ``name--V.sql``, or a chain of update
    scripts ``name--A--B.sql`` that begins at one that has.
    """
    reached: set[str] = set()
    updates: dict[str, list[str]] = {}
    for source, target in _scripts(extension, file_names):
        if source is None:
            reached.add(target)
        else:
            updates.setdefault(source, []).append(target)
    frontier = list(reached)
    while frontier:
        for target in updates.get(frontier.pop(), ()):
            # Scripts that lead up and down again make a circle.
            if target not in reached:
                reached.add(target)
                frontier.append(target)
    return tuple(sorted(reached, key=_version_key))


def updatable_versions(extension: str, file_names: Iterable[str], target: str) -> tuple[str, ...]:
    """Return the versions from which ``ALTER EXTENSION`` can update to *target*, oldest first."""
    sources: dict[str, list[str]] = {}
    for source, reached in _scripts(extension, file_names):
        if source is not None:
            sources.setdefault(reached, []).append(source)
    found: set[str] = set()
    frontier = [target]
    while frontier:
        for source in sources.get(frontier.pop(), ()):
            if source not in found and source != target:
                found.add(source)
                frontier.append(source)
    return tuple(sorted(found, key=_version_key))


def _scripts(extension: str, file_names: Iterable[str]) -> Iterator[tuple[str | None, str]]:
    prefix = f"{extension}--"
    for name in file_names:
        if name.startswith(prefix) and name.endswith(".sql"):
            first, *others = display(name[len(prefix) : -len(".sql")]).split("--", 1)
            if not others:
                yield None, first
            # The server ignores a name of three versions, too.
            elif "--" not in others[0]:
                yield first, others[0]


def _version_key(version: str) -> list[tuple[bool, int, str]]:
    # Numbers compare by value, and stand before words: 0.9 < 0.10 < next.
    parts = re.findall(r"[0-9]+|[^0-9.]+", version)
    return [(not part[0].isdigit(), len(part.lstrip("0")), part.lstrip("0")) for part in parts]
