"""``install``: copy the bundle to where the container of a foreign PostgreSQL image sees it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from instance_manager import bundle, installing
from instance_manager.errors import Exit

if TYPE_CHECKING:
    import argparse

    from instance_manager.installing import Installed


def run(options: argparse.Namespace) -> int:
    """Install, and print one line or one document."""
    installed = installing.install(Path(options.directory))
    if options.output == "json":
        print(json.dumps(document_of(installed), indent=2))
    else:
        print(text_of(installed))
    return Exit.DONE


def document_of(installed: Installed) -> dict[str, object]:
    """Return what came of it, for programs."""
    return {
        "directory": str(installed.directory),
        "program": str(installed.directory / bundle.PROGRAM),
        "version": installed.version,
        "size_bytes": installed.size_bytes,
        "changed": installed.changed,
    }


def text_of(installed: Installed) -> str:
    """Return what came of it, in one line."""
    what = f"version {installed.version}"
    where = f"{str(installed.directory)!r}"
    if not installed.changed:
        return f"install: nothing to do, {what} is in {where}"
    return f"install: done, {what} is in {where} ({installed.size_bytes / 1_000_000:.0f} MB)"
