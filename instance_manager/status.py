"""The status document, made of what the rooms know. Pure but for the memory of conditions.

Imported when the API is, after postgres was spawned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from instance_manager.api import models
from instance_manager.configuration.masking import mask_value
from instance_manager.extensions.models import Severity
from instance_manager.extensions.models import State as VolumeState
from instance_manager.health.verdicts import readyz
from instance_manager.supervision.states import Phase, State, phase_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from instance_manager.databases.troubles import Verdict
    from instance_manager.errors import InstanceManagerError, Problem
    from instance_manager.extensions.models import ExtensionsReport
    from instance_manager.health.snapshot import Observer, ServerFacts
    from instance_manager.health.verdicts import Facts
    from instance_manager.startup import Startup
    from instance_manager.supervision.supervisor import Supervisor

_ALIVE: Final = frozenset({Phase.RUNNING, Phase.RECOVERING, Phase.STOPPING, Phase.RESTARTING})
_QUARANTINED: Final = VolumeState.QUARANTINED
_ERROR: Final = Severity.ERROR
_SHOWN: Final = 3
"""So many errors of the whole set stand in a condition's message."""


@dataclass(frozen=True, slots=True)
class _Claim:
    """A condition before it is known since when it holds."""

    type: str
    holds: bool | None
    reason: str
    message: str

    @property
    def status(self) -> Literal["True", "False", "Unknown"]:
        if self.holds is None:
            return "Unknown"
        return "True" if self.holds else "False"


class Conditions:
    """Keeps each condition's time: it changes with the condition's status only."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._known: dict[str, models.Condition] = {}

    def update(
        self,
        facts: Facts,
        report: ExtensionsReport,
        loaded: bool | None,
        databases: Verdict,
        problems: Sequence[Problem] = (),
    ) -> None:
        """Judge all conditions again; *problems* are those of the configuration asked for last."""
        for claim in (
            _ready(facts),
            _extensions_usable(report),
            _configuration_loaded(loaded, problems),
            _Claim("DatabasesReconciled", databases.holds, databases.reason, databases.message),
        ):
            before = self._known.get(claim.type)
            same = before is not None and before.status == claim.status
            self._known[claim.type] = models.Condition(
                type=claim.type,
                status=claim.status,
                reason=claim.reason,
                message=claim.message,
                last_transition_time=before.last_transition_time
                if before is not None and same
                else self._now(),
            )

    def all(self) -> tuple[models.Condition, ...]:
        """Return the conditions as they were judged last."""
        return tuple(self._known.values())


def _ready(facts: Facts) -> _Claim:
    failed = [check for check in readyz(facts).checks if not check.ok]
    if not failed:
        return _Claim("Ready", True, "AcceptingConnections", "postgres accepts connections")
    return _Claim("Ready", False, f"{failed[0].name.capitalize()}Failed", failed[0].reason)


def _extensions_usable(report: ExtensionsReport) -> _Claim:
    held_back = [volume.name for volume in report.volumes if volume.state is _QUARANTINED]
    errors = [f"{one.code} {one.message}" for one in report.findings if one.severity is _ERROR]
    if not held_back and not errors:
        return _Claim("ExtensionsUsable", True, "NoneQuarantined", "no volume is quarantined")
    more = [f"and {len(errors) - _SHOWN} more errors"] if len(errors) > _SHOWN else []
    quarantined = [f"quarantined: {', '.join(held_back)}"] if held_back else []
    message = "; ".join([*quarantined, *errors[:_SHOWN], *more])
    return _Claim(
        "ExtensionsUsable", False, "Quarantined" if held_back else "ErrorsFound", message
    )


def _configuration_loaded(loaded: bool | None, problems: Sequence[Problem]) -> _Claim:
    if problems:
        message = "; ".join(map(str, problems[:_SHOWN]))
        return _Claim("ConfigurationLoaded", False, "Rejected", message)
    if loaded is None:
        return _Claim("ConfigurationLoaded", None, "NotRunning", "postgres was not asked yet")
    if loaded:
        return _Claim(
            "ConfigurationLoaded", True, "Loaded", "the server runs with what is written"
        )
    message = "the server has not loaded what is written"
    return _Claim("ConfigurationLoaded", False, "NotLoaded", message)


def is_loaded(observer: Observer, startup: Startup) -> bool | None:
    """Whether the server has loaded the written configuration; None where nobody can know."""
    if startup.written is None or observer.facts is None:
        return None
    return observer.facts.configuration_sha256 == startup.written.sha256


def failure_of(error: InstanceManagerError, said: tuple[str, ...]) -> models.PhaseFailure:
    """Return the document of a failure, and of what the postmaster *said* before it."""
    return models.PhaseFailure(
        code=error.code,
        exit_code=error.exit_code,
        message=error.message,
        hint=error.hint,
        log=said,
    )


def postgres_of(
    supervisor: Supervisor, startup: Startup, observer: Observer
) -> models.PostgresStatus:
    """Return what is known of the server: by its own words, else by its program's."""
    # What an ended server said of itself is no fact any more.
    facts = observer.facts if phase_of(supervisor.state) in _ALIVE else None
    version = startup.version
    postmaster = supervisor.postmaster
    return models.PostgresStatus(
        version=version.text if version else None,
        version_number=version.number if version else None,
        pid=postmaster.pid if postmaster else None,
        started_at=facts.started_at if facts else None,
        data_directory=str(startup.place.data_directory),
        port=startup.settings.postgres.port,
        system_identifier=startup.system_identifier,
        timeline=facts.timeline if facts else None,
        role=_role(facts),
        in_recovery=facts.in_recovery if facts else None,
        lsn=_positions(facts),
        restarts=supervisor.restarts,
        last_exit=_last_exit(supervisor),
    )


