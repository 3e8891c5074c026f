"""Data that libraries look for when they run: where packages have it, and where a volume does.

Pure: values only. What each library itself looks for, preflight knows
(:mod:`~instance_manager.extensions.run_time_data`); a volume that lacks it has a finding.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class Data(NamedTuple):
    """A directory that goes with a library.

    *library* is a pattern of its file's name. *source* is a path of the root, *place* one of the
    volume; *variable* gets *value*, in which ``${image_root}`` stands for the volume. *proof* is a
    file in it: a base that has it needs nothing.
    """

    library: str
    source: str
    place: str
    variable: str
    value: str
    proof: str


_DATA: Final = (
    Data(
        r"libproj\.so.*",
        *("usr/share/proj", "share/proj"),
        *("PROJ_DATA", "${image_root}/share/proj", "proj.db"),
    ),
    Data(
        r"libgdal\.so.*",
        *("usr/share/gdal", "share/gdal"),
        *("GDAL_DATA", "${image_root}/share/gdal", "gdalvrt.xsd"),
    ),
    Data(
        r"libR\.so.*",
        *("usr/lib/R", "share/R"),
        *("R_HOME", "${image_root}/share/R", "library/base/DESCRIPTION"),
    ),
    Data(
        r"libtcl(\d+\.\d+)\.so.*",
        *(r"usr/share/tcltk/tcl\1", r"share/tcltk/tcl\1"),
        *("TCL_LIBRARY", r"${image_root}/share/tcltk/tcl\1", "init.tcl"),
    ),
    Data(
        r"libpython(\d+\.\d+)\.so.*",
        *(r"usr/lib/python\1", r"lib/python\1"),
        *("PYTHONHOME", "${image_root}", "encodings/__init__.py"),
    ),
)


def data_for(libraries: Iterable[str]) -> tuple[Data, ...]:
    """Return what goes with libraries of these file names, once each."""
    found: dict[str, Data] = {}
    for name in sorted(libraries):
        for each in _DATA:
            match = re.fullmatch(each.library, name)
            if match:
                parts = (
                    match.expand(part.replace("$", "\\$")) if "\\1" in part else part
                    for part in each[1:]
                )
                source, place, variable, value, proof = (
                    part.replace("\\$", "$") for part in parts
                )
                # One variable has one value, so the first library of its kind decides.
                found.setdefault(
                    variable, Data(each.library, source, place, variable, value, proof)
                )
    return tuple(found.values())
