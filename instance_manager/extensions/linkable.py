"""What the dynamic loader takes from a shared object.

Pure: bytes in, compact values out. Only the program headers and what ``PT_DYNAMIC`` leads to are
read, as by ld.so(8). Symbols are read apart from the rest, since most libraries of the server are
never asked for theirs; and then as whole tables, because an object at a time, and not a symbol, is
what a hundred libraries leave time for.
"""

from __future__ import annotations

import struct
from array import array
from itertools import compress
from typing import TYPE_CHECKING, Final, NamedTuple

from instance_manager.extensions.elf import INTERPRETER, NOTE, ElfError, SharedObject

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from instance_manager.extensions.elf import Image


class VersionNeed(NamedTuple):
    """A version that the object wants the library *file* to define; a *weak* one may lack."""

    file: str
    version: str
    weak: bool


class Linkable(NamedTuple):
    """An object as the loader sees it, without its symbols.

    *machine* is named as ``uname -m`` does. *versions* are those that it defines, its own name
    included.
    """

    machine: str
    is_program: bool = False
    soname: str | None = None
    needed: tuple[str, ...] = ()
    rpath: str | None = None
    runpath: str | None = None
    no_default_libraries: bool = False
    interpreter: str | None = None
    version_needs: tuple[VersionNeed, ...] = ()
    versions: frozenset[str] = frozenset()
    build_id: str | None = None


class Symbols(NamedTuple):
    """The names that an object wants and defines.

    *undefined* are those that somebody must define before it can be loaded. *exports* holds
    Python's hashes of those that it defines itself: eight bytes each, where the names of a
    hundred libraries would take tens of megabytes. They are good in this process only. *problem*
    says why its symbols can't be read.
    """

    undefined: tuple[bytes, ...] = ()
    exports: Sequence[int] = ()
    problem: str = ""

    def defines(self, names: Iterable[bytes]) -> frozenset[bytes]:
        """Return those of *names* that it defines."""
        by_hash = {hash(name): name for name in names}
        found: set[int] = set(by_hash).intersection(self.exports)
        return frozenset(by_hash[each] for each in found)


_NEEDED, _SONAME, _RPATH, _RUNPATH = 1, 14, 15, 29
_FLAGS_1, _VERDEF, _VERNEED = 0x6FFFFFFB, 0x6FFFFFFC, 0x6FFFFFFE
_NO_DEFAULT_LIBRARIES, _POSITION_INDEPENDENT_PROGRAM = 0x800, 0x08000000
_WEAK_VERSION: Final = 2
_GLOBAL: Final = 1
_BUILD_ID: Final = 3

_MAXIMUM_NEEDED: Final = 1024
_MAXIMUM_STRINGS: Final = 32 * 1024 * 1024
_MAXIMUM_SYMBOLS: Final = 400_000
_MAXIMUM_NAME: Final = 32 * 1024
_MAXIMUM_TEXT: Final = 4096
_MAXIMUM_VERSIONS: Final = 4096
_MAXIMUM_VERSION_BYTES: Final = 256 * 1024
_MAXIMUM_NOTE_BYTES: Final = 16 * 1024
_CHUNK: Final = 4096
_SYMBOL_BYTES: Final = 24


def read_linkable(image: Image) -> Linkable:
    """Return what the loader takes from an object, a program or a library.

    Raises:
        ElfError: it can't be loaded, or is larger than we read.
    """
    library = SharedObject(image, as_loader=True)
    strings = library.strings(_MAXIMUM_STRINGS)
    needed = library.tags(_NEEDED)
    # Each name costs a search in all directories.
    if len(needed) > _MAXIMUM_NEEDED:
        raise ElfError(f"it needs {len(needed)} libraries")
    flags = library.tag(_FLAGS_1) or 0
    try:
        needs = tuple(_version_needs(library, strings))
        versions = frozenset(_versions(library, strings))
    except struct.error:
        raise ElfError("its symbol versions are damaged") from None
    return Linkable(
        machine=library.machine,
        # A position-independent program is ET_DYN like a library: only DF_1_PIE tells them apart.
        is_program=library.is_program or bool(flags & _POSITION_INDEPENDENT_PROGRAM),
        soname=_tagged(library, strings, _SONAME),
        needed=tuple(_text(strings, offset) for offset in needed),
        rpath=_tagged(library, strings, _RPATH),
        runpath=_tagged(library, strings, _RUNPATH),
        no_default_libraries=bool(flags & _NO_DEFAULT_LIBRARIES),
        interpreter=_interpreter(library),
        version_needs=needs,
        versions=versions,
        build_id=_build_id(library),
    )


def _text(strings: bytes, offset: int) -> str:
    end = strings.find(b"\0", offset, offset + _MAXIMUM_TEXT)
    if end < 0:
        raise ElfError("a name is not in the file")
    return strings[offset:end].decode("utf-8", "backslashreplace")


