"""The documents of the API, version 1, as their readers see them.

Frozen pydantic models, and nothing that serves or fetches them: the server, the client and the
command line share this module. Answers ignore fields that they don't know, so that an old client
can read a new server; requests refuse them, so that a slip is not silently without effect.
Imported after postgres was spawned: building models takes time. Annotations are read at run time,
so they are not postponed here.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from instance_manager.extensions.models import PendingAction
from instance_manager.observability.events import EventType
from instance_manager.supervision.endings import Cause
from instance_manager.supervision.operations import OperationState
from instance_manager.supervision.shutdown import Rung, StopMode
from instance_manager.supervision.states import Desired, Phase


def _in_utc(time: datetime) -> datetime:
    return time.astimezone(UTC)


UtcTime = Annotated[AwareDatetime, AfterValidator(_in_utc)]
"""A moment, written as RFC 3339 in UTC."""

Lsn = Annotated[str, Field(pattern=r"^[0-9A-F]{1,8}/[0-9A-F]{1,8}$")]
"""A position in the write-ahead log, in PostgreSQL's text form."""


class Document(BaseModel):
    """Base of everything that the API answers."""

    model_config = ConfigDict(frozen=True, extra="ignore", from_attributes=True)


class Request(BaseModel):
    """Base of everything that the API is sent; unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


ItemT = TypeVar("ItemT")


class Items(Document, Generic[ItemT]):
    """A list, in the one form that all lists have."""

    items: tuple[ItemT, ...]


class FieldProblem(Document):
    """One thing that is wrong with an input, and where it stands."""

    path: str
    message: str


class Problem(Document):
    """Why a request, or an operation, did not succeed (RFC 9457).

    Programs match ``code``; ``title`` is the same for every problem of that code.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str | None = None
    errors: tuple[FieldProblem, ...] | None = None
    operation: str | None = None
    """The id of the operation that is in the way."""


class OperationProgress(Document):
    """Where a running operation is; *percent* is null where nobody can know."""

    step: str
    message: str
    percent: float | None


class Operation(Document):
    """Something that takes time and was asked for."""

    id: str
    kind: str
    state: OperationState
    requested_at: UtcTime
    started_at: UtcTime | None
    finished_at: UtcTime | None
    progress: OperationProgress | None
    error: Problem | None

    @property
    def finished(self) -> bool:
        """Whether its state is final."""
        return self.state not in {OperationState.PENDING, OperationState.RUNNING}


class Event(Document):
    """Something that happened to the instance."""

    id: str
    time: UtcTime
    type: EventType
    reason: str
    message: str
    actor: str
    details: dict[str, Any]


class StreamNotice(Document):
    """What a stream of events says of itself: that something was missed, or that it ends."""

    reason: str


class InstanceIdentity(Document):
    """Who answers. A new *session_id* means that the manager was started anew."""

    name: str
    session_id: str
    manager_version: str
    pid: int
    started_at: UtcTime


class PhaseFailure(Document):
    """Why the instance can't go on, in the phase *failed*."""

    code: str
    exit_code: int
    message: str
    hint: str = ""
    log: tuple[str, ...] = ()
    """What the postmaster said last of itself, where its end is the cause."""


class Stopping(Document):
    """A stop under way: how hard it is by now, for how long, and what postgres waits for."""

    mode: Rung
    seconds: float
    waiting_for: str = ""
    """For people, such as "waiting for 3 sessions"; empty where it isn't known."""


class WalPositions(Document):
    """LSNs: *current* of a primary, *received* and *replayed* of a standby."""

    current: Lsn | None = None
    received: Lsn | None = None
    replayed: Lsn | None = None


class LastExit(Document):
    """How the postmaster ended last: with an exit code, or by a signal."""

    at: UtcTime
    exit_code: int | None = None
    signal: str | None = None
    """Such as ``SIGKILL``."""
    expected: bool
    """Whether it was asked to end."""
    cause: Cause
    message: str = ""
    """The postmaster's own last words."""


class PostgresStatus(Document):
    """The server; what is not known is null."""

    version: str | None = None
    version_number: int | None = None
    pid: int | None = None
    started_at: UtcTime | None = None
    data_directory: str
    port: int
    system_identifier: str | None = None
    timeline: int | None = None
    role: Literal["primary", "standby"] | None = None
    in_recovery: bool | None = None
    lsn: WalPositions = WalPositions()
    restarts: int = 0
    """Restarts that nobody asked for, since the manager started."""
    last_exit: LastExit | None = None


class PendingRestart(Document):
    """A parameter whose configured value waits for a restart."""

    name: str
    running: str | None
    configured: str | None


class ConfigurationStatus(Document):
    """The configuration in force; *loaded* says that the server runs with what is written."""

    source: Literal["file", "api"] = "file"
    generation: int = 0
    etag: str | None = None
    loaded: bool = False
    pending_restart: tuple[PendingRestart, ...] = ()
    errors: tuple[FieldProblem, ...] = ()


class ExtensionsStatus(Document):
    """The volumes in numbers; ``GET /v1/extensions`` has the whole."""

    volumes: int = 0
    ready: int = 0
    quarantined: int = 0
    pending_action: PendingAction = PendingAction.NONE


class StorageStatus(Document):
    """A file system that the instance lives on."""

    purpose: str
    """``data``, ``wal`` or ``tablespace``."""
    path: str
    size_bytes: int
    free_bytes: int


class Condition(Document):
    """One statement about the instance, in the form that Kubernetes gives to conditions."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str
    last_transition_time: UtcTime


class Status(Document):
    """The whole instance: ``GET /v1/status``."""

    instance: InstanceIdentity
    phase: Phase
    desired: Desired
    stopping: Stopping | None = None
    failure: PhaseFailure | None = None
    postgres: PostgresStatus
    configuration: ConfigurationStatus = ConfigurationStatus()
    extensions: ExtensionsStatus = ExtensionsStatus()
    storage: tuple[StorageStatus, ...] = ()
    operation: Operation | None = None
    """The lifecycle operation under way."""
    conditions: tuple[Condition, ...] = ()


class CheckReport(Document):
    """One check of a probe; *message* is null where it may not be told."""

    name: str
    status: Literal["ok", "failed", "excluded"]
    observed_seconds_ago: float | None
    message: str | None


class ProbeReport(Document):
    """The answer of a probe to those who accept JSON."""

    status: Literal["ok", "failed"]
    checks: tuple[CheckReport, ...]


class StartRequest(Request):
    """The body of start: whether it is done whatever databases need by the last inventory."""

    ignore_inventory: bool = False


class StopRequest(Request):
    """The body of stop and restart; without a mode, the settings' ladder decides."""

    mode: StopMode | None = None


class EmptyRequest(Request):
    """The body of what takes no arguments."""
