"""Whether the scripts of an extension ask for the library that its control file names.

Extensions of SQL alone, such as pgTAP, come with a ``module_pathname`` all the same. It is only
what the server writes in place of ``MODULE_PATHNAME`` in a script (``execute_extension_script``,
extension.c). Only reads, and only where a library seems to be missing: scripts can be large.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from instance_manager.extensions.files import open_regular, read_at

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_MACRO: Final = b"MODULE_PATHNAME"
_PIECE_BYTES: Final = 1 << 20
_MAXIMUM_BYTES: Final = 32 << 20
"""Of all scripts of an extension: what is larger is taken for one that asks."""


def asks_for_module(scripts: Iterable[Path]) -> bool:
    """Say whether one of the scripts may name the library; true where that can't be read."""
    left = _MAXIMUM_BYTES
    try:
        for script in scripts:
            with open_regular(script) as (descriptor, size):
                left -= size
                if left < 0 or _holds_macro(descriptor, size):
                    return True
    except (OSError, ValueError):
        return True
    return False


def _holds_macro(descriptor: int, size: int) -> bool:
    return any(
        _MACRO in read_at(descriptor, start, _PIECE_BYTES + len(_MACRO))
        for start in range(0, size, _PIECE_BYTES)
    )
