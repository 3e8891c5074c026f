"""The fence: a file that keeps postgres stopped, over restarts of the manager and the container.

It names the cluster and the instance that were fenced. A copy of the directory carries the other
one's fence, which must not hold here (:mod:`~instance_manager.postgres.identity`).
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import asdict
from enum import Enum, auto
from typing import TYPE_CHECKING

from instance_manager.postgres import small_files
from instance_manager.postgres.identity import Identity, here
from instance_manager.postgres.marker import sync_directory

if TYPE_CHECKING:
    from instance_manager.postgres.data_directory import OurFiles


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
    if standing.holds_for(here(files, instance)):
        return Verdict.FENCED
    remove_fence(files)
    return Verdict.COPIED


def raise_fence(files: OurFiles, instance: str) -> None:
    """Make the fence of *instance* durable. It stands as soon as its file does.

    The file may be empty, so a file system without a free block may still be fenced.

    Raises:
        OSError: it can't be made.
    """
    content = json.dumps(asdict(here(files, instance))).encode()
    with small_files.emptied(files.fence) as descriptor:
        # The name first: an empty file is a fence, and may be all that a full disk takes.
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


def _read(files: OurFiles) -> Identity | None:
    """Return whose fence stands here; None without one. What can't be read holds for all."""
    try:
        return Identity.read(json.loads(small_files.read(files.fence).decode()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        # In doubt it stands: a server that somebody fenced must not start by a mistake of ours.
        return Identity()
