"""What the source says of the fields of a model: the strings that stand below them.

Read from the source when somebody asks, so that they cost no start anything: compiled modules
leave them out.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import TYPE_CHECKING, get_args

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Iterator


def field_texts(model: type[BaseModel]) -> dict[str, str]:
    """Return the texts of a model's fields, those of its bases too, by their names in JSON."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            found |= _own_texts(base)
    names = {name: field.alias or name for name, field in model.model_fields.items()}
    return {names[name]: text for name, text in found.items() if name in names}


def models_below(*models: type[BaseModel]) -> tuple[type[BaseModel], ...]:
    """Return *models*, and those that their fields are made of, each once."""
    found: dict[type[BaseModel], None] = {}
    waiting = list(models)
    while waiting:
        model = waiting.pop()
        if model not in found:
            found[model] = None
            for field in model.model_fields.values():
                waiting.extend(_models_in(field.annotation))
    return tuple(found)


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _own_texts(model: type[BaseModel]) -> dict[str, str]:
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    except (OSError, TypeError, SyntaxError):
        # Without its source a model has no such texts, and is as good as with them.
        return {}
    if not isinstance(body, ast.ClassDef):
        return {}
    found: dict[str, str] = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found
