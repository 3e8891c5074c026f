from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from instance_manager.extensions import machines
from instance_manager.extensions.ld_cache import choose, parse

HWCAPS = 1 << 62


def _cache(*entries: tuple[str, str, int, int], levels: tuple[str, ...] = ()) -> bytes:
    """Return a cache of entries of name, path, flags and hwcaps."""
    head = 48 + 24 * len(entries)
    strings, table = bytearray(), b""

    def place(text: str) -> int:
        strings.extend(text.encode() + b"\0")
        return head + len(strings) - len(text) - 1

    for name, path, flags, hwcaps in entries:
        table += struct.pack("<iIIIQ", flags, place(name), place(path), 0, hwcaps)
    names = struct.pack(f"<{len(levels)}I", *map(place, levels))
    extension = head + len(strings)
    tail = struct.pack("<IIIIII", 0xEAA42174, 1, 1, 0, extension + 24, len(names)) + names
    magic = b"glibc-ld.so.cache1.1"
    header = struct.pack(
        "<20sIIB3xI12x", magic, len(entries), len(strings), 2, extension if levels else 0
    )
    return header + table + bytes(strings) + (tail if levels else b"")


def test_the_entry_of_the_machine_is_taken() -> None:
    """A cache may hold libraries of other classes under the same name."""
    cache = parse(_cache(("a.so", "/32/a.so", 3, 0), ("a.so", "/64/a.so", 0x303, 0)))

    assert choose(cache, "a.so", 0x303, ()) == "/64/a.so"
    assert choose(cache, "b.so", 0x303, ()) is None


def test_the_best_level_of_the_processor_is_taken() -> None:
    """Levels that it lacks, and hardware bits of old loaders, are passed over."""
    cache = parse(
        _cache(
            ("a.so", "/v4", 0x303, HWCAPS),
            ("a.so", "/v3", 0x303, HWCAPS | 1),
            ("a.so", "/old", 0x303, 5),
            ("a.so", "/beyond", 0x303, HWCAPS | 9),
            ("a.so", "/plain", 0x303, 0),
            levels=("x86-64-v4", "x86-64-v3"),
        )
    )

    assert choose(cache, "a.so", 0x303, ("x86-64-v4", "x86-64-v3")) == "/v4"
    assert choose(cache, "a.so", 0x303, ("x86-64-v3", "x86-64-v2")) == "/v3"
    assert choose(cache, "a.so", 0x303, ()) == "/plain"


def test_a_cache_behind_one_of_the_old_format_is_found() -> None:
    """Older ldconfigs write both."""
    old = b"ld.so-1.7.0\0" + struct.pack("<I", 0)

    assert "a.so" in parse(old + _cache(("a.so", "/a.so", 0x303, 0)))


@given(st.binary(max_size=300), st.integers(0, 200), st.binary(max_size=20))
def test_a_damaged_cache_is_none_or_another_one(content: bytes, at: int, span: bytes) -> None:
    """The loader, too, goes on without it."""
    whole = bytearray(_cache(("a.so", "/a", 0x303, HWCAPS), levels=("x86-64-v3",)))
    whole[at : at + len(span)] = span
    for cache in (content, bytes(whole), bytes(whole[:at])):
        for entries in parse(cache).values():
            assert entries


def test_a_processor_has_a_level_and_all_below_it() -> None:
    """One that lacks the second has no use for the third."""
    machine = machines.MACHINES["x86_64"]
    second = machine.levels[2][1].split()
    third, fourth = machine.levels[1][1].split(), machine.levels[0][1].split()

    assert machines.hwcaps(machine, second) == ("x86-64-v2",)
    assert machines.hwcaps(machine, [*second, *third]) == ("x86-64-v3", "x86-64-v2")
    assert machines.hwcaps(machine, [*second, *fourth]) == ("x86-64-v2",)
    assert machines.hwcaps(machine, third) == ()
    assert machines.hwcaps(machines.MACHINES["aarch64"], second) == ()


def test_the_default_directories_are_read_from_the_loader() -> None:
    """Distributions build it with different ones."""
    debian = b"\0/lib/x86_64-linux-gnu/\0/usr/lib/x86_64-linux-gnu/\0/lib/\0/usr/lib/\0x"

    assert machines.default_directories(b"/proc/\0x" + debian) == (
        *("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib", "/usr/lib"),
    )
    assert machines.default_directories(b"\0/lib64/\0/usr/lib64/\0") == ("/lib64", "/usr/lib64")
    assert machines.default_directories(b"/usr/lib/\0") == ()
