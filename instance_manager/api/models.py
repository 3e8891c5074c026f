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
    """All of them, in the order that the route names."""


class FieldProblem(Document):
    """One thing that is wrong with an input, and where it stands."""

    path: str
    """Where it stands: keys and positions from 0, joined by dots; empty for the whole."""
    message: str
    """What is wrong there, for people."""


class Problem(Document):
    """Why a request, or an operation, did not succeed (RFC 9457).

    Programs match ``code``; ``title`` is the same for every problem of that code.
    """

    type: str
    """``urn:instance-manager:problem:`` and the code."""
    title: str
    """The code in words."""
    status: int
    """The HTTP status that belongs to the code, 400 to 599; also where it stands in an
    operation."""
    detail: str
    """What is wrong this time, for people."""
    code: str
    """The stable name of what is wrong."""
    hint: str | None = None
    """What to do about it, for people; absent or null where there is nothing to say."""
    errors: tuple[FieldProblem, ...] | None = None
    """What is wrong with the input, thing by thing; absent or null where it is not about an
    input."""
    operation: str | None = None
    """The id of the operation that is in the way."""


class OperationProgress(Document):
    """Where a running operation is; *percent* is null where nobody can know."""

    step: str
    """What is being done now, in a word or two."""
    message: str
    """More of it, for people; may be empty."""
    percent: float | None
    """How much is done, 0 to 100; null where nobody can know."""


class Operation(Document):
    """Something that takes time and was asked for."""

    id: str
    """Its name in ``/v1/operations/{id}``; never given twice."""
    kind: str
    """What it does: ``start``, ``stop``, ``restart``, ``reload``, ``checkpoint``, ``fence``,
    ``unfence`` or ``update-extension``."""
    state: OperationState
    """How far it is; the last three are final."""
    requested_at: UtcTime
    """When it was asked for."""
    started_at: UtcTime | None
    """When its work began; null before that."""
    finished_at: UtcTime | None
    """When it reached a final state; null before that."""
    progress: OperationProgress | None
    """Where it is, or where it ended; null before its first step."""
    error: Problem | None
    """Why it has failed; null unless it has."""

    @property
    def finished(self) -> bool:
        """Whether its state is final."""
        return self.state not in {OperationState.PENDING, OperationState.RUNNING}


class Event(Document):
    """Something that happened to the instance."""

    id: str
    """Its name for ``Last-Event-ID``: the run of the manager, and a number that grows."""
    time: UtcTime
    """When it happened."""
    type: EventType
    """Whether somebody should look: ``Warning``, else ``Normal``."""
    reason: str
    """What happened, for programs: one word in CamelCase, such as ``PostgresEnded``."""
    message: str
    """What happened, for people."""
    actor: str
    """Who caused it: ``manager``, or a caller of the API and from where."""
    details: dict[str, Any]
    """Values for programs, by their names; which there are depends on the reason."""


class StreamNotice(Document):
    """What a stream of events says of itself: that something was missed, or that it ends."""

    reason: str
    """Why, for people."""


class InstanceIdentity(Document):
    """Who answers. A new *session_id* means that the manager was started anew."""

    name: str
    """``instance.name`` of the settings, else the name of the host."""
    session_id: str
    """Names this run of the manager; operations and keys don't outlive it."""
    manager_version: str
    """The version of instance-manager."""
    pid: int
    """The manager's process id, 1 in a container."""
    started_at: UtcTime
    """When the manager was started."""


class PhaseFailure(Document):
    """Why the instance can't go on, in the phase *failed*."""

    code: str
    """The stable code of the problem, as in problems."""
    exit_code: int
    """With what the manager ends if it is stopped now, 3 to 7."""
    message: str
    """Why, for people."""
    hint: str = ""
    """What to do about it, for people; empty where there is nothing to say."""
    log: tuple[str, ...] = ()
    """What the postmaster said last of itself, where its end is the cause."""


class Stopping(Document):
    """A stop under way: how hard it is by now, for how long, and what postgres waits for."""

    mode: Rung
    """How postgres is asked to stop by now; it only becomes harder."""
    seconds: float
    """Seconds since the stop began."""
    waiting_for: str = ""
    """For people, such as "waiting for 3 sessions"; empty where it isn't known."""


class WalPositions(Document):
    """LSNs: *current* of a primary, *received* and *replayed* of a standby."""

    current: Lsn | None = None
    """Where a primary writes; null for a standby, and where it is not known."""
    received: Lsn | None = None
    """Up to where a standby has received and synced WAL; null for a primary."""
    replayed: Lsn | None = None
    """Up to where a standby has replayed WAL; null for a primary."""


class LastExit(Document):
    """How the postmaster ended last: with an exit code, or by a signal."""

    at: UtcTime
    """When it ended."""
    exit_code: int | None = None
    """Its exit code, 0 to 255; null where a signal ended it, or it was not started."""
    signal: str | None = None
    """Such as ``SIGKILL``."""
    expected: bool
    """Whether it was asked to end."""
    cause: Cause
    """Why it ended, as far as that decides what happens next."""
    message: str = ""
    """The postmaster's own last words."""


