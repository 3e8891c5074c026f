"""Shared objects, read from their bytes: what they need, what they are called, what they export.

Pure: this room is given something that can be sliced, and never loads or runs what it reads. It
goes through the program headers and ``PT_DYNAMIC`` as the dynamic loader does (elf(5), the System
V ABI); section headers may be stripped and are not used. Every offset, length and count of the
file is checked before it is used, so that hostile bytes cost bounded time and end in `ElfError`.
"""

from __future__ import annotations

import struct
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class ElfError(ValueError):
    """The bytes are no shared object; the text says why. Never leaves the extensions room."""


class Image(Protocol):
    """Bytes to read from: ``bytes`` itself, or a view of a file that reads what is asked for."""

    def __len__(self) -> int:
        """Return the number of bytes."""
        ...

    def __getitem__(self, part: slice, /) -> bytes:
        """Return the bytes of *part*."""
        ...


class Header(NamedTuple):
    """What the first bytes say."""

    bits: int
    little_endian: bool
    machine: str
    is_shared: bool
    is_program: bool

    @property
    def is_native_form(self) -> bool:
        """Whether it has the form of every machine that the manager runs on."""
        return self.bits == _BITS and self.little_endian


class Symbol(NamedTuple):
    """An entry of the dynamic symbol table; *address* is meaningful where it is defined."""

    name: bytes
    defined: bool
    weak: bool
    address: int
    size: int


class Segment(NamedTuple):
    """A part of the file, and the address at which it is mapped."""

    address: int
    offset: int
    size: int


MACHINES: Final = {
    3: "i386",
    20: "ppc",
    21: "ppc64le",
    22: "s390x",
    40: "arm",
    62: "x86_64",
    183: "aarch64",
    243: "riscv64",
    258: "loongarch64",
}
"""``e_machine`` by the name that ``uname -m`` uses."""

_BITS: Final = 64
_TYPE_PROGRAM, _TYPE_SHARED = 2, 3
_WEAK: Final = 2
_LOAD, _DYNAMIC = 1, 2
INTERPRETER: Final = 3
"""``PT_INTERP``, for `SharedObject.parts`."""
NOTE: Final = 4
"""``PT_NOTE``, likewise."""
_NEEDED, _HASH, _STRTAB, _SYMTAB, _STRSZ, _SONAME, _RPATH, _RUNPATH = 1, 4, 5, 6, 10, 14, 15, 29
_GNU_HASH: Final = 0x6FFFFEF5

_MAXIMUM_SEGMENTS: Final = 256
_MAXIMUM_DYNAMIC_BYTES: Final = 64 * 1024
_MAXIMUM_NEEDED: Final = 1024
_MAXIMUM_STRING: Final = 4096
# A damaged chain has no end; hash tables of real libraries have chains of a few entries.
_MAXIMUM_CHAIN: Final = 4096
_MAXIMUM_TABLE_BYTES: Final = 64 * 1024 * 1024
_MAXIMUM_SYMBOLS: Final = 1_000_000
_MAXIMUM_SYMBOL_NAME: Final = 32 * 1024
# Elf64_Sym and Elf64_Phdr (elf(5)).
_SYMBOL: Final = struct.Struct("<IBBHQQ")
_PROGRAM_HEADER: Final = struct.Struct("<IIQQQQQQ")
# The size of Elf32_Ehdr; that of 64 bits is longer, and the fields read here lie in both.
_SMALLEST_HEADER: Final = 52


def read_header(image: Image) -> Header:
    """Return the kind of object, of any class and byte order.

    Raises:
        ElfError: it has no ELF header.
    """
    head = image[0:_SMALLEST_HEADER]
    if head[:4] != b"\x7fELF":
        raise ElfError("it has no ELF header" if head else "it is empty")
    if len(head) < _SMALLEST_HEADER or head[4] not in {1, 2} or head[5] not in {1, 2}:
        raise ElfError("its ELF header is damaged")
    # The byte order is in e_ident, and the rest can be read only once it is known.
    little_endian = head[5] == 1
    kind, number = struct.unpack_from("<HH" if little_endian else ">HH", head, 16)
    machine = MACHINES.get(number, f"machine {number}")
    return Header(
        32 * head[4], little_endian, machine, kind == _TYPE_SHARED, kind == _TYPE_PROGRAM
    )


