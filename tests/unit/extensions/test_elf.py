from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from instance_manager.extensions.elf import (
    ElfError,
    SharedObject,
    gnu_hash,
    read_header,
    system_v_hash,
)

Build = Callable[..., bytes]


def _patched(image: bytes, at: int, content: bytes) -> bytes:
    return image[:at] + content + image[at + len(content) :]


def _dynamic(image: bytes, tag: int) -> int:
    """Return where the value of a tag of the dynamic section lies."""
    for at in range(0xC00, len(image), 16):
        if struct.unpack_from("<Q", image, at)[0] == tag:
            return at + 8
    raise AssertionError(tag)


def test_needed_libraries_come_in_their_order(elf: Build) -> None:
    """The names and the object's own name are read."""
    library = SharedObject(elf(needed=["libm.so.6", "libc.so.6"], soname="libx.so.1"))

    assert library.needed == ("libm.so.6", "libc.so.6")
    assert library.soname == "libx.so.1"
    assert library.rpath is library.runpath is None
    assert library.machine == "x86_64"


def test_run_paths_are_told_apart(elf: Build) -> None:
    """``DT_RPATH`` and ``DT_RUNPATH`` are different questions to the loader."""
    image = elf(soname="$ORIGIN/../system")
    rpath = _patched(image, _dynamic(image, 14) - 8, struct.pack("<Q", 15))
    runpath = _patched(image, _dynamic(image, 14) - 8, struct.pack("<Q", 29))

    assert SharedObject(rpath).rpath == "$ORIGIN/../system"
    assert SharedObject(runpath).runpath == "$ORIGIN/../system"
    assert SharedObject(runpath).rpath is None


@pytest.mark.parametrize("table", ["gnu", "sysv"])
def test_a_symbol_is_found_by_either_hash_table(elf: Build, table: str) -> None:
    """Old linkers write DT_HASH, new ones DT_GNU_HASH."""
    library = SharedObject(elf(symbols=[b"_PG_init", b"first", b"last"], table=table))

    found = library.find_symbol(b"last")

    assert found is not None
    assert (found.name, found.defined, found.weak) == (b"last", True, False)
    assert library.find_symbol(b"absent") is None
    assert [each.name for each in library.symbols()] == [b"_PG_init", b"first", b"last"]


def test_an_undefined_symbol_is_not_found(elf: Build) -> None:
    """A symbol that the object itself needs is no export, but it is listed."""
    image = elf(symbols=[b"_PG_init"])
    undefined = _patched(image, 0x200 + 24 + 6, b"\0\0")

    assert SharedObject(undefined).find_symbol(b"_PG_init") is None
    assert [each.defined for each in SharedObject(undefined).symbols()] == [False]


def test_an_object_without_exports_has_none(elf: Build) -> None:
    """An empty hash table is a valid one."""
    assert SharedObject(elf()).find_symbol(b"Pg_magic_func") is None
    assert list(SharedObject(elf()).symbols()) == []


@pytest.mark.parametrize(
    ("name", "gnu", "system_v"),
    [(b"", 0x1505, 0), (b"printf", 0x156B2BB8, 0x77905A6), (b"exit", 0x7C967E3F, 0x6CF04)],
)
def test_hashes_are_those_of_the_linker(name: bytes, gnu: int, system_v: int) -> None:
    """The values that the ABI's own examples give."""
    assert gnu_hash(name) == gnu
    assert system_v_hash(name) == system_v


@pytest.mark.parametrize(
    ("machine", "name"), [(62, "x86_64"), (183, "aarch64"), (3, "i386"), (9999, "machine 9999")]
)
def test_a_machine_is_named_as_uname_names_it(elf: Build, machine: int, name: str) -> None:
    """One that is not known keeps its number."""
    assert read_header(elf(machine=machine)).machine == name


def test_a_header_of_another_class_and_order_is_read(elf: Build) -> None:
    """A 32-bit big-endian object says what it is, and is no more than that here."""
    image = _patched(elf(), 4, b"\x01\x02")
    image = _patched(image, 16, struct.pack(">HH", 3, 20))

    header = read_header(image)

    assert header == (32, False, "ppc", True, False)
    assert not header.is_native_form
    with pytest.raises(ElfError, match="64-bit little-endian"):
        SharedObject(image)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"\x7fEL", "no ELF header"),
        (b"INPUT(libfoo.so.1)", "no ELF header"),
        (b"\x7fELF", "damaged"),
        (b"\x7fELF\x02\x01\x01" + bytes(40), "damaged"),
        (b"\x7fELF\x03\x01\x01" + bytes(60), "damaged"),
        (b"\x7fELF\x02\x07\x01" + bytes(60), "damaged"),
    ],
)
def test_what_is_no_elf_file_is_refused(content: bytes, reason: str) -> None:
    """The error says what is wrong."""
    with pytest.raises(ElfError, match=reason):
        SharedObject(content)


