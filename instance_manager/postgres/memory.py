"""The memory of our cgroup: its limit, and whether the kernel killed somebody for want of it.

The postmaster lives in the cgroup of the manager. The kernel counts a kill in the cgroup of whom
it killed, whosever limit was reached. Sources: cgroup-v2.rst ("memory.events") and
cgroup-v1/memory.rst ("memory.oom_control") of the kernel's documentation; proc_pid_mountinfo(5).
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_SELF: Final = Path("/proc/self")
_COUNTER: Final = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)
_NO_LIMIT_BYTES: Final = 1 << 60
"""Version 1 says "none" by a number near 2**63."""
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


def oom_kills() -> int | None:
    """Return how many processes of our cgroup were killed for want of memory, ever.

    None where that can't be read: no cgroup of memory, the root one, or an old kernel.
    """
    for text in _texts("memory.events", "memory.oom_control"):
        if found := _COUNTER.search(text):
            return int(found[1])
    return None


def limit_bytes() -> int | None:
    """Return how much memory our cgroup may use; None where nothing limits it."""
    for text in _texts("memory.max", "memory.limit_in_bytes"):
        # Version 2 says "max" where there is none.
        if text.strip().isdecimal() and int(text) < _NO_LIMIT_BYTES:
            return int(text)
    return None


def _texts(version_2: str, version_1: str) -> Iterator[str]:
    """Yield what the files of these names say, of the cgroups of memory that we are in."""
    with suppress(OSError):
        membership = (_SELF / "cgroup").read_text(encoding="utf-8", errors="replace")
        mounts = (_SELF / "mountinfo").read_text(encoding="utf-8", errors="replace")
        for file in files_of(membership, mounts, version_2, version_1):
            with suppress(OSError):
                yield file.read_text(encoding="ascii", errors="replace")


def files_of(membership: str, mounts: str, version_2: str, version_1: str) -> Iterator[Path]:
    """Yield the files of these names, by the texts of ``cgroup`` and ``mountinfo``."""
    groups = dict(_groups(membership))
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        left, right = before.split(), after.split()
        if len(left) < 5 or len(right) < 3:  # noqa: PLR2004 - the fields that are used
            continue
        root, point, kind, options = _plain(left[3]), _plain(left[4]), right[0], right[-1]
        if kind == "cgroup2" and "" in groups:
            yield _within(point, root, groups[""]) / version_2
        elif kind == "cgroup" and "memory" in options.split(",") and "memory" in groups:
            yield _within(point, root, groups["memory"]) / version_1


def _groups(membership: str) -> Iterator[tuple[str, str]]:
    """Yield controllers and their cgroups; that of version 2 has the empty name."""
    for line in membership.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        for controller in controllers.split(","):
            yield controller, group


def _within(point: str, root: str, group: str) -> Path:
    """Return where *group* is seen; a container may see its own one as the root of the mount."""
    path = PurePosixPath(group)
    inside = path.relative_to(root) if path.is_relative_to(root) else PurePosixPath()
    # A cgroup outside the namespace's own root is told with "..": cgroup_namespaces(7).
    return Path(point) / inside if ".." not in inside.parts else Path(point)


def _plain(field: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), field)
