"""Whether a host can ever give the shared memory that a server would ask for. Pure.

A trial of a start ends before that memory is mapped, and beside a server that runs what is free
now says nothing. But what exceeds all that the host has is refused by the kernel in any case
(``__vm_enough_memory``, mm/util.c), and so would the start be.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_ALWAYS: Final = "1"
_NEVER_TOO_MUCH: Final = "2"
_KIB_A_MEGABYTE: Final = 1024
_FIELD: Final = re.compile(r"^(\w+):\s+(\d+)", re.MULTILINE)
_ON: Final = frozenset({"on", "true", "yes", "1"})

MEMORY: Final = "/proc/meminfo"
OVERCOMMIT: Final = "/proc/sys/vm/overcommit_memory"
MORE_HUGE_PAGES: Final = "/proc/sys/vm/nr_overcommit_hugepages"


def shortage(megabytes: int, huge_pages: str, read: Callable[[str], str]) -> str:
    """Return why the host can't give so much memory; empty where it may, or nothing is known.

    Args:
        megabytes: of shared memory.
        huge_pages: the parameter's value. Without ``on`` the server does without them.
        read: reads a file of the kernel's; empty where there is none.
    """
    fields = {name: int(value) for name, value in _FIELD.findall(read(MEMORY))}
    needed = megabytes * _KIB_A_MEGABYTE
    limit = _limit(fields, read(OVERCOMMIT).strip())
    if limit is not None and needed > limit:
        has = f"{limit // _KIB_A_MEGABYTE} MB with its swap space"
        return f"it needs {megabytes} MB of shared memory, and the host has {has}"
    huge = _huge(fields, read(MORE_HUGE_PAGES).strip())
    if huge_pages.strip().lower() in _ON and huge is not None and needed > huge:
        has = f"{huge // _KIB_A_MEGABYTE} MB"
        return f"it needs {megabytes} MB of shared memory in huge pages, and the host has {has}"
    return ""


def _limit(fields: dict[str, int], policy: str) -> int | None:
    """Return the most that can be mapped at once, in KiB."""
    if policy == _NEVER_TOO_MUCH:
        return fields.get("CommitLimit")
    if policy == _ALWAYS or "MemTotal" not in fields:
        return None
    # What the kernel's heuristic (policy 0) refuses: more than all there is, used or not.
    return fields["MemTotal"] + fields.get("SwapTotal", 0)


def _huge(fields: dict[str, int], more: str) -> int | None:
    """Return what there is in huge pages of the usual size, in KiB; None where none is known."""
    if not {"HugePages_Total", "Hugepagesize"} <= set(fields):
        return None
    # All and not the free ones: a server that runs gives its own back before the next start.
    pages = fields["HugePages_Total"] + (int(more) if more.isdecimal() else 0)
    return pages * fields["Hugepagesize"]
