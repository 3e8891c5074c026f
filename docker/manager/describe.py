"""Complete the image of the manager: licences, a list of parts, and what scanners read.

    describe.py ROOT CREATED     within the build; ROOT is the image, CREATED its time (RFC 3339)

The list of parts is SPDX 2.3. Debian's packages are those that own a library of the bundle;
Python's distributions are those that the bundle has the metadata of.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from instance_manager import __version__
from instance_manager.images.debian import package_url

BUNDLE = "instance-manager"
NONE = "NOASSERTION"
LIBRARIES = ("/lib", "/usr/lib")
# The freezer is no part of the result, but for its loader, which is the program's first half.
LOADER = "pyinstaller"


def said(*command: str) -> str:
    """Return what a command prints; nothing where it fails."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def debian_owner(path: Path) -> str:
    """Return the package that a library was copied from; empty for no package of Debian."""
    triplet = next(iter(Path("/usr/lib").glob("*-linux-gnu"))).name
    if "lib-dynload" in path.parts or path.name == "base_library.zip":
        places = [f"/usr/lib/python{sys.version_info[0]}.{sys.version_info[1]}/os.py"]
        if path.suffix == ".so":
            places = [f"/usr/lib/python3.{sys.version_info[1]}/lib-dynload/{path.name}"]
    else:
        places = [f"{root}/{triplet}/{path.name}" for root in LIBRARIES]
        places += [f"/lib64/{path.name}", f"/lib/{path.name}"]
    for place in places:
        found = Path(place)
        for name in (str(found), str(found.resolve()), str(found.resolve()).removeprefix("/usr")):
            owner = said("dpkg-query", "--search", name).partition(": ")[0]
            if owner:
                return owner.partition(":")[0]
    return ""


def distributions(library: Path) -> list[metadata.Distribution]:
    """Return the Python distributions whose metadata the bundle has, by name."""
    found = metadata.distributions(path=[str(library)])
    return sorted(found, key=lambda each: each.metadata["Name"].lower())


def python_owners(kept: list[metadata.Distribution]) -> dict[str, str]:
    """Return the distribution of each file that was installed, by its path below site-packages."""
    owners: dict[str, str] = {}
    for one in kept:
        for path in metadata.distribution(one.metadata["Name"]).files or ():
            owners[str(path)] = one.metadata["Name"]
    return owners


def reference(kind: str, locator: str) -> dict[str, str]:
    """Return a package URL as SPDX has it."""
    return {
        "referenceCategory": "PACKAGE-MANAGER",
        "referenceType": kind,
        "referenceLocator": locator,
    }


def package(identifier: str, name: str, version: str, **more: object) -> dict[str, object]:
    """Return one part."""
    return {
        "SPDXID": identifier,
        "name": name,
        "versionInfo": version,
        "downloadLocation": NONE,
        "filesAnalyzed": False,
        "licenseConcluded": NONE,
        "licenseDeclared": NONE,
        "copyrightText": NONE,
        **more,
    }


def debian_package(root: Path, name: str) -> dict[str, object]:
    """Keep a package's licence and its stanza; return it as a part."""
    licences = root / BUNDLE / "licenses" / name
    licences.mkdir(parents=True, exist_ok=True)
    copyright_file = Path("/usr/share/doc") / name / "copyright"
    if copyright_file.is_file():
        (licences / "copyright").write_bytes(copyright_file.read_bytes())
    stanza = said("dpkg-query", "--status", name)
    status = root / "var/lib/dpkg/status.d"
    status.mkdir(parents=True, exist_ok=True)
    (status / name).write_text(stanza)
    fields = dict(
        re.findall(r"^(Version|Architecture|Maintainer|Source): (.*)$", stanza, re.MULTILINE)
    )
    codename = re.search(
        "^VERSION_CODENAME=(.*)$", Path("/etc/os-release").read_text(), re.MULTILINE
    )
    address = package_url("debian", name, fields["Version"], fields["Architecture"])
    suffix = f"&distro={codename[1]}" if codename else ""
    return package(
        f"SPDXRef-Debian-{name.replace('+', '-plus-')}",
        name,
        fields["Version"],
        sourceInfo=f"built from: {fields.get('Source', name)}",
        supplier=f"Organization: {fields['Maintainer']}",
        externalRefs=[reference("purl", address + suffix)],
    )


