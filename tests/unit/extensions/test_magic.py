from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from instance_manager.extensions.elf import SharedObject
from instance_manager.extensions.magic import Magic, MagicBlock, candidates, read_magic

Build = Callable[..., bytes]

EXPECTED = MagicBlock(72, 1800, 100, 32, 64, 1, "PostgreSQL")


@pytest.mark.parametrize(
    ("machine", "style"),
    [
        (62, "lea"),
        (62, "mov"),
        (62, "lea after work"),
        (183, "adrp+add"),
        (183, "adrp+add+add"),
        (183, "adrp+add+sub"),
        (183, "adrp+ldr"),
        (183, "adrp+ldr+add"),
        (183, "adr"),
        (183, "adrp+add after work"),
    ],
)
def test_the_block_is_found_through_the_functions_instructions(
    elf: Build, magic_block: Build, machine: int, style: str
) -> None:
    """Whatever the compiler wrote on amd64 and arm64, directly or over the offset table."""
    image = elf(machine=machine, style=style, magic=magic_block())

    assert read_magic(SharedObject(image)) == Magic(is_module=True, block=EXPECTED)


def test_another_compilers_code_is_answered_by_a_search(elf: Build, magic_block: Build) -> None:
    """The one thing in the file that looks like a block is the block."""
    library = SharedObject(elf(style="nonsense", magic=magic_block()))

    assert read_magic(library) == Magic(is_module=True, block=EXPECTED)
    assert list(candidates(library)) == [EXPECTED]


def test_a_call_after_the_address_leaves_no_answer(elf: Build, magic_block: Build) -> None:
    """What another function returns is not in this one's instructions; the search answers."""
    image = bytearray(elf(machine=183, style="adrp+add after work", magic=magic_block()))
    image[0x410:0x418] = struct.pack("<II", 0xD63F0020, 0xD503201F)  # blr x1; nop

    assert read_magic(SharedObject(bytes(image))).block == EXPECTED


@pytest.mark.parametrize(
    "words",
    [
        (0x94000040, 0x91000020),  # bl; add x0, x1, #0
        (0xF9400041, 0x91000020),  # ldr x1, [x2]; add x0, x1, #0
        (0x91000020, 0xA9400022),  # add x0, x1, #0; ldp x2, x0, [x1]
        (0x91000020, 0xF8008402),  # add x0, x1, #0; str x2, [x0], #8
    ],
    ids=["call", "load", "pair", "counted base"],
)
def test_a_register_that_was_written_since_leads_nowhere(
    elf: Build, magic_block: Build, words: tuple[int, ...]
) -> None:
    """Of two blocks, the one of another major that an address was made of once is not taken."""
    image = bytearray(elf(machine=183, style="adrp+add", magic=magic_block(version=1700)))
    made = struct.unpack_from("<2I", image, 0x400)
    # The same two, for x1; the target and the source of add.
    _write(image, made[0] | 1, made[1] | 1 << 5 | 1, *words)
    image[0xF00 : 0xF00 + 72] = magic_block()

    assert read_magic(SharedObject(bytes(image))) == Magic(is_module=True, block=None)


def test_a_function_that_loads_and_loads_is_given_up(elf: Build, magic_block: Build) -> None:
    """Each load is a search through the tables, and no compiler writes so many of them."""
    image = bytearray(elf(machine=183, style="adrp+ldr", magic=magic_block()))
    page, load = struct.unpack_from("<2I", image, 0x400)
    # The page in x1, for all of them.
    _write(image, page | 1, *[load | 1 << 5] * 100)
    image[0xF00 : 0xF00 + 72] = magic_block(version=1700)

    assert read_magic(SharedObject(bytes(image))) == Magic(is_module=True, block=None)


def _write(image: bytearray, *words: int) -> None:
    """Put instructions and a return in place of the function of an image, with its new size."""
    code = struct.pack(f"<{len(words) + 1}I", *words, 0xD65F03C0)
    image[0x400 : 0x400 + len(code)] = code
    struct.pack_into("<Q", image, 0x228, len(code))


