"""The whole error tree: what can go wrong, its stable code, and its exit code.

Two branches under one root. A *permanent* error needs a person; a *transient* one may pass, and
the supervisor retries. Messages read ``cannot <verb> <object>: <reason>``; the hint is the way
out. Exit codes are those of the contract for ``run``, sysexits.h for 78 (``EX_CONFIG``).
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable


class Exit:
    """Exit codes of ``run``; client commands use DONE, FAILED, USAGE and CONFLICT."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    PREFLIGHT = 3
    DISK_SPACE = 4
    NOT_STARTED = 5
    CRASH_LOOP = 6
    DATA_DIRECTORY = 7
    UNCLEAN = 8
    CONFLICT = 9
    SETTINGS = 78


class ErrorCode(StrEnum):
    """Stable names of errors: the same word in logs, status and HTTP answers."""

    INTERNAL = "internal"
    USAGE = "usage"
    SETTINGS_INVALID = "settings-invalid"
    PREFLIGHT_REFUSED = "preflight-refused"
    DISK_FULL = "disk-full"
    START_FAILED = "start-failed"
    CRASH_LOOP = "crash-loop"
    DATA_DIRECTORY_UNUSABLE = "data-directory-unusable"
    DATA_DIRECTORY_IN_USE = "data-directory-in-use"
    DATA_DIRECTORY_OWNER = "data-directory-owner"
    DATA_DIRECTORY_VERSION = "data-directory-version"
    DATA_DIRECTORY_DAMAGED = "data-directory-damaged"
    DATA_DIRECTORY_READ_ONLY = "data-directory-read-only"
    DATA_DIRECTORY_LOST = "data-directory-lost"
    WAL_DIRECTORY_UNUSABLE = "wal-directory-unusable"
    UNRESPONSIVE = "unresponsive"
    UNCLEAN_STOP = "unclean-stop"
    EXTENSION_UPDATE_FAILED = "extension-update-failed"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with an input: where it stands, and what to do about it."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class InstanceManagerError(Exception):
    """Base of every error that a user may see.

    *hint* says what to do; *context* holds plain values for the log.
    """

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL
    exit_code: ClassVar[int] = Exit.FAILED

    def __init__(self, message: str, *, hint: str = "", **context: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.context = context


class PermanentError(InstanceManagerError):
    """Retrying can't help; a person must act."""


class TransientError(InstanceManagerError):
    """May pass by itself; the supervisor may retry with backoff."""


class UsageError(PermanentError):
    """The command line can't be understood."""

    code = ErrorCode.USAGE
    exit_code = Exit.USAGE


class SettingsError(PermanentError):
    """The settings, an address or a directory that they name can't be used.

    Carries all problems found, not the first.
    """

    code = ErrorCode.SETTINGS_INVALID
    exit_code = Exit.SETTINGS

    def __init__(self, problems: Iterable[Problem], *, hint: str = "") -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)), hint=hint)


class PreflightError(PermanentError):
    """Extension volumes, or the configuration, would not work."""

    code = ErrorCode.PREFLIGHT_REFUSED
    exit_code = Exit.PREFLIGHT


class VolumesUnansweringError(PreflightError):
    """The storage of the extension volumes does not answer; it may do so later."""


@contextmanager
def beside_server(doing: str) -> Generator[None]:
    """Have it said of *doing* that it is refused, not of a start: the server runs, and goes on."""
    try:
        yield
    except PreflightError as error:
        reason = error.message.removeprefix("cannot start postgres: ")
        raise type(error)(
            f"cannot {doing}, the server goes on as it is: {reason}",
            hint=error.hint,
            **error.context,
        ) from error


class DataDirectoryError(PermanentError):
    """The data directory can't be used as it is."""

    code = ErrorCode.DATA_DIRECTORY_UNUSABLE
    exit_code = Exit.DATA_DIRECTORY


class DataDirectoryInUseError(DataDirectoryError):
    """Another server or manager holds the data directory."""

    code = ErrorCode.DATA_DIRECTORY_IN_USE


class DataDirectoryTakenError(DataDirectoryError):
    """Another server, which does not keep to the lock, uses the data directory.

    Nobody can see when it is free again, so a person has to.
    """

    code = ErrorCode.DATA_DIRECTORY_IN_USE


class DataDirectoryOwnerError(DataDirectoryError):
    """The data directory, or a file of the cluster, belongs to another user."""

    code = ErrorCode.DATA_DIRECTORY_OWNER


class DataDirectoryVersionError(DataDirectoryError):
    """The cluster is of another major version than the server."""

    code = ErrorCode.DATA_DIRECTORY_VERSION


class DataDirectoryDamagedError(DataDirectoryError):
    """A file without which no server starts is missing, torn, or not what it should be."""

    code = ErrorCode.DATA_DIRECTORY_DAMAGED


class DataDirectoryReadOnlyError(DataDirectoryError):
    """The file system of the data or of the WAL is mounted read-only."""

    code = ErrorCode.DATA_DIRECTORY_READ_ONLY


class DataDirectoryLostError(DataDirectoryError):
    """There is no cluster where one was: making a new one would hide that the data is gone."""

    code = ErrorCode.DATA_DIRECTORY_LOST


class WalDirectoryError(DataDirectoryError):
    """The WAL directory is missing, empty, another one than configured, or not writable."""

    code = ErrorCode.WAL_DIRECTORY_UNUSABLE


class CrashLoopError(PermanentError):
    """Postgres was restarted as often as the settings allow."""

    code = ErrorCode.CRASH_LOOP
    exit_code = Exit.CRASH_LOOP


class DiskSpaceError(TransientError):
    """There is not enough disk space to start."""

    code = ErrorCode.DISK_FULL
    exit_code = Exit.DISK_SPACE


class StartError(TransientError):
    """Postgres, or a tool that prepares it, could not be started or ended on its own."""

    code = ErrorCode.START_FAILED
    exit_code = Exit.NOT_STARTED


class UnresponsiveError(TransientError):
    """Postgres, or the manager, did not answer in time."""

    code = ErrorCode.UNRESPONSIVE


class UncleanStopError(TransientError):
    """Postgres was stopped so that it will run crash recovery at its next start."""

    code = ErrorCode.UNCLEAN_STOP
    exit_code = Exit.UNCLEAN


class ExtensionUpdateError(TransientError):
    """The server refused to update an extension; nothing was changed."""

    code = ErrorCode.EXTENSION_UPDATE_FAILED


class ConflictError(TransientError):
    """What was asked for can't be done now, because something else is under way."""

    code = ErrorCode.CONFLICT
    exit_code = Exit.CONFLICT


class StaleTagError(ConflictError):
    """The configuration was changed since its tag was read."""


class InvalidTransitionError(Exception):
    """A bug of ours: an event that the state table does not allow in this state."""
