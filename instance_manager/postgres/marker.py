"""The marker of an unfinished bootstrap, and the moves that finish it or take it back.

A new cluster is built in a subdirectory, because the data directory itself may be a mount point
that can't be renamed. Then its entries are moved up, ``global/pg_control`` last: without that file
no server starts. The marker says how far this went, so that a kill at any moment leaves either
nothing or a whole cluster. Each step is durable before the next one begins.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from instance_manager.errors import DataDirectoryError
from instance_manager.postgres import control_data, small_files
from instance_manager.postgres.data_directory import OUR_DIRECTORY

if TYPE_CHECKING:
    from instance_manager.postgres.data_directory import OurFiles

_CONTROL_ASIDE: Final = "pg_control.last"
"""Where the control file waits, inside the new cluster, while everything else is moved."""


@dataclass(frozen=True, slots=True)
class Marker:
    """What an unfinished bootstrap has made, or was about to make."""

    wal_directory: str | None
    entries: tuple[str, ...] = ()
    """Names that are being moved into the data directory; empty while the cluster is built."""


def write(files: OurFiles, marker: Marker) -> None:
    """Write the marker durably: it is there before what it names."""
    temporary = files.marker.with_suffix(".tmp")
    # Whatever has that name is not written into.
    temporary.unlink(missing_ok=True)
    with temporary.open("x", encoding="utf-8") as file:
        json.dump(asdict(marker), file)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(files.marker)
    sync_directory(files.directory)
    # Our directory may be as new as the marker.
    sync_directory(files.data_directory)


def read(files: OurFiles) -> Marker | None:
    """Return the marker of an unfinished bootstrap; None where there is none.

    Raises:
        DataDirectoryError: there is one, and it can't be understood.
    """
    try:
        raw = json.loads(small_files.read(files.marker).decode())
        return Marker(_wal_directory(raw["wal_directory"]), _entries(raw["entries"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataDirectoryError(
            f"cannot read {str(files.marker)!r}: {error}",
            hint="it marks an unfinished initialisation; if the data directory holds no data of"
            " yours, empty it",
        ) from error


def _wal_directory(value: object) -> str | None:
    """Return the directory that may be emptied: an absolute path, or none."""
    if value is None or (isinstance(value, str) and value.startswith("/") and "\0" not in value):
        return value
    raise ValueError(f"{value!r} is no WAL directory")


def _entries(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list of entries")
    return tuple(map(_plain_name, cast("list[object]", value)))


def _plain_name(name: object) -> str:
    """Return the name of an entry that may be removed: of a cluster, never of ours."""
    if not isinstance(name, str) or not {"/", "\0"}.isdisjoint(name):
        raise ValueError(f"{name!r} is no name of an entry")
    if name in {"", ".", "..", OUR_DIRECTORY}:
        raise ValueError(f"{name!r} is no entry of a cluster")
    return name


def recover(files: OurFiles) -> bool:
    """Finish or take back what a killed bootstrap left; return whether there was anything.

    Where the control file has arrived, all the rest has: then only the marker is left to remove.
    """
    marker = read(files)
    if marker is None:
        return False
    if marker.entries and (files.data_directory / control_data.FILE_NAME).exists():
        finish(files)
        return True
    for name in marker.entries:
        _remove(files.data_directory / name)
    if marker.wal_directory is not None:
        _empty(marker.wal_directory)
    # It names the cluster that is taken back: alone, it would say that one was lost here.
    files.instance.unlink(missing_ok=True)
    sync_directory(files.directory)
    finish(files)
    return True


def move_up(files: OurFiles, marker: Marker) -> None:
    """Move the new cluster into its place. The cluster is synced, and no server runs on it."""
    new = files.new_cluster
    (new / control_data.FILE_NAME).rename(new / _CONTROL_ASIDE)
    entries = tuple(sorted(entry.name for entry in new.iterdir() if entry.name != _CONTROL_ASIDE))
    sync_directory(new / "global")
    sync_directory(new)
    # Before the first move: after a kill amid them, this says what is to be taken back.
    write(files, Marker(marker.wal_directory, entries))
    for name in entries:
        (new / name).rename(files.data_directory / name)
    sync_directory(files.data_directory)
    (new / _CONTROL_ASIDE).rename(files.data_directory / control_data.FILE_NAME)
    sync_directory(files.data_directory / "global")
    finish(files)


def finish(files: OurFiles) -> None:
    """Remove the building place, and then the marker."""
    # Before the marker, without which nobody would remove it.
    _remove(files.new_cluster)
    files.marker.unlink()
    sync_directory(files.directory)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable: fsync(2) of the directory itself."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Remove a file, a link or a tree; without effect if it isn't there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _empty(directory: str) -> None:
    try:
        entries = list(Path(directory).iterdir())
    except FileNotFoundError:
        return
    # What is in it and not the directory, which may be the mount point of a volume.
    for entry in entries:
        _remove(entry)
