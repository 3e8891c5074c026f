"""Never a new cluster where data used to be: what says that an empty directory was not always so.

A volume that is not mounted leaves an empty directory in its place. Whoever makes a new cluster
there hides the data, and clients go on writing beside it.
"""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from instance_manager.errors import DataDirectoryLostError
from instance_manager.postgres import data_directory, instance_state, wal_directory

if TYPE_CHECKING:
    from pathlib import Path

    from instance_manager.postgres.data_directory import OurFiles


def require_not_vanished(directory: Path) -> None:
    """Raise DataDirectoryLostError if a directory that held a cluster is empty now, or gone."""
    try:
        if not data_directory.is_empty(directory):
            return
        what = "it is empty"
    except FileNotFoundError:
        what = "it is gone"
    raise DataDirectoryLostError(
        f"cannot use data directory {str(directory)!r}: {what}, and a cluster was in it when"
        " this manager looked before",
        hint="mount its volume again, or restore it from a backup: then postgres is started by"
        " itself. Do not restart the container before: it would find nothing that tells of the"
        " data, and make a new, empty cluster",
    )


def require_never_used(files: OurFiles, configured_wal: Path | None) -> None:
    """Check that no cluster lived in an empty data directory, as far as anything can tell.

    To be called when an unfinished initialisation was taken back.

    Raises:
        DataDirectoryLostError: our own file, or WAL of a cluster, says that one did.
    """
    # That it is there says enough: it counts also where it can't be read.
    if os.path.lexists(files.instance):
        known = instance_state.read(files.instance)
        which = f"cluster {known.system_identifier}" if known else "a cluster"
        raise DataDirectoryLostError(
            f"cannot make a new cluster in {str(files.data_directory)!r}: by"
            f" {str(files.instance)!r} {which} lived here, and nothing else is left of it",
            hint="mount the right volume, or restore the cluster from a backup; to make a new one"
            f" instead: {shlex.join(['rm', str(files.instance)])}",
        )
    segment = wal_directory.first_segment(configured_wal) if configured_wal else None
    if segment is not None:
        raise DataDirectoryLostError(
            f"cannot make a new cluster in {str(files.data_directory)!r}: it is empty, but WAL"
            f" directory {str(configured_wal)!r} holds WAL of a cluster, such as {segment.name!r}",
            hint="mount the volume of the data; to make a new cluster instead, empty the WAL"
            " directory",
        )
