"""``pg_wal``: where it leads, and whether it is the one that belongs to the data.

On a volume of its own it may be missing, empty, moved, or another cluster's. Postgres would say so
only in its log, or make an empty directory and then miss the WAL that it needs.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import stat
from pathlib import Path
from typing import Final

from instance_manager.errors import WalDirectoryError
from instance_manager.postgres import read_only
from instance_manager.postgres.data_directory import chain_of

NAME: Final = "pg_wal"
DEFAULT_SEGMENT_BYTES: Final = 16 * 1024 * 1024
_SMALLEST_SEGMENT_BYTES: Final = 1024 * 1024
_LARGEST_SEGMENT_BYTES: Final = 1024 * 1024 * 1024
_SEGMENT: Final = re.compile(r"[0-9A-F]{24}")
"""Timeline, log and segment, eight hexadecimal digits each: src/include/access/xlog_internal.h."""
_FROM_ELSEWHERE: Final = ("standby.signal", "recovery.signal")
"""With one of these, the WAL comes from an archive or another server: there may be none here."""


def first_segment(directory: Path) -> os.DirEntry[str] | None:
    """Return any one WAL segment in the directory; None where there is none, or no directory."""
    try:
        with os.scandir(directory) as entries:
            return next((one for one in entries if _SEGMENT.fullmatch(one.name)), None)
    except (FileNotFoundError, NotADirectoryError):
        return None


def segment_bytes(directory: Path) -> int:
    """Return the size of the WAL segments in the directory; the usual one where none tells."""
    found = first_segment(directory)
    size = found.stat(follow_symlinks=False).st_size if found else 0
    # What initdb's --wal-segsize takes: powers of two only. A file that is still being made, or
    # was cut, is of another size.
    fits = _SMALLEST_SEGMENT_BYTES <= size <= _LARGEST_SEGMENT_BYTES and not size & (size - 1)
    return size if fits else DEFAULT_SEGMENT_BYTES


def require_in_place(data_directory: Path, configured: Path | None) -> None:
    """Check that ``pg_wal`` is there, the configured one, and holds the WAL of the cluster.

    Raises:
        WalDirectoryError: it does not, and what helps.
    """
    link = data_directory / NAME
    _require_there(link, configured)
    target = os.path.realpath(link)
    # By the real paths: a setting may lead to the same place through a link.
    if configured is not None and os.path.realpath(configured) != target:
        raise _elsewhere(link, target, configured)
    try:
        is_without = first_segment(link) is None
    except PermissionError as error:
        raise _closed(link) from error
    if is_without and not comes_from_elsewhere(data_directory):
        raise WalDirectoryError(
            f"cannot use WAL directory {_named(link)}: it holds no WAL segment",
            hint="an empty volume may be mounted there: mount the one that belongs to the data;"
            " if its WAL is lost, restore both from a backup",
        )


def require_writable(data_directory: Path) -> None:
    """Check that this user may write ``pg_wal``, which is there, and its segments.

    Raises:
        DataDirectoryReadOnlyError: its file system is read-only.
        WalDirectoryError: it, or a segment, is another user's.
    """
    link = data_directory / NAME
    read_only.require_writable(link)
    if not os.access(link, os.R_OK | os.W_OK | os.X_OK):
        raise _closed(link)
    me, segment = os.geteuid(), first_segment(link)
    owner = me if segment is None else segment.stat(follow_symlinks=False).st_uid
    if segment is not None and owner != me:
        raise WalDirectoryError(
            f"cannot use WAL directory {_named(link)}: its file {segment.name!r} belongs to uid"
            f" {owner}, and postgres would run as uid {me}",
            hint=f"run as root: {_chown(link)}",
        )


def _require_there(link: Path, configured: Path | None) -> None:
    try:
        if not stat.S_ISDIR(link.stat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except FileNotFoundError as error:
        raise (_dangling(link) if link.is_symlink() else _missing(link, configured)) from error
    except OSError as error:
        raise WalDirectoryError(
            f"cannot use WAL directory {_named(link)}: {error.strerror}",
            hint=f"the way there: {chain_of(Path(os.path.realpath(link)))}",
        ) from error


def _missing(link: Path, configured: Path | None) -> WalDirectoryError:
    hint = "restore it, or the whole cluster, from a backup"
    if configured is not None and first_segment(configured) is not None:
        hint = f"make the link again: {shlex.join(['ln', '-s', str(configured), str(link)])}"
    return WalDirectoryError(f"cannot use WAL directory {str(link)!r}: it is missing", hint=hint)


def _dangling(link: Path) -> WalDirectoryError:
    again = shlex.join(["ln", "-sfn", "NEW_PLACE", str(link)])
    return WalDirectoryError(
        f"cannot use WAL directory {str(link)!r}: it is a link to {str(link.readlink())!r}, which"
        " is not there",
        hint=f"mount the volume of the WAL; if it was moved, point the link there: {again}",
    )


def _closed(link: Path) -> WalDirectoryError:
    status = link.stat()
    return WalDirectoryError(
        f"cannot use WAL directory {_named(link)}: it belongs to uid {status.st_uid} and has mode"
        f" {status.st_mode & 0o7777:04o}, and postgres would run as uid {os.geteuid()}",
        hint=f"run as root: {_chown(link)} && {shlex.join(['chmod', '700', str(link)])}",
    )


def _elsewhere(link: Path, target: str, configured: Path) -> WalDirectoryError:
    old = f"{link}.old"
    # Copied and synced before the link is changed: who is interrupted amid this has lost nothing.
    commands = (
        ["cp", "-a", f"{target}/.", str(configured)],
        ["sync"],
        ["mv", str(link), old],
        ["ln", "-s", str(configured), str(link)],
    )
    move = " && ".join(map(shlex.join, commands))
    return WalDirectoryError(
        f"cannot use WAL directory {_named(link)}: postgres.wal_directory is {str(configured)!r}",
        hint=f"unset postgres.wal_directory, or move the WAL: {move}",
    )


def comes_from_elsewhere(data_directory: Path) -> bool:
    """Whether the server there replays WAL of another server or of an archive when it starts."""
    return any((data_directory / name).exists() for name in _FROM_ELSEWHERE)


def _named(link: Path) -> str:
    """Return the directory for a message, with the place where it leads."""
    target = os.path.realpath(link)
    if target == os.path.realpath(link.parent) + f"/{link.name}":
        return repr(str(link))
    return f"{str(link)!r} ({target})"


def _chown(link: Path) -> str:
    # With -H the link itself is followed, and none below it.
    return shlex.join(["chown", "-RH", f"{os.geteuid()}:{os.getegid()}", str(link)])
