"""What the dynamic loader itself says of a module: its trace, asked for and understood.

Pure. In its trace mode the loader maps the server with the module preloaded, resolves everything
at once as ``dlopen(RTLD_NOW)`` would, says what it found, and ends before any code of either has
run: neither constructors nor resolvers of indirect functions. Sources: ld.so(8); elf/rtld.c and
elf/dl-version.c of glibc.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, NamedTuple

from instance_manager.extensions.paths import display, is_searchable

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAXIMUM_OF_A_KIND: Final = 500
_MAXIMUM_TEXT: Final = 200
_NOT_FOUND: Final = " => not found"
_UNDEFINED: Final = "undefined symbol: "
_VERSION: Final = ": version `"
_VERSION_END: Final = "' not found (required by "
_NOT_PRELOADED: Final = " from LD_PRELOAD cannot be preloaded ("
_STOPPED: Final = ": error while loading shared libraries: "


class VersionNeed(NamedTuple):
    """*by* needs *version* of the library at *provider*, which has it not."""

    provider: str
    version: str
    by: str


class UndefinedSymbol(NamedTuple):
    """The file at *by* needs a symbol that nothing has."""

    name: str
    by: str


class Trace(NamedTuple):
    """What the loader made of one module; all texts can be printed.

    *resolved* are the libraries by the names that they were asked for under. *refusal* says why
    the loader does not load the module itself. *stop* says at which file, and why, it gave up
    altogether: then the rest is not known.
    """

    resolved: tuple[tuple[str, str], ...] = ()
    missing: tuple[str, ...] = ()
    versions: tuple[VersionNeed, ...] = ()
    undefined: tuple[UndefinedSymbol, ...] = ()
    refusal: str = ""
    stop: str = ""

    @property
    def is_clean(self) -> bool:
        """Whether the loader has nothing against it."""
        return not (self.missing or self.versions or self.undefined or self.refusal or self.stop)

    def takes_from(self, directory: str) -> bool:
        """Whether a file below the directory had a part in it: without that it may be another."""
        paths = [
            self.stop,
            *(path for _, path in self.resolved),
            *(path for each in self.versions for path in (each.by, each.provider)),
            *(each.by for each in self.undefined),
        ]
        return any(path.startswith(f"{directory}/") for path in paths)


def unaskable(module: str) -> str:
    """Return why the loader can't be asked of a file at this path; empty where it can.

    ``LD_PRELOAD`` is split at blanks and colons, and a ``$`` in it is expanded.
    """
    if not is_searchable(module) or " " in module:
        return "its path holds a character that LD_PRELOAD can't carry"
    return ""


def trace_variables(module: str, library_path: str) -> dict[str, str]:
    """Return what makes the loader trace a program with *module*; an empty one: by itself."""
    # Relocations are tried only with LD_WARN, and those of functions only with LD_BIND_NOW: as by
    # ldd -r.
    variables = {"LD_TRACE_LOADED_OBJECTS": "1", "LD_WARN": "yes", "LD_BIND_NOW": "1"}
    if module:
        variables["LD_PRELOAD"] = module
    if library_path:
        variables["LD_LIBRARY_PATH"] = library_path
    return variables


def parse(module: str, output: str, errors: str, ending: str) -> Trace | None:
    """Return what the loader said on its standard output and error.

    What stands in a file may be made to look like the loader's own words: so a name can accuse
    its own module of anything, but hide nothing.

    Args:
        module: the module's path, empty where the program was traced by itself.
        output: the loader's standard output.
        errors: its standard error.
        ending: how it ended, in words; empty where that was in order.

    Returns:
        None where this was no trace of that: another loader runs the program, or it was told not
        to take the module.
    """
    lines, said = output.split("\n"), errors.split("\n")
    mapped = tuple(filter(None, map(_mapped, lines)))
    missing = _some(_missing(line) for line in lines if line.endswith(_NOT_FOUND))
    refusal = next((_after(_NOT_PRELOADED, line) for line in said if _NOT_PRELOADED in line), "")
    stop = next((_after(_STOPPED, line) for line in said if _STOPPED in line), "")
    if ending and not stop and not missing:
        # Where a library is missing, the loader crashes over the versions that are wanted of it.
        last = next((line for line in reversed(said) if line.strip()), "")
        stop = printable(f"{ending}: {last}" if last else ending)
    if not (stop or refusal or any(not module or path == module for _, path in mapped)):
        return None
    return Trace(
        resolved=tuple((printable(name), printable(path)) for name, path in mapped if name),
        missing=tuple(name for (name,) in missing),
        versions=tuple(
            VersionNeed(*each)
            for each in _some(_version(line) for line in said if _VERSION in line)
        ),
        undefined=tuple(
            UndefinedSymbol(*each)
            for each in _some(_undefined(line) for line in said if line.startswith(_UNDEFINED))
        ),
        refusal=refusal.removesuffix("): ignored."),
        stop=stop,
    )


# Plain searches, each of one pass: a name may be a megabyte that was made to outwit a pattern. Of
# one that holds a newline, only a part is seen.


def _mapped(line: str) -> tuple[str, str] | None:
    """Return name and path of a file that was mapped; the name is empty for the module itself."""
    # From the right: the path may hold anything, the address stands at the end.
    text, address, _ = line.rpartition(" (0x")
    name, arrow, path = text.removeprefix("\t").partition(" => ")
    return ((name, path) if arrow else ("", name)) if address else None


def _missing(line: str) -> tuple[str, ...]:
    return (line.removeprefix("\t").removesuffix(_NOT_FOUND),)


def _undefined(line: str) -> tuple[str, ...]:
    # A tab stands before the file that wants the symbol.
    symbol, _, by = line.removeprefix(_UNDEFINED).partition("\t(")
    return symbol.partition(", version ")[0], by.removesuffix(")")


def _version(line: str) -> tuple[str, ...]:
    provider, _, rest = line.partition(_VERSION)
    version, _, by = rest.partition(_VERSION_END)
    return provider.rpartition(": ")[2], version, by.removesuffix(")")


def _after(marker: str, line: str) -> str:
    return printable(line.partition(marker)[2])


def printable(text: str) -> str:
    """Return a text of a file's as it can be shown: escaped, and cut where it is long."""
    cut = text[:_MAXIMUM_TEXT] + ("…" if len(text) > _MAXIMUM_TEXT else "")
    shown = display(cut)
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in shown
    )


def base_name(path: str) -> str:
    """Return the last part of a path."""
    return PurePosixPath(path).name


def _some(found: Iterable[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """Return the first of what was found, each once."""
    kept: dict[tuple[str, ...], None] = {}
    for each in found:
        # A module may lack thousands of symbols, and each would be kept as long as the trace.
        if len(kept) == _MAXIMUM_OF_A_KIND:
            break
        kept[tuple(map(printable, each))] = None
    return tuple(kept)
