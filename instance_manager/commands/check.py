"""``check``: all that can be proven without starting postgres, for init containers and CI.

Exit code 3 if there is any finding of severity error, whatever the policy; 7 for a data directory
that can't be used, 78 for settings; else 0. A lock held by a running manager does not hinder it,
and nothing is written.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from instance_manager.commands import examining, loading
from instance_manager.commands.text import duration
from instance_manager.errors import Exit
from instance_manager.extensions.models import Severity

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from instance_manager.errors import DataDirectoryError
    from instance_manager.extensions.models import ExtensionsReport, Finding


def run(options: argparse.Namespace) -> int:
    """Examine, print what was found, and return the verdict."""
    settings = loading.load(options)
    examined = examining.examine(settings, options.extensions_root, hash_contents=True)
    report = examined.report
    if options.output == "json":
        print(json.dumps(report.model_dump(mode="json", exclude={"running"}), indent=2))
    else:
        print("\n".join(render(report, examined.problem)))
    if any(finding.severity is Severity.ERROR for finding in report.all_findings()):
        return Exit.PREFLIGHT
    if examined.problem is not None:
        if options.output == "json":
            print("\n".join(_data_directory(examined.problem)), file=sys.stderr)
        return examined.problem.exit_code
    return Exit.DONE


def render(report: ExtensionsReport, problem: DataDirectoryError | None) -> Iterator[str]:
    """Yield the lines that people read."""
    yield f"{report.root}: {len(report.volumes)} volumes, {duration(report.scan_seconds)}"
    for volume in report.volumes:
        offers = ", ".join(f"{one.name} {one.default_version}" for one in volume.extensions)
        yield f"{volume.name}: {volume.state}{f' ({offers})' if offers else ''}"
        yield from _findings(volume.findings)
    yield from _findings(report.findings)
    errors = sum(one.severity is Severity.ERROR for one in report.all_findings())
    if problem is not None:
        errors += 1
        yield from _data_directory(problem)
    yield f"{errors} errors" if errors else "no errors"


def _data_directory(problem: DataDirectoryError) -> tuple[str, str]:
    return f"data directory: {problem.message}", f"  {problem.hint}"


def _findings(findings: tuple[Finding, ...]) -> Iterator[str]:
    for finding in findings:
        yield f"  {finding.code} {finding.severity}: {finding.message}"
        if finding.hint:
            yield f"    {finding.hint}"
