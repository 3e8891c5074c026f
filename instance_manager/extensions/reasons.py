"""Why a finding matters: what would happen, or could, if nothing is done. For people. Pure."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from instance_manager.extensions.findings import RULES, Code

if TYPE_CHECKING:
    from collections.abc import Mapping

_VIEW_FAILS: Final = "every query on pg_available_extensions would fail, for all extensions"
_CANNOT_LOAD: Final = "the server can't load it, and what needs it fails at the first use"
_BROKEN_START: Final = "the server would end at its start, and at each try after that"

WHY: Final[Mapping[Code, str]] = MappingProxyType(
    {
        Code.NOT_A_MOUNT: "an image that was not mounted looks like this: an empty place is left",
        Code.EMPTY: "the server can use nothing of it, which is hardly what it was mounted for",
        Code.WRITABLE: "whoever can write there runs code in the server",
        Code.NOEXEC: "the loader can't map a library from there",
        Code.BAD_NAME: "the name becomes part of search paths, which it would split",
        Code.UNREADABLE: "the server runs as the same user, and can't read it either",
        Code.SERVER_TOO_OLD: "an unknown parameter would keep the server from starting",
        Code.ABSENT: "whatever uses its extensions fails until it is mounted",
        Code.REQUIRED_ABSENT: "the settings say that the server is of no use without it",
        Code.DANGLING_LINK: "the server stops at a link that leads nowhere: for a control file, "
        + _VIEW_FAILS,
        Code.LINK_ESCAPE: "what it leads to is not part of the image, and may differ elsewhere",
        Code.CONTROL_SYNTAX: _VIEW_FAILS,
        Code.NO_DEFAULT_SCRIPT: "CREATE EXTENSION without a version fails",
        Code.SCRIPT_DIRECTORY: "queries on pg_available_extension_versions fail, for all"
        " extensions",
        Code.REQUIRES: "CREATE EXTENSION fails, with CASCADE too",
        Code.DUPLICATE: "only the first one counts, with all of its versions; the rest is hidden",
        Code.SHADOWED: "the server's own directory comes first, so this copy is never used",
        Code.TRUSTED: "its script runs with the rights of the superuser",
        Code.LOAD_LIBDIR: "LOAD searches that directory alone, and no volume",
        Code.NESTED_LIBDIR: "such a name is searched in the server's own directory alone",
        Code.MODULE_MISSING: "CREATE EXTENSION fails, and so does each function that exists",
        Code.MODULE_ELSEWHERE: "script and library may be of different versions",
        Code.SUFFIXLESS: "the server would try to load that file instead",
        Code.METADATA: "what the builder says of the image can't be relied on",
        Code.LIMIT: "what was not looked at was not proven",
        Code.BAD_PATH: "it would lead out of the volume, or split a search path",
        Code.PATH_MISSING: "what was meant to be found there is not",
        Code.CATALOGUE_DIFFERS: "another image than was meant may be mounted",
        Code.CATALOGUE_UNREAD: "a manager that is started with it ends at once, with 78",
        Code.ELF_INVALID: "to load a truncated library can crash the server",
        Code.MACHINE: _CANNOT_LOAD,
        Code.NO_MAGIC: _CANNOT_LOAD,
        Code.POSTGRES_MAJOR: _CANNOT_LOAD,
        Code.ABI: _CANNOT_LOAD,
        Code.MAGIC_UNKNOWN: "whether the module fits the server is seen only when it is loaded",
        Code.MISSING_LIBRARY: _CANNOT_LOAD,
        Code.SYMBOL_VERSION: _CANNOT_LOAD,
        Code.UNDEFINED_SYMBOL: _CANNOT_LOAD,
        Code.SHADOWS_SERVER: "the server itself, and all that it starts, would use this copy",
        Code.LIBRARY_CONFLICT: "both volumes get the one that is loaded first",
        Code.BAD_LIBRARY: "the loader stops at it, for whatever needs a library of that name",
        Code.NO_MODULES: "the server searches there for what it can't load as a module",
        Code.UNUSED_MISSING_LIBRARY: "the file can't be loaded; no extension is known to need it",
        Code.BREAKS_SERVER: _BROKEN_START,
        Code.PRELOAD_NEEDED: "without that, its functions fail, or do nothing",
        Code.PRELOAD_MISSING: _BROKEN_START,
        Code.PRELOAD_LIBDIR: "named so, it is searched in the server's own directory alone",
        Code.PRELOAD_ORDER: _BROKEN_START,
        Code.OUTPUT_PLUGIN: "logical decoding with it is refused, for superusers too",
        Code.LOCAL_PRELOAD: "every login would fail",
        Code.JIT: "the server searches its own directory alone, and goes on without it, silently",
        Code.PARAMETER_REFUSED: "a mount alone must not change how the server behaves",
        Code.ENVIRONMENT: "the server would run with another environment than one volume needs",
        Code.DATA_MISSING: "its functions fail or give worse results, though it can be loaded",
        Code.VANISHED: "queries in that database would fail, some with every statement",
        Code.UPDATE_AVAILABLE: "the database runs old SQL definitions with the new library",
        Code.NO_UPDATE_PATH: "the database keeps old SQL definitions with the new library",
        Code.SESSION_LIBRARY: "logins there fail; the server, and everybody else, are well",
        Code.REHEARSAL: _BROKEN_START,
        Code.LOADER_DISAGREES: "what was proven of the library may be wrong",
        Code.LIBRARY_REPLACED: "sessions that have loaded the old file go on with it",
    }
)
_KNOWN: Final = frozenset(map(str, WHY))


def why(code: str) -> str:
    """Return why a finding of this code matters; empty where nothing more can be said."""
    return WHY[Code(code)] if code in _KNOWN else ""


def title_of(code: str) -> str:
    """Return what findings of this code are about, in a few words; empty for an unknown one."""
    return RULES[Code(code)].title if code in _KNOWN else ""
