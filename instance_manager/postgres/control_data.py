"""``global/pg_control``: what the last server left behind.

Only its first fields are read, which lie where they lie in every supported major version, in the
machine's own byte order. The fields after them differ; the last one is the CRC-32C of all before
it, so its place is found by its value. Source: src/include/catalog/pg_control.h,
``ControlFileData``; src/common/controldata_utils.c.
"""

from __future__ import annotations

import struct
import sys
import time
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from instance_manager.errors import DataDirectoryDamagedError, DataDirectoryOwnerError
from instance_manager.postgres import crc32c, small_files

if TYPE_CHECKING:
    from pathlib import Path

    from instance_manager.errors import DataDirectoryError

FILE_NAME: Final = "global/pg_control"
_HEAD: Final = struct.Struct("=QII i4x q QQ I")
"""Identifier, control version, catalog version, state, time, checkpoint, redo, timeline."""
_SAFE_BYTES: Final = 512
"""No version writes more than one sector of a disk, ``PG_CONTROL_MAX_SAFE_SIZE``."""
_CRC_BYTES: Final = 4
_TRIES: Final = 10
_PAUSE_SECONDS: Final = 0.01


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


def parse(content: bytes) -> ControlData:
    """Return the meaning of the file's content, of which 512 bytes are enough.

    Raises:
        ValueError: too short, with a checksum that does not fit, or a state that no server writes.
    """
    if len(content) < _HEAD.size:
        raise ValueError(f"{len(content)} bytes where at least {_HEAD.size} are needed")
    if not covered_bytes(content):
        raise ValueError("its checksum does not fit")
    identifier, version, catalog, state, _, _, _, timeline = _HEAD.unpack_from(content)
    return ControlData(identifier, version, catalog, ClusterState(state), timeline)


def covered_bytes(content: bytes) -> int:
    """Return how many bytes the checksum covers, which stands behind them; 0 where none fits."""
    for length, crc in enumerate(crc32c.of_prefixes(content[:_SAFE_BYTES]), start=1):
        # The compiler aligns the field, so it begins at a multiple of its size.
        if length % _CRC_BYTES == 0 and length >= _HEAD.size:
            stored = content[length : length + _CRC_BYTES]
            if stored == crc.to_bytes(_CRC_BYTES, sys.byteorder):
                return length
    return 0


def read(data_directory: Path) -> ControlData:
    """Return the control data of a data directory, beside a server that writes it too.

    Raises:
        DataDirectoryDamagedError: the file is missing, torn or damaged.
        DataDirectoryOwnerError: this user may not read it.
    """
    path = data_directory / FILE_NAME
    try:
        return _parse_settled(path)
    except FileNotFoundError as error:
        raise DataDirectoryDamagedError(
            f"cannot use data directory {str(data_directory)!r}: {FILE_NAME} is missing",
            hint="the cluster is not whole: restore it from a backup",
        ) from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _parse_settled(path: Path) -> ControlData:
    """Parse the file; where it does not fit, until it is the same twice.

    Whoever reads while a server writes may see half of both, as PostgreSQL's own programs may.
    """
    before = None
    for _ in range(_TRIES):
        content = small_files.read_head(path, _SAFE_BYTES)
        try:
            return parse(content)
        except ValueError:
            # The same twice is no write that was met halfway, but damage.
            if content == before:
                raise
        before = content
        time.sleep(_PAUSE_SECONDS)
    raise ValueError("it is being written all the time")


def _unreadable(path: Path, error: OSError | ValueError) -> DataDirectoryError:
    message = f"cannot read {str(path)!r}: {error}"
    if isinstance(error, PermissionError):
        return DataDirectoryOwnerError(message, hint="let it belong to the user of postgres")
    return DataDirectoryDamagedError(
        message,
        hint="the cluster is damaged, or from a machine of another byte order: restore it from a"
        " backup",
    )
