"""``postmaster.pid``: who says to be the postmaster of a data directory, and whether that is true.

The server writes it when it starts, removes it when it stops, and ends within a minute when it is
gone or names another pid: "performing immediate shutdown because data directory lock file is
invalid". Sources: src/include/utils/pidfile.h, which names the lines; CreateLockFile() and
RecheckDataDirLockFile() in src/backend/utils/init/miscinit.c.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from instance_manager.errors import DataDirectoryError
from instance_manager.log import get_logger
from instance_manager.postgres import processes, small_files

if TYPE_CHECKING:
    from pathlib import Path

FILE_NAME = "postmaster.pid"
SERVER_PROGRAMS: Final = frozenset({"postgres", "postmaster"})
GRANDPARENT: Final = "PG_GRANDPARENT_PID"
"""The variable that names a process which the server does not take for another postmaster."""
_log: Final = get_logger()
_LIMIT_BYTES = 8192
_LINES = 8
_LONGEST_PID = 2**31 - 1
_START_TOLERANCE_SECONDS: Final = 3.0
"""The file has whole seconds, and the process is a little older than what it wrote."""


@dataclass(frozen=True, slots=True)
class PidFile:
    """The lines of the file; one that is not there is None."""

    pid: int
    data_directory: str | None
    started_at: int | None
    port: int | None
    socket_directory: str | None
    status: str | None


class Verdict(StrEnum):
    """What a ``postmaster.pid`` is worth."""

    ABSENT = "absent"
    STALE = "stale"
    LIVING = "living"
    """It names a living postmaster of this data directory."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict; *pid* is what the file names, None where it names no process."""

    verdict: Verdict
    pid: int | None = None


class Watched(StrEnum):
    """What has become of the file of a server that runs."""

    SAME = "same"
    MISSING = "missing"
    OTHER = "other"
    """It names another process, or another start."""
    UNREADABLE = "unreadable"
    """It can't be read, or names no process."""


def parse(text: str) -> PidFile | None:
    """Return what the file says; None if it is empty, torn, or no such file at all.

    A negative pid, which a single-user server writes, is returned as a positive one.
    """
    lines = [line.strip() for line in text.splitlines()]
    lines += [""] * (_LINES - len(lines))
    # Negative from a single-user server: CreateLockFile() writes -pid for it.
    pid = abs(_number(lines[0]) or 0)
    if not 0 < pid <= _LONGEST_PID:
        return None
    return PidFile(
        pid=pid,
        data_directory=lines[1] or None,
        started_at=_number(lines[2]),
        port=_number(lines[3]),
        socket_directory=lines[4] or None,
        status=lines[7] or None,
    )


def read_content(data_directory: Path) -> bytes | None:
    """Return the file as it is; None if it isn't there.

    Raises:
        OSError: it can't be read, or is no regular file.
    """
    try:
        return small_files.read_head(data_directory / FILE_NAME, _LIMIT_BYTES)
    except FileNotFoundError:
        return None


def judge(data_directory: Path) -> Judgement:
    """Return whether the file names a living postmaster of this data directory.

    Told by the process' program, working directory and start time.

    Raises:
        DataDirectoryError: what has that name can't be read, so nothing can be told.
    """
    try:
        content = read_content(data_directory)
    except OSError as error:
        raise DataDirectoryError(
            f"cannot read {str(data_directory / FILE_NAME)!r}: {error.strerror or error}",
            hint="postgres keeps its pid in a file of that name: if no server uses the data"
            " directory, move away what is there",
        ) from error
    if content is None:
        return Judgement(Verdict.ABSENT)
    said = _parse_bytes(content)
    if said is None:
        return Judgement(Verdict.STALE)
    process = processes.look(said.pid)
    living = process is not None and _is_postmaster(process, said, data_directory)
    return Judgement(Verdict.LIVING if living else Verdict.STALE, said.pid)


def _is_postmaster(process: processes.Process, said: PidFile, data_directory: Path) -> bool:
    if process.program not in SERVER_PROGRAMS:
        return False
    directory = process.directory
    if directory is None or directory != processes.identity_of(data_directory):
        return False
    if said.started_at is None:
        # It is still being written, or was cut.
        return True
    return abs(process.started_at - said.started_at) <= _START_TOLERANCE_SECONDS


def remove_damaged(data_directory: Path) -> None:
    """Remove a file that names no process, at which postgres would refuse to start.

    For who holds the data directory's lock, and has ended its old processes. One that names a
    process stays: postgres finds in it the shared memory of the server before.

    Raises:
        DataDirectoryError: what has that name can't be read, or not be removed.
    """
    judged = judge(data_directory)
    if judged.verdict is not Verdict.STALE or judged.pid is not None:
        return
    path = data_directory / FILE_NAME
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise DataDirectoryError(
            f"cannot remove {str(path)!r}: {error.strerror}",
            hint="it names no process, and postgres does not start with it: remove it",
        ) from error
    _log.warning("removed a postmaster.pid that names no process", path=str(path))


def watch(data_directory: Path, content: bytes) -> Watched:
    """Compare the file with what it was when the server had come up.

    The later lines may change while it runs; pid and start time don't. Blocks on the disk: for a
    thread.
    """
    try:
        now = read_content(data_directory)
    except OSError:
        return Watched.UNREADABLE
    if now is None:
        return Watched.MISSING
    said, before = _parse_bytes(now), _parse_bytes(content)
    if said is None:
        return Watched.UNREADABLE
    # The start time, too: in a container, the next postmaster may have the same pid.
    if before is None or (said.pid, said.started_at) != (before.pid, before.started_at):
        return Watched.OTHER
    return Watched.SAME


def restore(data_directory: Path, content: bytes) -> bool:
    """Put the missing file of a server that runs back; return False if one is there by now.

    Raises:
        OSError: it can't be written; then none is left.
    """
    path = data_directory / FILE_NAME
    # Only where none is: since the look, another server may have written its own.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileExistsError:
        return False
    try:
        _write_at_once(descriptor, content)
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise
    finally:
        os.close(descriptor)
    return True


def _write_at_once(descriptor: int, content: bytes) -> None:
    """Write all in one piece: the server may look at any moment, and ends if it finds half."""
    os.fchmod(descriptor, 0o600)
    if os.write(descriptor, content) != len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(descriptor)


def past_stale(directory: Path) -> dict[str, str]:
    """Return what makes postgres ignore a ``postmaster.pid`` that was left behind.

    Pids repeat in containers, so the one in it is often that of another process by now. Only where
    that process is no postmaster of this directory: else postgres refuses, rightly. The file
    itself stays: postgres finds in it the shared memory of the server before.
    """
    judged = judge(directory)
    if judged.verdict is not Verdict.STALE or judged.pid is None:
        return {}
    return {GRANDPARENT: str(judged.pid)}


def _parse_bytes(content: bytes) -> PidFile | None:
    return parse(content.decode("utf-8", "replace"))


def _number(text: str) -> int | None:
    """Return a number as the server reads it: plain digits."""
    return int(text) if re.fullmatch(r"-?[0-9]{1,19}", text) else None
