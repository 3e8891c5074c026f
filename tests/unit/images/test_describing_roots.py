from __future__ import annotations

import json
import re
from typing import Any

from instance_manager.images.describing_roots import (
    Loose,
    Root,
    archive_sums,
    bill,
    debian_packages,
    python_package,
)

SUM = "0f" * 32
STATUS = """\
Package: libthing1
Status: install ok installed
Maintainer: Some Body <some@example.org>
Architecture: amd64
Source: thing (1:2.0-1)
Version: 1:2.0-1+b1
Description: a thing
 of several lines

Package: libthing1
Status: install ok installed
Architecture: i386
Version: 1:2.0-1+b1

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: g++
Status: hold ok installed
Architecture: all
Version: 3
"""
SYSTEM = {"ID": "debian", "VERSION_CODENAME": "forky", "PRETTY_NAME": "Debian forky"}


def document() -> Any:
    """Return the list of an image of two kinds of packages."""
    sums = archive_sums(f"{SUM}  libthing1_1%3a2.0-1+b1_amd64.deb\n")
    packages = [
        *debian_packages(STATUS, SYSTEM, sums),
        python_package("Some_Thing.more", "1.0+local", SUM, "MIT"),
    ]
    files = [Loose("usr/bin/odd", "1" * 40, "2" * 64)]
    root = Root("postgresql-18", "0.1.0", "1970-01-01T00:00:00Z", SYSTEM, packages, files)
    return json.loads(bill(root))


def test_packages_have_the_addresses_that_scanners_know() -> None:
    """Those of Debian with machine and release, Python's by their normal name."""
    addresses = [
        each["externalRefs"][0]["referenceLocator"]
        for each in document()["packages"]
        if "externalRefs" in each
    ]

    assert addresses == [
        "pkg:deb/debian/libthing1@1%3A2.0-1%2Bb1?arch=amd64&distro=forky",
        "pkg:deb/debian/libthing1@1%3A2.0-1%2Bb1?arch=i386&distro=forky",
        "pkg:deb/debian/g%2B%2B@3?arch=all&distro=forky",
        "pkg:pypi/some-thing-more@1.0%2Blocal",
    ]


def test_a_package_has_the_sum_of_its_archive_where_that_is_known() -> None:
    """The same name and version for another machine is another archive."""
    found = {each["SPDXID"]: each.get("checksums") for each in document()["packages"]}
    known = [{"algorithm": "SHA256", "checksumValue": SUM}]

    assert found["SPDXRef-Package-libthing1-amd64"] == known
    assert found["SPDXRef-Package-libthing1-i386"] is None
    assert found["SPDXRef-Python-some-thing-more"] == known


def test_each_part_is_in_the_image_once_and_by_a_name_that_the_format_allows() -> None:
    """Identifiers are unique; a package whose files are not all listed contains none."""
    whole = document()
    parts = [each["SPDXID"] for each in (*whole["packages"], *whole["files"])]
    contained = [
        each["relatedSpdxElement"]
        for each in whole["relationships"]
        if each["relatedSpdxElement"] != "SPDXRef-Image"
    ]

    assert len(set(parts)) == len(parts) == 6
    assert sorted(contained) == sorted(part for part in parts if part != "SPDXRef-Image")
    assert not [
        each
        for each in whole["relationships"]
        if each["relationshipType"] == "CONTAINS" and "File" in each["relatedSpdxElement"]
    ]
    assert all(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", part) for part in parts)


def test_the_same_facts_make_the_same_list() -> None:
    """Its own address is made of what is in it, and of no chance."""
    assert document() == document()
    assert re.search(r"/postgresql-18-[0-9a-f]{64}$", document()["documentNamespace"])
