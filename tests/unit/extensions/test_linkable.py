from __future__ import annotations

import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instance_manager.extensions.elf import ElfError
from instance_manager.extensions.linkable import VersionNeed, read_linkable, read_symbols
from tests.support.made_objects import make_object

WHOLE: Mapping[str, Any] = {
    "machine": "x86_64",
    "needed": ["liba.so.1", "libc.so.6"],
    "soname": "libm.so",
    "rpath": "/a",
    "runpath": "$ORIGIN",
    "flags_1": 0x800,
    "interpreter": "/lib/ld.so",
    "wants": ["one", "two"],
    "weak": ["three"],
    "exports": ["four"],
    "needs": {"liba.so.1": ["A_1", "A_2"]},
    "weak_needs": {"libc.so.6": ["C_1"]},
    "versions": ["M_1"],
    "build_id": b"\xab" * 20,
}


def test_all_that_the_loader_takes_is_read() -> None:
    """Names, paths, versions, and how it is to be treated."""
    linkable = read_linkable(make_object(**WHOLE))

    assert linkable._asdict() == {
        "machine": "x86_64",
        "is_program": False,
        "soname": "libm.so",
        "needed": ("liba.so.1", "libc.so.6"),
        "rpath": "/a",
        "runpath": "$ORIGIN",
        "no_default_libraries": True,
        "interpreter": "/lib/ld.so",
        "version_needs": (
            VersionNeed("liba.so.1", "A_1", weak=False),
            VersionNeed("liba.so.1", "A_2", weak=False),
            VersionNeed("libc.so.6", "C_1", weak=True),
        ),
        "versions": frozenset({"libm.so", "M_1"}),
        "build_id": "ab" * 20,
    }


def test_symbols_are_those_wanted_and_those_defined() -> None:
    """A weak one may lack."""
    symbols = read_symbols(make_object(**WHOLE))

    assert symbols.undefined == (b"one", b"two")
    assert symbols.defines([b"one", b"three", b"four", b"five"]) == {b"four"}


@pytest.mark.parametrize(("kind", "flags"), [(2, 0), (3, 0x08000000)])
def test_a_program_is_known_as_one(kind: int, flags: int) -> None:
    """The loader starts from one, and loads none as a library."""
    assert read_linkable(make_object(machine="x86_64", kind=kind, flags_1=flags)).is_program


def test_a_chain_of_versions_that_leads_back_is_an_error() -> None:
    """The loader itself would never end."""
    image = make_object(machine="x86_64", needs={"liba.so.1": ["A_1"]})
    last = struct.pack("<HHI", 1, 1, 1)
    at = image.index(last)
    cyclic = image[: at + 8] + struct.pack("<II", 16, 2**32 - 16) + image[at + 16 :]

    with pytest.raises(ElfError):
        read_linkable(cyclic)


@pytest.mark.parametrize("tag", [0x6FFFFFFE, 0x6FFFFFFC, 5, 6, 4])
@pytest.mark.parametrize("value", [0, 0x7F0, 2**40, 2**64 - 8])
def test_a_table_at_a_wrong_place_is_an_error_or_nonsense(tag: int, value: int) -> None:
    """Whatever it is read as, nothing but an ElfError comes of it."""
    image = make_object(**WHOLE)
    entry = image.index(struct.pack("<Q", tag), 0x100)
    moved = image[: entry + 8] + struct.pack("<Q", value) + image[entry + 16 :]
    for read in (read_linkable, read_symbols):
        with suppress(ElfError):
            read(moved)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_no_bytes_raise_anything_else(data: st.DataObject) -> None:
    """Spans of an object are overwritten with anything, or it is cut."""
    image = bytearray(make_object(**WHOLE))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 1400))
        span = data.draw(st.binary(min_size=1, max_size=16))
        image[at : at + len(span)] = span
    cut = bytes(image[: data.draw(st.integers(0, len(image)))])
    for content in (bytes(image), cut):
        for read in (read_linkable, read_symbols):
            with suppress(ElfError):
                read(content)
