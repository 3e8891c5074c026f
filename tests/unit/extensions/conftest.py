"""Samples for the extensions room: shared objects made byte by byte, and volumes on disk."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from instance_manager.extensions.control import parse
from instance_manager.extensions.elf import gnu_hash, system_v_hash
from instance_manager.extensions.facts import (
    ControlFacts,
    LibraryFacts,
    PathLists,
    ServerFacts,
    VolumeFacts,
)
from instance_manager.extensions.magic import Magic, MagicBlock
from instance_manager.settings.models import Settings

CODE, SLOT, DATA, TEXT = 0x400, 0x600, 0x700, 0xF00
"""Where the samples keep the magic function, its offset-table slot, its constant, its texts."""


_PAGE, _ADR_OFFSET = DATA & 0xFFF, DATA - CODE
_BTI, _ADRP, _ADD, _SUBTRACT = 0xD503245F, 0x90000000, 0x91000000, 0xD1000000
_LOAD_SLOT = 0xF9400000 | SLOT // 8 << 10
_RETURN, _RETURN_A, _RETURN_B = 0xD65F03C0, 0xD65F0BFF, 0xD65F0FFF
_BESIDE = 48
"""How far an anchor lies from the constant."""

_GETTERS = {
    "lea": b"\xf3\x0f\x1e\xfa\x48\x8d\x05" + struct.pack("<i", DATA - CODE - 11) + b"\xc3",
    "mov": b"\x48\x8b\x05" + struct.pack("<i", SLOT - CODE - 7) + b"\xc3",
    "adrp+add": struct.pack("<3I", _ADRP, _ADD | _PAGE << 10, _RETURN),
    "adrp+add+add": struct.pack(
        "<5I", _BTI, _ADRP, _ADD | (_PAGE - _BESIDE) << 10, _ADD | _BESIDE << 10, _RETURN
    ),
    "adrp+add+sub": struct.pack(
        "<4I", _ADRP, _ADD | (_PAGE + _BESIDE) << 10, _SUBTRACT | _BESIDE << 10, _RETURN_A
    ),
    "adrp+ldr": struct.pack("<3I", _ADRP, _LOAD_SLOT, _RETURN),
    "adrp+ldr+add": struct.pack("<4I", _ADRP, _LOAD_SLOT, _ADD, _RETURN_B),
    "adr": struct.pack(
        "<2I", 0x10000000 | (_ADR_OFFSET & 3) << 29 | _ADR_OFFSET >> 2 << 5, _RETURN
    ),
    # push; call; mov rax; lea rax; store; the address; add rsp; pop; pop; ret
    "lea after work": (
        b"\x53\xff\x15\0\0\0\0\x48\x8b\x05\0\0\0\0\x48\x8d\x05\0\0\0\0\x48\x89\x03"
        b"\x48\x8d\x05" + struct.pack("<i", DATA - CODE - 31) + b"\x48\x83\xc4\x10\x5b\x41\x5e\xc3"
    ),
    # stp; another address; bl; the address; ldp; ret
    "adrp+add after work": struct.pack(
        *("<8I", 0xA9BF7BFD, _ADRP, _ADD | 4 << 10, 0x94000040),
        *(_ADRP, _ADD | _PAGE << 10, 0xA8C17BFD, _RETURN),
    ),
    "nonsense": b"\xcc" * 12,
}
"""The instructions of ``Pg_magic_func``, as compilers write them."""


def magic_bytes(
    *,
    length: int = 72,
    version: int = 1800,
    arguments: int = 100,
    keys: int = 32,
    names: int = 64,
    float8: int = 1,
    abi: bytes = b"PostgreSQL",
) -> bytes:
    """Return a ``Pg_magic_struct``."""
    fields = struct.pack("<6i", length, version, arguments, keys, names, float8)
    return (fields + abi.ljust(32, b"\0") + bytes(16))[: max(length, 24)]


def _hash_table(kind: str, names: Sequence[bytes]) -> bytes:
    count = len(names) + 1
    if kind == "sysv":
        # Two buckets; chains in the order of the names.
        heads, chain = [0, 0], [0] * count
        for index, name in reversed(list(enumerate(names, start=1))):
            bucket = system_v_hash(name) % 2
            chain[index], heads[bucket] = heads[bucket], index
        return struct.pack(f"<II2I{count}I", 2, count, *heads, *chain)
    hashes = [gnu_hash(name) for name in names]
    values = [value & ~1 for value in hashes]
    if values:
        values[-1] |= 1
    first = 1 if names else 0
    return struct.pack(f"<4IQI{len(values)}I", 1, 1, 1, 6, 2**64 - 1, first, *values)


def build_elf(
    *,
    machine: int = 62,
    kind: int = 3,
    style: str = "lea",
    magic: bytes | None = None,
    needed: Sequence[str] = (),
    soname: str | None = None,
    symbols: Sequence[bytes] | None = None,
    table: str = "gnu",
    texts: Sequence[bytes] = (),
    packed: bool = False,
) -> bytes:
    """Return a 64-bit little-endian shared object of 4 KiB, mapped at address 0.

    With *magic* it is a module: ``Pg_magic_func`` returns the address of those bytes. *texts* are
    the module's name and version, to which relocations lead, or *packed* ones.
    """
    names = list(symbols or ()) + ([b"Pg_magic_func"] if magic is not None else [])
    strings = bytearray(b"\0")
    places: dict[bytes, int] = {}
    for text in [*(name.encode() for name in needed), (soname or "").encode(), *names]:
        places[text] = len(strings)
        strings += text + b"\0"
    getter = _GETTERS[style]
    entries = b"".join(
        struct.pack("<IBBHQQ", places[name], 0x12, 0, 1, CODE, len(getter)) for name in names
    )
    image = bytearray(4096)

    def put(at: int, content: bytes) -> None:
        image[at : at + len(content)] = content

    put(0, b"\x7fELF\x02\x01\x01".ljust(16, b"\0"))
    put(16, struct.pack("<HHIQQQIHHHHHH", kind, machine, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0))
    tags = [(1, places[name.encode()]) for name in needed]
    tags += [(14, places[soname.encode()])] if soname else []
    tags += [(5, 0x800), (10, len(strings)), (6, 0x200), (7, 0xE00)]
    tags += [(8, 24), (36, 0xE80), (35, 16)] if packed else [(8, 24 + 24 * len(texts))]
    tags += [(0x6FFFFEF5 if table == "gnu" else 4, 0x300)] if table else []
    dynamic = b"".join(struct.pack("<QQ", *tag) for tag in [*tags, (0, 0)])
    put(64, struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, 4096, 4096, 4096))
    put(120, struct.pack("<IIQQQQQQ", 2, 6, 0xC00, 0xC00, 0, len(dynamic), len(dynamic), 8))
    put(0x200, bytes(24) + entries)
    put(0x300, _hash_table(table, names) if table else b"")
    put(CODE, getter)
    put(DATA, magic or b"")
    put(0x800, bytes(strings))
    put(0xC00, dynamic)
    relative = 1027 if machine == 183 else 8
    put(0xE00, struct.pack("<QQq", SLOT, relative, DATA))
    for index, content in enumerate(texts):
        slot, place = DATA + 56 + 8 * index, TEXT + 64 * index
        put(place, content)
        if packed:
            put(slot, struct.pack("<Q", place))
        else:
            put(0xE18 + 24 * index, struct.pack("<QQq", slot, relative, place))
    if packed:
        # The first slot, and a bitmap of those after it: one more.
        put(0xE80, struct.pack("<QQ", DATA + 56, 0b11))
    return bytes(image)


@pytest.fixture(scope="session")
def elf() -> Callable[..., bytes]:
    """Return the maker of shared objects."""
    return build_elf


@pytest.fixture(scope="session")
def magic_block() -> Callable[..., bytes]:
    """Return the maker of magic blocks."""
    return magic_bytes


@pytest.fixture(scope="session")
def module() -> bytes:
    """Return a module that fits the server."""
    return build_elf(magic=magic_bytes(), needed=["libc.so.6"])


@pytest.fixture
def server() -> ServerFacts:
    """Return the server that the samples are made for."""
    return ServerFacts(major=18, machine="x86_64")


@pytest.fixture(scope="session")
def settings() -> Callable[..., Settings]:
    """Return a maker of settings: ``settings(preload=[…], parameters={…}, volumes=[…], …)``."""

    def make(
        *,
        preload: Sequence[str] = (),
        parameters: Mapping[str, str] | None = None,
        **extensions: Any,
    ) -> Settings:
        postgres = {
            "shared_preload_libraries": list(preload),
            "parameters": dict(parameters or {}),
        }
        return Settings.model_validate({"postgres": postgres, "extensions": extensions})

    return make


MakeVolume = Callable[..., Path]


@pytest.fixture
def volume(tmp_path: Path) -> MakeVolume:
    """Return a maker of volumes on disk: ``volume(name, {path: content, …})``.

    A content is bytes or text; a path that ends with a slash is a directory.
    """

    def make(name: str, files: Mapping[str, bytes | str]) -> Path:
        place = tmp_path / "extensions" / name
        place.mkdir(parents=True)
        for relative, content in files.items():
            target = place / relative
            if relative.endswith("/"):
                target.mkdir(parents=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.encode() if isinstance(content, str) else content)
        return place

    return make


BLOCK = MagicBlock(72, 1800, 100, 32, 64, 1, "PostgreSQL")


@pytest.fixture(scope="session")
def library_facts() -> Callable[..., LibraryFacts]:
    """Return a maker of libraries: a module that fits, unless told otherwise."""

    def make(path: str, **changes: Any) -> LibraryFacts:
        directory, _, name = path.rpartition("/")
        facts = LibraryFacts(
            directory, name, machine="x86_64", bits=64, magic=Magic(is_module=True, block=BLOCK)
        )
        return facts._replace(**changes)

    return make


@pytest.fixture(scope="session")
def volume_facts(library_facts: Callable[..., LibraryFacts]) -> Callable[..., VolumeFacts]:
    """Return a maker of volumes that are fine: one extension and one module of the same name."""

    def make(name: str, extension: str | None = "sample", **changes: Any) -> VolumeFacts:
        controls: tuple[ControlFacts, ...] = ()
        libraries: tuple[LibraryFacts, ...] = ()
        if extension is not None:
            content = f"default_version = '1.0'\nmodule_pathname = '$libdir/{extension}'"
            control = parse(content.encode())
            path = f"share/extension/{extension}.control"
            controls = (
                ControlFacts("share", extension, path, control, "share/extension", ("1.0",)),
            )
            libraries = (library_facts(f"lib/{extension}.so"),)
        facts = VolumeFacts(
            name,
            f"/extensions/{name}",
            paths=PathLists(("share",), ("lib",), ("system", "lib"), ()),
            controls=controls,
            libraries=libraries,
        )
        return facts._replace(**changes)

    return make
