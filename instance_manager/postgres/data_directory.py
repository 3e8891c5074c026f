"""The data directory: which one, whose, and whether it holds a cluster.

Everything of ours lies in one directory inside it, :class:`OurFiles`. Here nothing is made or
mended except that directory; what is wrong is said with the way out.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from instance_manager.errors import (
    DataDirectoryDamagedError,
    DataDirectoryError,
    DataDirectoryOwnerError,
    DataDirectoryVersionError,
    DiskSpaceError,
)
from instance_manager.log import get_logger
from instance_manager.postgres import read_only, small_files

DEFAULT: Final = Path("/var/lib/postgresql/data/pgdata")
_log: Final = get_logger()
OUR_DIRECTORY: Final = "instance-manager"
# The root of a new ext4 file system holds lost+found.
_NOT_OURS_TO_COUNT: Final = frozenset({"lost+found", OUR_DIRECTORY})
VERSION_FILE: Final = "PG_VERSION"
_VERSION_BYTES: Final = 64
"""More than any version needs: what is longer is none."""
_SHOWN_BYTES: Final = 20


@dataclass(frozen=True, slots=True)
class OurFiles:
    """The files of ours inside a data directory."""

    data_directory: Path

    @property
    def directory(self) -> Path:
        """The one directory that is ours."""
        return self.data_directory / OUR_DIRECTORY

    @property
    def configuration(self) -> Path:
        """The parameters that we render."""
        return self.directory / "postgresql.conf"

    @property
    def hba(self) -> Path:
        """The access rules that we render."""
        return self.directory / "pg_hba.conf"

    @property
    def ident(self) -> Path:
        """The user name maps that we render."""
        return self.directory / "pg_ident.conf"

    @property
    def lock(self) -> Path:
        """Held by the manager and by every process of its server."""
        return self.directory / "lock"

    @property
    def instance(self) -> Path:
        """What we know of this cluster: whose it is, and that we made it."""
        return self.directory / "instance.json"

    @property
    def fence(self) -> Path:
        """There while postgres is to be kept stopped."""
        return self.directory / "fence.json"

    @property
    def inventory(self) -> Path:
        """What the databases use, as it was read last."""
        return self.directory / "inventory.json"

    @property
    def accepted(self) -> Path:
        """The configuration document that was accepted over HTTP last."""
        return self.directory / "configuration.json"

    @property
    def last_good(self) -> Path:
        """The configuration document that a server ran with last."""
        return self.directory / "last-good.json"

    @property
    def marker(self) -> Path:
        """There while a new cluster is being made."""
        return self.directory / "bootstrap.json"

    @property
    def new_cluster(self) -> Path:
        """Where a new cluster is built."""
        return self.directory / "new-cluster"


def usual_places() -> tuple[Path, ...]:
    """Return where images of PostgreSQL keep their data, of any major version."""
    versioned = sorted(Path("/var/lib/postgresql").glob("[0-9]*/docker"))
    return (Path("/var/lib/postgresql/data"), DEFAULT, *versioned)


def resolve(configured: Path | None) -> Path:
    """Return the data directory: the configured one, the one usual place in use, or the default.

    ``PGDATA`` is a setting already.
    """
    if configured is not None:
        return configured
    used = [place for place in usual_places() if has_cluster(place)]
    # Of several, none is taken by a guess.
    return used[0] if len(used) == 1 else DEFAULT


def has_cluster(directory: Path) -> bool:
    """Whether something in the directory says that a cluster lives there."""
    # A link to nothing counts: what it led to may be on a volume that is not mounted.
    return os.path.lexists(directory / VERSION_FILE)


def major_of(data_directory: Path) -> int | None:
    """Return the major version of the cluster in the directory; None if there is none.

    Raises:
        DataDirectoryOwnerError: this user may not read it.
        DataDirectoryDamagedError: it can't be told.
    """
    path = data_directory / VERSION_FILE
    try:
        return _major(small_files.read_head(path, _VERSION_BYTES))
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise DataDirectoryOwnerError(
            f"cannot read {str(path)!r}: {error.strerror}",
            hint="let it belong to the user of postgres",
        ) from error
    except (OSError, ValueError) as error:
        raise DataDirectoryDamagedError(
            f"cannot read {str(path)!r}: {error}",
            hint="the cluster is damaged: restore it from a backup",
        ) from error


def _major(content: bytes) -> int:
    """Return the first number of the file's content: ``18``, or ``9.6`` of old."""
    number = content.strip().partition(b".")[0]
    if not number.isdigit():
        raise ValueError(f"{content[:_SHOWN_BYTES]!r} is no version")
    return int(number)


