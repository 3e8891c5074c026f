"""``extension dockerfile``: the Dockerfile of an extension's image, for those who build with one.

Nothing is looked up and nothing built: exit code 2 for what can't be asked for, else 0.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Final

from instance_manager.commands.extension_build import image_name, pair, statement
from instance_manager.commands.metadata_arguments import metadata_of, words_of
from instance_manager.errors import Exit, UsageError
from instance_manager.images import debian
from instance_manager.images.dockerfile import Wanted, major_of, render

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

_IMAGE: Final = re.compile(r"[a-z0-9][\w.:/@-]*", re.IGNORECASE | re.ASCII)
_NAME: Final = re.compile(r"[a-z0-9][\w.-]*", re.IGNORECASE | re.ASCII)
_VERSION: Final = re.compile(r"[\w.+:~-]+", re.ASCII)


def run(options: argparse.Namespace) -> int:
    """Print the Dockerfile."""
    sys.stdout.write(render(wanted_of(options)))
    return Exit.DONE


def wanted_of(options: argparse.Namespace) -> Wanted:
    """Return what the command line asks for.

    Raises:
        UsageError: it can't be asked for.
    """
    packages = tuple(map(debian.checked_package, options.package))
    if not packages:
        raise UsageError(
            "cannot write a Dockerfile of nothing", hint="--package postgresql-18-pgvector"
        )
    version = options.version_label or packages[0].partition("=")[2]
    labels = tuple(pair("--label", text) for text in options.label)
    return Wanted(
        name=_checked("--name", options.name or image_name(packages, None), _NAME),
        base=_checked("--base", options.base, _IMAGE),
        options=tuple(_options(options)),
        version=_checked("--version-label", version, _VERSION) if version else "",
        major=options.postgres_major or major_of(packages),
        labels=tuple((key, _line("--label", value)) for key, value in labels),
    )


def _options(options: argparse.Namespace) -> Iterator[str]:
    """Yield the options of ``extension build`` that say the same, checked as it does."""
    for name, values in (
        ("--package", options.package),
        ("--bundle", options.bundle),
        ("--exclude", options.exclude),
        ("--preload", options.preload),
        ("--smoke-test", map(statement, options.smoke_test)),
    ):
        yield from (f"{name}={_line(name, value)}" for value in values)
    metadata_of(options)
    yield from (_line(word.partition("=")[0], word) for word in words_of(options))
    yield f"--name={options.name or image_name(tuple(options.package), None)}"
    if options.version_label:
        yield f"--version-label={options.version_label}"
    if options.postgres_major:
        yield f"--postgres-major={options.postgres_major}"


def _checked(option: str, text: str, form: re.Pattern[str]) -> str:
    if not form.fullmatch(text):
        raise UsageError(f"cannot use {option} {text!r} in a Dockerfile")
    return text


def _line(option: str, text: str) -> str:
    # A line's end would begin an instruction of its own.
    if not text.isprintable():
        raise UsageError(f"cannot use {option} {text!r}: it must be one line")
    return text
