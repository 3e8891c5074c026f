"""Data and programs that libraries look for when they run: no table of theirs names them.

Pure over a question: whoever calls it says how to find out whether something is there. What is
known of each library is written down here, each place as the library itself looks for it.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from instance_manager.extensions.findings import Code, finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from instance_manager.extensions.facts import LibraryFacts, VolumeFacts
    from instance_manager.extensions.library_search import IsThere
    from instance_manager.extensions.models import Finding


class _Need(NamedTuple):
    """What a library needs, in the words of *what*.

    *library* is a pattern of its file's name, whose first group stands for ``{version}``. It is
    content with *file* in a directory that one of *variables* names, or with one of *places*: an
    absolute path, or one that begins in the library's own directory.
    """

    library: str
    what: str
    file: str
    variables: tuple[str, ...]
    places: tuple[str, ...]


_PROJ: Final = "share/proj/proj.db"
_GDAL: Final = "share/gdal/gdalvrt.xsd"
_R: Final = "library/base/DESCRIPTION"
_PYTHON: Final = "lib/python{version}/encodings/__init__.py"
_NEEDS: Final = (
    _Need(
        r"libproj\.so.*",
        "proj.db, without which it transforms coordinates less exactly",
        "proj.db",
        ("PROJ_DATA", "PROJ_LIB"),
        (f"../{_PROJ}", f"/usr/{_PROJ}", f"/usr/local/{_PROJ}"),
    ),
    _Need(
        r"libgdal\.so.*",
        "the data of GDAL, without which it knows fewer formats and coordinate systems",
        "gdalvrt.xsd",
        ("GDAL_DATA",),
        (f"../{_GDAL}", f"/usr/{_GDAL}", f"/usr/local/{_GDAL}"),
    ),
    _Need(
        r"libR\.so.*",
        "the R interpreter's own packages, without which it does not start",
        _R,
        ("R_HOME",),
        (f"/usr/lib/R/{_R}", f"/usr/lib64/R/{_R}"),
    ),
    _Need(
        r"libtcl(\d+\.\d+)\.so.*",
        "init.tcl, without which no interpreter starts",
        "init.tcl",
        ("TCL_LIBRARY",),
        tuple(
            f"/usr/{directory}/tcl{{version}}/init.tcl"
            for directory in ("share/tcltk", "share", "lib", "local/lib")
        ),
    ),
    _Need(
        r"libpython(\d+\.\d+)\.so.*",
        "the standard library of Python, without which no interpreter starts",
        _PYTHON,
        ("PYTHONHOME",),
        (f"../{_PYTHON}", f"/usr/{_PYTHON}", f"/usr/local/{_PYTHON}"),
    ),
)

_OPENED: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"mysql_fdw.so": ("libmysqlclient.so",)}
)
"""Modules, and the libraries that they open by name (dlopen(3)) when they are used."""
_LOADER_DIRECTORIES: Final = (
    *("/lib/{machine}-linux-gnu", "/usr/lib/{machine}-linux-gnu", "/usr/local/lib"),
    *("/lib64", "/usr/lib64", "/lib", "/usr/lib"),
)


class Surroundings(NamedTuple):
    """What the server's libraries find: its environment, and where its loader looks.

    *environment* holds the variables of all volumes, since they are set for the whole server.
    """

    environment: Mapping[str, str]
    machine: str
    loader_directories: tuple[str, ...]
    is_there: IsThere


def opened_by(library: str) -> tuple[str, ...]:
    """Return the names of the libraries that a module of this file name opens when it is used."""
    return _OPENED.get(library, ())


def judge(volume: VolumeFacts, surroundings: Surroundings) -> Iterator[Finding]:
    """Yield what the libraries of a volume will not find."""
    for need in _NEEDS:
        # The links to a library are the same one: the first speaks for all.
        matches = ((each, re.fullmatch(need.library, each.name)) for each in volume.libraries)
        for library, match in ((library, match) for library, match in matches if match):
            places = _places(need, match, f"{volume.path}/{library.directory}", surroundings)
            if not any(map(surroundings.is_there, places)):
                yield _without(need, library, surroundings.environment)
            break
    for library in volume.searched():
        for name in opened_by(library.name):
            if not any(map(surroundings.is_there, _loadable(name, surroundings))):
                message = f"{library.path} opens {name} when it is used, which is nowhere"
                yield finding(Code.DATA_MISSING, library.path, message)


def _places(
    need: _Need, match: re.Match[str], directory: str, surroundings: Surroundings
) -> Iterator[str]:
    version = match[1] if match.re.groups else ""
    values = (surroundings.environment.get(name, "") for name in need.variables)
    # PROJ_DATA may be a list of directories, as PATH is.
    for element in (element for value in values for element in value.split(":") if element):
        yield f"{element}/{need.file.format(version=version)}"
    for place in need.places:
        path = place.format(version=version)
        yield path if path.startswith("/") else f"{directory}/{path}"


def _without(need: _Need, library: LibraryFacts, environment: Mapping[str, str]) -> Finding:
    given = next((name for name in need.variables if name in environment), None)
    state = f"{given} does not lead to it" if given else f"{need.variables[0]} is not set"
    message = f"{library.path} needs {need.what}; it lies in none of the usual places, and {state}"
    return finding(Code.DATA_MISSING, library.path, message)


def _loadable(name: str, surroundings: Surroundings) -> Iterator[str]:
    # Debian has a directory for each machine; others have lib64 or lib.
    usual = (each.format(machine=surroundings.machine) for each in _LOADER_DIRECTORIES)
    for directory in (*surroundings.loader_directories, *usual):
        yield f"{directory}/{name}"
