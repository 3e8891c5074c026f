"""What the GNU dynamic loader does differently on each machine.

Pure: bytes and texts in, values out.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from instance_manager.extensions.relocations import occurrences

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Machine(NamedTuple):
    """A machine, named as ``uname -m`` does.

    *loader* is the file name of its loader, *cache_flags* the kind of its libraries in
    ``ld.so.cache`` (``_DL_CACHE_DEFAULT_ID``). *levels* are the subdirectories of
    ``glibc-hwcaps``, the best first, with the flags of /proc/cpuinfo that each asks for beyond
    those of the next.
    """

    name: str
    loader: str
    cache_flags: int
    levels: tuple[tuple[str, str], ...] = ()


MACHINES: Final = {
    machine.name: machine
    for machine in (
        Machine(
            "x86_64",
            "ld-linux-x86-64.so.2",
            0x0303,
            (
                ("x86-64-v4", "avx512f avx512bw avx512cd avx512dq avx512vl"),
                ("x86-64-v3", "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"),
                ("x86-64-v2", "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"),
            ),
        ),
        Machine("aarch64", "ld-linux-aarch64.so.1", 0x0A03),
    )
}
"""The machines whose loader is emulated."""

_DIRECTORIES: Final = re.compile(rb"(?:/(?:[A-Za-z0-9_.+-]+/)+\0){2,}")
_KNOWN: Final = ("/usr/lib/", "/usr/lib64/")
_AROUND: Final = 4096
"""In bytes: how far from a known directory the list is looked for; all of it has a tenth."""
_MAXIMUM_TRIES: Final = 16


def hwcaps(machine: Machine, processor_flags: Iterable[str]) -> tuple[str, ...]:
    """Return the subdirectories of ``glibc-hwcaps`` that a processor supports, best first."""
    flags = frozenset(processor_flags)
    supported: list[str] = []
    for name, wanted in reversed(machine.levels):
        # Each level includes those below it (x86-64 psABI), so that the first gap ends the list.
        if not flags.issuperset(wanted.split()):
            break
        supported.insert(0, name)
    return tuple(supported)


def default_directories(loader: bytes) -> Sequence[str]:
    """Return the directories that a loader was built to search, from the bytes of its file.

    They lie in it as texts, one behind the other (``system_dirs``, dl-load.c), and differ between
    distributions. Empty where they can't be found.
    """
    for known in _KNOWN:
        for at in islice(occurrences(loader, f"{known}\0".encode()), _MAXIMUM_TRIES):
            # Not in the whole file: the expression takes milliseconds for that.
            for match in _DIRECTORIES.finditer(loader, max(0, at - _AROUND), at + _AROUND):
                directories = match[0].decode("ascii").split("\0")[:-1]
                # Other lists of paths may lie near by.
                if known in directories:
                    return tuple(each.rstrip("/") for each in dict.fromkeys(directories))
    return ()