def stopping_of(supervisor: Supervisor) -> models.Stopping | None:
    """Return how far a stop is; None while none is under way."""
    stop = supervisor.stop
    if stop is None:
        return None
    return models.Stopping(
        mode=stop.rung, seconds=round(stop.seconds, 1), waiting_for=stop.awaited
    )


def _role(facts: ServerFacts | None) -> Literal["primary", "standby"] | None:
    if facts is None:
        return None
    return "standby" if facts.in_recovery else "primary"


def _positions(facts: ServerFacts | None) -> models.WalPositions:
    if facts is None:
        return models.WalPositions()
    return models.WalPositions(
        current=facts.current_lsn, received=facts.received_lsn, replayed=facts.replayed_lsn
    )


def _last_exit(supervisor: Supervisor) -> models.LastExit | None:
    last = supervisor.last_exit
    if last is None:
        return None
    return models.LastExit(
        at=last.at,
        exit_code=last.status.code if last.status else None,
        signal=last.status.signal_name if last.status else None,
        expected=last.expected,
        cause=last.cause,
        message=last.message,
    )


def configuration_of(startup: Startup, observer: Observer) -> models.ConfigurationStatus:
    """Return how the written configuration and the loaded one compare."""
    return models.ConfigurationStatus(
        source=startup.settings.configuration.source,
        generation=startup.generation,
        etag=startup.documents.tag(startup.settings),
        loaded=is_loaded(observer, startup) or False,
        pending_restart=tuple(
            models.PendingRestart(
                name=value.name,
                running=_shown(value.name, value.running),
                configured=_shown(value.name, value.configured),
            )
            for value in observer.pending
        ),
        errors=tuple(
            models.FieldProblem(path=problem.path, message=problem.message)
            for problem in startup.documents.problems
        ),
    )


def _shown(name: str, value: str | None) -> str | None:
    return None if value is None else mask_value(name, value)


def extensions_of(report: ExtensionsReport) -> models.ExtensionsStatus:
    """Return the volumes in numbers."""
    states = [volume.state for volume in report.volumes]
    return models.ExtensionsStatus(
        volumes=len(states),
        ready=states.count(VolumeState.READY),
        quarantined=states.count(VolumeState.QUARANTINED),
        pending_action=report.pending_action,
    )


def in_phase_failed(supervisor: Supervisor) -> InstanceManagerError | None:
    """Return the failure that the phase is about; None in every other phase."""
    return supervisor.failure if supervisor.state is State.FAILED else None
