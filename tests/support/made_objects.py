"""Shared objects and programs made byte by byte, such as the real dynamic loader accepts."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence

from instance_manager.extensions.elf import system_v_hash
from instance_manager.extensions.machines import MACHINES

NUMBERS = {"x86_64": 62, "aarch64": 183, "riscv64": 243}
_ABSOLUTE = {62: 1, 183: 257, 243: 2}
_PAGE = 0x1000
HOST = os.uname().machine


def interpreter(machine: str = HOST) -> str:
    """Return the path of the loader that a program of a machine names."""
    directory = "/lib64" if machine == "x86_64" else "/lib"
    return f"{directory}/{MACHINES[machine].loader}"


class _Strings:
    def __init__(self) -> None:
        self.content = bytearray(b"\0")

    def add(self, text: str) -> int:
        place = len(self.content)
        self.content += text.encode() + b"\0"
        return place


def make_object(
    *,
    machine: str = HOST,
    kind: int = 3,
    needed: Sequence[str] = (),
    soname: str | None = None,
    rpath: str | None = None,
    runpath: str | None = None,
    flags_1: int = 0,
    interpreter: str | None = None,
    wants: Sequence[str] = (),
    weak: Sequence[str] = (),
    exports: Sequence[str] = (),
    needs: Mapping[str, Sequence[str]] | None = None,
    weak_needs: Mapping[str, Sequence[str]] | None = None,
    versions: Sequence[str] = (),
    build_id: bytes | None = None,
    earlier: Sequence[tuple[int, int | str]] = (),
) -> bytes:
    """Return a 64-bit little-endian object, mapped at address 0 by one segment.

    It has a relocation for each of *wants* and *weak*, defines *exports*, wants the versions
    *needs* of files, and defines *versions*. *earlier* tags stand before all others; a text
    stands for its place in the table of names.
    """
    number, strings = NUMBERS[machine], _Strings()
    tags = [
        (tag, strings.add(value) if isinstance(value, str) else value) for tag, value in earlier
    ]
    tags += [(1, strings.add(name)) for name in needed]
    for tag, text in ((14, soname), (15, rpath), (29, runpath)):
        tags += [(tag, strings.add(text))] if text is not None else []
    tags += [(0x6FFFFFFB, flags_1)] if flags_1 else []
    names = ["", *wants, *weak, *exports]
    parts = {
        "symbols": _symbol_table(wants, weak, exports, strings),
        "hash": _hash_table(names),
        "versym": struct.pack(f"<{len(names)}H", 0, *[1] * (len(names) - 1))
        if needs or weak_needs or versions
        else b"",
        "verneed": _version_needs(needs or {}, weak_needs or {}, strings),
        "verdef": _version_definitions([soname or "", *versions], strings) if versions else b"",
        "slots": bytes(8 * (len(wants) + len(weak))),
        "rela": bytes(24 * (len(wants) + len(weak))),
        "strings": bytes(strings.content),
        "interpreter": interpreter.encode() + b"\0" if interpreter else b"",
        "note": struct.pack("<III4s", 4, len(build_id), 3, b"GNU\0") + build_id
        if build_id
        else b"",
    }
    places, at = {}, 64 + 5 * 56
    for name, content in parts.items():
        places[name], at = at, at + len(content) + 15 & ~15
    parts["rela"] = b"".join(
        struct.pack("<QQq", places["slots"] + 8 * i, (i + 1) << 32 | _ABSOLUTE[number], 0)
        for i in range(len(wants) + len(weak))
    )
    counts = {0x6FFFFFFF: len(needs or {}) + len(weak_needs or {}), 8: len(parts["rela"])}
    counts[0x6FFFFFFD] = len(versions) + 1 if versions else 0
    tags += [(tag, count) for tag, count in counts.items() if count]
    tags += [(10, len(parts["strings"])), (11, 24), (9, 24)]
    tags += [(tag, places[name]) for name, tag in _TABLES.items() if parts[name]]
    parts["dynamic"] = b"".join(struct.pack("<QQ", *tag) for tag in [*tags, (0, 0)])
    places["dynamic"] = at
    return _assemble(number, kind, parts, places)


_TABLES = {
    "strings": 5,
    "symbols": 6,
    "hash": 4,
    "rela": 7,
    "versym": 0x6FFFFFF0,
    "verneed": 0x6FFFFFFE,
    "verdef": 0x6FFFFFFC,
}


def _assemble(
    number: int, kind: int, parts: Mapping[str, bytes], places: Mapping[str, int]
) -> bytes:
    size = places["dynamic"] + len(parts["dynamic"]) + _PAGE - 1 & -_PAGE
    headers = [(1, 7, 0, size), *_header(2, 6, "dynamic", places, parts)]
    headers += _header(3, 4, "interpreter", places, parts)
    headers += _header(4, 4, "note", places, parts)
    if parts["interpreter"]:
        # By it the loader finds out where the kernel mapped the program.
        headers.append((6, 4, 64, 56 * (len(headers) + 1)))
    # The table itself and the interpreter stand before the segment that holds them.
    headers.sort(key=lambda header: (6, 3).index(header[0]) if header[0] in {3, 6} else 2)
    image = bytearray(size)
    image[:16] = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    image[16:64] = struct.pack(
        "<HHIQQQIHHHHHH", kind, number, 1, 0, 64, 0, 0, 64, 56, len(headers), 0, 0, 0
    )
    for index, (type_, flags, offset, length) in enumerate(headers):
        struct.pack_into(
            "<IIQQQQQQ",
            image,
            64 + 56 * index,
            *(type_, flags, offset, offset, offset, length, length, _PAGE if type_ == 1 else 8),
        )
    for name, content in parts.items():
        image[places[name] : places[name] + len(content)] = content
    return bytes(image)


def _symbol_table(
    wants: Sequence[str], weak: Sequence[str], exports: Sequence[str], strings: _Strings
) -> bytes:
    entries = [bytes(24)]
    for names, info, section in ((wants, 0x10, 0), (weak, 0x20, 0), (exports, 0x12, 1)):
        entries += [
            struct.pack("<IBBHQQ", strings.add(name), info, 0, section, 64 * section, 8 * section)
            for name in names
        ]
    return b"".join(entries)


def _header(
    kind: int, flags: int, name: str, places: Mapping[str, int], parts: Mapping[str, bytes]
) -> list[tuple[int, int, int, int]]:
    return [(kind, flags, places[name], len(parts[name]))] if parts[name] else []


def _hash_table(names: Sequence[str]) -> bytes:
    """Return a ``DT_HASH`` with one bucket: each symbol leads to the next one."""
    count = len(names)
    chain = [*range(1, count), 0] if count > 1 else [0]
    chain[0] = 0
    return struct.pack(f"<III{count}I", 1, count, int(count > 1), *chain)


def _version_needs(
    strong: Mapping[str, Sequence[str]], weak: Mapping[str, Sequence[str]], strings: _Strings
) -> bytes:
    entries = [(file, versions, 0) for file, versions in strong.items()]
    entries += [(file, versions, 2) for file, versions in weak.items()]
    content, index = b"", 2
    for number, (file, versions, flags) in enumerate(entries):
        size = 16 + 16 * len(versions)
        is_last = number == len(entries) - 1
        content += struct.pack(
            "<HHIII", 1, len(versions), strings.add(file), 16, 0 if is_last else size
        )
        for position, version in enumerate(versions, start=1):
            following = 0 if position == len(versions) else 16
            hashed = system_v_hash(version.encode())
            content += struct.pack("<IHHII", hashed, flags, index, strings.add(version), following)
            index += 1
    return content


def _version_definitions(versions: Sequence[str], strings: _Strings) -> bytes:
    content = b""
    for index, version in enumerate(versions, start=1):
        following = 0 if index == len(versions) else 28
        hashed = system_v_hash(version.encode())
        content += struct.pack(
            "<HHHHIII", 1, int(index == 1), index, 1, hashed, 20, following
        ) + struct.pack("<II", strings.add(version), 0)
    return content
