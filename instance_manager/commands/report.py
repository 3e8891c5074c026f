"""The report on volumes as people read it at three in the morning. Pure.

A volume, what it holds, what is wrong with it, why that matters, what to do; then what is wrong
with the set, what is composed, and what ``run`` would make of it all. Nothing here depends on
particular codes.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final

from instance_manager.commands.text import counted, duration
from instance_manager.extensions.models import Preload, Severity, State
from instance_manager.extensions.reasons import title_of, why

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from instance_manager.commands.text import Style
    from instance_manager.errors import InstanceManagerError
    from instance_manager.extensions.models import (
        Composed,
        Extension,
        ExtensionsReport,
        Finding,
        Library,
        Volume,
    )

_RANKS: Final = {severity: rank for rank, severity in enumerate(Severity)}
_COLOURS: Final = {
    Severity.ERROR: "red",
    Severity.WARNING: "yellow",
    Severity.INFO: "cyan",
    State.READY: "green",
    State.QUARANTINED: "red",
    State.EMPTY: "yellow",
}
_MOST_ON_A_TERMINAL: Final = 5
_NOTHING: Final = "-"


class Findings:
    """Findings as lines: the worst first, those of one code together.

    The reason and the way out follow each error, and the first of each other code: a hundred
    volumes that are all writable need it said once.
    """

    def __init__(self, style: Style) -> None:
        self._style = style
        self._explained: set[tuple[str, str]] = set()

    def lines(self, findings: Iterable[Finding], volume: str = "") -> Iterator[str]:
        """Yield them; each begins with code and severity, and in files and pipes the volume."""
        indent = 2
        for (_, code, hint), found in groupby(sorted(findings, key=_order), _group):
            group = list(found)
            yield from self._messages(group, volume, indent)
            # One code may have several ways out.
            is_known = (code, hint) in self._explained
            if group[0].severity is Severity.ERROR or not is_known:
                self._explained.add((code, hint))
                yield from self._explanation(code, hint, indent + 2)

    def _messages(self, group: Sequence[Finding], volume: str, indent: int) -> Iterator[str]:
        # Who looks for errors with grep sees single lines; who reads sees the volume above them.
        most = _MOST_ON_A_TERMINAL if self._style.width else len(group)
        shows_volume = volume and not self._style.width
        own = (f'extension volume "{volume}"', f'volume "{volume}"')
        for one in group[:most]:
            place = f"{volume}: " if shows_volume and not one.message.startswith(own) else ""
            label, colour = f"{one.code} {one.severity}:", _COLOURS[one.severity]
            yield from self._style.lines(
                label, place + one.message, indent=indent, hang=indent + 4, colour=colour
            )
        if len(group) > most:
            more = f"and {len(group) - most} more of {group[0].code}; --output json has them all"
            yield from self._style.lines("", more, indent=indent + 4, hang=indent + 4)

    def _explanation(self, code: str, hint: str, indent: int) -> Iterator[str]:
        for label, text in (("why:", why(code)), ("do:", hint)):
            if text:
                yield from self._style.lines(
                    f"{label:<4}", text, indent=indent, hang=indent + 5, colour="faint"
                )


def _order(finding: Finding) -> tuple[int, str, str, str, str]:
    return *_group(finding), finding.subject, finding.message


def _group(finding: Finding) -> tuple[int, str, str]:
    return _RANKS[finding.severity], finding.code, finding.hint


def overview(report: ExtensionsReport, style: Style) -> Iterator[str]:
    """Yield where was looked, and how many volumes there are in each state."""
    if not report.volumes:
        yield from style.lines(f"{report.root}:", "no extension volumes", colour="bold")
        return
    states = [volume.state for volume in report.volumes]
    counts = ", ".join(f"{states.count(state)} {state}" for state in State if state in states)
    text = f"{counted(len(states), 'volume')} ({counts}), {duration(report.scan_seconds)}"
    yield from style.lines(f"{report.root}:", text, colour="bold")


def volume_lines(volume: Volume, findings: Findings, style: Style) -> Iterator[str]:
    """Yield what a volume holds, and what is wrong with it."""
    yield from heading(volume.name, volume.state, volume.extensions, style)
    access = "read-only" if volume.read_only else "writable"
    content = f"{volume.path}, {access}: {_content(volume)}"
    yield from style.lines("", content, indent=2, hang=4)
    yield from findings.lines(volume.findings, volume.name)


def heading(
    name: str, state: State, extensions: Iterable[Extension], style: Style
) -> Iterator[str]:
    """Yield a volume's name, what became of it, and which extensions it offers."""
    offers = ", ".join(map(_offer, extensions))
    text = f"{state}{f' ({offers})' if offers else ''}"
    yield from style.lines(f"{name}:", text, hang=4, colour=_COLOURS[state])


