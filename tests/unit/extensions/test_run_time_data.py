from __future__ import annotations

from collections.abc import Callable

import pytest

from instance_manager.extensions.facts import LibraryFacts, VolumeFacts
from instance_manager.extensions.run_time_data import Surroundings, judge, opened_by

MakeVolume = Callable[..., VolumeFacts]
MakeLibrary = Callable[..., LibraryFacts]


def _judge(volume: VolumeFacts, *files: str, **variables: str) -> list[str]:
    surroundings = Surroundings(
        variables, "x86_64", ("/extensions/v/system",), frozenset(files).__contains__
    )
    found = list(judge(volume, surroundings))
    assert {each.code for each in found} <= {"EXT061"}
    return [each.message for each in found]


NEEDS = [
    ("libproj.so.25", "../share/proj/proj.db", "PROJ_DATA", "proj.db"),
    ("libproj.so.25.9.7", "/usr/share/proj/proj.db", "PROJ_LIB", "proj.db"),
    ("libgdal.so.38", "../share/gdal/gdalvrt.xsd", "GDAL_DATA", "gdalvrt.xsd"),
    (
        "libR.so",
        "/usr/lib/R/library/base/DESCRIPTION",
        "R_HOME",
        "library/base/DESCRIPTION",
    ),
    ("libtcl8.6.so", "/usr/share/tcltk/tcl8.6/init.tcl", "TCL_LIBRARY", "init.tcl"),
    (
        "libpython3.14.so.1.0",
        "../lib/python3.14/encodings/__init__.py",
        "PYTHONHOME",
        "lib/python3.14/encodings/__init__.py",
    ),
]


@pytest.mark.parametrize(("library", "place", "variable", "file"), NEEDS)
def test_data_that_a_library_looks_for_is_told_where_it_is_missing(
    volume_facts: MakeVolume,
    library_facts: MakeLibrary,
    library: str,
    place: str,
    variable: str,
    file: str,
) -> None:
    """Beside the library, in the places that it was built with, or where a variable leads."""
    facts = library_facts(f"system/{library}", magic=None)
    volume = volume_facts("v", None, libraries=(facts,))
    usual = place if place.startswith("/") else f"/extensions/v/system/{place}"

    (missing,) = _judge(volume)
    assert missing.startswith(f"system/{library} needs ")
    assert missing.endswith("is not set")
    assert _judge(volume, usual) == []
    assert _judge(volume, f"/data/{file}", **{variable: "/data"}) == []
    (astray,) = _judge(volume, f"/data/{file}", **{variable: "/elsewhere"})
    assert astray.endswith(f"{variable} does not lead to it")


def test_a_variable_may_name_several_directories(
    volume_facts: MakeVolume, library_facts: MakeLibrary
) -> None:
    """PROJ_DATA is a search path."""
    volume = volume_facts("v", None, libraries=(library_facts("system/libproj.so.25"),))

    assert _judge(volume, "/b/proj.db", PROJ_DATA="/a:/b") == []


def test_the_links_to_a_library_are_one_library(
    volume_facts: MakeVolume, library_facts: MakeLibrary
) -> None:
    """What it lacks is said once."""
    names = ("libproj.so", "libproj.so.25", "libproj.so.25.9.7", "libprojection.so")
    libraries = tuple(library_facts(f"system/{name}", magic=None) for name in names)

    assert len(_judge(volume_facts("v", None, libraries=libraries))) == 1


@pytest.mark.parametrize(
    ("file", "found"),
    [
        ("/extensions/v/system/libmysqlclient.so", []),
        ("/usr/lib/x86_64-linux-gnu/libmysqlclient.so", []),
        (
            "/extensions/v/system/libmysqlclient.so.24",
            ["lib/mysql_fdw.so opens libmysqlclient.so when it is used, which is nowhere"],
        ),
    ],
)
def test_a_library_that_is_opened_by_name_must_be_where_the_loader_looks(
    volume_facts: MakeVolume, library_facts: MakeLibrary, file: str, found: list[str]
) -> None:
    """Under the very name: CREATE EXTENSION works without it, the first use does not."""
    volume = volume_facts("v", None, libraries=(library_facts("lib/mysql_fdw.so"),))

    assert opened_by("mysql_fdw.so") == ("libmysqlclient.so",)
    assert _judge(volume, file) == found