def test_two_candidates_are_no_answer(elf: Build, magic_block: Build) -> None:
    """What can't be told for sure is not guessed."""
    image = bytearray(elf(style="nonsense", magic=magic_block()))
    image[0xF00 : 0xF00 + 72] = magic_block(version=1700)

    assert read_magic(SharedObject(bytes(image))) == Magic(is_module=True, block=None)


def test_code_that_leads_to_something_else_is_no_answer(elf: Build, magic_block: Build) -> None:
    """The two methods contradict each other, so neither is believed."""
    image = bytearray(elf(magic=b""))
    image[0xF00 : 0xF00 + 72] = magic_block()

    assert read_magic(SharedObject(bytes(image))) == Magic(is_module=True, block=None)


def test_a_library_without_the_function_is_no_module(elf: Build, magic_block: Build) -> None:
    """A block alone, in whatever data, makes no module."""
    image = bytearray(elf(symbols=[b"crc32"]))
    image[0xF00 : 0xF00 + 72] = magic_block()

    assert read_magic(SharedObject(bytes(image))) == Magic(is_module=False, block=None)


def test_a_module_of_another_version_says_so(elf: Build, magic_block: Build) -> None:
    """PostgreSQL 17 has a shorter block with the same first fields."""
    magic = magic_block(length=56, version=1700)

    block = read_magic(SharedObject(elf(magic=magic))).block

    assert block is not None
    assert (block.length, block.major, block.abi) == (56, 17, "PostgreSQL")


def test_a_block_without_an_abi_text_is_read(elf: Build, magic_block: Build) -> None:
    """PostgreSQL 14 and older had none."""
    block = read_magic(SharedObject(elf(magic=magic_block(length=24, version=1400)))).block

    assert block == MagicBlock(24, 1400, 100, 32, 64, 1, "")
    assert block.major == 14


def test_unusual_limits_are_read_as_they_are(elf: Build, magic_block: Build) -> None:
    """A fork with other limits and another ABI is recognized, not searched for."""
    magic = magic_block(arguments=200, keys=64, names=128, float8=0, abi=b"Some fork")

    assert read_magic(SharedObject(elf(magic=magic))).block == (
        MagicBlock(72, 1800, 200, 64, 128, 0, "Some fork")
    )


def test_a_slot_without_a_relocation_is_no_answer(elf: Build, magic_block: Build) -> None:
    """The offset table is filled by the loader, by what the relocations say."""
    image = bytearray(elf(style="mov", magic=magic_block()))
    image[0xE00:0xE18] = bytes(24)

    # The code can't be followed, so that the search answers.
    assert read_magic(SharedObject(bytes(image))).block == EXPECTED


@pytest.mark.parametrize(("machine", "style"), [(243, "nonsense"), (183, "nonsense")])
def test_a_machine_whose_code_is_not_understood_is_searched(
    elf: Build, magic_block: Build, machine: int, style: str
) -> None:
    """The block looks alike on every machine."""
    image = elf(machine=machine, style=style, magic=magic_block())

    assert read_magic(SharedObject(image)).block == EXPECTED


def test_code_outside_the_file_is_not_followed(elf: Build, magic_block: Build) -> None:
    """The function's address is the file's own claim; the search still answers."""
    image = bytearray(elf(magic=magic_block()))
    struct.pack_into("<Q", image, 0x200 + 24 + 8, 2**40)

    assert read_magic(SharedObject(bytes(image))).block == EXPECTED


def test_an_address_outside_the_file_is_no_block(elf: Build, magic_block: Build) -> None:
    """The instruction leads to nowhere, and what contradicts it is not believed."""
    image = bytearray(elf(magic=magic_block()))
    struct.pack_into("<i", image, 0x400 + 7, 2**30)

    assert read_magic(SharedObject(bytes(image))).block is None


def test_the_search_has_a_limit(elf: Build, magic_block: Build) -> None:
    """A file full of the searched number costs bounded time."""
    image = bytearray(elf(style="nonsense", magic=magic_block()))
    image += struct.pack("<i", 100) * 100_000
    struct.pack_into("<Q", image, 64 + 32, len(image))

    found = list(candidates(SharedObject(bytes(image))))

    assert found == [EXPECTED]


