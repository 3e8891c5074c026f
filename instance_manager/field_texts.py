"""What the source says of the fields of a model, and of the values of an enumeration.

These are the strings that stand below them.

Read from the source when somebody asks, so that they cost no start anything: compiled modules
leave them out.
"""

from __future__ import annotations

import ast
import inspect
import sys
from enum import Enum
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar, get_args

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Iterator

KindT = TypeVar("KindT")


def field_texts(model: type[BaseModel]) -> dict[str, str]:
    """Return the texts of a model's fields, those of its bases too, by their names in JSON."""
    found: dict[str, str] = {}
    # From the base on: a class's own text replaces that of its base.
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            found |= _own_texts(base)
    names = {name: field.alias or name for name, field in model.model_fields.items()}
    return {names[name]: text for name, text in found.items() if name in names}


def value_texts(enumeration: type[Enum]) -> dict[str, str]:
    """Return the texts of an enumeration's values, as far as it has some."""
    texts = _own_texts(enumeration)
    return {str(each.value): texts[each.name] for each in enumeration if each.name in texts}


def enumerations_below(*models: type[BaseModel]) -> tuple[type[Enum], ...]:
    """Return the enumerations that the fields of *models* are made of, each once."""
    fields = (field for model in models_below(*models) for field in model.model_fields.values())
    return tuple(dict.fromkeys(each for one in fields for each in _in(one.annotation, Enum)))


def models_below(*models: type[BaseModel]) -> tuple[type[BaseModel], ...]:
    """Return *models*, and those that their fields are made of, each once."""
    found: dict[type[BaseModel], None] = {}
    waiting = list(models)
    while waiting:
        model = waiting.pop()
        if model not in found:
            found[model] = None
            for field in model.model_fields.values():
                waiting.extend(_in(field.annotation, BaseModel))
    return tuple(found)


def _in(annotation: object, kind: type[KindT]) -> Iterator[type[KindT]]:
    if inspect.isclass(annotation) and issubclass(annotation, kind):
        yield annotation
    for argument in get_args(annotation):
        yield from _in(argument, kind)


def _own_texts(described: type) -> dict[str, str]:
    return _texts_of(described.__module__).get(described.__qualname__, {})


@lru_cache(maxsize=32)
def _texts_of(module: str) -> dict[str, dict[str, str]]:
    """Return the texts of a module's classes, by name; none where it has no source.

    Without its source a class is as good as with it.
    """
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (KeyError, OSError, TypeError, SyntaxError):
        return {}
    classes = (each for each in tree.body if isinstance(each, ast.ClassDef))
    return {each.name: dict(_texts_in(each.body)) for each in classes}


def _texts_in(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for field, text in pairwise(body):
        name = _assigned(field)
        if name and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            yield name, " ".join(str(text.value.value).split())


def _assigned(statement: ast.stmt) -> str:
    """Return the name of a field or a value; empty for what is neither."""
    match statement:
        case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
            return name
        case _:
            return ""
