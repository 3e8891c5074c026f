"""What came of a build, for people.

Pure: a summary in, lines out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from instance_manager.commands import report
from instance_manager.commands.text import counted, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from instance_manager.commands.text import Style
    from instance_manager.images.models import Added, LeftOut, Summary


def render(summary: Summary, style: Style) -> Iterator[str]:
    """Yield the lines."""
    compressed = summary.compressed_bytes
    sizes = size(summary.size_bytes)
    # A directory has no layer.
    if compressed is not None:
        sizes = f"{sizes}, {size(compressed)} compressed"
    title = f"{summary.name} {summary.version}"
    yield from style.lines(f"{title}:", f"{summary.output}, {sizes}", colour="bold")
    yield from style.table(list(_facts(summary)), indent=2)
    if summary.libraries:
        yield from style.lines("", "libraries that the base lacks, in system", indent=2)
        yield from style.table([(one.name, _added(one)) for one in summary.libraries], indent=4)
    if summary.left_out:
        yield from style.lines("", "left out", indent=2)
        yield from style.table([(one.what, _left_out(one)) for one in summary.left_out], indent=4)
    if summary.notes:
        yield from style.lines("", "notes", indent=2)
        for note in summary.notes:
            yield from style.lines("", note, indent=4, hang=2)
    yield from report.Findings(style).lines(summary.findings)


def _facts(summary: Summary) -> Iterator[tuple[str, str]]:
    yield "for", f"PostgreSQL {summary.postgres_major} on {summary.machine}, base {summary.base}"
    if summary.extensions:
        yield "extensions", ", ".join(summary.extensions)
    if summary.requires:
        yield "requires", f"{', '.join(summary.requires)}: of other volumes"
    if summary.packages:
        yield "packages", f"{counted(len(summary.packages), 'package')} gave files"
    if summary.digest:
        yield "digest", summary.digest


def _added(one: Added) -> str:
    how = "opened by" if one.opened else "needed by"
    source = f" of {one.package}" if one.package else ""
    return f"{size(one.size_bytes)}{source}; {how} {one.needed_by}"


def _left_out(one: LeftOut) -> str:
    return f"{size(one.size_bytes)}; {one.reason}" if one.size_bytes else one.reason
