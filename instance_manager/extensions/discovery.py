"""Discovery: which volumes lie under the extensions root.

Only reads, but may block on slow storage, so it runs in a thread. What it takes to look into a
volume is imported when there is one.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from instance_manager.extensions.facts import RootFacts
from instance_manager.extensions.files import mount_points
from instance_manager.extensions.findings import Code, finding
from instance_manager.extensions.paths import display

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from instance_manager.extensions.metadata import Metadata
    from instance_manager.extensions.models import Finding
    from instance_manager.settings.models import VolumeSettings

_MAXIMUM_VOLUMES: Final = 256
_NOTHING: Final[Mapping[str, Metadata]] = MappingProxyType({})


def discover(
    root: Path,
    volumes: Sequence[VolumeSettings],
    catalogued: Mapping[str, Metadata] = _NOTHING,
) -> RootFacts:
    """Return what lies under *root*, an absolute path: volumes in precedence order.

    Those that *volumes* lists come first and in its order, the others after them by name. A root
    that does not exist holds no volumes. *catalogued* stands in for metadata that is missing.
    """
    try:
        names = _volume_names(root)
    # An image without volumes need not even have the directory.
    except FileNotFoundError:
        return RootFacts(display(str(root)), ())
    except OSError as error:
        message = f"cannot read the extensions root {str(root)!r}: {error.strerror}"
        obstacle = finding(Code.UNREADABLE, display(str(root)), display(message))
        return RootFacts(display(str(root)), (), (obstacle,))
    if not names:
        return RootFacts(display(str(root)), ())
    # Milliseconds of imports that a start without volumes saves.
    from instance_manager.extensions.exploration import explore

    # Once for all volumes: the kernel renders the whole table for each reader.
    mounts = mount_points()
    obstacles: list[Finding] = []
    if len(names) > _MAXIMUM_VOLUMES:
        message = f"{root} holds {len(names)} volumes; only {_MAXIMUM_VOLUMES} are looked at"
        obstacles.append(finding(Code.LIMIT, display(str(root)), display(message)))
    listed = {volume.name: volume for volume in volumes}
    # Before the limit cuts the list: what the user names is looked at first.
    order = [name for name in listed if name in names]
    order += [name for name in names if name not in listed]
    found = (
        explore(root / name, listed.get(name), mounts, catalogued.get(name))
        for name in order[:_MAXIMUM_VOLUMES]
    )
    return RootFacts(display(str(root)), tuple(filter(None, found)), tuple(obstacles))


def _volume_names(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if _is_volume(entry))


def _is_volume(entry: os.DirEntry[str]) -> bool:
    # mke2fs(8) makes lost+found in the root of each ext file system.
    if entry.name.startswith(".") or entry.name == "lost+found":
        return False
    try:
        # A link that leads nowhere was meant to be a volume.
        return entry.is_dir() or (entry.is_symlink() and not Path(entry.path).exists())
    except OSError:
        # What can't be asked is not passed over in silence: exploring it says why.
        return True
