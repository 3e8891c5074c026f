"""``compose``: what ``run`` would set, for people who let something else start postgres."""

from __future__ import annotations

import re
import shlex
import sys
from typing import TYPE_CHECKING, Final

from instance_manager.commands import examining, loading
from instance_manager.configuration import rendering
from instance_manager.errors import Exit

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping

    from instance_manager.extensions.models import Composed


_SHELL_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def run(options: argparse.Namespace) -> int:
    """Print the composition in the form that was asked for."""
    examined = examining.examine(loading.load(options))
    composed = examined.report.composed
    match options.format:
        case "json":
            print(composed.model_dump_json(indent=2))
        case "env":
            print("\n".join(as_shell(composed)))
        case _:
            # What is composed stands last, and wins.
            parameters = {**examined.examination.parameters, **as_parameters(composed)}
            print("\n".join(rendering.render_lines(parameters)))
    return Exit.DONE


def as_parameters(composed: Composed) -> Mapping[str, str]:
    """Return the parameters of the composition that have a value."""
    names = ("extension_control_path", "dynamic_library_path", "shared_preload_libraries")
    return {name: value for name in names if (value := getattr(composed, name))}


def as_shell(composed: Composed) -> Iterator[str]:
    """Yield the environment as lines that a POSIX shell can evaluate."""
    # PATH last: no volume may set it, and what is composed is meant.
    variables = {**composed.env, "PATH": composed.path}
    if composed.ld_library_path:
        variables["LD_LIBRARY_PATH"] = composed.ld_library_path
    for name, value in sorted(variables.items()):
        if not _SHELL_NAME.fullmatch(name):
            # postgres would get it from run; no shell can set it.
            print(f"left out: no shell takes {name!r} for a variable", file=sys.stderr)
            continue
        # Quoted, since the lines are evaluated: a value is a volume's own text.
        yield f"export {name}={shlex.quote(value)}"
