"""Where a setting comes from: origins, layers of values, and the texts to load from. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

from instance_manager.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# What every source is read to: scalars are text, None is "not set".
Value: TypeAlias = "str | list[Value] | dict[str, Value] | None"

_SHOWN_LIMIT = 80


class Source(StrEnum):
    """The kinds of sources, from the weakest to the strongest."""

    DEFAULT = "default"
    IMAGE_ENVIRONMENT = "image-environment"
    FILE = "file"
    ENVIRONMENT = "environment"
    COMMAND_LINE = "command-line"
    DOCUMENT = "document"


@dataclass(frozen=True, slots=True)
class Origin:
    """What set a key: *name* is a file or a variable, *line* counts from 1, 0 is unknown."""

    source: Source
    name: str = ""
    line: int = 0

    def __str__(self) -> str:
        if self.source is Source.FILE:
            return f"{self.name}, line {self.line}" if self.line else self.name
        return self.name or self.source.value.replace("-", " ")


@dataclass(frozen=True, slots=True)
class Layer:
    """What one source says: a value for each dotted key, and what is wrong with it.

    *origins* may hold more than the keys: a file knows the line of each item of a list.
    """

    values: Mapping[str, Value] = field(default_factory=dict[str, Value])
    origins: Mapping[str, Origin] = field(default_factory=dict[str, Origin])
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsText:
    """Everything that settings are loaded from, as read.

    *command_line* maps dotted keys to text; *variable_files* holds the content of each file that
    a ``…_FILE`` variable of the official image names, by the variable's name; *document* is the
    configuration document that was accepted over HTTP, where one is in force; *problems* are those
    of reading.
    """

    command_line: Mapping[str, str] = field(default_factory=dict[str, str])
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    file_name: str = ""
    file_text: str = ""
    variable_files: Mapping[str, str] = field(default_factory=dict[str, str])
    document: str | None = None
    problems: tuple[Problem, ...] = ()


def located(problem: Problem, origins: Mapping[str, Origin]) -> Problem:
    """Add to *problem* where its path, or the map or list around it, was set."""
    path = problem.path
    # Upwards: a key that is missing in an item has no place of its own.
    while path and path not in origins:
        path = path.rpartition(".")[0]
    return Problem(problem.path, f"{problem.message} ({origins[path]})") if path else problem


def describe(value: object) -> str:
    """Say what kind of thing *value* is; text is shown, shortened."""
    match value:
        case None:
            return "nothing"
        case dict():
            return "a map"
        case list() | tuple():
            return "a list"
        case _:
            return (
                repr(value)
                if len(str(value)) <= _SHOWN_LIMIT
                else f"{repr(value)[:_SHOWN_LIMIT]}…"
            )


def text_problems(path: str, value: Value) -> Iterator[Problem]:
    """Find text that no parameter, path or environment could carry, at any depth of *value*."""
    match value:
        case str():
            if fault := _fault(value):
                yield Problem(path, f"must not hold {fault}")
        case list():
            for index, item in enumerate(value):
                yield from text_problems(f"{path}.{index}", item)
        case dict():
            for name, item in value.items():
                yield from text_problems(path, name)
                yield from text_problems(f"{path}.{name}", item)
        case None:
            pass


def _fault(text: str) -> str:
    if "\0" in text:
        return "a NUL character"
    # Bytes of the environment that are no UTF-8 arrive as lone surrogates (PEP 383).
    return "" if text.isascii() or _is_utf8(text) else "bytes that are not UTF-8"


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
