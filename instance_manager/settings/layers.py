"""One layer of values from each source: the file, our own variables, the command line. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from instance_manager.errors import Problem
from instance_manager.settings.documents import Document, is_null
from instance_manager.settings.keys import (
    VARIABLE_PREFIX,
    Key,
    known_keys,
    known_sections,
    nearest,
    suggestion,
)
from instance_manager.settings.sources import (
    Layer,
    Origin,
    Source,
    Value,
    describe,
    located,
    text_problems,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# The path of the settings file itself; it has no `__`, so it is no key.
FILE_VARIABLE = f"{VARIABLE_PREFIX}CONFIG"
_NOT_JSON = """must be a list or a map in JSON, such as '["a"]' or '{"a": "b"}'"""


def file_layer(document: Document, name: str) -> Layer:
    """Sort a settings file into its keys; *name* is the file's."""
    values: dict[str, Value] = {}
    problems: list[Problem] = []
    for path, value in _entries(document.values, ()):
        if isinstance(value, Problem):
            problems.append(value)
        else:
            values[path] = value
            problems.extend(text_problems(path, value))
    origins = {path: Origin(Source.FILE, name, line) for path, line in document.lines.items()}
    found = (located(problem, origins) for problem in problems)
    return Layer(values, origins, (*document.problems, *found))


def _entries(
    tree: Mapping[str, Value], parents: tuple[str, ...]
) -> Iterator[tuple[str, Value | Problem]]:
    for name, value in tree.items():
        path = ".".join((*parents, name))
        # A dot within a name would let it pass for a path.
        if "." not in name and path in known_sections():
            yield from _section_entries(value, (*parents, name))
        elif "." in name or path not in known_keys():
            yield path, Problem(path, f"unknown key{suggestion((*parents, name))}")
        elif value is not None or known_keys()[path].null_is_value:
            yield path, without_nulls(value)


def _section_entries(value: Value, path: tuple[str, ...]) -> Iterator[tuple[str, Value | Problem]]:
    if isinstance(value, dict):
        yield from _entries(value, path)
    elif value is not None:
        name = ".".join(path)
        yield name, Problem(name, f"must be a map of keys, not {describe(value)}")


def without_nulls(value: Value) -> Value:
    """Leave out the entries of maps that are not set; a list keeps its items."""
    match value:
        case dict():
            return {name: without_nulls(item) for name, item in value.items() if item is not None}
        case list():
            return [without_nulls(item) for item in value]
        case _:
            return value


def environment_layer(environment: Mapping[str, str]) -> Layer:
    """Take the variables whose names are those of keys, joined by ``__``.

    One without ``__`` that names no key is ignored: Kubernetes injects such for a Service.
    """
    by_variable = {key.variable: key for key in known_keys().values()}
    layer = _Collector()
    for name in sorted(environment):
        if key := by_variable.get(name):
            layer.add(key, environment[name], Origin(Source.ENVIRONMENT, name))
        # A variable with a slip in its name would be ignored in silence.
        elif name.startswith(VARIABLE_PREFIX) and "__" in name:
            meant = nearest(name, by_variable)
            hint = f"; did you mean {meant}?" if meant else ""
            layer.problems.append(Problem(name, f"this variable names no key{hint}"))
    return layer.finish()


def command_line_layer(overrides: Mapping[str, str]) -> Layer:
    """Take overrides given as dotted keys and text."""
    layer = _Collector()
    for path, text in overrides.items():
        if key := known_keys().get(path):
            layer.add(key, text, Origin(Source.COMMAND_LINE))
        else:
            hint = suggestion(path.split("."))
            layer.problems.append(Problem(path, f"unknown key{hint} (command line)"))
    return layer.finish()


class _Collector:
    """Gathers a layer from texts: scalars as they are, lists and maps from JSON."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._values: dict[str, Value] = {}
        self._origins: dict[str, Origin] = {}

    def add(self, key: Key, text: str, origin: Origin) -> None:
        self._origins[key.path] = origin
        # As in the file, so that one rule holds for both.
        value: Value = None if is_null(text) else text
        if value is not None and not key.is_scalar:
            try:
                value = without_nulls(parse_json(text))
            except ValueError as err:
                self.problems.append(Problem(key.path, f"{err} ({origin})"))
                return
        found = text_problems(key.path, value)
        self.problems.extend(located(problem, self._origins) for problem in found)
        if value is not None or key.null_is_value:
            self._values[key.path] = value

    def finish(self) -> Layer:
        return Layer(self._values, self._origins, tuple(self.problems))


def parse_json(text: str) -> Value:
    """Read JSON as settings are read: numbers keep their text, true and false are on and off.

    Raises:
        ValueError: for anything but JSON, without the text itself, which may hold a password.
    """
    import json

    try:
        parsed: Any = json.loads(
            text,
            # A number as it was written: 1.10 and 0600 mean something to the server.
            parse_int=str,
            parse_float=str,
            parse_constant=_refuse_constant,
            object_pairs_hook=_unique,
        )
    except json.JSONDecodeError as err:
        reason = f"{err.msg} (character {err.pos + 1})"
        raise ValueError(f"{_NOT_JSON}: {reason}") from None
    except RecursionError:
        raise ValueError(f"{_NOT_JSON}: nested too deeply") from None
    return as_text(parsed)


def _refuse_constant(name: str) -> str:
    raise ValueError(f"{_NOT_JSON}: {name} is no number of JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for name, value in pairs:
        # json.loads() takes the last one, and says nothing.
        if name in entries:
            raise ValueError(f"{name!r} is given twice")
        entries[name] = value
    return entries


def as_text(value: Any) -> Value:
    """Return what JSON holds as settings have it: true and false are on and off, null is unset."""
    # The server's words; str() would say True.
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, dict):
        entries = cast("dict[str, Any]", value)
        return {name: as_text(item) for name, item in entries.items()}
    if isinstance(value, list):
        return [as_text(item) for item in cast("list[object]", value)]
    return None if value is None else str(value)
