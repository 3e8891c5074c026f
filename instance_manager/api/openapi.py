"""The OpenAPI document: made of the models and the routes that serve, and nothing else.

Made once, when somebody asks. Source: the OpenAPI Specification 3.1.1.
"""

from __future__ import annotations

import inspect
import json
import re
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from pydantic.json_schema import models_json_schema

from instance_manager import __version__
from instance_manager.api.descriptions import (
    DESCRIPTIONS,
    PLACES,
    TAGS,
    Description,
    Model,
    Parameter,
)
from instance_manager.api.models import Problem, StreamNotice
from instance_manager.api.problems import CONTENT_TYPE, STATUSES
from instance_manager.field_texts import (
    enumerations_below,
    field_texts,
    models_below,
    value_texts,
)
from instance_manager.settings.models import DatabaseSettings, VolumeSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import BaseModel

_REF: Final = "#/components/schemas/{model}"
_JSON: Final = "application/json"
_PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")
_SETTINGS: Final[Mapping[str, Model]] = {"volumes": VolumeSettings, "databases": DatabaseSettings}
"""What the lists of the configuration document hold."""
_UNNAMED: Final = re.compile(r"[^a-zA-Z0-9.\-_]")
_OPEN: Final = frozenset({"probes"})
"""What the health listener serves without a credential, too."""
_ALWAYS: Final = (400, 401, 403, 500)
_WITH_BODY: Final = (408, 413, 415, 422)
_SOCKET: Final = "/run/instance-manager/control.sock"
_PEERS: Final = (
    "The unix socket takes no credential: the kernel says who the peer is (SO_PEERCRED)."
    " The manager's own user, root, and members of `control.group` are let in, everybody else"
    " gets 403."
)
_INFO: Final = (
    f"Controls one PostgreSQL instance. {_PEERS} Over TCP, `control.token_file` wants the token"
    " and `control.tls.client_ca_file` a client certificate; with both, one is enough. Without"
    " both, which only loopback can have, what `x-access` calls reader is answered, and only for"
    " a `Host` of loopback. Errors are problems (RFC 9457): programs match `code`. Times are"
    " RFC 3339 in UTC, sizes bytes, durations seconds."
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
    access = _access()
    paths: dict[str, dict[str, Any]] = {}
    for (method, path), description in DESCRIPTIONS.items():
        paths.setdefault(path, _path_item(path))[method.lower()] = {
            **_operation(description),
            "x-access": access[method, path],
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "instance-manager",
            "version": __version__,
            "description": _INFO,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [
            {
                "url": "http://localhost",
                "description": f"The unix socket {_SOCKET}, or control.socket of the settings."
                f" {_PEERS}",
                "x-unix-socket": _SOCKET,
                "x-authentication": "peer-credentials",
            },
            {"url": "http://127.0.0.1:8000", "description": "TCP on loopback, the default."},
            {
                "url": "https://{host}:{port}",
                "description": "TCP with TLS 1.3: control.listen and control.tls of the settings.",
                "variables": {
                    "host": {"default": "localhost", "description": "A name of the certificate."},
                    "port": {"default": "8000", "description": "A port, 1 to 65535."},
                },
            },
        ],
        "tags": [{"name": tag, "description": text} for tag, text in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Over TCP: what control.token_file holds.",
                },
                "certificate": {
                    "type": "mutualTLS",
                    "description": "Over TCP with TLS: of an authority in"
                    " control.tls.client_ca_file.",
                },
            },
        },
        # The last one: no credential is sent over the unix socket, which is not nobody.
        "security": [{"token": []}, {"certificate": []}, {}],
    }


def _access() -> dict[tuple[str, str], str]:
    """Return who may ask over TCP where nothing authenticates: ``reader`` is everybody there."""
    # Handlers and all: what prints the document without a server has not loaded them.
    from instance_manager.api.routes import CONTROL_ROUTES, HEALTH_ROUTES

    return {
        (route.method, route.path): route.access.name.lower()
        for route in HEALTH_ROUTES + CONTROL_ROUTES
    }


def _path_item(path: str) -> dict[str, Any]:
    names = _PLACEHOLDER.findall(path)
    if not names:
        return {}
    return {
        "parameters": [
            {
                "name": name,
                "in": "path",
                "description": PLACES[name],
                "required": True,
                "schema": {"type": "string"},
            }
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
    if description.more:
        operation["description"] = description.more
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
            answer["content"] = {_JSON: {"schema": _one_of(model)}}
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


def _one_of(models: Model | tuple[Model, ...]) -> dict[str, Any]:
    if isinstance(models, tuple):
        return {"oneOf": [_one_of(model) for model in models]}
    return {"$ref": _REF.format(model=_name(models, "serialization"))}


def _schema_of(kind: str) -> dict[str, Any]:
    return {"type": "object"} if kind == _JSON else {"type": "string"}


def _used() -> Iterator[tuple[type[BaseModel], str]]:
    yield Problem, "serialization"
    yield StreamNotice, "serialization"
    yield from ((each, "validation") for each in _SETTINGS.values())
    for description in DESCRIPTIONS.values():
        if description.body is not None:
            yield description.body, "validation"
        for model in description.answers.values():
            if model is not None:
                for one in model if isinstance(model, tuple) else (model,):
                    yield one, "serialization"


@cache
def _generated() -> tuple[Mapping[Any, Any], dict[str, Any]]:
    # All at once, so that a model that several use is defined once.
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
    models = models_below(*(model for model, _ in _used()))
    # As pydantic names definitions, but for what tells two forms of one model apart.
    named = {_UNNAMED.sub("_", model.__name__): model for model in models}
    texts = {name: field_texts(model) for name, model in named.items()}
    # A list of something has no words of its own.
    words = {name: inspect.getdoc(model.__mro__[1]) or "" for name, model in named.items()}
    for name, schema in schemas.items():
        own = texts.get(name.partition("-")[0], {})
        schema["description"] = inspect.cleandoc(schema.get("description", words.get(name, "")))
        for field, entry in schema.get("properties", {}).items():
            entry.pop("title", None)
            if text := own.get(field):
                entry.setdefault("description", text)
    for enumeration in enumerations_below(*models):
        values = value_texts(enumeration)
        schemas[enumeration.__name__]["x-enum-descriptions"] = values
    schemas["Problem"]["properties"]["code"]["description"] = _CODES
    # Judged with the settings' own rules, so it is served as it came; what it holds is known.
    items = schemas["ConfigurationDocument"]["properties"]
    for name, model in _SETTINGS.items():
        items[name]["items"] = {"$ref": _REF.format(model=model.__name__)}
    return dict(sorted(schemas.items()))
