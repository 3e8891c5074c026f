"""Names and paths: which may become part of a search path, and how such lists are put together.

Pure. A search path is text with a separator, so one wrong character in one name changes what the
server or the loader looks at. An empty element means the current directory to the loader, an error
to ``dynamic_library_path``, and ``/extension`` to ``extension_control_path``.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_VOLUME_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9_]*[a-z0-9])?", re.ASCII)
_MAXIMUM_VOLUME_NAME: Final = 59
# ld.so(8) splits LD_LIBRARY_PATH at colons and semicolons, and expands what follows a dollar.
_SEPARATING: Final = frozenset(":;$")


def is_volume_name(name: str) -> bool:
    """Say whether a directory of this name can be a volume."""
    return len(name) <= _MAXIMUM_VOLUME_NAME and _VOLUME_NAME.fullmatch(name) is not None


def is_searchable(text: str) -> bool:
    """Say whether *text* can stand in every search path as it is."""
    return bool(text) and text.isprintable() and _SEPARATING.isdisjoint(text)


def inner_path(text: str) -> str | None:
    """Return a path inside a volume in its shortest form, ``.`` for the volume itself.

    None where it is empty, absolute, leads out with ``..``, or can't be searched.
    """
    path = PurePosixPath(text)
    if not is_searchable(text) or path.is_absolute() or ".." in path.parts:
        return None
    return str(path)


def display(text: str) -> str:
    """Return a name from the file system as text that can be printed and written as JSON."""
    if text.isascii():
        return text
    # Bytes that are not UTF-8 come from the file system as lone surrogates.
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def join_search_path(*lists: Iterable[str]) -> str:
    """Return the elements as one search path: the first of equals stays, empty ones go."""
    return ":".join(dict.fromkeys(element for part in lists for element in part if element))


def split_search_path(text: str | None) -> tuple[str, ...]:
    """Return the elements of a search path, without empty ones."""
    return tuple(element for element in (text or "").split(":") if element)


def bare_name(library: str) -> str:
    """Return the name under which the server searches for a library; a path stays as it is.

    ``$libdir/`` goes, because it is not stripped from a library that is loaded at the start
    (``load_file``, dfmgr.c), where it would mean the server's own directory alone.
    """
    name = library.strip().removeprefix("$libdir/")
    return library.strip() if "/" in name else name.removesuffix(".so")
