"""Where the loader puts addresses into an object: its relative relocations.

Pure. A pointer in a shared object is not in the file: the loader computes it. ``DT_RELA`` gives
slot and address; ``DT_RELR`` gives the slots alone, packed, and the address lies in the slot
(System V ABI, "Relocation" and "Relative Relocation Table").
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from instance_manager.extensions.elf import ElfError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from instance_manager.extensions.elf import SharedObject

_RELA, _RELASZ, _RELRSZ, _RELR = 7, 8, 35, 36
_RELA_BYTES: Final = 24
_MAXIMUM_TABLE_BYTES: Final = 4 * 1024 * 1024
_MAXIMUM_PACKED_BYTES: Final = 256 * 1024
_MAXIMUM_TRIES: Final = 10_000
# R_X86_64_RELATIVE and R_AARCH64_RELATIVE: the addend is the address.
_RELATIVE: Final = {"x86_64": 8, "aarch64": 1027}
_SLOTS_IN_BITMAP: Final = 63


class Relocations:
    """The tables of one object, read once.

    Raises:
        ElfError: on construction, where they are not in the file.
    """

    def __init__(self, library: SharedObject) -> None:
        self._library = library
        self._rela = _table(library, _RELA, _RELASZ, _MAXIMUM_TABLE_BYTES)
        self._relr = _table(library, _RELR, _RELRSZ, _MAXIMUM_PACKED_BYTES)

    def address_in(self, slot: int) -> int | None:
        """Return the address that the loader will put into *slot*.

        None where it puts none there, or one that depends on a symbol.
        """
        for at in occurrences(self._rela, struct.pack("<Q", slot & 2**64 - 1)):
            # r_offset is the first field of an entry: elsewhere, the same bytes are an addend or a
            # part of two fields.
            if at % _RELA_BYTES == 0 and at + _RELA_BYTES <= len(self._rela):
                addend: int
                _, kind, addend = struct.unpack_from("<QQq", self._rela, at)
                return addend if kind == _RELATIVE.get(self._library.machine) else None
        if not self._is_packed(slot):
            return None
        try:
            (address,) = struct.unpack("<Q", self._library.read(slot, 8))
        except ElfError:
            return None
        return int(address)

    def _is_packed(self, slot: int) -> bool:
        following = 0
        for (word,) in struct.iter_unpack("<Q", self._relr[: len(self._relr) // 8 * 8]):
            if word & 1 == 0:  # the address of a slot; bitmaps of those after it follow
                if word == slot:
                    return True
                following = word + 8
                continue
            # Bit 0 marks a bitmap, so that 63 bits are left for the slots behind the last address.
            number, rest = divmod(slot - following, 8)
            if 0 <= number < _SLOTS_IN_BITMAP and rest == 0 and word >> number + 1 & 1:
                return True
            following += 8 * _SLOTS_IN_BITMAP
        return False


def _table(library: SharedObject, place: int, length: int, maximum: int) -> bytes:
    address, size = library.tag(place), library.tag(length)
    if address is None or size is None:
        return b""
    return library.read(address, min(size, maximum))


def occurrences(content: bytes, pattern: bytes) -> Iterator[int]:
    """Yield where *pattern* lies in *content*, so many times at the most."""
    at = content.find(pattern)
    for _ in range(_MAXIMUM_TRIES):
        if at < 0:
            return
        yield at
        at = content.find(pattern, at + 1)