def _tagged(library: SharedObject, strings: bytes, tag: int) -> str | None:
    offset = library.tag(tag)
    return None if offset is None else _text(strings, offset)


def _interpreter(library: SharedObject) -> str | None:
    for part in library.parts.get(INTERPRETER, ()):
        return _text(library.read_part(part, _MAXIMUM_TEXT), 0)
    return None


def _version_needs(library: SharedObject, strings: bytes) -> Iterator[VersionNeed]:
    """Yield the versions of ``DT_VERNEED``: a chain of files, each with a chain of versions."""
    content, count = _version_table(library, _VERNEED), 0
    for at, (_, _, file, versions, _) in _chain(content, 0, "<HHIII"):
        name = _text(strings, file)
        for _, (_, flags, _, version, _) in _chain(content, at + versions, "<IHHII"):
            count += 1
            if count > _MAXIMUM_VERSIONS:
                raise ElfError("it needs too many symbol versions")
            # VER_FLG_WEAK: the loader starts the program all the same where the version lacks
            # (dl-version.c).
            yield VersionNeed(name, _text(strings, version), bool(flags & _WEAK_VERSION))


def _versions(library: SharedObject, strings: bytes) -> Iterator[str]:
    """Yield the versions of ``DT_VERDEF``; the names after the first of one are its parents."""
    content = _version_table(library, _VERDEF)
    for at, fields in _chain(content, 0, "<HHHHIII"):
        (name,) = struct.unpack_from("<I", content, at + fields[5])
        yield _text(strings, name)


def _version_table(library: SharedObject, tag: int) -> bytes:
    address = library.tag(tag)
    return b"" if address is None else library.read_up_to(address, _MAXIMUM_VERSION_BYTES)


def _chain(content: bytes, at: int, layout: str) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield the entries from *at*; the last field of each says how far it is to the next."""
    for _ in range(_MAXIMUM_VERSIONS if content else 0):
        fields: tuple[int, ...] = struct.unpack_from(layout, content, at)
        yield at, fields
        # The offset of the next entry: 0 at the last one.
        if not fields[-1]:
            return
        at += fields[-1]
    if content:
        raise ElfError("its symbol versions have no end")


def read_symbols(image: Image) -> Symbols:
    """Return the names that an object wants and defines.

    Raises:
        ElfError: they can't be read, or are more than we read.
    """
    library = SharedObject(image, as_loader=True)
    strings = library.strings(_MAXIMUM_STRINGS)
    table, first = library.symbol_table(_MAXIMUM_SYMBOLS)
    # Every machine that the manager runs on is little-endian, as these objects are.
    names = memoryview(table).cast("I")[:: _SYMBOL_BYTES // 4].tolist()
    # Elf64_Sym: st_name is at 0, st_info at 4, st_shndx at 6.
    sections = memoryview(table).cast("H")[3 :: _SYMBOL_BYTES // 2].tolist()
    wanted = [
        name
        for name, section, info in zip(names, sections, table[4::_SYMBOL_BYTES], strict=True)
        # A weak symbol that nobody defines has the value 0, and keeps nothing from being loaded.
        if not section and info >> 4 == _GLOBAL
    ]
    undefined = tuple(name for part in _names(strings, wanted) for name in part)
    # Others find a symbol by the hash table alone, which leaves out those before *first*.
    defined = list(compress(names[first:], sections[first:]))
    exports = array("q")
    for part in _names(strings, defined):
        exports.extend(map(hash, part))
    # A view of bytes takes no more than it holds; an array that grew has room to spare.
    return Symbols(undefined, memoryview(exports.tobytes()).cast("q"))


def _names(strings: bytes, offsets: Sequence[int]) -> Iterator[Iterable[bytes]]:
    """Yield the names at *offsets*, some thousands at a time."""
    find, total = strings.find, 0
    for start in range(0, len(offsets), _CHUNK):
        part = offsets[start : start + _CHUNK]
        ends = [find(b"\0", offset, offset + _MAXIMUM_NAME) for offset in part]
        total += sum(ends) - sum(part)
        # Names may share their tails, but a table that is all tails is an attack.
        if min(ends) < 0 or total > 4 * len(strings):
            raise ElfError("a symbol's name is not in the file")
        yield [strings[offset:end] for offset, end in zip(part, ends, strict=True)]


def _build_id(library: SharedObject) -> str | None:
    """Return ``NT_GNU_BUILD_ID`` in hexadecimal; notes are padded to four bytes."""
    for part in library.parts.get(NOTE, ()):
        content, at = library.read_part(part, _MAXIMUM_NOTE_BYTES), 0
        while at + 12 <= len(content):
            name_size, size, kind = struct.unpack_from("<III", content, at)
            start = at + 12 + (name_size + 3 & ~3)
            # Other vendors number their notes as they like: the name says whose number it is.
            if kind == _BUILD_ID and content[at + 12 : at + 16] == b"GNU\0":
                return content[start : start + size].hex()
            at = start + (size + 3 & ~3)
    return None
