"""The schema of the file, and what a change of each key needs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from instance_manager.settings import Settings
from instance_manager.settings.changes import LIVE_KEYS, changed_keys, keys_needing_start
from instance_manager.settings.keys import known_keys, known_sections
from instance_manager.settings.schema import schema


def entries(node: dict[str, Any], document: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the schema of each key, by its dotted path."""
    found: dict[str, Any] = {}
    for name, entry in node["properties"].items():
        path = f"{prefix}{name}"
        if path in known_sections():
            section = document["$defs"][entry["$ref"].rpartition("/")[2]]
            found |= entries(section, document, f"{path}.")
        else:
            found[path] = entry
    return found


@pytest.fixture(scope="module")
def keys() -> dict[str, Any]:
    """Return the schema of each key."""
    document = schema()
    return entries(document, document)


def test_the_schema_has_each_key_and_no_other(keys: dict[str, Any]) -> None:
    """What only the official image sets is not in it."""
    assert set(keys) == set(known_keys())


def test_each_key_says_what_it_is_and_what_a_change_needs(keys: dict[str, Any]) -> None:
    """Variable, and live or start."""
    live = {path for path, entry in keys.items() if entry["x-applied"] == "live"}
    start = {path for path, entry in keys.items() if entry["x-applied"] == "start"}
    assert live == LIVE_KEYS
    assert live | start == set(keys)
    assert keys["postgres.port"]["x-environment"] == "INSTANCE_MANAGER_POSTGRES__PORT"


def test_every_property_says_what_it_is() -> None:
    """In a sentence: keys, sections, and what stands in the items of lists."""
    document = schema()
    sections = {"": document, **document["$defs"]}
    described = {
        f"{name}.{field}": entry.get("description", "")
        for name, section in sections.items()
        for field, entry in section["properties"].items()
    }

    assert len(described) >= 73
    assert [name for name, text in described.items() if not text.endswith(".")] == []
    assert all(section["description"].endswith(".") for section in sections.values())


def test_the_schema_is_json_with_ranges_and_defaults(keys: dict[str, Any]) -> None:
    """Editors get what the models know."""
    assert json.loads(json.dumps(schema()))["$schema"].endswith("2020-12/schema")
    port = keys["postgres.port"]
    assert (port["minimum"], port["maximum"], port["default"]) == (1, 65535, 5432)
    assert keys["failure"]["enum"] == ["stay", "exit"]
    assert schema()["additionalProperties"] is False


def test_parameters_may_be_written_as_yaml_shows_them(keys: dict[str, Any]) -> None:
    """Numbers and booleans are fine there, since they are read as text."""
    kinds = keys["postgres.parameters"]["additionalProperties"]["type"]

    assert kinds == ["string", "number", "boolean"]


def test_changes_are_named_by_key() -> None:
    """Only what differs is told, and lists and maps as one."""
    old = Settings()
    new = Settings.model_validate(
        {
            "postgres": {"parameters": {"work_mem": "8MB"}, "port": "1"},
            "control": {"tls": {"key_file": "/k"}},
        }
    )

    assert changed_keys(old, old) == ()
    assert changed_keys(old, new) == (
        "postgres.port",
        "postgres.parameters",
        "control.tls.key_file",
    )


def test_only_some_changes_need_a_new_start() -> None:
    """What the manager can do while it runs asks for nothing."""
    old = Settings()
    live = Settings.model_validate(
        {"postgres": {"hba": ["local all all trust"]}, "failure": "exit"}
    )
    start = Settings.model_validate({"postgres": {"data_directory": "/d"}, "failure": "exit"})

    assert keys_needing_start(old, live) == ()
    assert keys_needing_start(old, start) == ("postgres.data_directory",)
