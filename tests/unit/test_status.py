"""Conditions of the status: what they say of the volumes, and since when."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from instance_manager.api import models
from instance_manager.databases import troubles
from instance_manager.extensions import drift
from instance_manager.extensions.findings import Code, finding
from instance_manager.extensions.models import ExtensionsReport, Finding
from instance_manager.health.verdicts import Facts, Probe
from instance_manager.status import Conditions
from instance_manager.supervision.states import Desired, Phase

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


class Judged:
    """Conditions with a clock that goes on by a second at each question."""

    def __init__(self) -> None:
        self._seconds = 0
        self._conditions = Conditions(self._now)

    def _now(self) -> datetime:
        return BEGIN + timedelta(seconds=self._seconds)

    def judge(self, name: str, findings: Sequence[Finding] = (), **said: bool) -> models.Condition:
        self._seconds += 1
        facts = Facts(
            now=10.0,
            heartbeat_at=10.0,
            phase=Phase.RUNNING,
            desired=Desired.RUNNING,
            first_start_over=True,
            probe=Probe(accepting=said.get("accepting", True), reason="no", at=10.0),
        )
        report = ExtensionsReport(
            root="/extensions",
            scan_seconds=0,
            volumes=(),
            findings=tuple(findings),
            composed=drift.NOTHING,
        )
        self._conditions.update(facts, report, True, troubles.NOTHING_DECLARED)
        return next(one for one in self._conditions.all() if one.type == name)


def test_an_error_of_the_whole_set_makes_the_extensions_unusable() -> None:
    """A server that was started in spite of it runs, and does not have what is used."""
    errors = [finding(Code.VANISHED, f"x{number}", f"x{number} is gone") for number in range(5)]
    warning = finding(Code.LIBRARY_REPLACED, "y", "y was replaced")
    usable = Judged().judge("ExtensionsUsable", [warning])
    broken = Judged().judge("ExtensionsUsable", [warning, *errors])

    assert (usable.status, usable.reason) == ("True", "NoneQuarantined")
    assert (broken.status, broken.reason) == ("False", "ErrorsFound")
    assert broken.message.startswith("EXT070 x0 is gone; EXT070 x1 is gone; ")
    assert broken.message.endswith("; and 2 more errors")


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    """Another reason alone is no transition."""
    judged = Judged()
    times = [
        judged.judge("Ready", accepting=accepting).last_transition_time
        for accepting in (True, True, False, False, True)
    ]

    assert [(time - BEGIN).seconds for time in times] == [1, 1, 3, 3, 5]
