"""Whose a state file beside the data is: this cluster's and instance's, or one that was copied.

A copy of the directory carries the other one's files, which must not count here. Whether it is a
copy is told by the instance's name and by the directory's own number (inode), so that a container
that only got another name keeps what is its own.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from instance_manager.errors import InstanceManagerError
from instance_manager.postgres import control_data

if TYPE_CHECKING:
    from collections.abc import Mapping

    from instance_manager.postgres.data_directory import OurFiles


@dataclass(frozen=True, slots=True)
class Identity:
    """Cluster, instance and directory; None where one was not known, or could not be written."""

    system_identifier: str | None = None
    instance: str | None = None
    directory: int | None = None
    """The inode of our directory: a copy has another one."""

    def holds_for(self, here: Identity) -> bool:
        """Whether it is *here*'s, and not one that came with a copy; in doubt, it holds."""
        if _differ(self.system_identifier, here.system_identifier):
            return False
        # Only both together tell a copy: a container may get another name and keep its directory.
        return not (
            _differ(self.instance, here.instance) and _differ(self.directory, here.directory)
        )

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Self:
        """Return the identity that a state file tells.

        Raises:
            KeyError, TypeError: it tells none.
        """
        identifier, instance = raw["system_identifier"], raw["instance"]
        directory = raw["directory"]
        return cls(
            identifier if isinstance(identifier, str) else None,
            instance if isinstance(instance, str) else None,
            directory if isinstance(directory, int) else None,
        )


def here(files: OurFiles, instance: str) -> Identity:
    """Return what state files of this instance say.

    Raises:
        OSError: our directory can't be looked at.
    """
    identifier = None
    # An instance whose control file can't be read is to be fenced, too.
    with suppress(InstanceManagerError):
        identifier = str(control_data.read(files.data_directory).system_identifier)
    return Identity(identifier, instance, files.directory.stat().st_ino)


def _differ(one: object, other: object) -> bool:
    return one is not None and other is not None and one != other
