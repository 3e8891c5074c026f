"""``global/pg_control``: what the last server left behind.

Only its first fields are read, which lie where they lie in every supported major version, in the
machine's own byte order. Source: src/include/catalog/pg_control.h, ``ControlFileData``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from instance_manager.errors import DataDirectoryError

if TYPE_CHECKING:
    from pathlib import Path

FILE_NAME: Final = "global/pg_control"
_HEAD: Final = struct.Struct("=QII i4x q QQ I")
"""Identifier, control version, catalog version, state, time, checkpoint, redo, timeline."""


class ClusterState(IntEnum):
    """``DBState``: how the cluster was left."""

    STARTUP = 0
    SHUT_DOWN = 1
    SHUT_DOWN_IN_RECOVERY = 2
    SHUTTING_DOWN = 3
    IN_CRASH_RECOVERY = 4
    IN_ARCHIVE_RECOVERY = 5
    IN_PRODUCTION = 6


@dataclass(frozen=True, slots=True)
class ControlData:
    """The identity and the state of a cluster."""

    system_identifier: int
    control_version: int
    catalog_version: int
    state: ClusterState
    timeline: int

    @property
    def is_clean(self) -> bool:
        """Whether the next start needs no crash recovery."""
        return self.state in (ClusterState.SHUT_DOWN, ClusterState.SHUT_DOWN_IN_RECOVERY)


def parse(head: bytes) -> ControlData:
    """Return the meaning of the file's first bytes.

    Raises:
        ValueError: too short, or a state that no server writes.
    """
    if len(head) < _HEAD.size:
        raise ValueError(f"{len(head)} bytes where at least {_HEAD.size} are needed")
    identifier, version, catalog, state, _, _, _, timeline = _HEAD.unpack_from(head)
    return ControlData(identifier, version, catalog, ClusterState(state), timeline)


def read(data_directory: Path) -> ControlData:
    """Return the control data of a data directory.

    Raises:
        DataDirectoryError: the file is missing, unreadable or damaged.
    """
    path = data_directory / FILE_NAME
    try:
        with path.open("rb") as file:
            return parse(file.read(_HEAD.size))
    except FileNotFoundError as error:
        raise DataDirectoryError(
            f"cannot use data directory {str(data_directory)!r}: {FILE_NAME} is missing",
            hint="the cluster is not whole: restore it from a backup",
        ) from error
    except (OSError, ValueError) as error:
        raise DataDirectoryError(
            f"cannot read {str(path)!r}: {error}",
            hint="the cluster is damaged, or its file belongs to another user",
        ) from error
