"""The configuration document: the part of the settings that may come over HTTP. Pure.

Its six keys are those of the settings, under shorter names. As a source of settings it is the
strongest one, and it is whole: what it does not give is empty.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

from instance_manager.errors import Problem
from instance_manager.settings.keys import nearest
from instance_manager.settings.layers import parse_json, without_nulls
from instance_manager.settings.sources import Layer, Origin, Source, Value, describe, text_problems

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from instance_manager.settings.models import Settings

KEYS: Final[Mapping[str, str]] = {
    "parameters": "postgres.parameters",
    "shared_preload_libraries": "postgres.shared_preload_libraries",
    "hba": "postgres.hba",
    "ident": "postgres.ident",
    "volumes": "extensions.volumes",
    "databases": "databases",
}
"""The document's keys, and those of the settings that they are."""

ORIGIN: Final = Origin(Source.DOCUMENT, "the configuration document")


def document_of(settings: Settings) -> dict[str, Any]:
    """Return the document that *settings* come to: every key, as JSON has it."""
    postgres = settings.postgres
    return {
        "parameters": dict(sorted(postgres.parameters.items())),
        "shared_preload_libraries": list(postgres.shared_preload_libraries),
        "hba": list(postgres.hba),
        "ident": list(postgres.ident),
        "volumes": [_dumped(volume) for volume in settings.extensions.volumes],
        "databases": [_dumped(database) for database in settings.databases],
    }


def with_document(settings: Settings, document: Mapping[str, Any]) -> Settings:
    """Return *settings* with the keys of a document that was made of settings.

    Raises:
        ValueError: it was not, or by another version.
    """
    own = {
        name: document[name] for name in ("parameters", "shared_preload_libraries", "hba", "ident")
    }
    own = type(settings.postgres).model_validate(own).model_dump(include=set(own))
    volumes = type(settings.extensions).model_validate({"volumes": document["volumes"]}).volumes
    databases = type(settings).model_validate({"databases": document["databases"]}).databases
    return settings.model_copy(
        update={
            "postgres": settings.postgres.model_copy(update=own),
            "extensions": settings.extensions.model_copy(update={"volumes": volumes}),
            "databases": databases,
        }
    )


def _dumped(section: Any) -> dict[str, Any]:
    # Without defaults, so that a document reads as people write it.
    dumped: dict[str, Any] = section.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return dumped


def text_of(document: Mapping[str, Any]) -> str:
    """Return the one text of a document: equal documents have equal texts."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def tag_of(document: Mapping[str, Any]) -> str:
    """Return what tells a document from others: a hash of its text, without quotes."""
    # 128 bits, which nobody finds a second document for by chance.
    return hashlib.sha256(text_of(document).encode()).hexdigest()[:32]


def document_layer(text: str) -> Layer:
    """Read a document as a layer of settings; a key that it does not give is empty."""
    try:
        tree = parse_json(text)
    except ValueError as error:
        return Layer(problems=(Problem("", f"cannot read {ORIGIN.name}: {error}"),))
    if not isinstance(tree, dict):
        what = f"must be an object, not {describe(tree)}"
        return Layer(problems=(Problem("", f"cannot read {ORIGIN.name}: {what}"),))
    values: dict[str, Value] = {
        path: without_nulls(_given(tree, name)) for name, path in KEYS.items()
    }
    problems = [*_unknown(tree)]
    for path, value in values.items():
        problems.extend(text_problems(path, value))
    return Layer(values, dict.fromkeys(values, ORIGIN), tuple(problems))


def _given(tree: Mapping[str, Value], name: str) -> Value:
    empty: Value = {} if name == "parameters" else []
    value = tree.get(name)
    return empty if value is None else value


def _unknown(tree: Mapping[str, Value]) -> Iterator[Problem]:
    # An unknown key would be dropped in silence, and read back as lost.
    for name in tree.keys() - KEYS.keys():
        meant = nearest(name, KEYS)
        hint = f"; did you mean {meant}?" if meant else ""
        yield Problem(name, f"unknown key{hint}")


def in_document(problem: Problem) -> Problem:
    """Return a problem of the settings with its path as the document has it."""
    for name, path in KEYS.items():
        if problem.path == path or problem.path.startswith(f"{path}."):
            rest = problem.path.removeprefix(path)
            # Who sent the document knows where the value comes from.
            return Problem(f"{name}{rest}", problem.message.removesuffix(f" ({ORIGIN})"))
    return problem
