"""The environment that a volume asks for: which names are refused, and what a value stands for.

Pure. These variables go to the postgres process and its children, so a name that changes the
server, the loader, the manager or the libraries that they are made of is not a volume's to set.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from instance_manager.settings.variables import variable_problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from instance_manager.extensions.facts import VolumeFacts
    from instance_manager.settings.models import VolumeSettings

_PLACEHOLDER: Final = r"\$\$\{|\$\{([^}]*)\}?"


class Environment(NamedTuple):
    """The variables as they are set, and why others can't be."""

    variables: Mapping[str, str]
    problems: tuple[str, ...]


def expand(variables: Iterable[tuple[str, str]], image_root: str) -> Environment:
    """Return the environment of a volume that lies at *image_root*; a later value replaces.

    ``${image_root}`` stands for the volume's path, ``$${`` for a literal ``${``.
    """
    expanded: dict[str, str] = {}
    problems: list[str] = []
    for name, value in variables:
        reason = _refusal(name, value)
        if reason:
            problems.append(f"variable {reason}")
        else:
            expanded[name] = re.sub(
                # A function, since a text would have its backslashes read as escapes.
                _PLACEHOLDER,
                lambda match: "${" if match[1] is None else image_root,
                value,
            )
    return Environment(expanded, tuple(problems))


def _refusal(name: str, value: str) -> str:
    """Return why a variable can't be set, as the end of a sentence; empty if it can."""
    if problem := variable_problem(name):
        return problem
    # The kernel ends a variable at its first NUL (environ(7)).
    if "\0" in value:
        return f"{name!r} has a NUL in its value"
    for match in re.finditer(_PLACEHOLDER, value):
        if match[1] not in {None, "image_root"} or (match[1] and not match[0].endswith("}")):
            return (
                f"{name!r} has the unknown placeholder {match[0]!r}: only ${{image_root}} is known"
            )
    return ""


def of_volume(volume: VolumeFacts, settings: VolumeSettings | None) -> Environment:
    """Return what a volume sets: its metadata's variables, replaced by those of the settings."""
    chosen = tuple((each.name, each.value) for each in settings.env) if settings else ()
    # The settings come last, and so replace what the builder says.
    return expand((*volume.metadata.env, *chosen), volume.path)
