from __future__ import annotations

from collections.abc import Callable

import pytest

from instance_manager.extensions.elf import SharedObject
from instance_manager.extensions.exploration import inspect
from instance_manager.extensions.signals import (
    JIT_PROVIDER,
    OUTPUT_PLUGIN,
    entry_points,
    speaks_of_preloading,
)

MakeElf = Callable[..., bytes]
PLACE = 0xF00
"""Where the samples have room for text."""


def _with(image: bytes, text: bytes) -> SharedObject:
    return SharedObject(image[:PLACE] + text + image[PLACE + len(text) :])


def test_the_functions_that_the_server_looks_for_are_seen(elf: MakeElf) -> None:
    """Others are not its business."""
    symbols = [OUTPUT_PLUGIN.encode(), JIT_PROVIDER.encode(), b"_PG_init"]

    assert entry_points(SharedObject(elf(symbols=symbols))) == {OUTPUT_PLUGIN, JIT_PROVIDER}
    assert entry_points(SharedObject(elf(symbols=symbols[2:]))) == frozenset()


@pytest.mark.parametrize(
    ("text", "speaks"),
    [
        (b"pgaudit must be loaded via shared_preload_libraries\0", True),
        (b'extension "%s" must be preloaded\0', True),
        (b"process_shared_preload_libraries_in_progress\0", False),
        (b"shared_preload_librarie\0", False),
        (b"\0", False),
    ],
)
def test_a_message_about_preloading_is_seen(elf: MakeElf, text: bytes, *, speaks: bool) -> None:
    """The name of a symbol is none: many modules ask, and work without."""
    assert speaks_of_preloading(_with(elf(), text)) is speaks


def test_a_message_across_two_pieces_is_seen_too(elf: MakeElf) -> None:
    """A module is read in pieces, so that a large one costs no more memory."""
    size = 3 * 1024 * 1024
    image = bytearray(elf()) + bytes(size)
    image[64 + 32 : 64 + 48] = len(image).to_bytes(8, "little") * 2
    word = b"shared_preload_libraries"
    for place in range(1024 * 1024 - len(word), 1024 * 1024 + 2):
        sample = bytes(image[:place]) + word + bytes(image[place + len(word) :])
        assert speaks_of_preloading(SharedObject(sample)), place


def test_only_modules_are_asked(elf: MakeElf, magic_block: Callable[..., bytes]) -> None:
    """What a third-party library exports or says means nothing to the server."""
    symbols = [OUTPUT_PLUGIN.encode()]
    module = inspect(elf(magic=magic_block(), symbols=symbols), wants_magic=True)
    library = inspect(elf(symbols=symbols), wants_magic=True)

    assert module.entry_points == {OUTPUT_PLUGIN}
    assert library.entry_points == frozenset()