class SharedObject:
    """A 64-bit little-endian shared object.

    Holds the *image* and reads from it when asked; the caller keeps it open as long. With
    *as_loader* it takes what the dynamic loader takes: a program too, and a file that lacks the
    section headers at its end.

    Raises:
        ElfError: on construction and from every method, where the bytes are not valid.
    """

    def __init__(self, image: Image, *, as_loader: bool = False) -> None:
        header = read_header(image)
        if not header.is_native_form:
            raise ElfError("it is not a 64-bit little-endian object")
        if not header.is_shared and not (as_loader and header.is_program):
            raise ElfError("it is not a shared object")
        self._image = image
        self.machine = header.machine
        self.is_program = header.is_program
        self.segments: tuple[Segment, ...] = ()
        self.parts: Mapping[int, list[Segment]] = {}
        self._tags: Mapping[int, list[int]] = {}
        self._read_segments(needs_sections=not as_loader)

    @property
    def needed(self) -> tuple[str, ...]:
        """The names of the libraries that it needs, ``DT_NEEDED``, in their order."""
        offsets = self._tags.get(_NEEDED, [])
        if len(offsets) > _MAXIMUM_NEEDED:
            raise ElfError(f"it needs {len(offsets)} libraries")
        return tuple(map(self._text, offsets))

    @property
    def soname(self) -> str | None:
        """The name by which other objects need it, ``DT_SONAME``."""
        return self._tagged_text(_SONAME)

    @property
    def rpath(self) -> str | None:
        """Where the loader looks first, ``DT_RPATH``."""
        return self._tagged_text(_RPATH)

    @property
    def runpath(self) -> str | None:
        """Where the loader looks after LD_LIBRARY_PATH, ``DT_RUNPATH``."""
        return self._tagged_text(_RUNPATH)

    def tag(self, tag: int) -> int | None:
        """Return the value of a tag of the dynamic section; of several the last.

        As the loader does, for which a tag overwrites an equal one before it
        (``elf_get_dynamic_info``, get-dynamic-info.h). ``DT_NEEDED`` alone it goes through.
        """
        values = self._tags.get(tag)
        return values[-1] if values else None

    def read(self, address: int, size: int) -> bytes:
        """Return *size* bytes that the file maps at *address*."""
        for segment in self.segments:
            start = address - segment.address
            if start >= 0 and start + size <= segment.size:
                return self._slice(segment.offset + start, size)
        raise ElfError(f"address {address:#x} is not in the file")

    def read_part(self, part: Segment, limit: int) -> bytes:
        """Return the first *limit* bytes of a part of the file."""
        return self._slice(part.offset, min(part.size, limit))

    def read_up_to(self, address: int, limit: int) -> bytes:
        """Return at most *limit* bytes from *address* to the end of its segment."""
        for segment in self.segments:
            start = address - segment.address
            if 0 <= start < segment.size:
                return self._slice(segment.offset + start, min(limit, segment.size - start))
        raise ElfError(f"address {address:#x} is not in the file")

    def tags(self, tag: int) -> Sequence[int]:
        """Return all values of a tag of the dynamic section."""
        return self._tags.get(tag, ())

    def strings(self, limit: int) -> bytes:
        """Return the table of names, of at most *limit* bytes."""
        size = self._required(_STRSZ)
        if size > limit:
            raise ElfError(f"it has a table of {size} bytes")
        return self.read(self._required(_STRTAB), size)

    def symbol_table(self, limit: int) -> tuple[bytes, int]:
        """Return the dynamic symbols, of 24 bytes each, and where those begin that are hashed.

        Only a symbol of the hash table can be found by others. At most *limit* symbols.
        """
        # An object that exports nothing may come without any hash table.
        if self.tag(_SYMTAB) is None or (self.tag(_HASH) or self.tag(_GNU_HASH)) is None:
            return b"", 0
        count = self._symbol_count()
        if count > limit:
            raise ElfError(f"it has {count} symbols")
        table = self.tag(_GNU_HASH)
        # The second word of DT_GNU_HASH is the index of the first symbol that it covers; DT_HASH
        # covers all.
        first = 0 if table is None else self._unpack("<4I", table)[1]
        return self.read(self._required(_SYMTAB), count * _SYMBOL.size), first

    def find_symbol(self, name: bytes) -> Symbol | None:
        """Return the dynamic symbol that is defined under *name*, as ``dlsym`` finds it."""
        table = self.tag(_GNU_HASH)
        if table is not None:
            return self._find_by_gnu_hash(table, name)
        table = self.tag(_HASH)
        if table is not None:
            return self._find_by_hash(table, name)
        raise ElfError("it has no symbol hash table")

    def symbols(self) -> Iterator[Symbol]:
        """Yield every dynamic symbol, defined or not, without the empty first one."""
        count = self._symbol_count()
        if count > _MAXIMUM_SYMBOLS:
            raise ElfError(f"it has {count} symbols")
        size = self._required(_STRSZ)
        # Both tables at once: a read for each of thousands of symbols is far slower.
        strings = self.read(self._required(_STRTAB), size)
        table = self.read(self._required(_SYMTAB), count * _SYMBOL.size)
        total = 0
        for fields in islice(_SYMBOL.iter_unpack(table), 1, None):
            start: int = fields[0]
            length = strings.find(b"\0", start, start + _MAXIMUM_SYMBOL_NAME) - start
            total += length
            # Names may share their tails, but a table that is all tails is an attack.
            if length < 0 or total > 4 * size:
                raise ElfError("a symbol's name is not in the file")
            yield _symbol(strings[start : start + length], fields)

    def _slice(self, offset: int, size: int) -> bytes:
        if size > _MAXIMUM_TABLE_BYTES:
            raise ElfError(f"it has a table of {size} bytes")
        part = self._image[offset : offset + size]
        # A slice of bytes beyond the end is short, without an error.
        if len(part) != size:
            raise ElfError("it is truncated")
        return part

    def _unpack(self, layout: str, address: int) -> tuple[int, ...]:
        return struct.unpack(layout, self.read(address, struct.calcsize(layout)))

    def _read_segments(self, *, needs_sections: bool) -> None:
        # The whole of elf64_hdr after e_version: where both tables lie, and how long they are.
        layout = struct.unpack("<QQQIHHHHHH", self._slice(24, 40))
        headers, sections, entry_size, count = layout[1], layout[2], layout[5], layout[6]
        # The loader too refuses entries of another size (open_verify, dl-load.c).
        if entry_size != _PROGRAM_HEADER.size or not 0 < count <= _MAXIMUM_SEGMENTS:
            raise ElfError(f"it has {count} program headers of {entry_size} bytes")
        # The linker writes the section headers last, so that their absence betrays a copy that was
        # cut short even where all that is mapped is there.
        if needs_sections and sections and sections + layout[7] * layout[8] > len(self._image):
            raise ElfError("it is truncated: the section headers are missing")
        parts: dict[int, list[Segment]] = {}
        table = self._slice(headers, count * _PROGRAM_HEADER.size)
        for kind, _, offset, address, _, size, _, _ in _PROGRAM_HEADER.iter_unpack(table):
            if kind not in {_LOAD, _DYNAMIC, INTERPRETER, NOTE}:
                continue
            # The kernel maps it all the same, and who touches what lies beyond the end gets
            # SIGBUS.
            if offset + size > len(self._image):
                raise ElfError(f"it is truncated: {offset + size} bytes, not {len(self._image)}")
            parts.setdefault(kind, []).append(Segment(address, offset, size))
        if _DYNAMIC not in parts:
            raise ElfError("it has no dynamic section")
        self.parts = parts
        self.segments = tuple(parts.get(_LOAD, ()))
        # Of several the loader takes the last: each overwrites the one before it (dl-load.c).
        self._tags = self._read_tags(parts[_DYNAMIC][-1])

    def _read_tags(self, dynamic: Segment) -> dict[int, list[int]]:
        size = dynamic.size // 16 * 16
        if size > _MAXIMUM_DYNAMIC_BYTES:
            raise ElfError(f"it has a dynamic section of {size} bytes")
        tags: dict[int, list[int]] = {}
        for tag, value in struct.iter_unpack("<QQ", self._slice(dynamic.offset, size)):
            # DT_NULL ends the array; linkers leave spare entries behind it.
            if tag == 0:
                return tags
            tags.setdefault(tag, []).append(value)
        return tags

    def _required(self, tag: int) -> int:
        value = self.tag(tag)
        if value is None:
            raise ElfError(f"its dynamic section lacks tag {tag}")
        return value

    def _tagged_text(self, tag: int) -> str | None:
        offset = self.tag(tag)
        return None if offset is None else self._text(offset)

    def _text(self, offset: int) -> str:
        return self._string(offset).decode("utf-8", "backslashreplace")

    def _string(self, offset: int) -> bytes:
        size = min(self._required(_STRSZ) - offset, _MAXIMUM_STRING)
        if size <= 0:
            raise ElfError("a name is not in the file")
        text, end, _ = self.read(self._required(_STRTAB) + offset, size).partition(b"\0")
        if not end:
            raise ElfError("a name has no end")
        return text

    def _symbol_at(self, index: int) -> tuple[int, ...]:
        address = self._required(_SYMTAB) + index * _SYMBOL.size
        return _SYMBOL.unpack(self.read(address, _SYMBOL.size))

    def _match(self, index: int, name: bytes) -> Symbol | None:
        fields = self._symbol_at(index)
        # SHN_UNDEF: the object wants a symbol of this name, and does not define it.
        if fields[3] == 0 or self._string(fields[0]) != name:
            return None
        return _symbol(name, fields)

    def _find_by_gnu_hash(self, table: int, name: bytes) -> Symbol | None:
        buckets, first, words, shift = self._unpack("<4I", table)
        if not buckets or not words or shift >= _BITS:
            raise ElfError("its symbol hash table is damaged")
        wanted = gnu_hash(name)
        # A Bloom filter of two bits: most names that are not there end here.
        (bloom,) = self._unpack("<Q", table + 16 + 8 * (wanted // 64 % words))
        if not bloom >> wanted % 64 & bloom >> (wanted >> shift) % 64 & 1:
            return None
        start = table + 16 + 8 * words
        (index,) = self._unpack("<I", start + 4 * (wanted % buckets))
        # An empty bucket holds 0, and symbols before the first one that is hashed are not found.
        if index < first:
            return None
        for step in range(index, index + _MAXIMUM_CHAIN):
            (value,) = self._unpack("<I", start + 4 * (buckets + step - first))
            # The lowest bit of a hash marks the end of its chain, so it says nothing of the name.
            symbol = self._match(step, name) if value | 1 == wanted | 1 else None
            if symbol or value & 1:
                return symbol
        raise ElfError("its symbol hash table is damaged")

    def _find_by_hash(self, table: int, name: bytes) -> Symbol | None:
        buckets, chains = self._unpack("<2I", table)
        if not buckets:
            return None
        (index,) = self._unpack("<I", table + 8 + 4 * (system_v_hash(name) % buckets))
        for _ in range(min(chains, _MAXIMUM_CHAIN)):
            if index == 0:
                return None
            symbol = self._match(index, name)
            if symbol:
                return symbol
            (index,) = self._unpack("<I", table + 8 + 4 * (buckets + index))
        raise ElfError("its symbol hash table is damaged")

    def _symbol_count(self) -> int:
        table = self.tag(_HASH)
        if table is not None:
            # nchain: the System V ABI makes it equal to the number of symbols.
            return self._unpack("<2I", table)[1]
        table = self._required(_GNU_HASH)
        buckets, first, words, _ = self._unpack("<4I", table)
        start = table + 16 + 8 * words
        # DT_GNU_HASH has no count: the last symbol is the end of the chain that begins furthest
        # on.
        heads = self.read(start, 4 * buckets)
        last = max(struct.unpack(f"<{buckets}I", heads), default=0)
        if last < first:
            return first
        for index in range(last, last + _MAXIMUM_CHAIN):
            if self._unpack("<I", start + 4 * (buckets + index - first))[0] & 1:
                return index + 1
        raise ElfError("its symbol hash table is damaged")


def _symbol(name: bytes, fields: tuple[int, ...]) -> Symbol:
    return Symbol(name, fields[3] != 0, fields[1] >> 4 == _WEAK, fields[4], fields[5])


def gnu_hash(name: bytes) -> int:
    """Return the hash of ``DT_GNU_HASH``."""
    value = 5381
    for byte in name:
        value = (value * 33 + byte) & 0xFFFFFFFF
    return value


def system_v_hash(name: bytes) -> int:
    """Return the hash of ``DT_HASH`` (System V ABI, "Hash Table")."""
    value = 0
    for byte in name:
        value = (value << 4) + byte
        value = (value ^ (value & 0xF0000000) >> 24) & 0x0FFFFFFF
    return value