def _offer(extension: Extension) -> str:
    marks = " trusted" if extension.trusted else ""
    return f"{extension.name} {extension.default_version or 'without a version'}{marks}"


def _content(volume: Volume) -> str:
    libraries = volume.libraries
    modules = [library for library in libraries if library.module]
    others = len(libraries) - len(modules)
    preload = [one.path for one in libraries if one.preload is not Preload.NO]
    parts = [
        counted(len(volume.extensions), "extension") if volume.extensions else "",
        f"{counted(len(modules), 'module')}{_built_for(modules)}" if modules else "",
        counted(others, "other library", "other libraries") if others else "",
        f"to be loaded at the start: {', '.join(preload)}" if preload else "",
    ]
    return ", ".join(filter(None, parts)) or "nothing that a server could use"


def _built_for(modules: Sequence[Library]) -> str:
    targets = {(one.postgres_major, one.machine) for one in modules if one.postgres_major}
    if not targets:
        return ""
    texts = (f"PostgreSQL {major}, {machine or 'unknown'}" for major, machine in targets)
    return f" (for {'; '.join(sorted(texts))})"


def composed_lines(
    composed: Composed, parameters: Mapping[str, str], style: Style
) -> Iterator[str]:
    """Yield what postgres would be given on account of the volumes."""
    yield from style.lines("composed:", "what postgres is given", colour="bold")
    rows = [
        (name, getattr(composed, name) or _NOTHING)
        for name in (
            "extension_control_path",
            "dynamic_library_path",
            "shared_preload_libraries",
        )
    ]
    rows += sorted(parameters.items())
    rows += [("LD_LIBRARY_PATH", composed.ld_library_path or _NOTHING), ("PATH", composed.path)]
    rows += sorted(composed.env.items())
    yield from style.table(rows)


def totals(findings: Iterable[Finding], more_errors: int = 0) -> str:
    """Return how many findings there are of each severity."""
    severities = [one.severity for one in findings]
    errors = severities.count(Severity.ERROR) + more_errors
    others = [
        counted(number, noun)
        for severity, noun in ((Severity.WARNING, "warning"), (Severity.INFO, "info"))
        if (number := severities.count(severity))
    ]
    return ", ".join([counted(errors, "error") if errors else "no errors", *others])


def outcome(
    report: ExtensionsReport, refusal: InstanceManagerError | None, *, is_new: bool
) -> str:
    """Return what ``run`` would do.

    Args:
        report: on the volumes.
        refusal: why it would not start postgres: the earliest of the reasons.
        is_new: there is no cluster yet.
    """
    if refusal is not None:
        reason = refusal.message.removeprefix("cannot start postgres: ")
        return f"would refuse to start postgres (exit code {refusal.exit_code}): {reason}"
    start = "would make a new cluster and start postgres" if is_new else "would start postgres"
    left_out = [volume for volume in report.volumes if volume.state is State.QUARANTINED]
    used = sum(volume.state is State.READY for volume in report.volumes)
    if not report.volumes:
        return f"{start} without extension volumes: nothing is mounted under {report.root}"
    text = f"{start} with {counted(used, 'volume') if used else 'no volume'}"
    if left_out:
        text += f", and leave out {', '.join(map(_left_out, left_out))}"
    return text


def _left_out(volume: Volume) -> str:
    errors = [one for one in volume.findings if one.severity is Severity.ERROR]
    titles = {one.code: title_of(one.code) or one.message for one in errors}
    reasons = "; ".join(f"{code}: {title}" for code, title in titles.items())
    return f"{volume.name} ({reasons})"
