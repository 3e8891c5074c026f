"""What a module says of its own purpose: the symbols that it exports, and the words in its text.

Pure: it is given a shared object and reads from it, in pieces of bounded size.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from instance_manager.extensions.elf import ElfError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from instance_manager.extensions.elf import SharedObject

OUTPUT_PLUGIN: Final = "_PG_output_plugin_init"
"""What logical decoding calls in a plugin (``LoadOutputPlugin``, logical.c)."""
JIT_PROVIDER: Final = "_PG_jit_provider_init"
"""What the server calls in a provider of just-in-time compilation (``provider_init``, jit.c)."""

_ENTRY_POINTS: Final = (OUTPUT_PLUGIN, JIT_PROVIDER)
# Messages such as: x must be loaded via shared_preload_libraries; extension "x" must be preloaded.
_WORDS: Final = (b"shared_preload_libraries", b"must be preloaded")
# Not the symbol process_shared_preload_libraries_in_progress, which many modules merely ask.
_MESSAGE: Final = re.compile(rb"(?<!\w)(?:%b)(?!\w)" % b"|".join(_WORDS))
_PIECE_BYTES: Final = 1024 * 1024
_OVERLAP_BYTES: Final = max(map(len, _WORDS)) + 1
_MAXIMUM_BYTES: Final = 32 * 1024 * 1024


def entry_points(library: SharedObject) -> frozenset[str]:
    """Return which of the functions that the server looks for by name a module exports.

    Raises:
        ElfError: its tables are damaged.
    """
    return frozenset(name for name in _ENTRY_POINTS if library.find_symbol(name.encode()))


def speaks_of_preloading(library: SharedObject) -> bool:
    """Say whether the bytes that are mapped hold a message that a module must be preloaded."""
    return any(
        any(word in piece for word in _WORDS) and _MESSAGE.search(piece) is not None
        for piece in _pieces(library)
    )


def _pieces(library: SharedObject) -> Iterator[bytes]:
    """Yield what is mapped, in pieces that overlap by what a word may be cut at, and one byte."""
    left = _MAXIMUM_BYTES
    for address, _, size in library.segments:
        end = address + min(size, left)
        left -= end - address
        for start in range(address, end, _PIECE_BYTES):
            try:
                begin = max(address, start - 1)
                yield library.read(begin, min(end - begin, _PIECE_BYTES + _OVERLAP_BYTES))
            except ElfError:
                return
