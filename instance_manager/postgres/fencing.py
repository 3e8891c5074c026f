"""The fence: a file that keeps postgres stopped, over restarts of the manager and the container.

It names the cluster and the instance that were fenced. A copy of the directory carries the other
one's fence, which must not hold here; whether it is a copy is told by the instance's name and by
the directory's own number (inode), so that a container that only got another name stays fenced.
"""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from instance_manager.errors import InstanceManagerError
from instance_manager.postgres import control_data, small_files
from instance_manager.postgres.marker import sync_directory

if TYPE_CHECKING:
    from instance_manager.postgres.data_directory import OurFiles


@dataclass(frozen=True, slots=True)
class Fence:
    """Whom the fence is for; None where it was not known, or could not be written."""

    system_identifier: str | None = None
    instance: str | None = None
    directory: int | None = None
    """The inode of our directory: a copy has another one."""

    def holds_for(self, here: Fence) -> bool:
        """Whether it is *here*'s, and not one that came with a copy; in doubt, it holds."""
        if _differ(self.system_identifier, here.system_identifier):
            return False
        return not (
            _differ(self.instance, here.instance) and _differ(self.directory, here.directory)
        )


def _differ(one: object, other: object) -> bool:
    return one is not None and other is not None and one != other


class Verdict(Enum):
    """What stands in the way of a start."""

    OPEN = auto()
    FENCED = auto()
    COPIED = auto()
    """The fence of another instance came with a copy; it was taken away."""


def look(files: OurFiles, instance: str) -> Verdict:
    """Return whether *instance* is fenced here; take away a fence that isn't its own."""
    standing = _read(files)
    if standing is None:
        return Verdict.OPEN
    if standing.holds_for(_here(files, instance)):
        return Verdict.FENCED
    remove_fence(files)
    return Verdict.COPIED


def raise_fence(files: OurFiles, instance: str) -> None:
    """Make the fence of *instance* durable. It stands as soon as its file does.

    The file may be empty, so a file system without a free block may still be fenced.

    Raises:
        OSError: it can't be made.
    """
    content = json.dumps(asdict(_here(files, instance))).encode()
    with small_files.emptied(files.fence) as descriptor:
        sync_directory(files.directory)
        _fill(descriptor, content)
        os.fsync(descriptor)


def _fill(descriptor: int, content: bytes) -> None:
    """Write all of the content, or nothing where there is no space for it."""
    try:
        written = os.write(descriptor, content)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        written = 0
    if written < len(content):
        os.ftruncate(descriptor, 0)


def remove_fence(files: OurFiles) -> None:
    """Take the fence away durably; without effect where there is none.

    Raises:
        OSError: it can't be taken away.
    """
    files.fence.unlink(missing_ok=True)
    sync_directory(files.directory)


def _here(files: OurFiles, instance: str) -> Fence:
    """Return what a fence of this instance says."""
    identifier = None
    with suppress(InstanceManagerError):
        identifier = str(control_data.read(files.data_directory).system_identifier)
    return Fence(identifier, instance, files.directory.stat().st_ino)


def _read(files: OurFiles) -> Fence | None:
    """Return the fence that stands here; None without one. What can't be read holds for all."""
    try:
        raw = json.loads(small_files.read(files.fence).decode())
        return Fence(
            _text(raw["system_identifier"]), _text(raw["instance"]), _number(raw["directory"])
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return Fence()


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None