@pytest.mark.parametrize("packed", [False, True], ids=["rela", "relr"])
@pytest.mark.parametrize("machine", [62, 183])
def test_name_and_version_are_read_through_the_relocations(
    elf: Build, magic_block: Build, machine: int, packed: bool
) -> None:
    """The pointers are what the loader will make of them, in both forms of relocations."""
    style = "lea" if machine == 62 else "adrp+add"
    texts = [b"vector\0", b"0.8.7\0"]
    image = elf(machine=machine, style=style, magic=magic_block(), texts=texts, packed=packed)

    block = read_magic(SharedObject(image)).block

    assert block == EXPECTED._replace(module_name="vector", module_version="0.8.7")


def test_a_block_that_only_the_search_finds_has_its_name_too(
    elf: Build, magic_block: Build
) -> None:
    """The pointers lie in the block, however it was found."""
    texts = [b"vector\0", b"0.8.7\0"]
    block = read_magic(SharedObject(elf(style="nonsense", magic=magic_block(), texts=texts))).block

    assert block == EXPECTED._replace(module_name="vector", module_version="0.8.7")


@pytest.mark.parametrize(
    "text",
    [b"x" * 256, b"\x1b[2Jvector\0", b"two\nlines\0"],
    ids=["endless", "escape", "lines"],
)
def test_a_name_that_is_none_is_not_shown(elf: Build, magic_block: Build, text: bytes) -> None:
    """It is the file's own word, and goes to terminals and logs."""
    block = read_magic(SharedObject(elf(magic=magic_block(), texts=[text]))).block

    assert block == EXPECTED


@pytest.mark.parametrize("address", [0, 2**40, -1, 2**63 - 1])
def test_a_pointer_out_of_the_file_is_no_name(
    elf: Build, magic_block: Build, address: int
) -> None:
    """Wherever it leads, the rest of the block stays readable."""
    image = bytearray(elf(magic=magic_block(), texts=[b"vector\0", b"1\0"]))
    struct.pack_into("<q", image, 0xE18 + 16, address)

    block = read_magic(SharedObject(bytes(image))).block

    assert block is not None
    assert block.module_name in {None, ""} or address == 0
    assert block.module_version == "1"


def test_a_pointer_that_depends_on_a_symbol_is_no_name(elf: Build, magic_block: Build) -> None:
    """What the loader would find elsewhere can't be told from this file."""
    image = bytearray(elf(magic=magic_block(), texts=[b"vector\0"]))
    struct.pack_into("<Q", image, 0xE18 + 8, 5 << 32 | 1)

    assert read_magic(SharedObject(bytes(image))).block == EXPECTED


def test_a_pointer_without_a_relocation_is_no_name(elf: Build, magic_block: Build) -> None:
    """Bytes that look like an address are none before the loader has said so."""
    image = bytearray(elf(magic=magic_block(), texts=[b"vector\0"], packed=True))
    struct.pack_into("<QQ", image, 0xE80, 0x100, 0b11)

    assert read_magic(SharedObject(bytes(image))).block == EXPECTED


def test_the_two_ways_must_agree(elf: Build, magic_block: Build) -> None:
    """The code leads to a block of a strange version, the search to another one: no answer."""
    image = bytearray(elf(magic=magic_block(arguments=200)))
    image[0xF00 : 0xF00 + 72] = magic_block()

    assert read_magic(SharedObject(bytes(image))) == Magic(is_module=True, block=None)


def test_the_code_chooses_among_candidates(elf: Build, magic_block: Build) -> None:
    """A module may hold a second block, such as one that it compares others with."""
    image = bytearray(elf(magic=magic_block()))
    image[0xF00 : 0xF00 + 72] = magic_block(version=1700)

    assert read_magic(SharedObject(bytes(image))) == Magic(is_module=True, block=EXPECTED)


def test_a_block_across_two_windows_of_the_search_is_found_once(
    elf: Build, magic_block: Build
) -> None:
    """Large files are searched piece by piece."""
    image = bytearray(elf(style="nonsense", magic=bytes(72)))
    image += bytes(2**20 + 4096)
    place = 2**20 - 20
    image[place : place + 72] = magic_block()
    struct.pack_into("<Q", image, 64 + 32, len(image))
    library = SharedObject(bytes(image))

    assert list(candidates(library)) == [EXPECTED]
    assert read_magic(library).block == EXPECTED
