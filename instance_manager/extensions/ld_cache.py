"""The cache of the dynamic loader, ``/etc/ld.so.cache``.

Pure: bytes in, names and paths out. The format is glibc's own (``dl-cache.h``): a header, entries
of 24 bytes, strings, and after them extensions, of which one names the subdirectories of
``glibc-hwcaps`` that entries stand for. Bytes that are no such cache hold no entries: the loader
too goes on without one.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TypeAlias


class Entry(NamedTuple):
    """A path that is known for a name; *hwcaps* is the subdirectory it is for, or empty."""

    path: str
    flags: int
    hwcaps: str


if TYPE_CHECKING:
    Cache: TypeAlias = Mapping[str, Sequence[Entry]]


_MAGIC: Final = b"glibc-ld.so.cache1.1"
# Caches of `ldconfig --format=compat` begin in the old format, and hold the new one behind it.
_OLD_MAGIC: Final = b"ld.so-1.7.0"
_HEADER: Final = struct.Struct("<20sIIB3xI12x")
_ENTRY: Final = struct.Struct("<iIIIQ")
_EXTENSION_MAGIC: Final = 0xEAA42174
_EXTENSION: Final = struct.Struct("<IIII")
_HWCAPS_SECTION: Final = 1
_HAS_HWCAPS: Final = 1 << 62
_MAXIMUM_ENTRIES: Final = 200_000
_MAXIMUM_EXTENSIONS: Final = 64
_MAXIMUM_PATH: Final = 4096
_UNKNOWN: Final = "?"


def parse(content: bytes) -> Cache:
    """Return what is known for each name, in the cache's order; nothing where it is damaged."""
    start = 0 if content.startswith(_MAGIC) else content.find(_MAGIC)
    if start < 0 or (start and not content.startswith(_OLD_MAGIC)):
        return {}
    try:
        # Offsets count from the beginning of this format, wherever that lies.
        return _read(content[start:])
    except (struct.error, ValueError):
        return {}


def _read(cache: bytes) -> dict[str, list[Entry]]:
    _, count, _, _, extensions = _HEADER.unpack_from(cache)
    # The count is the file's own word, and decides how much is read.
    if count > _MAXIMUM_ENTRIES:
        raise ValueError("too many entries")
    names: list[str] = _hwcaps(cache, extensions) if extensions else []
    found: dict[str, list[Entry]] = {}
    table = cache[_HEADER.size : _HEADER.size + count * _ENTRY.size]
    if len(table) != count * _ENTRY.size:
        raise ValueError("truncated")
    fields: tuple[int, int, int, int, int]
    for fields in _ENTRY.iter_unpack(table):
        flags, key, value, _, hwcap = fields
        # Hardware bits without this one are of older loaders; those of today pass over them.
        index = hwcap & 0xFFFFFFFF
        hwcaps = _UNKNOWN if hwcap else ""
        if hwcap & _HAS_HWCAPS and index < len(names):
            hwcaps = names[index]
        found.setdefault(_text(cache, key), []).append(Entry(_text(cache, value), flags, hwcaps))
    return found


def _text(cache: bytes, offset: int) -> str:
    return cache[offset : cache.index(b"\0", offset, offset + _MAXIMUM_PATH)].decode(
        "utf-8", "backslashreplace"
    )


def _hwcaps(cache: bytes, offset: int) -> list[str]:
    """Return the names of the section that lists subdirectories of ``glibc-hwcaps``."""
    magic, count = struct.unpack_from("<II", cache, offset)
    if magic != _EXTENSION_MAGIC or count > _MAXIMUM_EXTENSIONS:
        return []
    for number in range(count):
        tag, _, start, size = _EXTENSION.unpack_from(cache, offset + 8 + number * _EXTENSION.size)
        if tag == _HWCAPS_SECTION:
            places = cache[start : start + min(size, 4 * _MAXIMUM_EXTENSIONS)]
            return [_text(cache, place) for (place,) in struct.iter_unpack("<I", places)]
    return []


def choose(cache: Cache, name: str, flags: int, hwcaps: Sequence[str]) -> str | None:
    """Return the one path that the loader takes from the cache for *name*.

    Args:
        cache: what `parse` returned.
        name: of the library.
        flags: the kind of libraries that the machine loads.
        hwcaps: the subdirectories that the processor supports, the best first.
    """
    # The plain library is the last choice, but one that is always fit.
    order = [*hwcaps, ""]
    fitting = [
        entry for entry in cache.get(name, ()) if entry.flags == flags and entry.hwcaps in order
    ]
    return min(fitting, key=lambda entry: order.index(entry.hwcaps)).path if fitting else None
