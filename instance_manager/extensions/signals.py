"""What a module says of its own purpose: the symbols that it exports, and the words in its text.

Pure: it is given a shared object and reads from it, in pieces of bounded size.
"""

from __future__ import annotations

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
# A word of both is searched for first: most modules have it nowhere.
_COMMON: Final = b"preload"
_WORDS: Final = (b"shared_preload_libraries", b"must be preloaded")
_PIECE_BYTES: Final = 1024 * 1024
_NAME: Final = frozenset(b"_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_OVERLAP_BYTES: Final = max(map(len, _WORDS)) + 1
_MAXIMUM_BYTES: Final = 32 * 1024 * 1024


def entry_points(library: SharedObject) -> frozenset[str]:
    """Return which of the functions that the server looks for by name a module exports.

    A table in which they can't be looked for has none: what is wrong with it is seen elsewhere.
    """
    return frozenset(name for name in _ENTRY_POINTS if _exports(library, name))


def _exports(library: SharedObject, name: str) -> bool:
    try:
        return library.find_symbol(name.encode()) is not None
    except ElfError:
        return False


def speaks_of_preloading(library: SharedObject) -> bool:
    """Say whether the bytes that are mapped hold a message that a module must be preloaded."""
    return any(
        _COMMON in piece and any(_has_word(piece, word) for word in _WORDS)
        for piece in _pieces(library)
    )


def _has_word(piece: bytes, word: bytes) -> bool:
    """Say whether a word stands there by itself, and not in a longer name.

    Many modules ask ``process_shared_preload_libraries_in_progress``, and work without.
    """
    start = piece.find(word)
    while start >= 0:
        around = (
            piece[max(start - 1, 0) : start] + piece[start + len(word) : start + len(word) + 1]
        )
        if not any(character in _NAME for character in around):
            return True
        start = piece.find(word, start + 1)
    return False


def _pieces(library: SharedObject) -> Iterator[bytes]:
    """Yield what is mapped, in pieces that overlap by what a word may be cut at, and one byte."""
    left = _MAXIMUM_BYTES
    for address, _, size in library.segments:
        end = address + min(size, left)
        left -= end - address
        for start in range(address, end, _PIECE_BYTES):
            try:
                # One byte before, to see whether a word begins there or a longer name goes on.
                begin = max(address, start - 1)
                yield library.read(begin, min(end - begin, _PIECE_BYTES + _OVERLAP_BYTES))
            except ElfError:
                return