def require_major(data_directory: Path, server_major: int) -> None:
    """Check that the cluster in the directory, if there is one, is of the server's major version.

    Raises:
        DataDirectoryVersionError: it is of another one.
        DataDirectoryError: it can't be told.
    """
    major = major_of(data_directory)
    if major is not None and major != server_major:
        raise DataDirectoryVersionError(
            f"cannot use data directory {str(data_directory)!r}: it holds a cluster of PostgreSQL"
            f" {major}, the server is {server_major}",
            hint=f"use an image with PostgreSQL {major}, or upgrade the cluster with pg_upgrade",
        )


def prepare(data_directory: Path) -> OurFiles:
    """Make the data directory and ours inside it where they are missing, and return our files.

    Raises:
        DataDirectoryOwnerError: they belong to another user.
        DataDirectoryReadOnlyError: they can't be made on a read-only file system.
        DataDirectoryError: they can't be made for another reason.
        DiskSpaceError: there is no space for a directory.
    """
    files = OurFiles(data_directory)
    for directory in (data_directory, files.directory):
        try:
            directory.mkdir(mode=0o700, parents=directory is data_directory, exist_ok=True)
            # The data directory may be a link that people made. Ours may not: whoever can write
            # beside it could lead our files elsewhere.
            status = directory.stat() if directory is data_directory else directory.lstat()
            if not stat.S_ISDIR(status.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, "it is a link, or no directory")
        except OSError as error:
            raise _cannot_make(directory, error) from error
        _require_owner(directory, status)
    _close_to_others(data_directory)
    return files


def _close_to_others(data_directory: Path) -> None:
    """Repair what a volume driver did to the mode: postgres refuses anything but 0700 and 0750.

    Kubernetes' fsGroup sets the group's bits and set-gid, at each mount anew.
    """
    mode = stat.S_IMODE(data_directory.stat().st_mode)
    if mode & ~0o750:
        data_directory.chmod(0o700)
        _log.warning(
            "the mode of the data directory was repaired",
            data_directory=str(data_directory),
            was=f"{mode:04o}",
            now="0700",
        )


def _cannot_make(directory: Path, error: OSError) -> DataDirectoryError | DiskSpaceError:
    if error.errno == errno.EROFS:
        return read_only.refusal(directory)
    message = f"cannot make directory {str(directory)!r}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskSpaceError(message, hint="enlarge the volume, or free space on it")
    me = f"uid {os.geteuid()}"
    return DataDirectoryError(
        message,
        hint=f"mount a volume that {me} can write, or set postgres.data_directory;"
        f" the way there: {chain_of(directory)}",
    )


def _require_owner(directory: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise DataDirectoryOwnerError(
            f"cannot use directory {str(directory)!r}: it belongs to uid {status.st_uid}, and"
            f" postgres would run as uid {os.geteuid()}",
            hint=f"run as uid {status.st_uid}, or change the owner of the volume;"
            f" the way there: {chain_of(directory)}",
        )


def chain_of(path: Path) -> str:
    """Return owner, group and mode of *path* and of each directory above it, for messages."""
    parts: list[str] = []
    for place in (*reversed(path.absolute().parents), path.absolute()):
        try:
            status = place.lstat()
        except OSError as error:
            parts.append(f"{place} ({error.strerror})")
            break
        parts.append(f"{place} ({status.st_uid}:{status.st_gid} {status.st_mode & 0o7777:04o})")
    return " > ".join(parts)


def is_empty(data_directory: Path) -> bool:
    """Whether the directory holds nothing but ``lost+found`` and what is ours."""
    return {entry.name for entry in os.scandir(data_directory)} <= _NOT_OURS_TO_COUNT


def require_no_data_nearby(data_directory: Path) -> None:
    """Raise DataDirectoryError if making a cluster here would hide one that is elsewhere.

    Looked at: every directory above this one, and the usual places.
    """
    own = data_directory.resolve()
    # Above the path as it was given, too: a link may lead past the cluster that people mean.
    for place in (*own.parents, *data_directory.absolute().parents, *usual_places()):
        if place.resolve() != own and has_cluster(place):
            raise DataDirectoryError(
                f"cannot make a new cluster in {str(data_directory)!r}: {str(place)!r} already"
                " holds one",
                hint=f"set postgres.data_directory (or PGDATA) to {str(place)!r} to use it, or"
                " move it away",
            )
