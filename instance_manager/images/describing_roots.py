"""What a whole image says of itself: the list of its packages and of what belongs to none.

Pure: facts in, document out. A root with dpkg's list and Python's distributions is described as
SPDX 2.3, with the addresses of packages by which scanners know what is vulnerable.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote

from instance_manager import __version__
from instance_manager.images.debian import package_url, parse_stanza, source_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_NONE: Final = "NOASSERTION"
_SUM: Final = re.compile(r"([0-9a-f]{64})  (\S+)_(\S+)_(\S+)\.deb")
_UNFIT: Final = re.compile(r"[^A-Za-z0-9.-]")


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
    normal = re.sub(r"[-_.]+", "-", name).lower()
    address = f"pkg:pypi/{quote(normal)}@{quote(version, safe='')}"
    return Installed("Python", normal, version, address, sha256, licence=licence)


def bill(root: Root) -> bytes:
    """Return the list of parts."""
    packages = {f"SPDXRef-{each.kind}-{_idstring(each)}": each for each in root.packages}
    files = {f"SPDXRef-File-{number}": each for number, each in enumerate(root.files, 1)}
    document: dict[str, object] = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"{root.name}-{root.version}",
        "creationInfo": {
            "created": root.created,
            "creators": [f"Tool: instance-manager-{__version__}"],
        },
        "packages": [
            _image(root),
            *(_package(identifier, each) for identifier, each in packages.items()),
        ],
        "files": [_file(identifier, each) for identifier, each in files.items()],
        "relationships": [
            _relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-Image"),
            *(_relation("SPDXRef-Image", "CONTAINS", each) for each in packages),
            # A package contains files only where all of its files are listed.
            *(_relation("SPDXRef-DOCUMENT", "DESCRIBES", each) for each in files),
        ],
    }
    identity = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    document["documentNamespace"] = (
        f"https://spdx.org/spdxdocs/{_UNFIT.sub('-', root.name)}-{identity}"
    )
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def _relation(one: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}


def _idstring(package: Installed) -> str:
    """Return a name as identifiers may have it; that of another machine's is told apart."""
    machine = package.address.partition("?arch=")[2].partition("&")[0]
    return _UNFIT.sub(
        "-", package.name.replace("+", "-plus-") + (f"-{machine}" if machine else "")
    )


def _unsaid() -> dict[str, object]:
    return {"licenseConcluded": _NONE, "licenseDeclared": _NONE, "copyrightText": _NONE}


def _image(root: Root) -> dict[str, object]:
    pretty = root.system.get("PRETTY_NAME", "a system without a name")
    return {
        "SPDXID": "SPDXRef-Image",
        "name": root.name,
        "versionInfo": root.version,
        "downloadLocation": _NONE,
        "filesAnalyzed": False,
        **_unsaid(),
        "primaryPackagePurpose": "CONTAINER",
        "comment": f"On {pretty}. The files listed are those that belong to no package.",
    }


def _package(identifier: str, package: Installed) -> dict[str, object]:
    found: dict[str, object] = {
        "SPDXID": identifier,
        "name": package.name,
        "versionInfo": package.version,
        "downloadLocation": _NONE,
        "filesAnalyzed": False,
        **_unsaid(),
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": package.address,
            }
        ],
    }
    if package.sha256:
        found["checksums"] = [{"algorithm": "SHA256", "checksumValue": package.sha256}]
    if package.source:
        found["sourceInfo"] = f"built from: {package.source}"
    if package.supplier:
        found["supplier"] = f"Organization: {package.supplier}"
    if package.licence:
        found["licenseComments"] = f"The distribution says: {package.licence}"
    return found


def _file(identifier: str, file: Loose) -> dict[str, object]:
    return {
        "SPDXID": identifier,
        "fileName": f"./{file.path}",
        "checksums": [
            {"algorithm": "SHA1", "checksumValue": file.sha1},
            {"algorithm": "SHA256", "checksumValue": file.sha256},
        ],
        "licenseConcluded": _NONE,
        "licenseInfoInFiles": [_NONE],
        "copyrightText": _NONE,
    }
