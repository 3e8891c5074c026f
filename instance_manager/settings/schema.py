"""The JSON Schema of the settings file, for editors, for ``config schema`` and for the docs.

What it says of each key stands below the field in the source of the models. Not on the way to
postgres' start: imported where the schema is asked for.
"""

from __future__ import annotations

import inspect
from typing import Any

from instance_manager.field_texts import field_texts, models_below
from instance_manager.settings.changes import LIVE_KEYS
from instance_manager.settings.keys import KEYLESS, known_keys
from instance_manager.settings.models import Settings

DIALECT = "https://json-schema.org/draft/2020-12/schema"
LIVE = "live"
START = "start"


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the settings file.

    Each key carries ``x-applied`` (``live``: when the settings are read again; ``start``: at a new
    start of the manager) and ``x-environment``, the variable that sets it.
    """
    document = Settings.model_json_schema()
    definitions = document["$defs"]
    for model in models_below(Settings):
        node = document if model is Settings else definitions[model.__name__]
        node["description"] = inspect.cleandoc(node["description"])
        for name, text in field_texts(model).items():
            node["properties"][name]["description"] = text
    for path in KEYLESS:
        _drop_property(document, definitions, path)
    for path, key in known_keys().items():
        entry = _properties(document, definitions, path)[path.rpartition(".")[2]]
        entry["x-applied"] = LIVE if path in LIVE_KEYS else START
        entry["x-environment"] = key.variable
    # As text they may be written as YAML likes to show them.
    _properties(document, definitions, "postgres.parameters")["parameters"][
        "additionalProperties"
    ] = {"type": ["string", "number", "boolean"]}
    return {"$schema": DIALECT, **document}


def _properties(document: Any, definitions: Any, path: str) -> dict[str, Any]:
    """Return the properties among which the last part of *path* stands."""
    node = document
    for part in path.split(".")[:-1]:
        node = definitions[node["properties"][part]["$ref"].rpartition("/")[2]]
    properties: dict[str, Any] = node["properties"]
    return properties


def _drop_property(document: Any, definitions: Any, path: str) -> None:
    del _properties(document, definitions, path)[path.rpartition(".")[2]]
