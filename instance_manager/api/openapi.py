"""The OpenAPI document: made of the models and the routes that serve, and nothing else.

Made once, when somebody asks. Source: the OpenAPI Specification 3.1.1.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import textwrap
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from pydantic.json_schema import models_json_schema

from instance_manager import __version__
from instance_manager.api.descriptions import DESCRIPTIONS, Description, Parameter
from instance_manager.api.models import Problem
from instance_manager.api.problems import CONTENT_TYPE, STATUSES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import BaseModel

_REF: Final = "#/components/schemas/{model}"
_JSON: Final = "application/json"
_PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")
_OPEN: Final = frozenset({"probes"})
"""What the health listener serves without a credential, too."""
_ALWAYS: Final = (400, 401, 403, 500)
_WITH_BODY: Final = (408, 413, 415, 422)
_INFO: Final = (
    "Controls one PostgreSQL instance. Served on a unix socket, whose peers the kernel names, and"
    " over TCP to bearers of the token or of a client certificate. Errors are problems"
    " (RFC 9457): programs match `code`."
)
_CODES: Final = "The stable name of what is wrong: " + ", ".join(
    f"`{code}` ({status})" for code, status in sorted(STATUSES.items(), key=lambda item: item[1])
)


@cache
def served() -> bytes:
    """Return the document as it is served."""
    return f"{json.dumps(document(), indent=1, ensure_ascii=False)}\n".encode()


def document() -> dict[str, Any]:
    """Return the document: OpenAPI 3.1."""
    schemas = _schemas()
    paths: dict[str, dict[str, Any]] = {}
    for (method, path), description in DESCRIPTIONS.items():
        paths.setdefault(path, _path_item(path))[method.lower()] = _operation(description)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "instance-manager",
            "version": __version__,
            "description": _INFO,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [
            {"url": "http://localhost", "description": "the unix socket, or loopback"},
            {
                "url": "https://{host}:{port}",
                "description": "TCP with TLS",
                "variables": {"host": {"default": "localhost"}, "port": {"default": "8000"}},
            },
        ],
        "tags": [{"name": tag} for tag in dict.fromkeys(d.tag for d in DESCRIPTIONS.values())],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "certificate": {"type": "mutualTLS"},
            },
        },
        "security": [{"token": []}, {"certificate": []}, {}],
    }


def _path_item(path: str) -> dict[str, Any]:
    names = _PLACEHOLDER.findall(path)
    if not names:
        return {}
    return {
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    }


def _operation(description: Description) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": description.name,
        "tags": [description.tag],
        "summary": description.summary,
        "responses": dict(_responses(description)),
    }
    if description.tag in _OPEN:
        operation["security"] = [{}, {"token": []}, {"certificate": []}]
    if description.parameters:
        operation["parameters"] = [_parameter(each) for each in description.parameters]
    if description.body is not None:
        schema = {"$ref": _REF.format(model=_name(description.body, "validation"))}
        operation["requestBody"] = {"required": False, "content": {_JSON: {"schema": schema}}}
    return operation


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.text,
        "required": parameter.required,
        "schema": parameter.schema,
    }


def _responses(description: Description) -> Iterator[tuple[str, dict[str, Any]]]:
    for status, model in description.answers.items():
        answer: dict[str, Any] = {"description": HTTPStatus(status).phrase}
        if model is not None:
            schema = {"$ref": _REF.format(model=_name(model, "serialization"))}
            answer["content"] = {_JSON: {"schema": schema}}
        for kind in description.texts:
            answer.setdefault("content", {})[kind] = {"schema": _schema_of(kind)}
        if description.headers:
            answer["headers"] = {
                name: {"description": text, "schema": {"type": "string"}}
                for name, text in description.headers.items()
            }
        yield str(status), answer
    statuses = {*_ALWAYS, *description.problems}
    if description.body is not None or description.parameters:
        statuses |= {*_WITH_BODY}
    for status in sorted(statuses - description.answers.keys()):
        schema = {"$ref": _REF.format(model="Problem")}
        yield (
            str(status),
            {
                "description": HTTPStatus(status).phrase,
                "content": {CONTENT_TYPE: {"schema": schema}},
            },
        )


def _schema_of(kind: str) -> dict[str, Any]:
    return {"type": "object"} if kind == _JSON else {"type": "string"}


def _used() -> Iterator[tuple[type[BaseModel], str]]:
    yield Problem, "serialization"
    for description in DESCRIPTIONS.values():
        if description.body is not None:
            yield description.body, "validation"
        for model in description.answers.values():
            if model is not None:
                yield model, "serialization"


@cache
def _generated() -> tuple[Mapping[Any, Any], dict[str, Any]]:
    used: Any = list(dict.fromkeys(_used()))
    references, whole = models_json_schema(used, ref_template=_REF)
    return references, whole["$defs"]


def _name(model: type[BaseModel], mode: str) -> str:
    references, _ = _generated()
    reference: str = references[model, mode]["$ref"]
    return reference.rpartition("/")[2]


def _schemas() -> dict[str, Any]:
    """Return the models' schemas, with what their source says of each field."""
    _, schemas = _generated()
    texts = {name: text for model in _models() for name, text in _field_texts(model).items()}
    for name, schema in schemas.items():
        owner = name.partition("-")[0]
        if "description" in schema:
            schema["description"] = inspect.cleandoc(schema["description"])
        for field, entry in schema.get("properties", {}).items():
            entry.pop("title", None)
            if text := texts.get((owner, field)):
                entry.setdefault("description", text)
    schemas["Problem"]["properties"]["code"]["description"] = _CODES
    return dict(sorted(schemas.items()))


def _models() -> Iterator[type[BaseModel]]:
    from pydantic import BaseModel

    for module in (
        "api.models",
        "api.configuration_models",
        "api.update_models",
        "databases.models",
        "extensions.models",
    ):
        for found in vars(importlib.import_module(f"instance_manager.{module}")).values():
            if inspect.isclass(found) and issubclass(found, BaseModel):
                yield found


def _field_texts(model: type[BaseModel]) -> dict[tuple[str, str], str]:
    """Return the strings that stand below the fields of a model in its source."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    except (OSError, TypeError, SyntaxError):
        # Without its source a model has no such texts, and is as good as with them.
        return {}
    if not isinstance(body, ast.ClassDef):
        return {}
    found: dict[tuple[str, str], str] = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            words = inspect.cleandoc(str(text.value.value))
            found[model.__name__, field.target.id] = words
    return found
