"""Libraries that a program opens by name when it runs, by what its bytes say.

Pure: bytes in, names out. No table names them for the loader. Two things do: the text of a name,
in an object that calls dlopen(3), and the note that systemd's authors made for it
(https://uapi-group.org/specifications/specs/elf_dlopen_metadata/).
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME: Final = re.compile(rb"(?<=\0)(lib[A-Za-z0-9_.+-]{1,100}\.so(?:\.[0-9]+)*)\0")
_NOTE_OWNER: Final = b"FDO\0"
_NOTE_TYPE: Final = (0x407C0C0A).to_bytes(4, "little")
_SIZE_BYTES: Final = 4
_MAXIMUM_NAMES: Final = 256
_MAXIMUM_NOTE: Final = 64 * 1024


def names_in(content: bytes) -> frozenset[str]:
    """Return the names of libraries that stand by themselves in the bytes of an object."""
    found = {match[1].decode("ascii") for match in _NAME.finditer(content)}
    return frozenset(sorted(found)[:_MAXIMUM_NAMES])


def names_in_notes(content: bytes) -> frozenset[str]:
    """Return the names in the notes of an object, where it has any; a damaged one has none."""
    return frozenset(_names(content))


def _names(content: bytes) -> Iterator[str]:
    # Without the section headers, which may be stripped: type and owner are rare enough together.
    at = content.find(_NOTE_TYPE + _NOTE_OWNER)
    while at >= _SIZE_BYTES:
        # The size of the content stands before the type (elf(5), Nhdr).
        size = min(int.from_bytes(content[at - _SIZE_BYTES : at], "little"), _MAXIMUM_NOTE)
        try:
            entries: object = json.loads(content[at + 8 : at + 8 + size].rstrip(b"\0"))
        except (ValueError, RecursionError):
            entries = None
        for entry in cast("list[object]", entries) if isinstance(entries, list) else ():
            names = (
                cast("dict[str, object]", entry).get("soname") if isinstance(entry, dict) else None
            )
            for name in cast("list[object]", names) if isinstance(names, list) else ():
                if isinstance(name, str) and "/" not in name:
                    yield name
        at = content.find(_NOTE_TYPE + _NOTE_OWNER, at + 8)
