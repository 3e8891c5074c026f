"""What a whole image says of itself: the list of its packages and of what belongs to none.

Pure: facts in, document out. A root with dpkg's list and Python's distributions is described as
SPDX 2.3, with the addresses of packages by which scanners know what is vulnerable.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote

from instance_manager.images import spdx
from instance_manager.images.debian import package_url, parse_stanza, source_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_SUM: Final = re.compile(r"([0-9a-f]{64})  (\S+)_(\S+)_(\S+)\.deb")


class Installed(NamedTuple):
    """A package of the image; *sha256* is that of the archive it came in, where that is known."""

    kind: str
    name: str
    version: str
    address: str
    sha256: str = ""
    source: str = ""
    supplier: str = ""
    licence: str = ""


class Loose(NamedTuple):
    """A file that belongs to no package."""

    path: str
    sha1: str
    sha256: str


class Root(NamedTuple):
    """What is said of an image."""

    name: str
    version: str
    created: str
    system: Mapping[str, str]
    packages: Sequence[Installed]
    files: Sequence[Loose]


def archive_sums(text: str) -> dict[tuple[str, str, str], str]:
    """Return the sums of archives, by name, version and architecture.

    *text* is as ``sha256sum`` writes it, of names that apt gives to archives.
    """
    matches = (_SUM.fullmatch(line) for line in text.splitlines())
    return {
        (match[2], match[3].replace("%3a", ":"), match[4]): match[1] for match in matches if match
    }


def debian_packages(
    status: str, system: Mapping[str, str], sums: Mapping[tuple[str, str, str], str]
) -> Iterator[Installed]:
    """Yield what dpkg's list says is installed."""
    vendor, codename = system.get("ID", "debian"), system.get("VERSION_CODENAME", "")
    for text in status.split("\n\n"):
        fields = parse_stanza(text)
        # Removed packages leave a stanza as long as their configuration stays.
        if not fields.get("Status", "").endswith(" installed"):
            continue
        name, version = fields["Package"], fields["Version"]
        architecture = fields["Architecture"]
        address = package_url(vendor, name, version, architecture)
        yield Installed(
            kind="Package",
            name=name,
            version=version,
            address=f"{address}&distro={quote(codename)}" if codename else address,
            sha256=sums.get((name, version, architecture), ""),
            source=source_of(fields),
            supplier=fields.get("Maintainer", ""),
        )


def python_package(name: str, version: str, sha256: str, licence: str) -> Installed:
    """Return a distribution of Python's (package-url/purl-spec, type pypi)."""
    # Names are compared in this form (PyPA's name normalization), which purl asks for.
    normal = re.sub(r"[-_.]+", "-", name).lower()
    address = f"pkg:pypi/{quote(normal)}@{quote(version, safe='')}"
    return Installed("Python", normal, version, address, sha256, licence=licence)


def bill(root: Root) -> bytes:
    """Return the list of parts."""
    packages = {spdx.identifier(each.kind, _name(each)): each for each in root.packages}
    files = [
        spdx.file(number, each.path, each.sha1, each.sha256)
        for number, each in enumerate(root.files, 1)
    ]
    relations = [
        *(spdx.relation(spdx.IMAGE, "CONTAINS", each) for each in packages),
        # A package contains files only where all of its files are listed.
        *(spdx.relation(spdx.DOCUMENT, "DESCRIBES", str(each["SPDXID"])) for each in files),
    ]
    parts = [_image(root), *(_package(own, each) for own, each in packages.items())]
    return spdx.bill(root.name, root.version, root.created, parts, files, relations)


def _name(package: Installed) -> str:
    """Return a name by which a package of another machine is told apart."""
    machine = package.address.partition("?arch=")[2].partition("&")[0]
    return package.name + (f"-{machine}" if machine else "")


def _image(root: Root) -> dict[str, object]:
    pretty = root.system.get("PRETTY_NAME", "a system without a name")
    return spdx.part(
        spdx.IMAGE,
        root.name,
        root.version,
        primaryPackagePurpose="CONTAINER",
        comment=f"On {pretty}. The files listed are those that belong to no package.",
    )


def _package(own: str, package: Installed) -> dict[str, object]:
    said = spdx.origin(
        package.address,
        sha256=package.sha256,
        source=package.source,
        supplier=package.supplier,
    )
    licence = package.licence and f"The distribution says: {package.licence}"
    return spdx.part(own, package.name, package.version, **said, licenseComments=licence)
