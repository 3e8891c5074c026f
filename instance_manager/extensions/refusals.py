"""Whether postgres must not be started with the volumes as they were found.

Pure: a report and settings in, a refusal out. A volume that is left out refuses nothing, unless
something that the user asked for by name needs it, or a database does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from instance_manager.errors import PreflightError
from instance_manager.extensions.findings import REFUSING, Code
from instance_manager.extensions.models import Severity, State
from instance_manager.extensions.paths import bare_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from instance_manager.extensions.models import ExtensionsReport, Finding, Volume
    from instance_manager.settings.models import Settings

_NOT_READ: Final = frozenset({Code.UNREADABLE, Code.DANGLING_LINK})


def refusal(
    report: ExtensionsReport,
    settings: Settings,
    base_libraries: Collection[str] | None = None,
    *,
    ignore_inventory: bool = False,
) -> PreflightError | None:
    """Return why postgres must not be started, or None.

    Args:
        report: what the preflight found.
        settings: whose policy, required volumes and preload list count.
        base_libraries: the file names in the server's own library directory: what it holds
            itself needs no volume.
        ignore_inventory: what databases need is no reason, whatever the settings say.
    """
    reasons: dict[str, str] = {}
    if settings.extensions.policy == "refuse":
        reasons.update(_errors(report))
    reasons.update(_required(report, settings))
    # Before the findings: this reason names the volume and its cause, EXT051 only the library.
    held = dict(_preloaded(report, settings, base_libraries or ()))
    reasons.update(held.values())
    enforces = settings.extensions.inventory == "enforce" and not ignore_inventory
    reasons.update(_refusing(report, held, enforces_inventory=enforces))
    if not reasons:
        return None
    return PreflightError(
        f"cannot start postgres: {'; '.join(reasons)}",
        # Several volumes may fail for one reason, and one hint is enough.
        hint="; ".join(dict.fromkeys(reasons.values())),
    )


def _errors(report: ExtensionsReport) -> Iterator[tuple[str, str]]:
    for volume in report.volumes:
        for each in _errors_of(volume.findings):
            yield f'volume "{volume.name}": {each.code} {each.message}', each.hint
    for each in _errors_of(report.findings):
        # What databases need is decided on by `extensions.inventory`, whatever the policy.
        if each.code != Code.VANISHED:
            yield f"{each.code} {each.message}", each.hint


def _errors_of(findings: Collection[Finding]) -> list[Finding]:
    return [each for each in findings if each.severity is Severity.ERROR]


def _required(report: ExtensionsReport, settings: Settings) -> Iterator[tuple[str, str]]:
    volumes = {volume.name: volume for volume in report.volumes}
    for name in (each.name for each in settings.extensions.volumes if each.required):
        volume = volumes.get(name)
        if volume is None:
            hint = f"mount it at {report.root}/{name}, or take `required` off its entry"
            yield f'the required volume "{name}" is not there', hint
        elif volume.state is State.QUARANTINED:
            why, hint = _reason(volume)
            yield (
                f'the required volume "{name}" is quarantined: {why}',
                f"{hint}, or take `required` off its entry in extensions.volumes",
            )


def _preloaded(
    report: ExtensionsReport, settings: Settings, base_libraries: Collection[str]
) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the libraries that only a quarantined volume holds, each with reason and hint."""
    for entry in settings.postgres.shared_preload_libraries:
        name = bare_name(entry)
        holders = [volume for volume in report.volumes if _holds(volume, name)]
        is_elsewhere = any(volume.state is not State.QUARANTINED for volume in holders)
        is_elsewhere = is_elsewhere or name in base_libraries or f"{name}.so" in base_libraries
        if holders and not is_elsewhere:
            why, hint = _reason(holders[0])
            reason = f'shared_preload_libraries names "{name}", which only the quarantined volume'
            reason += f' "{holders[0].name}" holds: {why}'
            hint += f', or take "{name}" out of postgres.shared_preload_libraries'
            yield name, (reason, hint)


def _refusing(
    report: ExtensionsReport, told: Collection[str], *, enforces_inventory: bool
) -> Iterator[tuple[str, str]]:
    """Yield the findings that forbid any start; *told* are libraries of which more is said."""
    passed_over = {Code.REQUIRED_ABSENT}  # the volume is named already
    if not enforces_inventory:
        passed_over.add(Code.VANISHED)
    for each in report.findings:
        is_told = each.code == Code.PRELOAD_MISSING and each.subject in told
        if each.code in REFUSING - passed_over and not is_told:
            yield f"{each.code} {each.message}", each.hint


def _holds(volume: Volume, name: str) -> bool:
    paths = [library.path for library in volume.libraries]
    # What can't be read is there all the same.
    paths += [each.subject for each in volume.findings if each.code in _NOT_READ]
    files = {f"{volume.path}/{path}" for path in paths}
    # A path is loaded from where it points, and no search finds it elsewhere.
    if "/" in name:
        return name in files or f"{name}.so" in files
    return any(file.endswith((f"/{name}", f"/{name}.so")) for file in files)


def _reason(volume: Volume) -> tuple[str, str]:
    first = _errors_of(volume.findings)[0]
    return f"{first.code} {first.message}", first.hint
