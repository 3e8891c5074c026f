"""What the handlers ask of the instance: the seam between HTTP and everything below it.

The composition root implements it over the supervisor; tests implement it in memory. All methods
are called on the loop's thread. Those that are not coroutines read from memory and never wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from instance_manager.api.models import Status
    from instance_manager.configuration.plan import Plan
    from instance_manager.databases.models import DatabaseExtensions, Databases
    from instance_manager.databases.rehearsal import Rehearsal
    from instance_manager.databases.sessions import Limits
    from instance_manager.databases.updating import UpdatePlan
    from instance_manager.extensions.models import ExtensionsReport
    from instance_manager.health.verdicts import Facts
    from instance_manager.observability.events import Events
    from instance_manager.observability.metrics import Measurements, MetricFacts
    from instance_manager.supervision.operations import Operations, Progress
    from instance_manager.supervision.shutdown import StopMode


class ExtensionUpdates(Protocol):
    """Updates of extensions in databases; what can't be is raised as the room's own errors."""

    async def plan(
        self, database: str, extension: str, version: str | None, *, rehearsed: bool
    ) -> UpdatePlan:
        """Return what an update would be."""
        ...

    async def rehearse(self, plan: UpdatePlan, limits: Limits, actor: str) -> Rehearsal:
        """Run the update, roll it back, and return what was seen."""
        ...

    async def update(
        self, plan: UpdatePlan, limits: Limits, actor: str, progress: Progress
    ) -> None:
        """Update the extension."""
        ...


class Configuration(Protocol):
    """The configuration document and its changes; what is wrong is raised as our own errors."""

    @property
    def settings_file(self) -> Path | None:
        """The settings file; None where there is none."""
        ...

    @property
    def is_from_file(self) -> bool:
        """Whether the settings file is the truth, and no document over HTTP."""
        ...

    def document(self) -> dict[str, Any]:
        """Return the document in force, with its secrets."""
        ...

    async def rehearse(self, document: Mapping[str, Any]) -> tuple[str, Plan]:
        """Judge a document; return its tag, and what it would change."""
        ...

    async def put(
        self, document: Mapping[str, Any], tags: frozenset[str] | None, actor: str
    ) -> tuple[str, Plan]:
        """Put a document into force, if one of *tags* is that of the present one.

        Return its tag, and what it has changed.
        """
        ...


class Instance(Protocol):
    """One instance of postgres, as its callers over HTTP see it.

    The coroutines finish when the thing is done, and at once when it already holds. They raise
    ``InstanceManagerError`` when it can't be done, and may be cancelled at any time: what was
    begun then goes on without anyone waiting for it.
    """

    @property
    def operations(self) -> Operations:
        """The register of operations."""
        ...

    @property
    def events(self) -> Events:
        """The ring of events."""
        ...

    @property
    def measurements(self) -> Measurements:
        """What is counted while things happen."""
        ...

    @property
    def configuration(self) -> Configuration:
        """What applies configurations."""
        ...

    @property
    def extension_updates(self) -> ExtensionUpdates:
        """What updates extensions in databases."""
        ...

    def status(self) -> Status:
        """Return the whole instance as it is known now."""
        ...

    def extensions(self) -> ExtensionsReport:
        """Return what the volumes hold, and what was composed of them."""
        ...

    async def rescan(self) -> ExtensionsReport:
        """Look at the volumes again, and return what :meth:`extensions` returns then.

        Changes nothing in a running server.
        """
        ...

    def databases(self) -> Databases:
        """Return what every database uses, as it was read last."""
        ...

    def database_extensions(self, database: str) -> DatabaseExtensions | None:
        """Return the extensions of one database; None where it is not known."""
        ...

    def facts(self) -> Facts:
        """Return what the probes judge."""
        ...

    def metrics(self) -> MetricFacts:
        """Return what the metrics show."""
        ...

    async def start(self, ignore_inventory: bool, progress: Progress) -> None:
        """Start postgres and wait until it accepts connections.

        With *ignore_inventory*, this once whatever databases need by the last inventory.
        """
        ...

    async def stop(self, mode: StopMode | None, progress: Progress) -> None:
        """Stop postgres and keep it stopped; without a mode, down the settings' ladder."""
        ...

    async def restart(self, mode: StopMode | None, progress: Progress) -> None:
        """Stop postgres as :meth:`stop` does, then start it as :meth:`start` does."""
        ...

    async def reload(self, progress: Progress) -> None:
        """Apply what needs no restart, and wait until the server has loaded it."""
        ...

    async def checkpoint(self, progress: Progress) -> None:
        """Have the server make a checkpoint, and wait for it."""
        ...

    async def fence(self, mode: StopMode | None, progress: Progress) -> None:
        """Stop postgres as :meth:`stop` does; it stays so over restarts of the manager."""
        ...

    async def unfence(self, progress: Progress) -> None:
        """Take the fence away, then start postgres as :meth:`start` does."""
        ...
