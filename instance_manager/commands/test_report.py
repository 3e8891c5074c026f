"""What came of a smoke test, for people.

Pure: results in, lines out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from instance_manager.commands import report
from instance_manager.smoke.models import Outcome, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from instance_manager.commands.text import Style
    from instance_manager.smoke.models import Result, Step, Subject

_VERDICTS: Final = {
    Verdict.GOOD: ("good", "green"),
    Verdict.BAD: ("bad", "red"),
    Verdict.REFUSED: ("a server would refuse it", "red"),
}
_COLOURS: Final = {Outcome.PASSED: "green", Outcome.FAILED: "red", Outcome.SKIPPED: "faint"}


def render(results: Sequence[Result], style: Style) -> Iterator[str]:
    """Yield the lines."""
    for result in results:
        yield from _result(result, style)


def _result(result: Result, style: Style) -> Iterator[str]:
    text, colour = _VERDICTS[result.verdict]
    server = f", PostgreSQL {result.server}" if result.server else ""
    beside = f", beside {', '.join(result.beside)}" if result.beside else ""
    yield from style.lines(f"{result.source}:", f"{text}{server}{beside}", colour=colour)
    for subject in result.subjects:
        yield from _subject(subject, style)
    for remark in result.remarks:
        yield from style.lines("note", remark, indent=2, hang=4, colour="bold")
    yield from report.Findings(style).lines(result.findings)
    if result.log:
        yield from style.lines("", "the log ends with", indent=2)
        for line in result.log:
            yield from style.lines("", line, indent=4, hang=6)


def _subject(subject: Subject, style: Style) -> Iterator[str]:
    yield from style.lines(
        f"{subject.kind} {subject.name}".strip(), subject.version or "", indent=2, colour="bold"
    )
    for step in subject.steps:
        yield from _step(step, style)


def _step(step: Step, style: Style) -> Iterator[str]:
    text = f"{step.name}: {step.detail}" if step.detail else step.name
    label = f"{step.outcome:<7}"
    yield from style.lines(label, text, indent=4, hang=12, colour=_COLOURS[step.outcome])
    if step.hint:
        yield from style.lines("do:", step.hint, indent=8, hang=12, colour="faint")
