"""``share/instance-manager/extension.json``: what a volume's builder says about it.

Pure. The bytes come from an image that others made, so nothing in them is trusted: a wrong type,
a deep nest or a huge number is a problem, never an exception. Keys that this version does not
know are left alone, so that newer images work.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar, cast

from instance_manager.extensions.paths import bare_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PATH: Final = "share/instance-manager/extension.json"

_MAXIMUM_ITEMS: Final = 64
_MAXIMUM_TEXT: Final = 4096

_MODULE: Final = r"[A-Za-z0-9_][A-Za-z0-9_.+-]*"
_NAME_BYTES: Final = 64
"""``NAMEDATALEN``: one more than a name of the server may have."""
_MAXIMUM_SHOWN: Final = 200
_PROVENANCE: Final = ("name", "version", "source", "revision", "created", "base")

_Value = TypeVar("_Value")


class Metadata(NamedTuple):
    """The fields that are used; ``None`` for a list of paths means *not given*.

    *requires* are names of extensions. *preload_after* says which libraries must stand before one
    of the volume's own in ``shared_preload_libraries``. *provenance* is shown; its name and
    version are compared with the catalogue's. *origin* is what findings call it.
    *suggested_libraries* are those that a catalogue would have loaded at the start if the volume
    were listed.
    """

    extension_control_path: tuple[str, ...] | None = None
    dynamic_library_path: tuple[str, ...] | None = None
    ld_library_path: tuple[str, ...] | None = None
    bin_path: tuple[str, ...] | None = None
    env: tuple[tuple[str, str], ...] = ()
    shared_preload_libraries: tuple[str, ...] = ()
    postgresql_parameters: tuple[tuple[str, str], ...] = ()
    requires: tuple[str, ...] = ()
    preload_after: tuple[tuple[str, tuple[str, ...]], ...] = ()
    provenance: tuple[tuple[str, str], ...] = ()
    smoke_test: tuple[str, ...] = ()
    origin: str = "its metadata"
    suggested_libraries: tuple[str, ...] = ()

    def only_suggesting(self) -> Metadata:
        """Return the same with nothing to load at the start, for a volume that is not listed."""
        return self._replace(
            shared_preload_libraries=(), suggested_libraries=self.shared_preload_libraries
        )


class ParsedMetadata(NamedTuple):
    """What could be used of the file, and what is wrong with it."""

    metadata: Metadata
    problems: tuple[str, ...]


def parse(content: bytes) -> ParsedMetadata:
    """Return the fields of the file and its problems; a field with a problem counts as absent."""
    # Late: a start without volumes needs no JSON here.
    import json

    try:
        document: object = json.loads(content)
    # Deeply nested JSON exhausts the stack of the parser.
    except (ValueError, RecursionError) as error:
        return ParsedMetadata(Metadata(), (f"it is not JSON: {_reason(error)}",))
    if not isinstance(document, dict):
        return ParsedMetadata(Metadata(), ("it is not a JSON object",))
    reader = _Reader(cast("dict[str, object]", document))
    metadata = Metadata(
        extension_control_path=reader.read("extension_control_path", _texts, None),
        dynamic_library_path=reader.read("dynamic_library_path", _texts, None),
        ld_library_path=reader.read("ld_library_path", _texts, None),
        bin_path=reader.read("bin_path", _texts, None),
        env=reader.read("env", _variables, ()),
        shared_preload_libraries=reader.read("shared_preload_libraries", _modules, ()),
        postgresql_parameters=reader.read("postgresql_parameters", _parameters, ()),
        requires=reader.read("requires", _extensions, ()),
        preload_after=reader.read("preload_after", _orders, ()),
        provenance=reader.provenance(),
        smoke_test=reader.read("smoke_test", _texts, ()),
    )
    return ParsedMetadata(metadata, tuple(reader.problems))


class _Reader:
    """Reads the fields of one document and gathers their problems."""

    def __init__(self, document: Mapping[str, object]) -> None:
        self.problems: list[str] = []
        self._document = document

    def read(self, key: str, convert: Callable[[object], _Value], default: _Value) -> _Value:
        """Return the field, or *default* where it is absent, null or wrong."""
        value = self._document.get(key)
        # Generators write null for what they leave out.
        if value is None:
            return default
        try:
            return convert(value)
        except (TypeError, ValueError) as error:
            self.problems.append(f"{key}: {error}")
            return default

    def provenance(self) -> tuple[tuple[str, str], ...]:
        """Return what is said of the build, as far as it is short text: the rest is not ours."""
        values = ((key, self._document.get(key)) for key in _PROVENANCE)
        return tuple(
            (key, value)
            for key, value in values
            if isinstance(value, str) and 0 < len(value) <= _MAXIMUM_SHOWN and value.isprintable()
        )


def _reason(error: Exception) -> str:
    # The text of a decoding error shows what is in the file, which may be a link to anything.
    line: object = getattr(error, "lineno", None)
    return f"line {line}" if isinstance(line, int) else type(error).__name__


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError("must be a list")
    items = cast("list[object]", value)
    if len(items) > _MAXIMUM_ITEMS:
        raise ValueError(f"has {len(items)} items, at most {_MAXIMUM_ITEMS} are read")
    return items


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("must hold text")
    # These texts get into messages, search paths and variables: control characters do harm there.
    if len(value) > _MAXIMUM_TEXT or not value.isprintable():
        raise ValueError(f"must hold printable text of at most {_MAXIMUM_TEXT} characters")
    return value


def _texts(value: object) -> tuple[str, ...]:
    return tuple(map(_text, _list(value)))


def _modules(value: object) -> tuple[str, ...]:
    # What the server would search in its own directory alone is looked for in the volumes.
    names = tuple(map(bare_name, _texts(value)))
    if not all(re.fullmatch(_MODULE, name) for name in names):
        raise ValueError("must hold bare names of libraries")
    return names


def _extensions(value: object) -> tuple[str, ...]:
    names = _texts(value)
    if not all(0 < len(name.encode()) < _NAME_BYTES and "/" not in name for name in names):
        raise ValueError("must hold names of extensions")
    return names


def _variables(value: object) -> tuple[tuple[str, str], ...]:
    return tuple(map(_variable, _list(value)))


def _variable(value: object) -> tuple[str, str]:
    if not isinstance(value, dict):
        raise TypeError("must hold objects with name and value")
    variable = cast("dict[str, object]", value)
    return _text(variable.get("name")), _text(variable.get("value"))


def _map(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise TypeError("must be an object")
    items = cast("dict[str, object]", value)
    if len(items) > _MAXIMUM_ITEMS:
        raise ValueError(f"has {len(items)} items, at most {_MAXIMUM_ITEMS} are read")
    return items


def _orders(value: object) -> tuple[tuple[str, tuple[str, ...]], ...]:
    orders = _map(value)
    names = _modules(list(orders))
    return tuple(
        (name, _modules(others)) for name, others in zip(names, orders.values(), strict=True)
    )


def _parameters(value: object) -> tuple[tuple[str, str], ...]:
    return tuple((_text(name), _parameter(setting)) for name, setting in _map(value).items())


def _parameter(value: object) -> str:
    # bool is an int to Python, and the server does not take `True`.
    if isinstance(value, bool):
        return "on" if value else "off"
    return _text(str(value) if isinstance(value, int | float) else value)
