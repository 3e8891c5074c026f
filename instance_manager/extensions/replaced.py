"""Libraries that are other files by now than when the server was started.

Pure: what was there then and what is there now, in; findings, out. A process keeps what it has
mapped, so a library that was replaced runs in two versions until a restart, and one that is gone
can't be loaded by the next session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from instance_manager.extensions.facts import join
from instance_manager.extensions.findings import Code, finding
from instance_manager.extensions.models import PendingAction
from instance_manager.extensions.paths import display

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from instance_manager.extensions.facts import Identity, VolumeFacts
    from instance_manager.extensions.models import ExtensionsReport, Finding


def libraries_of(volumes: Iterable[VolumeFacts]) -> dict[str, Identity]:
    """Return the files that a server can load from these volumes, by their absolute paths."""
    return {
        join(volume.path, library.path): library.identity
        for volume in volumes
        for library in volume.libraries
        if library.identity is not None
    }


class Changes(NamedTuple):
    """What has changed under a running server: *replaced* files, which a restart mends, *gone*."""

    replaced: tuple[Finding, ...] = ()
    gone: tuple[Finding, ...] = ()


NO_CHANGES: Final = Changes()


def compare(
    before: Mapping[str, Identity],
    now: Mapping[str, Identity | None],
    mapped: Collection[str],
) -> Changes:
    """Return what has changed under a running server.

    Args:
        before: the libraries when it was started.
        now: the same paths as they are; None where there is no file any more. A path that is
            missing here could not be looked at, which says nothing.
        mapped: the files that the postmaster itself has loaded, so that all its sessions have.
    """
    # A library that came since then replaces none.
    changed = [path for path, was in before.items() if path in now and now[path] != was]
    return Changes(
        tuple(_replaced(path, is_mapped=path in mapped) for path in changed if now[path]),
        tuple(_gone(path) for path in changed if now[path] is None),
    )


def _replaced(path: str, *, is_mapped: bool) -> Finding:
    shown = display(path)
    who = (
        "the server and all its sessions run the old code"
        if is_mapped
        else "sessions that have loaded it run the old code, all others the new one"
    )
    message = f"{shown} was replaced while postgres runs: {who} until a restart"
    return finding(Code.LIBRARY_REPLACED, shown, message)


def _gone(path: str) -> Finding:
    shown = display(path)
    message = f"{shown} vanished while postgres runs: who has not loaded it yet can't any more"
    gone = finding(Code.LIBRARY_REPLACED, shown, message)
    # A restart would make it worse.
    return gone.model_copy(update={"hint": "mount the volume again before postgres is restarted"})


def with_changes(report: ExtensionsReport, changes: Changes) -> ExtensionsReport:
    """Return the report completed by what has changed under the running server.

    What a library that is gone needs, the report itself says: its volume is absent, or lacks it.
    """
    if changes == NO_CHANGES:
        return report
    action = report.pending_action
    # A volume that must be mounted needs a new container, which is a new start anyhow.
    if changes.replaced and action is not PendingAction.REMOUNT:
        action = PendingAction.RESTART
    findings = (*report.findings, *changes.replaced, *changes.gone)
    return report.model_copy(update={"findings": findings, "pending_action": action})
