"""What is checked in a data directory that holds something, before a server is started in it.

Each check has its own error; the first that fails is told. Nothing is written.
"""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Final

from instance_manager.errors import (
    DataDirectoryDamagedError,
    DataDirectoryError,
    DataDirectoryOwnerError,
)
from instance_manager.postgres import control_data, data_directory, free_space, wal_directory

if TYPE_CHECKING:
    from pathlib import Path

_OWNED: Final = (data_directory.VERSION_FILE, "global", control_data.FILE_NAME, "base")
"""What initdb makes and nobody else: configuration may well be another user's."""
_SHOWN_NAMES: Final = 3


def require_usable(directory: Path, server_major: int, configured_wal: Path | None) -> None:
    """Check all that a start needs of the cluster in *directory*, as the user who will run it.

    Raises:
        DataDirectoryError: it can't be used, and why.
        DiskSpaceError: there is not enough space to start.
    """
    _require_own_files(directory)
    require_whole(directory, server_major, configured_wal)
    wal_directory.require_writable(directory)
    free_space.require_for_start(directory)


def require_whole(directory: Path, server_major: int, configured_wal: Path | None) -> None:
    """Check that *directory* holds a cluster that this server can run, whoever asks.

    Raises:
        DataDirectoryError: it doesn't, and why.
    """
    _require_cluster(directory)
    data_directory.require_major(directory, server_major)
    control_data.read(directory)
    wal_directory.require_in_place(directory, configured_wal)


def _require_cluster(directory: Path) -> None:
    if (directory / data_directory.VERSION_FILE).exists():
        return
    # With a control file it is a cluster in part: another directory is no way out then.
    if (directory / control_data.FILE_NAME).exists():
        raise DataDirectoryDamagedError(
            f"cannot use data directory {str(directory)!r}: {data_directory.VERSION_FILE} is"
            " missing",
            hint="the cluster is not whole: restore it from a backup",
        )
    names = sorted(entry.name for entry in os.scandir(directory))
    names = [name for name in names if name != data_directory.OUR_DIRECTORY]
    shown = ", ".join(map(repr, names[:_SHOWN_NAMES])) + (", …" * (len(names) > _SHOWN_NAMES))
    raise DataDirectoryError(
        f"cannot use data directory {str(directory)!r}: it holds no cluster, and is not empty:"
        f" {shown}",
        hint="set postgres.data_directory to an empty directory, such as one below it",
    )


def _require_own_files(directory: Path) -> None:
    me = os.geteuid()
    for name in _OWNED:
        path = directory / name
        try:
            owner = path.stat().st_uid
        except FileNotFoundError:
            # What is missing is told by the checks that follow, as damage.
            continue
        if owner != me:
            mend = shlex.join(["chown", "-R", f"{me}:{os.getegid()}", str(directory)])
            raise DataDirectoryOwnerError(
                f"cannot use {str(path)!r}: it belongs to uid {owner}, and postgres would run as"
                f" uid {me}",
                hint=f"a restore by another user leaves such files; run as root: {mend}",
            )
