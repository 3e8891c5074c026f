"""From texts to settings: layers by precedence, the typed model, and every problem at once. Pure.

Precedence: an accepted configuration document, command line, ``INSTANCE_MANAGER_*``, file, the
official image's environment, defaults. A list or a map is one value: the strongest source gives
all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from instance_manager.errors import Problem, SettingsError
from instance_manager.settings.checks import CHECKS, Check
from instance_manager.settings.configuration_document import document_layer
from instance_manager.settings.documents import parse_document
from instance_manager.settings.image_environment import image_layer
from instance_manager.settings.keys import KEYLESS, known_keys, known_sections, suggestion
from instance_manager.settings.layers import command_line_layer, environment_layer, file_layer
from instance_manager.settings.models import Settings
from instance_manager.settings.sources import (
    Layer,
    Origin,
    SettingsText,
    Source,
    Value,
    describe,
    located,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pydantic_core import ErrorDetails

_HIDDEN_KEY = "bootstrap.superuser_password"


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """The settings in force, and where each key's value comes from."""

    settings: Settings
    origins: Mapping[str, Origin]
    file_digest: str = ""
    """Of the settings file's text; empty where it was not read."""


def load(text: SettingsText, checks: Iterable[Check] = ()) -> LoadedSettings:
    """Make settings of what was read.

    Args:
        text: what was read, from every source.
        checks: more checks, of rooms above, whose problems are to be told with the others.

    Raises:
        SettingsError: with all problems: of every source, of every value, of every check.
    """
    layers = tuple(_layers(text))
    values, origins = _merge(layers)
    told = [*text.problems, *(problem for layer in layers for problem in layer.problems)]
    # Problems are collected to the end: people mend them all at once.
    settings, faults = _validate(values)
    found = _run_checks((*CHECKS, *checks), settings, [*told, *faults])
    if problems := [*told, *_locate([*faults, *found], layers, origins)]:
        raise SettingsError(problems)
    default = Origin(Source.DEFAULT)
    keys = (*known_keys(), *KEYLESS)
    return LoadedSettings(settings, {key: origins.get(key, default) for key in keys})


def _layers(text: SettingsText) -> Iterator[Layer]:
    """Return the layers, the weakest first."""
    yield image_layer(text.environment, text.variable_files)
    if text.file_name:
        yield file_layer(parse_document(text.file_text, text.file_name), text.file_name)
    yield environment_layer(text.environment)
    yield command_line_layer(text.command_line)
    if text.document is not None:
        yield document_layer(text.document)


def _merge(layers: Iterable[Layer]) -> tuple[dict[str, Value], dict[str, Origin]]:
    """Return the strongest value of each key, and where it comes from."""
    values: dict[str, Value] = {}
    origins: dict[str, Origin] = {}
    for layer in layers:
        # The weakest first: what comes later replaces it.
        values |= layer.values
        origins |= {path: layer.origins[path] for path in layer.values}
    # One password, two ways to give it: the file's key is the stronger one.
    if f"{_HIDDEN_KEY}_file" in values and values.pop(_HIDDEN_KEY, None) is not None:
        del origins[_HIDDEN_KEY]
    return values, origins


def _locate(
    problems: Iterable[Problem], layers: Iterable[Layer], origins: Mapping[str, Origin]
) -> list[Problem]:
    """Say of each problem where the value was set, down to the item of a list."""
    details: dict[str, Origin] = {}
    for layer in layers:
        # Items of a list have lines only in the layer whose list counts.
        won = [path for path in layer.values if layer.origins[path] is origins.get(path)]
        details |= {path: it for path, it in layer.origins.items() if _touches(path, won)}
    return [located(problem, details) for problem in problems]


def _validate(values: Mapping[str, Value]) -> tuple[Settings, list[Problem]]:
    """Build the model; keys with problems fall back to their defaults, so that checks can run."""
    try:
        return Settings.model_validate(_nest(values)), []
    except ValidationError as err:
        details = err.errors(include_url=False)
    problems = [problem_of(detail) for detail in details]
    faulty = [problem.path for problem in problems]
    sound = {path: value for path, value in values.items() if not _touches(path, faulty)}
    return Settings.model_validate(_nest(sound)), problems


def _nest(values: Mapping[str, Value]) -> dict[str, Value]:
    """Turn dotted keys into a tree that has every section, since a default costs a model more."""
    tree: dict[str, Value] = {}
    for path in (*sorted(known_sections()), *values):
        node = tree
        *parents, name = path.split(".")
        for parent in parents:
            child = node[parent]
            if isinstance(child, dict):
                node = child
        node[name] = values.get(path, {})
    return tree


def _touches(path: str, others: Iterable[str]) -> bool:
    """Whether *path* is, holds or lies within one of *others*."""
    return any(f"{path}.".startswith(f"{it}.") or f"{it}.".startswith(f"{path}.") for it in others)


def _run_checks(
    checks: Iterable[Check], settings: Settings, told: Iterable[Problem]
) -> Iterator[Problem]:
    """Run each check whose keys are sound: of others it would only say what is not so."""
    faulty = [problem.path for problem in told]
    # A problem without a path is a source that could not be read: any key may stand in it.
    if "" in faulty:
        return
    for check in checks:
        if not any(_touches(key, faulty) for key in check.keys):
            yield from check.find(settings)


_EXPECTED: Mapping[str, str] = {
    "bool_parsing": "on or off",
    "bool_type": "on or off",
    "dict_type": "a map of names to text",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_type": "a whole number",
    "less_than_equal": "at most {le:g}",
    "literal_error": "{expected}",
    "model_type": "a map of keys",
    "path_type": "a path",
    "string_type": "text",
    "tuple_type": "a list",
}


def problem_of(detail: ErrorDetails, meant: str | None = None) -> Problem:
    """Turn one error of the model into a sentence about a key.

    *meant* is said of an unknown one; None: the key of the settings that was probably meant.
    """
    location = detail["loc"]
    path = ".".join(map(str, location))
    kind = detail["type"]
    context = detail.get("ctx", {})
    if kind == "extra_forbidden":
        return Problem(path, f"unknown key{suggestion(location) if meant is None else meant}")
    if kind == "missing":
        return Problem(path, "is not given")
    # The text of our own validators, without the word that pydantic puts before it.
    message = str(context["error"]) if kind == "value_error" else ""
    if kind in _EXPECTED:
        expected = _EXPECTED[kind].format_map(context)
        message = f"must be {expected}, not {describe(detail['input'])}"
    return Problem(path, message or detail["msg"])
