"""``check``: all that can be proven without starting postgres, for init containers and CI.

Exit code 3 if there is any finding of severity error, whatever the policy; 7 for a data directory
that can't be used, 78 for settings; else 0. A lock held by a running manager does not hinder it,
and nothing is written.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instance_manager.commands import examining, loading, report, terminal
from instance_manager.errors import Exit
from instance_manager.extensions.models import Severity

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from instance_manager.commands.examining import Examined
    from instance_manager.commands.text import Style
    from instance_manager.errors import InstanceManagerError


def run(options: argparse.Namespace) -> int:
    """Examine, print what was found, and return the verdict."""
    settings = loading.load(options)
    # hash_contents: there is time here, and scripts are read with the contents.
    examined = examining.examine(settings, options.extensions_root, hash_contents=True)
    if options.output == "json":
        print(json.dumps(_document(examined), indent=2))
        # The exit code is the data directory's then: why is told beside the document.
        if examined.problem is not None and not _has_error(examined):
            print(f"data directory: {examined.problem.message}", file=sys.stderr)
            print(f"  {examined.problem.hint}", file=sys.stderr)
    else:
        style = terminal.style_of(sys.stdout, os.environ)
        terminal.write(sys.stdout, render(examined, style))
    return _exit_code(examined)


def _exit_code(examined: Examined) -> int:
    # The volumes first, since run judges them before it opens the data directory.
    if _has_error(examined):
        return Exit.PREFLIGHT
    return Exit.DONE if examined.problem is None else examined.problem.exit_code


def _has_error(examined: Examined) -> bool:
    return any(one.severity is Severity.ERROR for one in examined.report.all_findings())


def _document(examined: Examined) -> dict[str, Any]:
    """Return the report of the API without what runs, and what only a look from outside shows."""
    return {
        # No server is asked, so that an empty one would say something that is not known.
        **examined.report.model_dump(mode="json", exclude={"running"}),
        "refusal": _failure(examined.refusal),
        "data_directory": {
            "path": str(examined.directory),
            "new": examined.is_new,
            "problem": _failure(examined.problem),
        },
    }


def _failure(error: InstanceManagerError | None) -> dict[str, Any] | None:
    """Return an error in the form that the status gives to a failure."""
    if error is None:
        return None
    return {
        "code": str(error.code),
        "exit_code": int(error.exit_code),
        "message": error.message,
        "hint": error.hint,
    }


def render(examined: Examined, style: Style) -> Iterator[str]:
    """Yield the lines that people read."""
    volumes, findings = examined.report, report.Findings(style)
    yield from report.overview(volumes, style)
    if not volumes.volumes and not volumes.findings:
        yield from style.lines("", _nothing_under(volumes.root), indent=2)
    for volume in volumes.volumes:
        yield from report.volume_lines(volume, findings, style)
    if volumes.findings:
        yield from style.lines("all volumes:", "what concerns the set of them", colour="bold")
        yield from findings.lines(volumes.findings)
    yield from report.composed_lines(volumes.composed, examined.examination.parameters, style)
    yield from _data_directory(examined, style)
    if examined.refusal is not None:
        yield from style.lines("to let it start:", examined.refusal.hint, colour="bold")
    yield report.totals(volumes.all_findings(), int(examined.problem is not None))
    refusal = examined.refusal or examined.problem
    text = report.outcome(volumes, refusal, is_new=examined.is_new)
    yield from style.lines("run", text, colour="green" if refusal is None else "red")


def _nothing_under(root: str) -> str:
    what = "it is empty" if Path(root).exists() else "there is no such directory"
    return f"nothing is mounted there: {what}, which is no error"


def _data_directory(examined: Examined, style: Style) -> Iterator[str]:
    problem, label = examined.problem, "data directory:"
    if problem is not None:
        yield from style.lines(label, problem.message, colour="red")
        yield from style.lines("do: ", problem.hint, indent=4, hang=9, colour="faint")
        return
    what = "holds no cluster yet" if examined.is_new else "holds a whole cluster"
    yield from style.lines(label, f"{examined.directory} {what}", colour="bold")
