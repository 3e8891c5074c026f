"""What the instance does about extensions in its databases: as declared, and as asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from instance_manager.databases import rehearsal, updating
from instance_manager.databases.reconciling import Reconciler
from instance_manager.databases.sessions import Sessions, SqlError
from instance_manager.databases.turns import Turns
from instance_manager.errors import ConflictError, ExtensionUpdateError, UnresponsiveError
from instance_manager.observability.events import EventType
from instance_manager.supervision.states import State, phase_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from instance_manager.databases.reconciling import Supervised
    from instance_manager.databases.rehearsal import Rehearsal
    from instance_manager.databases.sessions import Limits
    from instance_manager.databases.updating import UpdatePlan
    from instance_manager.health.snapshot import Target
    from instance_manager.observability.events import Events
    from instance_manager.settings.models import DatabaseSettings
    from instance_manager.supervision.operations import Progress


class ExtensionKeeper:
    """The extensions in the databases of one instance.

    *version* tells the server's ``server_version_num``, *declared* the settings in force.
    """

    def __init__(
        self,
        supervisor: Supervised,
        target: Target,
        version: Callable[[], int],
        declared: Callable[[], Sequence[DatabaseSettings]],
        events: Events,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._supervisor = supervisor
        self._declared = declared
        self._events = events
        self._turns = Turns()
        self._sessions = Sessions(target, version)
        self.reconciler = Reconciler(
            supervisor, self._sessions, declared, self._turns, events, clock=clock
        )

    async def plan(
        self, database: str, extension: str, version: str | None, *, rehearsed: bool
    ) -> UpdatePlan:
        """Return what an update would be; without a version to the declared, else the default one.

        Raises:
            ConflictError: also where the settings declare another version, unless *rehearsed*.
            NotThereError, VersionError, UnresponsiveError: as :func:`updating.plan_update`.
        """
        state = self._supervisor.state
        if state is not State.RUNNING:
            raise ConflictError(
                f"cannot update extension {extension!r}: the instance is {phase_of(state)}",
                hint="start postgres first",
            )
        # Here too, so that a conflict is the answer, and not the end of an operation.
        self._turns.require_free(database, extension)
        declared = self._declared_version(database, extension)
        plan = await updating.plan_update(self._sessions, database, extension, version or declared)
        # What the settings contradict would be updated again, or told as drift, at their next
        # look.
        if not rehearsed and declared not in {None, plan.to_version}:
            raise ConflictError(
                f"cannot update extension {extension!r} of database {database!r} to version"
                f" {plan.to_version!r}: the settings declare {declared!r}",
                hint="change databases in the settings, and reload: that updates it",
            )
        return plan

    def _declared_version(self, database: str, extension: str) -> str | None:
        for one in self._declared():
            for each in one.extensions:
                if (one.name, each.name, each.ensure) == (database, extension, "present"):
                    return each.version
        return None

    async def rehearse(self, plan: UpdatePlan, limits: Limits, actor: str) -> Rehearsal:
        """Rehearse an update, and note who asked for it.

        Raises:
            ConflictError: the extension is being changed already.
            UnresponsiveError: the server is gone.
        """
        try:
            with self._turns.hold(plan.database, plan.extension, "a rehearsal"):
                report = await rehearsal.rehearse(self._sessions, plan, limits)
        except SqlError as error:
            raise UnresponsiveError(
                f"cannot tell what became of the rehearsal: {error.failure}",
                hint="its transaction ended with its session",
            ) from error
        self._events.record(
            "ExtensionUpdateRehearsed",
            f"{_words(plan)}: the rehearsal has {report.outcome}",
            actor=actor,
            details=_details(plan),
        )
        return report

    async def update(
        self, plan: UpdatePlan, limits: Limits, actor: str, progress: Progress
    ) -> None:
        """Update, and note what came of it.

        Raises:
            ExtensionUpdateError: the server refuses; nothing was changed.
            UnresponsiveError: nobody knows what became of it.
            ConflictError: the extension is being changed already.
        """
        progress.report("updating", _words(plan))
        try:
            await updating.update(self._sessions, self._turns, plan, limits)
        except (ExtensionUpdateError, UnresponsiveError) as error:
            self._events.record(
                "ExtensionFailed",
                error.message,
                kind=EventType.WARNING,
                actor=actor,
                details=_details(plan),
            )
            raise
        # An update that changed nothing is no news.
        if plan.from_version != plan.to_version:
            self._events.record(
                "ExtensionUpdated", f"{_words(plan)}: done", actor=actor, details=_details(plan)
            )


def _words(plan: UpdatePlan) -> str:
    return (
        f"update of extension {plan.extension!r} of database {plan.database!r} from version"
        f" {plan.from_version!r} to {plan.to_version!r}"
    )


def _details(plan: UpdatePlan) -> dict[str, object]:
    return {"database": plan.database, "extension": plan.extension, "version": plan.to_version}