def python_package(one: metadata.Distribution) -> dict[str, object]:
    """Return a distribution as a part."""
    name, version = one.metadata["Name"], one.version
    normal = re.sub(r"[-_.]+", "-", name).lower()
    licence = one.metadata.get("License-Expression")
    return package(
        f"SPDXRef-Python-{normal}",
        name,
        version,
        licenseDeclared=licence or NONE,
        externalRefs=[reference("purl", f"pkg:pypi/{normal}@{version}")],
    )


def hashed(root: Path) -> list[tuple[str, bytes]]:
    """Return the files of the image, by path."""
    paths = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    return [(str(path.relative_to(root)), path.read_bytes()) for path in paths]


def file(number: int, path: str, content: bytes) -> dict[str, object]:
    """Return a file as SPDX has it."""
    sha1 = hashlib.sha1(content, usedforsecurity=False).hexdigest()
    return {
        "SPDXID": f"SPDXRef-File-{number}",
        "fileName": f"./{path}",
        "checksums": [
            {"algorithm": "SHA1", "checksumValue": sha1},
            {"algorithm": "SHA256", "checksumValue": hashlib.sha256(content).hexdigest()},
        ],
        "licenseConcluded": NONE,
        "licenseInfoInFiles": [NONE],
        "copyrightText": NONE,
    }


def relation(one: str, kind: str, other: str) -> dict[str, str]:
    """Return what two parts have to do with one another."""
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}


def main(root: Path, created: str) -> None:
    """Write all that is missing."""
    library = root / BUNDLE / "lib"
    kept = [*distributions(library), metadata.distribution(LOADER)]
    of_python, owners = python_owners(kept), {}
    for path, _ in hashed(root):
        below = path.removeprefix(f"{BUNDLE}/lib/")
        name = of_python.get(below) or of_python.get(
            re.sub(r"^([^/]+)$", r"psycopg_binary.libs/\1", below)
        )
        if name:
            owners[path] = f"SPDXRef-Python-{re.sub(r'[-_.]+', '-', name).lower()}"
        elif owner := debian_owner(Path(path)):
            owners[path] = f"SPDXRef-Debian-{owner.replace('+', '-plus-')}"
    debian = sorted(
        {
            each.removeprefix("SPDXRef-Debian-").replace("-plus-", "+")
            for each in owners.values()
            if "Debian" in each
        }
    )
    for name in (LOADER,):
        place = root / BUNDLE / "licenses" / name
        place.mkdir(parents=True, exist_ok=True)
        for each in metadata.distribution(name).files or ():
            if each.name.startswith("COPYING"):
                (place / each.name).write_bytes(each.locate().read_bytes())
    parts = [
        *(debian_package(root, name) for name in debian),
        *(python_package(one) for one in kept),
    ]
    files = [file(number, *each) for number, each in enumerate(hashed(root), 1)]
    sums = "".join(sorted(each["checksums"][0]["checksumValue"] for each in files))
    code = hashlib.sha1(sums.encode(), usedforsecurity=False).hexdigest()
    bill = f"{BUNDLE}/sbom.spdx.json"
    image = package("SPDXRef-Image", BUNDLE, __version__) | {
        "filesAnalyzed": True,
        "packageVerificationCode": {
            "packageVerificationCodeValue": code,
            "packageVerificationCodeExcludedFiles": [f"./{bill}"],
        },
        "licenseDeclared": "Apache-2.0",
        "primaryPackagePurpose": "CONTAINER",
        "comment": "The manager with its own interpreter, for foreign PostgreSQL images.",
    }
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"{BUNDLE}-{__version__}",
        "creationInfo": {
            "created": created,
            "creators": [f"Tool: instance-manager-{__version__}"],
        },
        "packages": [image, *parts],
        "files": files,
        "relationships": [
            relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-Image"),
            *(relation("SPDXRef-Image", "CONTAINS", each["SPDXID"]) for each in (*parts, *files)),
            *(
                relation(each["SPDXID"], "GENERATED_FROM", owners[path])
                for each in files
                if (path := each["fileName"][2:]) in owners
            ),
        ],
    }
    identity = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    document["documentNamespace"] = f"https://spdx.org/spdxdocs/{BUNDLE}-{__version__}-{identity}"
    (root / bill).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    without = [
        path for path, _ in hashed(root) if path.endswith((".so", ".zip")) and path not in owners
    ]
    if without:
        raise SystemExit(f"nobody owns {', '.join(without)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
