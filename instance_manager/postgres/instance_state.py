"""What is kept of an instance beside its data: which cluster it is, and whether we made it.

A data directory that was copied from another instance carries the other one's file; the name in
it tells.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from instance_manager.configuration.writing import write_atomically
from instance_manager.postgres import small_files

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class InstanceState:
    """The cluster by its system identifier, the instance by its name."""

    system_identifier: str
    instance: str
    made_here: bool
    """Whether the manager made this cluster, and so its access rules too."""


def read(path: Path) -> InstanceState | None:
    """Return what the file says; None without one that can be understood."""
    try:
        raw = json.loads(small_files.read(path).decode())
        return InstanceState(
            # Nothing but true itself: by it, the access rules of the directory's own files are
            # left out.
            str(raw["system_identifier"]),
            str(raw["instance"]),
            raw["made_here"] is True,
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def write(path: Path, state: InstanceState) -> None:
    """Write the state atomically and durably."""
    write_atomically(path, json.dumps(asdict(state), indent=1, sort_keys=True) + "\n")