def test_a_program_is_no_shared_object(elf: Build) -> None:
    """An object file or a program can't be loaded."""
    with pytest.raises(ElfError, match="not a shared object"):
        SharedObject(elf(kind=2))


@pytest.mark.parametrize("size", [64, 100, 1000, 4095])
def test_a_truncated_file_is_refused(elf: Build, size: int) -> None:
    """A part of the image is missing: loading it would end in SIGBUS."""
    with pytest.raises(ElfError, match="truncated"):
        SharedObject(elf()[:size])


def test_missing_section_headers_mean_truncation(elf: Build) -> None:
    """They stand at the end of the file, so they are lost first."""
    image = _patched(elf(), 40, struct.pack("<Q", 4000))
    image = _patched(image, 58, struct.pack("<HH", 64, 30))

    with pytest.raises(ElfError, match="section headers"):
        SharedObject(image)


@pytest.mark.parametrize(
    ("at", "content"),
    [
        (54, struct.pack("<H", 32)),  # the size of a program header
        (56, struct.pack("<H", 0)),  # no program headers
        (56, struct.pack("<H", 0xFFFF)),  # more than there are
        (32, struct.pack("<Q", 2**63)),  # program headers beyond the file
        (120, struct.pack("<I", 7)),  # no dynamic section
        (120 + 32, struct.pack("<Q", 2**40)),  # a dynamic section of a tebibyte
        (64 + 8, struct.pack("<Q", 2**64 - 1)),  # a segment that wraps around
    ],
)
def test_damaged_program_headers_are_refused(elf: Build, at: int, content: bytes) -> None:
    """Counts, sizes and offsets are checked before they are used."""
    with pytest.raises(ElfError):
        SharedObject(_patched(elf(), at, content))


@pytest.mark.parametrize("tag", [5, 10, 1])
def test_names_outside_the_string_table_are_refused(elf: Build, tag: int) -> None:
    """Table, size and offset are the file's own claims."""
    image = elf(needed=["libc.so.6"])
    damaged = SharedObject(_patched(image, _dynamic(image, tag), struct.pack("<Q", 2**62)))

    with pytest.raises(ElfError):
        assert damaged.needed


def test_a_name_without_an_end_is_refused(elf: Build) -> None:
    """The string table ends before the name does."""
    image = elf(needed=["libc.so.6"])
    damaged = SharedObject(_patched(image, _dynamic(image, 10), struct.pack("<Q", 5)))

    with pytest.raises(ElfError, match="no end"):
        assert damaged.needed


@pytest.mark.parametrize(
    "table",
    [
        struct.pack("<4I", 0, 1, 1, 6),  # no buckets
        struct.pack("<4I", 1, 1, 0, 6),  # no filter
        struct.pack("<4I", 1, 1, 1, 64),  # a shift by more than a word
        struct.pack("<4I", 2**32 - 1, 1, 2**32 - 1, 6),
        struct.pack("<4IQI", 1, 1, 1, 6, 2**64 - 1, 2**31),  # a bucket beyond the table
    ],
)
def test_a_damaged_hash_table_is_refused(elf: Build, table: bytes) -> None:
    """Every number in it is checked before it is used."""
    library = SharedObject(_patched(elf(symbols=[b"one"]), 0x300, table))

    with pytest.raises(ElfError):
        library.find_symbol(b"Pg_magic_func")


def test_a_chain_without_an_end_is_refused(elf: Build) -> None:
    """Looking up a name and counting the symbols both stop at the end of the file."""
    image = elf(symbols=[b"one"])
    image = _patched(image, _dynamic(image, 0x6FFFFEF5), struct.pack("<Q", 0xF00))
    image = _patched(image, 0xF00, struct.pack("<4IQI", 1, 1, 1, 6, 2**64 - 1, 1))
    library = SharedObject(image)

    with pytest.raises(ElfError, match="not in the file"):
        library.find_symbol(b"absent")
    with pytest.raises(ElfError, match="not in the file"):
        list(library.symbols())


def test_a_chain_that_goes_in_a_circle_ends(elf: Build) -> None:
    """DT_HASH links entries by index, so hostile ones can point back."""
    image = elf(symbols=[b"one", b"two"], table="sysv")
    table = struct.pack("<II2I3I", 2, 3, 1, 1, 0, 1, 1)

    with pytest.raises(ElfError, match="damaged"):
        SharedObject(_patched(image, 0x300, table)).find_symbol(b"absent")


def test_an_object_without_a_hash_table_is_refused(elf: Build) -> None:
    """Nothing could be looked up in it at run time either."""
    with pytest.raises(ElfError, match="no symbol hash table"):
        SharedObject(elf(symbols=[b"one"], table="")).find_symbol(b"one")


def test_a_symbol_with_a_name_outside_the_table_is_refused(elf: Build) -> None:
    """Listing symbols checks each name."""
    image = _patched(elf(symbols=[b"one"]), 0x200 + 24, struct.pack("<I", 2**31))

    with pytest.raises(ElfError, match="name is not in the file"):
        list(SharedObject(image).symbols())
