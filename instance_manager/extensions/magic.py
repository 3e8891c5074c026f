"""The magic block of a module, read without loading it.

Pure. ``PG_MODULE_MAGIC`` makes a function that returns the address of a constant (fmgr.h). That
constant has no symbol of its own, so the address is decoded from the function's instructions
(x86-64, aarch64), and the mapped bytes are searched for what looks like the block. Where one way
gives no answer the other one counts; where they contradict each other, neither does. What can't
be told for sure is not guessed.
"""

from __future__ import annotations

import re
import struct
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from instance_manager.extensions.elf import ElfError
from instance_manager.extensions.relocations import Relocations, occurrences

if TYPE_CHECKING:
    from collections.abc import Iterator

    from instance_manager.extensions.elf import SharedObject, Symbol

MAGIC_FUNCTION: Final = b"Pg_magic_func"

# 24: PostgreSQL 13 and 14, no ABI text; 28: before 13; 56: 15 to 17; 72: since 18.
_LENGTHS: Final = frozenset({24, 28, 56, 72})
_TEXT_LENGTHS: Final = frozenset({56, 72})
# PG_VERSION_NUM / 100: 8.0 to 99.
_VERSIONS: Final = range(800, 9901)
_NAME_LENGTHS: Final = frozenset({32, 64, 128, 256})
_KEY_LIMITS: Final = range(8, 257)
# FUNC_MAX_ARGS is 100 in every build that nobody has patched, and rare enough to look for.
_ARGUMENT_LIMIT: Final = struct.pack("<i", 100)

_CODE_BYTES: Final = 4096
_SCAN_BYTES: Final = 32 * 1024 * 1024
_WINDOW_BYTES: Final = 1024 * 1024
_LONGEST: Final = max(_LENGTHS)
_MAXIMUM_CANDIDATES: Final = 16
_MAXIMUM_PLACES: Final = 10_000
_ARGUMENT_LIMIT_AT, _NAME_AT, _VERSION_AT = 8, 56, 64
_MAXIMUM_TEXT: Final = 256
# lea rax, [rip+d] gives the address; mov rax, [rip+d] takes it from the offset table. Then only
# what ends a function: pop, leave, add rsp, registers that are zeroed, ret. What stands before is
# other work: pgrx sets a hook there.
_MOV: Final = b"\x48\x8b\x05"
_X86_64_RESULT: Final = re.compile(
    rb"(?P<opcode>\x48[\x8b\x8d]\x05)(?P<displacement>.{4})"
    rb"(?:\x41?[\x59-\x5f]|\xc9|\x48\x83\xc4.|\x48\x81\xc4.{4}"
    rb"|\x31[\xc9\xd2\xf6\xff]|\x45\x31[\xc0\xc9\xd2\xdb])*\xc3",
    re.DOTALL,
)
# Arm Architecture Reference Manual, C4.1: the fixed bits of instructions.
_ADR_MASK, _ADR, _ADRP = 0x9F000000, 0x10000000, 0x90000000
_ADD_MASK, _ADD, _SUBTRACT = 0xFF800000, 0x91000000, 0xD1000000
_SIGNS: Final = {_ADD: 1, _SUBTRACT: -1}
_LDR_MASK, _LDR = 0xFFC00000, 0xF9400000
_CALL_MASK, _CALL = 0xFC000000, 0x94000000
_CALL_AT_MASK, _CALL_AT = 0xFFFFFC1F, 0xD63F0000
# A call may change all of these (AAPCS64, 6.1.1).
_CALLEES_OWN: Final = (*range(19), 30)
# Loads and stores of two registers; of one, with a base that is counted on.
_PAIR_MASK, _PAIR = 0x3A000000, 0x28000000
_INDEXED_MASK, _INDEXED = 0x3B200400, 0x38000400
# Each is a search through the tables; functions of compilers take one slot or two.
_MAXIMUM_LOADS: Final = 16
# RET x30, and RETAA and RETAB, which check the address first.
_RETURN_MASK, _RETURN = 0xFFFFF3C0, 0xD65F03C0


class MagicBlock(NamedTuple):
    """``Pg_magic_struct``: its length, and what the server compares with its own.

    *module_name* and *module_version* are what ``pg_get_loaded_modules()`` shows; ``None`` where
    the module says nothing, as it can't before PostgreSQL 18.
    """

    length: int
    version: int
    argument_limit: int
    key_limit: int
    name_length: int
    float8_by_value: int
    abi: str
    module_name: str | None = None
    module_version: str | None = None

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
    # Only a module exports it; a third-party library lies there as well.
    if function is None:
        return Magic(is_module=False, block=None)
    address = _agreed(_decode(library, function), _search(library))
    block = None if address is None else _block_at(library, address)
    # Name and version came with PostgreSQL 18: the block of an older one ends before them.
    if address is None or block is None or block.length <= _VERSION_AT:
        return Magic(is_module=True, block=block)
    relocations = Relocations(library)
    name, version = (
        _text_at(library, relocations.address_in(address + at)) for at in (_NAME_AT, _VERSION_AT)
    )
    named = block._replace(module_name=name, module_version=version)
    return Magic(is_module=True, block=named)


