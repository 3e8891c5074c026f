"""What a volume says of itself: metadata, labels, and what scanners read.

Pure: facts in, documents out. The list of parts is SPDX's; the
stanzas in ``var/lib/dpkg/status.d`` are read by scanners that look for Debian's packages in images
without dpkg.
"""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from instance_manager import __version__
from instance_manager.images import spdx
from instance_manager.images.debian import package_url

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from instance_manager.images.models import Origin, Package

SBOM: Final = "sbom.spdx.json"
STATUS: Final = "var/lib/dpkg/status.d"


class HashedFile(NamedTuple):
    """A file of the volume; *build_id* is None for what is no program or has none."""

    path: str
    sha1: str
    sha256: str
    md5: str
    build_id: str | None


class Facts(NamedTuple):
    """What is said of an image."""

    name: str
    version: str
    major: int
    base: str
    base_digest: str
    system: Mapping[str, str]
    created: str
    extensions: Mapping[str, str]
    requires: tuple[str, ...]
    environment: Mapping[str, str]
    preload: tuple[str, ...]
    smoke_test: tuple[str, ...] = ()
    given: Mapping[str, object] = MappingProxyType({})
    """Further fields of the metadata: they win, and variables go together with what is found."""


def metadata(facts: Facts) -> bytes:
    """Return ``share/instance-manager/extension.json``."""
    given = cast("list[dict[str, str]]", facts.given.get("env", []))
    environment = {**facts.environment, **{each["name"]: each["value"] for each in given}}
    document: dict[str, object] = {
        "name": facts.name,
        "version": facts.version,
        "created": facts.created,
        "base": f"{facts.base}@{facts.base_digest}" if facts.base_digest else facts.base,
        # What follows may replace it: only who builds knows where the code comes from.
        "source": f"instance-manager {__version__}",
        "extensions": dict(sorted(facts.extensions.items())),
        **facts.given,
        "requires": list(facts.requires),
        "shared_preload_libraries": list(facts.preload),
        "smoke_test": list(facts.smoke_test),
        "env": [{"name": name, "value": value} for name, value in sorted(environment.items())],
    }
    return _encoded({key: value for key, value in document.items() if value})


def labels(facts: Facts, more: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return the labels of the image, those of the user last."""
    names = ", ".join(sorted(facts.extensions)) or "libraries"
    sql = facts.extensions.get(facts.name) or next(iter(facts.extensions.values()), "")
    own = {
        "org.opencontainers.image.title": facts.name,
        "org.opencontainers.image.description": f"{names} for PostgreSQL {facts.major}",
        "org.opencontainers.image.version": facts.version,
        "org.opencontainers.image.created": facts.created,
        "org.opencontainers.image.source": str(facts.given.get("source", "")),
        "org.opencontainers.image.revision": str(facts.given.get("revision", "")),
        # The image has no layer of another one; what it was made for is said below.
        "org.opencontainers.image.base.name": "scratch",
        "io.cloudnativepg.image.base.name": facts.base,
        "io.cloudnativepg.image.base.pgmajor": str(facts.major),
        "io.cloudnativepg.image.base.os": facts.system.get("VERSION_CODENAME", ""),
        "io.cloudnativepg.image.sql.version": sql,
        "io.instance-manager.postgres.major": str(facts.major),
    }
    return {key: value for key, value in {**own, **dict(more)}.items() if value}


def stanza(package: Package) -> bytes:
    """Return the package's entry in the list of what is installed."""
    # dpkg's list has a status behind the name, which a package's own stanza lacks.
    first, rest = package.control.split("\n", 1)
    return f"{first}\nStatus: install ok installed\n{rest}".encode()


def md5sums(package: Package, files: Sequence[HashedFile], origins: Mapping[str, Origin]) -> bytes:
    """Return the package's list of files, as they lie in the volume."""
    own = (
        each
        for each in files
        if each.path in origins and origins[each.path].package == package.name
    )
    return "".join(f"{each.md5}  {each.path}\n" for each in own).encode()


def bill(
    facts: Facts,
    packages: Sequence[Package],
    files: Sequence[HashedFile],
    origins: Mapping[str, Origin],
) -> bytes:
    """Return the list of parts."""
    identifiers = {each.name: spdx.identifier("Package", each.name) for each in packages}
    listed = [_file(number, each, origins) for number, each in enumerate(files, 1)]
    named = [(str(one["SPDXID"]), each) for one, each in zip(listed, files, strict=True)]
    relations = [
        *(spdx.relation(spdx.IMAGE, "CONTAINS", each) for each in identifiers.values()),
        *(spdx.relation(spdx.IMAGE, "CONTAINS", own) for own, _ in named),
        *(
            spdx.relation(own, "GENERATED_FROM", owner)
            for own, each in named
            if (owner := _owner(each, origins, identifiers))
        ),
    ]
    parts = [_image(facts, files), *(_package(each, facts) for each in packages)]
    return spdx.bill(facts.name, facts.version, facts.created, parts, listed, relations)


def _owner(file: HashedFile, origins: Mapping[str, Origin], identifiers: Mapping[str, str]) -> str:
    origin = origins.get(file.path)
    return identifiers.get(origin.package, "") if origin else ""


def _image(facts: Facts, files: Sequence[HashedFile]) -> dict[str, object]:
    base = f"{facts.base}@{facts.base_digest}" if facts.base_digest else facts.base
    return spdx.part(
        spdx.IMAGE,
        facts.name,
        facts.version,
        # Without the list itself, which can't hold its own sum.
        **spdx.all_files((each.sha1 for each in files), SBOM),
        primaryPackagePurpose="CONTAINER",
        comment=f"Extension volume for PostgreSQL {facts.major}, made for base {base}.",
    )


def _package(package: Package, facts: Facts) -> dict[str, object]:
    vendor, codename = facts.system.get("ID", "debian"), facts.system.get("VERSION_CODENAME")
    address = package_url(vendor, package.name, package.version, package.architecture)
    if codename:
        # Scanners match advisories by release: one version is fixed in one and open in another.
        address = f"{address}&distro={codename}"
    said = spdx.origin(
        address, sha256=package.sha256, source=package.source, supplier=package.maintainer
    )
    own = spdx.identifier("Package", package.name)
    return spdx.part(own, package.name, package.version, **said)


def _file(number: int, file: HashedFile, origins: Mapping[str, Origin]) -> dict[str, object]:
    origin = origins.get(file.path)
    said = [
        f"from {origin.path}" if origin and origin.path else "",
        origin.note if origin else "",
        f"build id {file.build_id}" if file.build_id else "",
    ]
    return spdx.file(number, file.path, file.sha1, file.sha256, "; ".join(filter(None, said)))


def _encoded(document: object) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()
