"""Libraries that are other files than when the server was started."""

from __future__ import annotations

from collections.abc import Callable

from instance_manager.extensions.drift import NOTHING
from instance_manager.extensions.facts import Identity, VolumeFacts
from instance_manager.extensions.models import ExtensionsReport, PendingAction
from instance_manager.extensions.replaced import (
    NO_CHANGES,
    Changes,
    compare,
    libraries_of,
    with_changes,
)

OLD, NEW = Identity(1, 2, 3, 4, 5), Identity(1, 3, 3, 4, 5)
A, B = "/extensions/a/lib/a.so", "/extensions/b/lib/b.so"


def _report(action: PendingAction = PendingAction.NONE) -> ExtensionsReport:
    return ExtensionsReport(
        root="/extensions",
        scan_seconds=0,
        volumes=(),
        findings=(),
        composed=NOTHING,
        pending_action=action,
    )


def _replaced() -> Changes:
    return compare({A: OLD}, {A: NEW}, frozenset())


def test_the_libraries_of_volumes_are_known_by_their_paths(
    volume_facts: Callable[..., VolumeFacts],
) -> None:
    """Those whose state is known."""
    volume = volume_facts("a", "a")
    known = volume.libraries[0]._replace(identity=OLD)

    assert libraries_of([volume]) == {}
    assert libraries_of([volume._replace(libraries=(known,))]) == {f"{volume.path}/lib/a.so": OLD}


def test_what_is_the_same_or_can_not_be_looked_at_is_no_change() -> None:
    """Storage that does not answer says nothing of the file."""
    assert compare({A: OLD, B: OLD}, {A: OLD}, frozenset()) == NO_CHANGES


def test_the_message_says_who_runs_the_old_code() -> None:
    """All, where the server itself has loaded it; else who had loaded it."""
    (by_all,) = compare({A: OLD}, {A: NEW}, frozenset({A})).replaced
    (by_some,) = _replaced().replaced

    assert by_all.message.startswith(f"{A} was replaced while postgres runs: the server and all")
    assert "sessions that have loaded it run the old code" in by_some.message
    assert by_some.code == "EXT082"


def test_a_library_that_is_gone_asks_for_no_restart() -> None:
    """It would make it worse: the way out is another one."""
    changes = compare({A: OLD}, {A: None}, frozenset())

    assert changes.replaced == ()
    assert "before postgres is restarted" in changes.gone[0].hint
    assert with_changes(_report(), changes).pending_action is PendingAction.NONE


def test_a_replaced_library_needs_a_restart_unless_more_is_needed() -> None:
    """A volume that is absent needs the container made anew, whatever else is there."""
    for before, after in (
        (PendingAction.NONE, PendingAction.RESTART),
        (PendingAction.RELOAD, PendingAction.RESTART),
        (PendingAction.REMOUNT, PendingAction.REMOUNT),
    ):
        report = with_changes(_report(before), _replaced())
        assert report.pending_action is after
        assert [one.code for one in report.findings] == ["EXT082"]
    assert with_changes(_report(), NO_CHANGES) == _report()
