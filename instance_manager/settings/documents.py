"""The settings file: YAML whose scalars stay text, so that ``on``, ``0600`` and ``1.10`` survive.

Pure: text in, tree out. The document is built from the parser's events and not from its nodes:
libyaml's own composer recurses without bound, and a deeply nested file would end the process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from instance_manager.errors import Problem, SettingsError
from instance_manager.settings.sources import Value, describe

if TYPE_CHECKING:
    from collections.abc import Iterator

# The deepest key has five parts (databases, item, extensions, item, name).
DEPTH_LIMIT = 16
# Counted with what aliases repeat; far beyond any real file, and read in a moment.
NODE_LIMIT = 20_000

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = frozenset(
    {None, *(_TAG + kind for kind in ("str", "int", "float", "bool", "seq", "map"))}
)
_MERGE = "<<"


@dataclass(frozen=True, slots=True)
class Document:
    """A settings file as read: its tree, the line of each path in it, and what is wrong."""

    values: dict[str, Value] = field(default_factory=dict[str, Value])
    lines: dict[str, int] = field(default_factory=dict[str, int])
    problems: tuple[Problem, ...] = ()


def is_null(text: str) -> bool:
    """Whether YAML reads the plain scalar *text* as null."""
    return text in _NULLS


def parse_document(text: str, name: str) -> Document:
    """Read one YAML document whose top is a map. *name* is the file's, for messages.

    Never raises for bad text: a document that can't be read is empty and has a problem.
    """
    # Not needed where no file is given, and PID 1 starts postgres the sooner.
    import yaml

    reader = _Reader(yaml.parse(text, Loader=yaml.CSafeLoader), name)
    try:
        tree = reader.read()
    except yaml.YAMLError as err:
        return Document(problems=(Problem("", f"cannot read {name}: not YAML: {_reason(err)}"),))
    except SettingsError as err:
        return Document(problems=(Problem("", f"cannot read {name}: {err}"),))
    if tree is not None and not isinstance(tree, dict):
        what = f"must be a map of keys, not {describe(tree)}"
        return Document(problems=(Problem("", f"cannot read {name}: {what}"),))
    return Document(tree or {}, reader.lines, tuple(reader.problems))


def _reason(err: Any) -> str:
    """Say in one line what the parser did not like, and where."""
    reason = getattr(err, "problem", None) or getattr(err, "reason", None) or "unreadable"
    mark = getattr(err, "problem_mark", None)
    where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    star = "alias" in str(getattr(err, "context", ""))
    return reason + where + ("; text that begins with * must stand in quotes" if star else "")


def _refused(reason: str) -> SettingsError:
    """Make the error for a document that is YAML, but none to read on."""
    return SettingsError([Problem("", reason)])


@dataclass(frozen=True, slots=True)
class _Anchored:
    value: Value
    nodes: int


class _Reader:
    """Builds one document from the parser's events, and collects what is wrong with it."""

    def __init__(self, events: Iterator[Any], name: str) -> None:
        self.lines: dict[str, int] = {}
        self.problems: list[Problem] = []
        self._events = events
        self._file = name
        self._anchors: dict[str, _Anchored | None] = {}
        self._nodes = 0

    def read(self) -> Value:
        """Read the whole stream: nothing, or one document."""
        self._next()  # the start of the stream
        # A file of nothing but comments is one without settings.
        if _kind(self._next()) == "StreamEnd":
            return None
        value = self._value(self._next(), ())
        self._next()  # the end of the document
        if _kind(self._next()) != "StreamEnd":
            raise _refused("it must hold one document, not several")
        return value

    def _next(self) -> Any:
        return next(self._events)

    def _value(self, event: Any, path: tuple[str, ...]) -> Value:
        self._count(1)
        if len(path) > DEPTH_LIMIT:
            raise _refused(f"nested too deeply (line {_line(event)})")
        # The first: a key that is given twice has its problem at the second.
        self.lines.setdefault(".".join(path), _line(event))
        if _kind(event) == "Alias":
            return self._alias(event)
        before = self._nodes
        if event.anchor:
            # Until it is read: an alias within its own node would be a circle.
            self._anchors[event.anchor] = None
        self._check_tag(event, path)
        value = self._content(event, path)
        if event.anchor:
            self._anchors[event.anchor] = _Anchored(value, self._nodes - before + 1)
        return value

    def _content(self, event: Any, path: tuple[str, ...]) -> Value:
        match _kind(event):
            case "Scalar":
                # Within quotes it is text: "null" may be a password.
                plain = event.implicit[0] and is_null(event.value)
                return None if plain else str(event.value)
            case "SequenceStart":
                return self._list(path)
            case _:
                return self._map(path)

    def _list(self, path: tuple[str, ...]) -> list[Value]:
        items: list[Value] = []
        while _kind(event := self._next()) != "SequenceEnd":
            items.append(self._value(event, (*path, str(len(items)))))
        return items

    def _map(self, path: tuple[str, ...]) -> dict[str, Value]:
        entries: dict[str, Value] = {}
        while _kind(event := self._next()) != "MappingEnd":
            name = self._name(event, path)
            value = self._value(self._next(), (*path, name or "?"))
            if name in entries:
                self._problem((*path, name), "given twice", event)
            elif name is not None:
                entries[name] = value
        return entries

    def _name(self, event: Any, path: tuple[str, ...]) -> str | None:
        """Read the name of an entry; None for one that can't be used."""
        # A key may be a map or a list, whose events must be read to find the value.
        name = self._value(event, (*path, "?"))
        if not isinstance(name, str):
            self._problem(path, f"a key must be text, not {describe(name)}", event)
            return None
        if name == _MERGE and getattr(event, "implicit", (False,))[0]:
            self._problem(path, "merge keys (<<) are not read: write the keys out", event)
            return None
        return name

    def _alias(self, event: Any) -> Value:
        anchored = self._anchors.get(event.anchor)
        if anchored is None:
            raise _refused(
                f"alias *{event.anchor} stands for nothing before it (line {_line(event)})"
                "; text that begins with * must stand in quotes"
            )
        # Aliases of aliases grow by powers: a few lines could stand for more than memory holds.
        self._count(anchored.nodes)
        return anchored.value

    def _count(self, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > NODE_LIMIT:
            raise _refused(f"more than {NODE_LIMIT} values, with those that aliases repeat")

    def _check_tag(self, event: Any, path: tuple[str, ...]) -> None:
        if event.tag not in _PLAIN_TAGS:
            self._problem(path, f"tags such as {event.tag!r} are not read", event)

    def _problem(self, path: tuple[str, ...], message: str, event: Any) -> None:
        where = f" ({self._file}, line {_line(event)})"
        self.problems.append(Problem(".".join(path), message + where))


def _kind(event: Any) -> str:
    return type(event).__name__.removesuffix("Event")


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1
