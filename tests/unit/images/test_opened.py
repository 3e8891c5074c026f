"""Libraries that are opened by name."""

from __future__ import annotations

import json

import pytest

from instance_manager.images.data import data_for
from instance_manager.images.opened import names_in, names_in_notes


def note(content: bytes) -> bytes:
    return (
        (4).to_bytes(4, "little")
        + len(content).to_bytes(4, "little")
        + (0x407C0C0A).to_bytes(4, "little")
        + b"FDO\0"
        + content
    )


def test_names_that_stand_by_themselves_are_found() -> None:
    """Not those within a longer text, nor paths."""
    content = (
        b"\0libmysqlclient.so\0can't open libx.so\0liby.so.1\0libz.so.1\0/lib/liba.so\0libm.sot\0"
    )

    assert names_in(content) == {"libmysqlclient.so", "liby.so.1", "libz.so.1"}


def test_notes_name_libraries() -> None:
    """One note may name several."""
    text = json.dumps([{"feature": "f", "soname": ["liba.so.1", "libb.so"]}]).encode() + b"\0"

    assert names_in_notes(b"before" + note(text) + b"\0\0" + note(text)) == {
        "liba.so.1",
        "libb.so",
    }


@pytest.mark.parametrize(
    "content", [b"", b"[", b"7", b"[7]", b'[{"soname": 7}]', b'[{"soname": ["a/b"]}]', b"[" * 9999]
)
def test_a_damaged_note_names_nothing(content: bytes) -> None:
    """Nothing of it is trusted."""
    assert names_in_notes(note(content)) == set()


def test_data_goes_with_libraries() -> None:
    """Once for each variable, with the version in the place."""
    found = data_for(["libtcl8.6.so", "libproj.so.25", "libproj.so.25.1.2", "libx.so"])

    assert [(each.source, each.place, each.variable, each.value) for each in found] == [
        ("usr/share/proj", "share/proj", "PROJ_DATA", "${image_root}/share/proj"),
        (
            "usr/share/tcltk/tcl8.6",
            "share/tcltk/tcl8.6",
            "TCL_LIBRARY",
            "${image_root}/share/tcltk/tcl8.6",
        ),
    ]
