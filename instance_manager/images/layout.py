"""Where a package's file goes in a volume, and what does not go there.

Pure: paths and bytes in, paths and bytes out. Paths are those of a root, without a slash before.
"""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

_PLACES: Final = (
    (re.compile(r"usr/lib/postgresql/(\d+)/lib/(.+)"), r"lib/\2"),
    (re.compile(r"usr/lib/postgresql/(\d+)/bin/(.+)"), r"bin/\2"),
    (re.compile(r"usr/share/postgresql/(\d+)/(.+)"), r"share/\2"),
)
_LEFT_OUT: Final = (
    (re.compile(r"usr/lib/postgresql/\d+/lib/bitcode/.+"), "bitcode, which no volume can offer"),
    (re.compile(r"usr/lib/postgresql/\d+/lib/pgxs/.+|.+\.a"), "what only builds need"),
    (re.compile(r"usr/include/.+"), "headers"),
    (re.compile(r"usr/share/postgresql/\d+/man/.+|usr/share/(man|info|doc-base)/.+"), "manuals"),
    (re.compile(r"usr/share/doc/[^/]+/(?!copyright$).+|usr/share/doc/(?!.*/).*"), "documents"),
    (
        re.compile(r"usr/share/postgresql/\d+/contrib/.+"),
        "scripts for databases without CREATE EXTENSION",
    ),
    (re.compile(r"usr/share/(locale|postgresql/\d+/locale)/.+"), "translations"),
    (re.compile(r"usr/share/(lintian|bug|doc/.+)(/.*)?"), ""),
)
_LOAD: Final = re.compile(rb"(\bLOAD\s+'+)\$libdir/(?=[^'/\s]+')", re.IGNORECASE)
_TREE_MODULE: Final = re.compile(r"(?:.*/)?lib(?:64)?/(?:.*/)?([^/]+\.so)")
_TREE_SHARE: Final = re.compile(
    r"(?:.*/)?share/(?:postgresql/)?(?:\d+/)?((?:extension|tsearch_data)/.+)"
)
_TREE_BIN: Final = re.compile(r"(?:.*/)?bin/([^/]+)")
_TREE_NOT: Final = re.compile(r"(?:.*/)?(?:bitcode|pgxs|include|doc|man|locale)/.+")
_TREE_LICENCE: Final = re.compile(r"(?i:(?:COPYING|LICEN[CS]E|COPYRIGHT)[^/]*)")


class Placed(NamedTuple):
    """Where a file goes; *place* is empty for what is left out, with a *reason* if it matters."""

    place: str = ""
    reason: str = ""


def place_of(path: str, major: int) -> Placed:
    """Return where a file of the extension's package goes, for this PostgreSQL."""
    # First what is left out: its patterns lie within those of the places.
    for pattern, reason in _LEFT_OUT:
        if pattern.fullmatch(path):
            return Placed(reason=reason)
    for pattern, place in _PLACES:
        match = pattern.fullmatch(path)
        if match:
            its = int(match[1])
            return Placed(match.expand(place)) if its == major else Placed(reason=_other(its))
    if re.fullmatch(r"usr/share/doc/[^/]+/copyright", path):
        return Placed()  # licences are taken of all packages that give something
    return Placed(reason="files outside of PostgreSQL's directories")


def _other(major: int) -> str:
    return f"files for PostgreSQL {major}"


def place_in_tree(path: str) -> Placed:
    """Return where a file goes that was installed into a directory, under any prefix."""
    # As in packages: bitcode and documents lie below share and lib, too.
    if _TREE_NOT.fullmatch(path):
        return Placed(reason="bitcode, headers and documents")
    if match := _TREE_SHARE.fullmatch(path):
        return Placed(f"share/{match[1]}")
    if match := _TREE_MODULE.fullmatch(path):
        return Placed(f"lib/{match[1]}")
    if match := _TREE_BIN.fullmatch(path):
        return Placed(f"bin/{match[1]}")
    if _TREE_LICENCE.fullmatch(path):
        return Placed(f"licenses/{path}")
    return Placed(reason="files outside of PostgreSQL's directories")


def without(where: Placed, excluded: Sequence[str]) -> Placed:
    """Return where a file goes: nowhere if one of the patterns is of its place."""
    if any(fnmatch.fnmatchcase(where.place, pattern) for pattern in excluded):
        return Placed(reason="what --exclude names")
    return where


def is_of_an_extension(path: str) -> bool:
    """Say whether a path makes the package that has it an extension's."""
    return bool(
        re.fullmatch(r"usr/share/postgresql/\d+/extension/[^/]+\.control", path)
        or re.fullmatch(r"usr/lib/postgresql/\d+/lib/[^/]+\.so", path)
    )


def rewrite_script(content: bytes) -> tuple[bytes, int]:
    """Return a script that finds in a volume what it loads, and in how many places it differs.

    ``LOAD '$libdir/x'`` never looks along ``dynamic_library_path``; ``LOAD 'x'`` does.
    """
    return _LOAD.subn(rb"\1", content)