def _agreed(decoded: int | None, found: list[int]) -> int | None:
    """Return where the block is by what both ways say, or None.

    A fork's block may look like none to the search, which then contradicts nothing.
    """
    if decoded is None:
        # Of two that look like the block, either may do so by chance.
        return found[0] if len(found) == 1 else None
    return decoded if not found or decoded in found else None


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
    found = _X86_64_RESULT.search(code)
    if found is None:
        return None
    (displacement,) = struct.unpack("<i", found["displacement"])
    target = function + found.end("displacement") + displacement
    return Relocations(library).address_in(target) if found["opcode"] == _MOV else target


def _decode_aarch64(library: SharedObject, function: int, code: bytes) -> int | None:
    """Return what x0 holds at the function's end, by the few instructions that make addresses."""
    known: dict[int, int] = {}
    words = struct.iter_unpack("<I", code[: len(code) // 4 * 4])
    tables: Relocations | None = None
    loads = 0
    word: int
    for position, (word,) in enumerate(words):
        if word & _RETURN_MASK == _RETURN:
            return known.get(0)
        here = function + 4 * position
        target, source, offset = word & 31, word >> 5 & 31, word >> 10 & 0xFFF
        base = known.get(source)
        _forget(known, word)
        if word & _ADR_MASK == _ADRP:  # the page of the address
            # adrp gives a page of 4 KiB; the place in it follows in another instruction.
            known[target] = (here & ~0xFFF) + (_relative(word) << 12)
        elif word & _ADR_MASK == _ADR:  # the address itself
            known[target] = here + _relative(word)
        elif word & _ADD_MASK in _SIGNS and base is not None:
            # The rest of it; in two parts where the compiler counts from an anchor (GCC's
            # -fsection-anchors), which may lie behind what is meant.
            step = offset << 12 if word & 1 << 22 else offset
            known[target] = base + _SIGNS[word & _ADD_MASK] * step
        elif word & _LDR_MASK == _LDR and base is not None:  # a slot of the offset table
            loads += 1
            tables = tables or Relocations(library)
            # The offset of ldr counts in words of the register's eight bytes.
            loaded = tables.address_in(base + 8 * offset)
            if loaded is None or loads > _MAXIMUM_LOADS:
                return None
            known[target] = loaded
    return None


def _forget(known: dict[int, int], word: int) -> None:
    """Forget what an instruction may write: what is stored, too, since few are told apart."""
    known.pop(word & 31, None)
    if word & _CALL_MASK == _CALL or word & _CALL_AT_MASK == _CALL_AT:
        for register in _CALLEES_OWN:
            known.pop(register, None)
    if word & _PAIR_MASK == _PAIR:
        known.pop(word >> 10 & 31, None)
    if word & _PAIR_MASK == _PAIR or word & _INDEXED_MASK == _INDEXED:
        known.pop(word >> 5 & 31, None)


def _relative(word: int) -> int:
    value = (word >> 5 & 0x7FFFF) << 2 | word >> 29 & 3
    # A signed number of 21 bits.
    return value - (1 << 21) if value & 1 << 20 else value


def _text_at(library: SharedObject, address: int | None) -> str | None:
    """Return the text that ends with a NUL, on one line; None where there is none."""
    for segment in library.segments:
        size = 0 if address is None else segment.address + segment.size - address
        if address is not None and 0 < size <= segment.size:
            text, end, _ = library.read(address, min(size, _MAXIMUM_TEXT)).partition(b"\0")
            shown = text.decode("utf-8", "backslashreplace")
            # Without an end, or with control characters, it is not the text that was meant.
            return shown if end and shown.isprintable() else None
    return None


def _search(library: SharedObject) -> list[int]:
    """Return where something looks like a block; nothing where the file is too large to search."""
    # The search is on the way to the first connection.
    if sum(part.size for part in library.segments) > _SCAN_BYTES:
        return []
    return list(islice(_addresses(library), _MAXIMUM_CANDIDATES))


def candidates(library: SharedObject) -> Iterator[MagicBlock]:
    """Yield everything that looks like a magic block, wherever the file maps it."""
    for address in _addresses(library):
        block = _block_at(library, address)
        if block is not None:
            yield block


def _addresses(library: SharedObject) -> Iterator[int]:
    for address in islice(_places(library), _MAXIMUM_PLACES):
        block = _block_at(library, address)
        # Code or data may hold the same numbers by chance.
        if block and _is_plausible(block):
            yield address


def _places(library: SharedObject) -> Iterator[int]:
    """Yield addresses that have the two rarest fields, the argument limit and the length."""
    for segment in library.segments:
        for start in range(0, segment.size, _WINDOW_BYTES):
            # A block that a window cuts is seen whole in the one where it begins.
            size = min(_WINDOW_BYTES + _LONGEST, segment.size - start)
            content = library.read(segment.address + start, size)
            for found in occurrences(content, _ARGUMENT_LIMIT):
                at = found - _ARGUMENT_LIMIT_AT
                address = segment.address + start + at
                # The compiler aligns a struct of ints to four bytes.
                is_here = 0 <= at < _WINDOW_BYTES and address % 4 == 0
                if is_here and content[at] in _TEXT_LENGTHS:
                    yield address


def _is_plausible(block: MagicBlock) -> bool:
    return (
        block.length in _TEXT_LENGTHS
        and block.name_length in _NAME_LENGTHS
        and block.key_limit in _KEY_LIMITS
        and block.float8_by_value in {0, 1}
    )
