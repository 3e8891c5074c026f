"""Real modules, changed in one thing at a time by an edit of their bytes."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

from instance_manager.extensions.elf import SharedObject
from tests.support.manager import Manager

_DYNAMIC = 2
_LOAD = 1
_INIT, _INIT_ARRAY = 12, 25
_ILLEGAL = {"x86_64": b"\x0f\x0b", "aarch64": bytes(4)}[os.uname().machine]
_FUNCTIONS = {
    "x86_64": {
        # mov eax, 34 (pause); syscall; back to it
        "waits for ever": "b822000000 0f05 ebf7",
        # jmp to itself
        "loops for ever": "ebfe",
        # xor edi, edi or mov edi, 1; mov eax, 231 (exit_group); syscall
        "exits with 0": "31ff b8e7000000 0f05",
        "exits with 1": "bf01000000 b8e7000000 0f05",
        # mov eax, 57 (fork); syscall; test eax, eax; jz over the ret, to a pause for ever
        "leaves a process": "b839000000 0f05 85c0 7401 c3 b822000000 0f05 ebf7",
        # xor eax, eax; mov [rax], eax
        "writes to address 0": "31c0 8900",
    },
    "aarch64": {
        # ppoll(0, 0, 0, 0)
        "waits for ever": "000080d2 010080d2 020080d2 030080d2 280980d2 010000d4 faffff17",
        "loops for ever": "00000014",
        # exit_group
        "exits with 0": "000080d2 c80b80d2 010000d4",
        "exits with 1": "200080d2 c80b80d2 010000d4",
        # clone(SIGCHLD, 0, 0, 0, 0); cbz over the ret, to a ppoll for ever
        "leaves a process": "200280d2 010080d2 020080d2 030080d2 040080d2 881b80d2 010000d4"
        "400000b4 c0035fd6 000080d2 010080d2 020080d2 030080d2 280980d2 010000d4 faffff17",
        "writes to address 0": "000080d2 000000f9",
    },
}
"""What functions that end badly are made of, by what they do."""
FUNCTIONS = {name: bytes.fromhex(code) for name, code in _FUNCTIONS[os.uname().machine].items()}


def renamed(module: bytes, old: str, new: str) -> bytes:
    """Return a module that names *new* wherever it named *old*, which is not shorter."""
    assert len(new) <= len(old)
    wanted = b"\0" + old.encode() + b"\0"
    assert wanted in module, old
    return module.replace(wanted, b"\0" + new.encode().ljust(len(old), b"\0") + b"\0")


def without_library(module: bytes, name: str = "libgone.so.1") -> bytes:
    """Return a module that needs a library which is nowhere, in place of one that it needs."""
    needed = SharedObject(module).needed
    old = next(each for each in needed if len(each) >= 4)
    return renamed(module, old, name[: len(old)])


def with_fatal_code(module: bytes, function: str) -> bytes:
    """Return a module in which calling *function* is an illegal instruction."""
    return with_code(module, function, _ILLEGAL)


def with_code(module: bytes, function: str, code: bytes) -> bytes:
    """Return a module in which a function begins with other instructions."""
    symbol = SharedObject(module).find_symbol(function.encode())
    assert symbol is not None
    at = _offset(module, symbol.address)
    return module[:at] + code + module[at + len(code) :]


def for_postgres_17(module: bytes) -> bytes:
    """Return a module whose magic block is that of PostgreSQL 17, which is shorter."""
    ours, theirs = struct.pack("<iii", 72, 1800, 100), struct.pack("<iii", 56, 1700, 100)
    assert module.count(ours) == 1
    return module.replace(ours, theirs)


def for_another_machine(library: bytes) -> bytes:
    """Return an object whose header names the other of the two machines."""
    (machine,) = struct.unpack_from("<H", library, 18)
    return library[:18] + struct.pack("<H", {62: 183, 183: 62}[machine]) + library[20:]


def with_fatal_constructor(module: bytes) -> bytes:
    """Return a module whose first own code, which runs when it is loaded, is illegal."""
    image = bytearray(module)
    offset, size = _segment(module, _DYNAMIC)
    for at in range(offset, offset + size, 16):
        tag, value = struct.unpack_from("<qQ", module, at)
        if tag == _INIT:
            start = _offset(module, value)
            image[start : start + len(_ILLEGAL)] = _ILLEGAL
            return bytes(image)
    raise AssertionError("the module has no constructor")


def _segment(module: bytes, kind: int) -> tuple[int, int]:
    table, size, count = _header(module)
    for number in range(count):
        at = table + number * size
        if struct.unpack_from("<I", module, at)[0] == kind:
            return struct.unpack_from("<Q", module, at + 8)[0], struct.unpack_from(
                "<Q", module, at + 32
            )[0]
    raise AssertionError(f"no segment of type {kind}")


def _offset(module: bytes, address: int) -> int:
    table, size, count = _header(module)
    for number in range(count):
        at = table + number * size
        kind, _, offset, start, _, length = struct.unpack_from("<IIQQQQ", module, at)
        if kind == _LOAD and start <= address < start + length:
            return int(offset + address - start)
    raise AssertionError(f"no byte of the file is at {address:#x}")


def _header(module: bytes) -> tuple[int, int, int]:
    (table,) = struct.unpack_from("<Q", module, 32)
    size, count = struct.unpack_from("<HH", module, 54)
    return table, size, count


class Volumes:
    """An extensions root of a test's own, for one manager."""

    def __init__(self, manager: Manager) -> None:
        self.root = manager.directory / "volumes"
        self.root.mkdir()
        self._pgvector = manager.server.extensions / "pgvector"
        self.libraries = manager.server.bin_directory.parent / "lib"
        manager.settings["extensions"]["root"] = str(self.root)

    def pgvector(self) -> Path:
        """Make the volume pgvector and return its module."""
        shutil.copytree(self._pgvector, self.root / "pgvector")
        return self.root / "pgvector" / "lib" / "vector.so"

    def vector(self) -> bytes:
        """Return pgvector's own module."""
        return (self._pgvector / "lib" / "vector.so").read_bytes()

    def module(self, name: str, content: bytes, *, is_asked_for: bool = True) -> Path:
        """Make a volume with one module, and an extension that asks for it, and return that."""
        path = self.root / name / "lib" / f"{name}.so"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        if is_asked_for:
            self.control(name, f"module_pathname = '$libdir/{name}'\n")
        return path

    def control(self, name: str, more: str = "") -> Path:
        """Give a volume a control file and a script, and return the control file."""
        directory = self.root / name / "share" / "extension"
        directory.mkdir(parents=True)
        (directory / f"{name}--1.0.sql").write_text("select 1;")
        path = directory / f"{name}.control"
        path.write_text(f"default_version = '1.0'\n{more}")
        return path
