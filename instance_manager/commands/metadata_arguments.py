"""What options of ``extension build`` say of the metadata: into a document, judged as it is read.

Pure. Whatever is given here, the manager takes without a problem; what it would not is refused.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from instance_manager.errors import UsageError
from instance_manager.extensions.metadata import parse

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

PATHS: Final = (
    "extension_control_path",
    "dynamic_library_path",
    "ld_library_path",
    "bin_path",
)
"""The fields that say where in a volume something lies, in the place of the usual directory."""
REPEATED: Final = ("--parameter", "--preload-after", "--env", "--requires", "--path")
SINGLE: Final = ("--source", "--revision")


def metadata_of(options: argparse.Namespace) -> dict[str, object]:
    """Return the fields that the options give.

    Raises:
        UsageError: the manager would not take one of them.
    """
    fields: dict[str, object] = {
        "postgresql_parameters": dict(_pairs("--parameter", options.parameter)),
        "preload_after": _lists("--preload-after", options.preload_after),
        "env": [
            {"name": name, "value": value} for name, value in _pairs("--env", options.env).items()
        ],
        "requires": list(dict.fromkeys(options.requires)),
        "source": options.source,
        "revision": options.revision,
        **_paths(options.path),
    }
    document = {name: value for name, value in fields.items() if value}
    # By the manager's own reader: two sets of rules would part sooner or later.
    parsed = parse(json.dumps(document).encode())
    shown = dict(parsed.metadata.provenance)
    # The reader leaves such text out in silence, since it only shows it.
    odd = [name for name in ("source", "revision") if name in document and name not in shown]
    problems = [*parsed.problems, *(f"{name}: must be short text on one line" for name in odd)]
    if problems:
        raise UsageError(
            f"cannot put into the metadata what the manager would not take: {'; '.join(problems)}"
        )
    return document


def words_of(options: argparse.Namespace) -> Iterable[str]:
    """Yield the options once more, as they were given."""
    for option in REPEATED:
        yield from (f"{option}={value}" for value in getattr(options, _attribute(option)))
    for option in SINGLE:
        value = getattr(options, _attribute(option))
        if value:
            yield f"{option}={value}"


def _attribute(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


def _pairs(option: str, texts: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][\w.$+-]*", name, re.ASCII):
            raise UsageError(f"cannot use {option} {text!r}: it must be NAME=VALUE")
        if name in found:
            raise UsageError(f"cannot use {option} {text!r}: {name} is given twice")
        found[name] = value
    return found


def _lists(option: str, texts: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in texts:
        name, _, others = text.partition("=")
        listed = [each.strip() for each in others.split(",")]
        if not name or not all(listed):
            raise UsageError(
                f"cannot use {option} {text!r}: it must be LIBRARY=OTHER,...",
                hint="such as pg_stat_kcache=pg_stat_statements",
            )
        found.setdefault(name, []).extend(listed)
    return found


def _paths(texts: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in texts:
        field, equals, directory = text.partition("=")
        if not equals or field not in PATHS or not _is_inside(directory):
            raise UsageError(
                f"cannot use --path {text!r}: it must be FIELD=DIRECTORY, within the volume",
                hint=f"fields are {', '.join(PATHS)}",
            )
        found.setdefault(field, []).append(directory)
    return found


def _is_inside(directory: str) -> bool:
    return bool(directory) and not directory.startswith("/") and ".." not in directory.split("/")
