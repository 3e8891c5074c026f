"""Complete the image of the manager: licences, a list of parts, and what scanners read.

    describe.py ROOT CREATED     within the build; ROOT is the image, CREATED its time (RFC 3339)

The list of parts is SPDX 2.3. Debian's packages are those that own a library of the bundle;
Python's distributions are those that the bundle has the metadata of.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from instance_manager import __version__
from instance_manager.images import spdx
from instance_manager.images.debian import parse_os_release
from instance_manager.images.describing_roots import debian_packages, python_package

BUNDLE = "instance-manager"
DEBIAN, PYTHON = "Debian", "Python"
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
    system = parse_os_release(Path("/etc/os-release").read_text())
    (found,) = debian_packages(stanza, system, {})
    origin = spdx.origin(found.address, source=found.source, supplier=found.supplier)
    return spdx.part(spdx.identifier(DEBIAN, name), name, found.version, **origin)


def python_part(one: metadata.Distribution) -> dict[str, object]:
    """Return a distribution as a part."""
    found = python_package(one.metadata["Name"], one.version, "", "")
    licence = one.metadata.get("License-Expression")
    more = {"licenseDeclared": licence} if licence else {}
    own = spdx.identifier(PYTHON, found.name)
    return spdx.part(own, one.metadata["Name"], one.version, **more, **spdx.origin(found.address))


def hashed(root: Path) -> list[tuple[str, bytes]]:
    """Return the files of the image, by path."""
    paths = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    return [(str(path.relative_to(root)), path.read_bytes()) for path in paths]


def file(number: int, path: str, content: bytes) -> dict[str, object]:
    """Return a file as a part."""
    sha1 = hashlib.sha1(content, usedforsecurity=False).hexdigest()
    return spdx.file(number, path, sha1, hashlib.sha256(content).hexdigest())


def main(root: Path, created: str) -> None:
    """Write all that is missing."""
    library = root / BUNDLE / "lib"
    kept = [*distributions(library), metadata.distribution(LOADER)]
    of_python, debian = python_owners(kept), set[str]()
    owners: dict[str, str] = {}
    for path, _ in hashed(root):
        below = path.removeprefix(f"{BUNDLE}/lib/")
        name = of_python.get(below) or of_python.get(
            re.sub(r"^([^/]+)$", r"psycopg_binary.libs/\1", below)
        )
        if name:
            owners[path] = spdx.identifier(PYTHON, python_package(name, "", "", "").name)
        elif owner := debian_owner(Path(path)):
            owners[path] = spdx.identifier(DEBIAN, owner)
            debian.add(owner)
    for name in (LOADER,):
        place = root / BUNDLE / "licenses" / name
        place.mkdir(parents=True, exist_ok=True)
        for each in metadata.distribution(name).files or ():
            if each.name.startswith("COPYING"):
                (place / each.name).write_bytes(each.locate().read_bytes())
    parts = [
        *(debian_package(root, name) for name in sorted(debian)),
        *(python_part(one) for one in kept),
    ]
    contents = hashed(root)
    files = [file(number, *each) for number, each in enumerate(contents, 1)]
    sums = (hashlib.sha1(each, usedforsecurity=False).hexdigest() for _, each in contents)
    bill = f"{BUNDLE}/sbom.spdx.json"
    image = spdx.part(
        spdx.IMAGE,
        BUNDLE,
        __version__,
        **spdx.all_files(sums, bill),
        licenseDeclared="Apache-2.0",
        primaryPackagePurpose="CONTAINER",
        comment="The manager with its own interpreter, for foreign PostgreSQL images.",
    )
    relations = [
        *(spdx.relation(spdx.IMAGE, "CONTAINS", each["SPDXID"]) for each in (*parts, *files)),
        *(
            spdx.relation(each["SPDXID"], "GENERATED_FROM", owners[path])
            for each, (path, _) in zip(files, contents, strict=True)
            if path in owners
        ),
    ]
    document = spdx.bill(BUNDLE, __version__, created, [image, *parts], files, relations)
    (root / bill).write_bytes(document)
    without = [
        path for path, _ in hashed(root) if path.endswith((".so", ".zip")) and path not in owners
    ]
    if without:
        raise SystemExit(f"nobody owns {', '.join(without)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
