"""What the supervisor goes by: what others do for it, its policy, and how a server ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import datetime

    from instance_manager.errors import InstanceManagerError
    from instance_manager.supervision.children import Child, ExitStatus
    from instance_manager.supervision.endings import Cause, Ending
    from instance_manager.supervision.shutdown import Ladder
    from instance_manager.supervision.states import Event


class StartWork(Protocol):
    """What is done to bring a server up."""

    async def prepare(self) -> Event:
        """Check and write all that a start needs.

        ``PREPARED``, or ``DIRECTORY_EMPTY``, or ``FENCE_FOUND``.
        """
        ...

    async def initialize(self) -> None:
        """Make a new cluster."""
        ...

    def hasten(self, seconds: float) -> None:
        """Let no tool that is ended from now on live for more than *seconds*: kill it then."""
        ...

    def spawn(self) -> Child:
        """Start the postmaster."""
        ...

    async def ask(self) -> Event | None:
        """Ask the postmaster: ``ACCEPTED``, ``RECOVERY_SEEN``, or nothing to be told."""
        ...

    async def still_fails(self, failure: InstanceManagerError) -> InstanceManagerError | None:
        """Return why a start would fail that has failed for want of the lock, or of space.

        None where it may succeed now; another error where the reason has changed.
        """
        ...

    async def fall_back(self, ending: LastExit) -> bool:
        """Prepare another configuration, after an end for which this one is to blame.

        Returns:
            Whether there is one that a start may do better with.
        """
        ...


class StopWork(Protocol):
    """What is done around the end of a server; nothing here raises."""

    async def checkpoint_first(self, limit_seconds: float) -> None:
        """Write what the shutdown checkpoint would have to, while clients go on working.

        Does nothing where that would not shorten the outage.
        """
        ...

    async def awaited(self, postmaster: int) -> str:
        """Return what the stopping server waits for, for people; empty where nobody knows."""
        ...

    async def end_leftovers(self) -> None:
        """End what a killed postmaster may have left behind; for a few seconds at most."""
        ...

    async def why_ended(self, status: ExitStatus) -> Ending:
        """Return why a postmaster that was not asked to has ended."""
        ...

    async def left_clean(self, limit_seconds: float) -> bool:
        """Whether the data directory needs no recovery at the next start.

        False where that can't be told within the limit.
        """
        ...


@dataclass(frozen=True, slots=True)
class Policy:
    """The part of the settings that the supervisor goes by."""

    ladder: Ladder
    stay_when_failed: bool
    restart_when_ended: bool
    retry_seconds: float = 5.0
    """Between two looks whether the cause of a failure has passed."""
    lock_retry_seconds: float = 1.0
    """As above, where it is a lock: another container waits to take over."""


@dataclass(frozen=True, slots=True)
class LastExit:
    """How the postmaster ended; *status* is None where it could not even be spawned."""

    at: datetime
    status: ExitStatus | None
    expected: bool
    """Whether it was asked to end."""
    cause: Cause
    message: str
    """Its own last words."""

    def __str__(self) -> str:
        how = f"it ended with {self.status}" if self.status else "it was not started"
        return f"{how}: {self.message}" if self.message else how