class PostgresStatus(Document):
    """The server; what is not known is null."""

    version: str | None = None
    """The server's version, such as ``18.1``."""
    version_number: int | None = None
    """The same as ``server_version_num`` has it, such as 180001."""
    pid: int | None = None
    """The postmaster's process id; null while none runs."""
    started_at: UtcTime | None = None
    """When the postmaster was started, by its own word."""
    data_directory: str
    """The absolute path of the cluster."""
    port: int
    """The TCP port that it is told to listen on, 1 to 65535."""
    system_identifier: str | None = None
    """The cluster's own number, as text, since it has up to 20 digits."""
    timeline: int | None = None
    """The timeline of its WAL, from 1."""
    role: Literal["primary", "standby"] | None = None
    """``standby`` while it is in recovery, else ``primary``."""
    in_recovery: bool | None = None
    """Whether it replays WAL: a standby, or a primary after a crash."""
    lsn: WalPositions = WalPositions()
    """Positions in the WAL, as they were seen last."""
    restarts: int = 0
    """How many restarts there were that nobody asked for, in this run of the manager."""
    last_exit: LastExit | None = None
    """How the postmaster ended last in this run of the manager; null if it never did."""


class PendingRestart(Document):
    """A parameter whose configured value waits for a restart."""

    name: str
    """The parameter."""
    running: str | None
    """What the server runs with, in its own notation; null where it does not say."""
    configured: str | None
    """What is written for it; null for the server's default."""


class ConfigurationStatus(Document):
    """The configuration in force; *loaded* says that the server runs with what is written."""

    source: Literal["file", "api"] = "file"
    """Whose configuration counts: the settings' (``file``), or the last accepted one (``api``)."""
    generation: int = 0
    """How often another configuration was written in this run of the manager."""
    etag: str | None = None
    """The tag of the document in force, without quotes; null before there is one."""
    loaded: bool = False
    """Whether the server has loaded what is written; false while it does not run."""
    pending_restart: tuple[PendingRestart, ...] = ()
    """Parameters that a restart would change."""
    errors: tuple[FieldProblem, ...] = ()
    """What was wrong with the configuration that was asked for last; empty where it is in
    force."""


class ExtensionsStatus(Document):
    """The volumes in numbers; ``GET /v1/extensions`` has the whole."""

    volumes: int = 0
    """How many volumes there are."""
    ready: int = 0
    """How many of them are used."""
    quarantined: int = 0
    """How many of them are left out because of an error."""
    pending_action: PendingAction = PendingAction.NONE
    """What it takes until the server uses what is mounted and configured."""


class StorageStatus(Document):
    """A file system that the instance lives on."""

    purpose: str
    """``data``, ``wal`` or ``tablespace``."""
    path: str
    """An absolute path on it."""
    size_bytes: int
    """Its size in bytes."""
    free_bytes: int
    """Bytes that an ordinary user may still write to it."""


class Condition(Document):
    """One statement about the instance, in the form that Kubernetes gives to conditions."""

    type: str
    """What it is about: ``Ready``, ``ExtensionsUsable``, ``ConfigurationLoaded`` or
    ``DatabasesReconciled``."""
    status: Literal["True", "False", "Unknown"]
    """Whether that holds."""
    reason: str
    """Why, for programs: one word in CamelCase."""
    message: str
    """Why, for people."""
    last_transition_time: UtcTime
    """When the status changed last."""


class Status(Document):
    """The whole instance: ``GET /v1/status``."""

    instance: InstanceIdentity
    """Who answers."""
    phase: Phase
    """What the manager does with postgres now."""
    desired: Desired
    """What people asked for, whatever is the case."""
    stopping: Stopping | None = None
    """The stop under way; null while there is none."""
    failure: PhaseFailure | None = None
    """Why it can't go on; null in every phase but ``failed``."""
    postgres: PostgresStatus
    """The server."""
    configuration: ConfigurationStatus = ConfigurationStatus()
    """The configuration in short; ``GET /v1/configuration`` has the whole."""
    extensions: ExtensionsStatus = ExtensionsStatus()
    """The volumes in numbers; ``GET /v1/extensions`` has the whole."""
    storage: tuple[StorageStatus, ...] = ()
    """The file systems of the data, of the WAL and of each tablespace."""
    operation: Operation | None = None
    """The lifecycle operation under way."""
    conditions: tuple[Condition, ...] = ()
    """What holds and what does not, one entry for each type."""


class CheckReport(Document):
    """One check of a probe; *message* is null where it may not be told."""

    name: str
    """The name that ``?exclude=`` and ``/readyz/{check}`` take."""
    status: Literal["ok", "failed", "excluded"]
    """``excluded`` where the request left it out."""
    observed_seconds_ago: float | None
    """Age of the oldest fact behind it, in seconds; null where nothing was seen yet."""
    message: str | None
    """Why it failed; null where it did not, or on the health listener."""


class ProbeReport(Document):
    """The answer of a probe to those who accept JSON."""

    status: Literal["ok", "failed"]
    """``failed`` if one of the checks that count has failed."""
    checks: tuple[CheckReport, ...]
    """All checks of the probe."""


class StartRequest(Request):
    """The body of start: whether it is done whatever databases need by the last inventory."""

    ignore_inventory: bool = False
    """Start also where a database needs an extension that no volume has."""


class StopRequest(Request):
    """The body of stop and restart; without a mode, the settings' ladder decides."""

    mode: StopMode | None = None
    """How hard to stop: wait for sessions (``smart``), end them (``fast``), or let the next start
    recover (``immediate``). Null: the ladder of the settings."""


class EmptyRequest(Request):
    """The body of what takes no arguments."""
