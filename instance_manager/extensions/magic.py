"""The magic block of a module, read without loading it.

Pure. ``PG_MODULE_MAGIC`` makes a function that returns the address of a constant (fmgr.h). That
constant has no symbol of its own, so the address is decoded from the function's instructions
(x86-64, aarch64); where a compiler wrote something else, the mapped bytes are searched for the
one thing that looks like the block. What can't be told for sure is not guessed.
"""

from __future__ import annotations

import struct
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from instance_manager.extensions.elf import ElfError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from instance_manager.extensions.elf import SharedObject, Symbol

MAGIC_FUNCTION: Final = b"Pg_magic_func"

# 24: PostgreSQL 13 and 14, no ABI text; 28: before 13; 56: 15 to 17; 72: since 18.
_LENGTHS: Final = frozenset({24, 28, 56, 72})
_TEXT_LENGTHS: Final = frozenset({56, 72})
_VERSIONS: Final = range(800, 9901)
_NAME_LENGTHS: Final = frozenset({32, 64, 128, 256})
_KEY_LIMITS: Final = range(8, 257)
_ARGUMENT_LIMIT: Final = struct.pack("<i", 100)

_CODE_BYTES: Final = 128
_SCAN_BYTES: Final = 32 * 1024 * 1024
_RELOCATION_BYTES: Final = 4 * 1024 * 1024
_MAXIMUM_TRIES: Final = 10_000
_RELA, _RELASZ = 7, 8
# Arm Architecture Reference Manual, C4.1: the fixed bits of four instructions.
_ADR_MASK, _ADR, _ADRP = 0x9F000000, 0x10000000, 0x90000000
_ADD_MASK, _ADD = 0xFF800000, 0x91000000
_LDR_MASK, _LDR = 0xFFC00000, 0xF9400000
# R_X86_64_RELATIVE and R_AARCH64_RELATIVE: the addend is the address.
_RELATIVE: Final = {"x86_64": 8, "aarch64": 1027}


class MagicBlock(NamedTuple):
    """``Pg_magic_struct``: its length, and what the server compares with its own."""

    length: int
    version: int
    argument_limit: int
    key_limit: int
    name_length: int
    float8_by_value: int
    abi: str

    @property
    def major(self) -> int:
        """The PostgreSQL major version that the module was built for; 9 for all of 9.x."""
        return self.version // 100


class Magic(NamedTuple):
    """Whether an object is a PostgreSQL module, and its block where that could be read."""

    is_module: bool
    block: MagicBlock | None


def read_magic(library: SharedObject) -> Magic:
    """Return what *library* says to a server.

    Raises:
        ElfError: its tables are damaged.
    """
    function = library.find_symbol(MAGIC_FUNCTION)
    if function is None:
        return Magic(is_module=False, block=None)
    address = _decode(library, function)
    block = None if address is None else _block_at(library, address)
    if block is None:
        block = _only_candidate(library, address)
    return Magic(is_module=True, block=block)


def _block_at(library: SharedObject, address: int) -> MagicBlock | None:
    try:
        length, version, *limits = struct.unpack("<6i", library.read(address, 24))
        if length not in _LENGTHS or version not in _VERSIONS:
            return None
        abi = library.read(address + 24, 32) if length in _TEXT_LENGTHS else b""
    except ElfError:
        return None
    text = abi.partition(b"\0")[0].decode("utf-8", "backslashreplace")
    return MagicBlock(length, version, limits[0], limits[1], limits[2], limits[3], text)


def _decode(library: SharedObject, function: Symbol) -> int | None:
    """Return the address that the function returns, or None where its code is something else."""
    try:
        code = library.read(function.address, min(function.size, _CODE_BYTES))
        if library.machine == "x86_64":
            return _decode_x86_64(library, function.address, code)
        if library.machine == "aarch64":
            return _decode_aarch64(library, function.address, code)
    except ElfError:
        pass
    return None


def _decode_x86_64(library: SharedObject, function: int, code: bytes) -> int | None:
    # lea rax, [rip+d] gives the address; mov rax, [rip+d] takes it from the offset table.
    for opcode, is_slot in ((b"\x48\x8d\x05", False), (b"\x48\x8b\x05", True)):
        at = code.find(opcode)
        if 0 <= at <= len(code) - 7:
            (displacement,) = struct.unpack_from("<i", code, at + 3)
            target = function + at + 7 + displacement
            return _pointer_at(library, target) if is_slot else target
    return None


def _decode_aarch64(library: SharedObject, function: int, code: bytes) -> int | None:
    pages: dict[int, int] = {}
    words = struct.iter_unpack("<I", code[: len(code) // 4 * 4])
    word: int
    for position, (word,) in enumerate(words):
        here = function + 4 * position
        source, offset = word >> 5 & 31, word >> 10 & 0xFFF
        if word & _ADR_MASK == _ADRP:  # the page of the address
            pages[word & 31] = (here & ~0xFFF) + (_relative(word) << 12)
        elif word & _ADR_MASK == _ADR:  # the address itself
            return here + _relative(word)
        elif word & _ADD_MASK == _ADD and source in pages:  # the rest of it
            return pages[source] + (offset << 12 if word & 1 << 22 else offset)
        elif word & _LDR_MASK == _LDR and source in pages:  # a slot of the offset table
            return _pointer_at(library, pages[source] + 8 * offset)
    return None


def _relative(word: int) -> int:
    value = (word >> 5 & 0x7FFFF) << 2 | word >> 29 & 3
    return value - (1 << 21) if value & 1 << 20 else value


def _pointer_at(library: SharedObject, slot: int) -> int | None:
    """Return the address that the loader will put into *slot*."""
    table, size = library.tag(_RELA), library.tag(_RELASZ)
    if table is None or size is None:
        return None
    entries = library.read(table, min(size, _RELOCATION_BYTES))
    for at in _occurrences(entries, struct.pack("<q", slot)):
        if at % 24 == 0 and at + 24 <= len(entries):
            addend: int
            _, kind, addend = struct.unpack_from("<QQq", entries, at)
            return addend if kind == _RELATIVE.get(library.machine) else None
    return None


def _occurrences(content: bytes, pattern: bytes) -> Iterator[int]:
    at = content.find(pattern)
    for _ in range(_MAXIMUM_TRIES):
        if at < 0:
            return
        yield at
        at = content.find(pattern, at + 1)


def _only_candidate(library: SharedObject, decoded: int | None) -> MagicBlock | None:
    """Return the one block that a search finds.

    A search that contradicts a decoded address proves nothing, so it is not made.
    """
    if decoded is not None or sum(part.size for part in library.segments) > _SCAN_BYTES:
        return None
    found = list(islice(candidates(library), 2))
    return found[0] if len(found) == 1 else None


def candidates(library: SharedObject) -> Iterator[MagicBlock]:
    """Yield everything that looks like a magic block, wherever the file maps it."""
    for segment in library.segments:
        content = library.read(segment.address, segment.size)
        # The argument limit is the rarest of the fields; the others are checked around it.
        for at in _occurrences(content, _ARGUMENT_LIMIT):
            address = segment.address + at - 8
            block = _block_at(library, address) if address % 4 == 0 else None
            if block and _is_plausible(block):
                yield block


def _is_plausible(block: MagicBlock) -> bool:
    return (
        block.length in _TEXT_LENGTHS
        and block.name_length in _NAME_LENGTHS
        and block.key_limit in _KEY_LIMITS
        and block.float8_by_value in {0, 1}
    )
