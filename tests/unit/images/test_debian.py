"""Debian's words."""

from __future__ import annotations

import pytest

from instance_manager.errors import UsageError
from instance_manager.images import debian

POSTINST = """#!/bin/sh
VERSION=18
DIR="/usr/share/postgresql/$VERSION/extension"
if [ "$1" = configure ]; then
  update-alternatives --install $DIR/x.control x.control-$VERSION ${DIR}/x-3.control 30 \\
    --slave $DIR/y.control postgresql-18-y.control $DIR/../extension/y-3.control
  update-alternatives --install $UNKNOWN/z.control z /usr/z 1
fi
"""


def test_alternatives_lead_straight_to_the_files() -> None:
    """The link in between is the host's; what can't be told is left out."""
    directory = "usr/share/postgresql/18/extension"

    assert list(debian.alternatives(POSTINST)) == [
        (f"{directory}/x.control", f"{directory}/x-3.control"),
        (f"{directory}/y.control", f"{directory}/y-3.control"),
    ]


@pytest.mark.parametrize("text", ["postgresql-18-cron", "libgdal36=1:3.10+a~b-1", "r-base/sid"])
def test_packages_are_named_as_apt_has_them(text: str) -> None:
    """With a version or a suite."""
    assert debian.checked_package(text) == text


@pytest.mark.parametrize(
    "text", ["", "-o", "--help", "a b", "x=", "x;rm", "?name(x)", "../x", "x-", "x+"]
)
def test_nothing_else_reaches_apt(text: str) -> None:
    """An option, a pattern, or a removal is no package."""
    with pytest.raises(UsageError):
        debian.checked_package(text)


@pytest.mark.parametrize(
    ("package", "name", "major"),
    [
        ("postgresql-18-pgvector", "pgvector", 18),
        ("postgresql-18-postgis-3", "postgis-3", 18),
        ("postgresql-plpython3-18", "plpython3", 18),
        ("libgdal36", "libgdal36", None),
    ],
)
def test_an_extension_has_a_short_name(package: str, name: str, major: int | None) -> None:
    """Without PostgreSQL's name and version."""
    assert debian.short_name(package) == name
    assert debian.major_of(package) == major


def test_a_stanza_is_read_field_by_field() -> None:
    """Continued lines belong to their field."""
    fields = debian.parse_stanza("Package: x\nSource: y (1.2)\nDescription: d\n more\n\n")

    assert fields == {"Package": "x", "Source": "y (1.2)", "Description": "d\n more"}
    assert debian.source_of(fields) == "y"


def test_the_parts_of_a_package_are_told_from_others() -> None:
    """By the name's beginning or the source."""
    asked = {"postgresql-18-postgis-3": "postgis"}

    assert debian.is_own("postgresql-18-postgis-3-scripts", "other", asked)
    assert debian.is_own("postgis", "postgis", asked)
    assert not debian.is_own("postgresql-18-pgrouting", "pgrouting", asked)


def test_the_address_of_a_package_is_escaped() -> None:
    """An epoch and a plus are no parts of its grammar."""
    address = debian.package_url("debian", "libstdc++6", "1:2+b1", "amd64")

    assert address == "pkg:deb/debian/libstdc%2B%2B6@1%3A2%2Bb1?arch=amd64"


def test_os_release_is_read() -> None:
    """Quotes and comments are not values."""
    text = "# c\nID=debian\nVERSION_CODENAME='forky'\nNAME=\"D L\"\n"

    assert debian.parse_os_release(text) == {
        "ID": "debian",
        "VERSION_CODENAME": "forky",
        "NAME": "D L",
    }
