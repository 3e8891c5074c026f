"""Whether the scripts of an extension ask for the library that its control file names.

Extensions of SQL alone, such as pgTAP, come with a ``module_pathname`` all the same. The server
writes it in place of ``MODULE_PATHNAME`` in a script (``execute_extension_script``, extension.c),
and some, PostGIS among them, are built with the library's own name there. Only reads, and only
where a library seems to be missing: scripts can be large.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from instance_manager.extensions.files import open_regular, read_at

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_MACRO: Final = b"MODULE_PATHNAME"
# A bare name is that of a library after these words only.
_OPERATOR: Final = re.compile(rb"(?i)\b(?:AS|LOAD)\s+\Z")
_LOOK_BACK_BYTES: Final = 64
_PIECE_BYTES: Final = 1 << 20
_OVERLAP_BYTES: Final = 1024
_MAXIMUM_BYTES: Final = 32 << 20
"""Of all scripts of an extension: what is larger is taken for one that asks."""


def asks_for_module(scripts: Iterable[Path], module: str) -> bool:
    """Say whether one of the scripts may name the library; true where that can't be read."""
    name = re.escape(module.encode("utf-8", "surrogateescape"))
    literal = re.compile(rb"'(\$libdir/)?" + name + rb"(?:\.so)?'")
    left = _MAXIMUM_BYTES
    try:
        for script in scripts:
            with open_regular(script) as (descriptor, size):
                # Before it is read: to take a large one for one that asks costs nothing.
                left -= size
                if left < 0 or _names(descriptor, size, literal):
                    return True
    # In doubt the library is missed: not to tell would leave a failure to the first call.
    except (OSError, ValueError):
        return True
    return False


def _names(descriptor: int, size: int, literal: re.Pattern[bytes]) -> bool:
    pieces = (
        read_at(descriptor, start, _PIECE_BYTES + _OVERLAP_BYTES)
        for start in range(0, size, _PIECE_BYTES)
    )
    # The fixed text first: it is found as fast as memory is read, and decides mostly.
    return any(_MACRO in piece or _has_library(piece, literal) for piece in pieces)


def _has_library(text: bytes, literal: re.Pattern[bytes]) -> bool:
    return any(
        # `$libdir/` stands before nothing but a library.
        match[1] or _OPERATOR.search(text, max(match.start() - _LOOK_BACK_BYTES, 0), match.start())
        for match in literal.finditer(text)
    )
