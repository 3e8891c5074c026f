"""What is composed, against what the live server runs with. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from instance_manager.extensions.findings import Code
from instance_manager.extensions.models import Composed, NotRunning, PendingAction
from instance_manager.extensions.paths import join_search_path, split_search_path

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from instance_manager.extensions.models import ExtensionsReport

_AT_A_START: Final = ("shared_preload_libraries", "ld_library_path", "path", "env")
"""A process gets its environment once, and preloads once."""
_AT_A_RELOAD: Final = ("extension_control_path", "dynamic_library_path")

NOTHING: Final = Composed(
    extension_control_path="",
    dynamic_library_path="",
    shared_preload_libraries="",
    ld_library_path="",
    path="",
    env={},
)
"""What is composed before anyone has looked at the volumes."""


def volume_environment(
    environment: Mapping[str, str], ours: Collection[str]
) -> tuple[str, str, dict[str, str]]:
    """Return loader path, PATH, and what volumes added to a server's environment.

    *ours* are the names that every server gets from us.
    """
    # What every server gets from us is no volume's doing, and would look like a difference.
    added = {name: value for name, value in environment.items() if name not in ours}
    loader, path = added.pop("LD_LIBRARY_PATH", ""), added.pop("PATH", "")
    return loader, path or environment.get("PATH", ""), added


def with_running(report: ExtensionsReport, running: Composed | None) -> ExtensionsReport:
    """Return the report completed by what runs, and by what it takes to run what is composed."""
    if running is None:
        return report.model_copy(update={"running": NotRunning()})
    action = report.pending_action
    # What the report knows already is more than the comparison can tell, such as a remount.
    if action is PendingAction.NONE:
        action = pending_action(report.composed, running)
    return report.model_copy(update={"running": running, "pending_action": action})


def with_needed(report: ExtensionsReport, library_path: str) -> ExtensionsReport:
    """Return the report with the directories of a running server's *library_path* composed, too.

    Only as long as a database needs a library that is nowhere: its volume may be in quarantine,
    and still be of use to the server that has it. Last, so that nothing is found there instead.
    """
    if all(each.code != Code.VANISHED for each in report.findings):
        return report
    paths = (report.composed.dynamic_library_path, library_path)
    path = join_search_path(*map(split_search_path, paths))
    composed = report.composed.model_copy(update={"dynamic_library_path": path})
    return report.model_copy(update={"composed": composed})


def pending_action(composed: Composed, running: Composed) -> PendingAction:
    """Return what the running server needs in order to use what is composed."""
    # A restart includes what a reload would do, so it is asked for first.
    if any(getattr(composed, name) != getattr(running, name) for name in _AT_A_START):
        return PendingAction.RESTART
    if any(getattr(composed, name) != getattr(running, name) for name in _AT_A_RELOAD):
        return PendingAction.RELOAD
    return PendingAction.NONE
