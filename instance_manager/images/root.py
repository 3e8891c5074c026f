"""Write the list of parts of the image that this runs in; the build of the operand does.

``python -m instance_manager.images.root NAME VERSION EPOCH REPORTS FILE`` reads dpkg's list, the
sums of the packages' archives beside FILE, the distributions of this Python, and what pip said of
their archives (``--report``, into the directory REPORTS). It writes FILE.
"""

from __future__ import annotations

import hashlib
import json
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from instance_manager.images.debian import parse_os_release
from instance_manager.images.describing_roots import (
    Installed,
    Loose,
    Root,
    archive_sums,
    bill,
    debian_packages,
    python_package,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOSE: Final = ("opt/instance-manager/bin", "usr/lib/locale", "usr/local")
"""Where files lie that no package owns, and that are run or read."""

LICENCES: Final = ("License-Expression", "License")

SUMS: Final = "debian-archives.sha256"


def main(arguments: list[str]) -> int:
    """Write the list; return the exit code."""
    name, version, epoch, reports, file = arguments
    target = Path(file)
    described = describe(Path("/"), name, version, int(epoch), Path(reports), target.parent / SUMS)
    target.write_bytes(bill(described))
    return 0


def describe(root: Path, name: str, version: str, epoch: int, reports: Path, sums: Path) -> Root:
    """Return what is in the image whose root is *root*."""
    system = parse_os_release((root / "etc/os-release").read_text())
    status = (root / "var/lib/dpkg/status").read_text()
    archives = archive_sums(sums.read_text()) if sums.exists() else {}
    owned = _owned(root / "var/lib/dpkg/info")
    return Root(
        name=name,
        version=version,
        created=datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        system=system,
        packages=[*debian_packages(status, system, archives), *_distributions(reports)],
        files=[each for each in _loose(root) if each.path not in owned],
    )


def _distributions(reports: Path) -> Iterator[Installed]:
    """Yield the distributions of this interpreter's own environment."""
    documents = (json.loads(path.read_text()) for path in sorted(reports.glob("*.json")))
    sums = {
        python_package(each["metadata"]["name"], "0", "", "").name: (
            each["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256", "")
        )
        for document in documents
        for each in document["install"]
    }
    found: list[Installed] = []
    # Only of this environment: the system's Python packages are dpkg's, and in its list.
    for each in metadata.distributions(path=[p for p in sys.path if p.startswith(sys.prefix)]):
        said = (each.metadata[key] for key in LICENCES if key in each.metadata)
        licence = next(said, "").partition("\n")[0]
        known = python_package(each.name, each.version, "", licence)
        found.append(known._replace(sha256=sums.get(known.name, "")))
    yield from sorted(found)


def _owned(info: Path) -> set[str]:
    """Return the files that dpkg put there."""
    return {
        line.lstrip("/")
        for path in info.glob("*.list")
        for line in path.read_text(errors="surrogateescape").splitlines()
    }


def _loose(root: Path) -> Iterator[Loose]:
    for place in LOOSE:
        for path in sorted((root / place).rglob("*")):
            # What a link leads to is listed where it lies, or belongs to a package.
            if path.is_file() and not path.is_symlink():
                content = path.read_bytes()
                yield Loose(
                    path.relative_to(root).as_posix(),
                    hashlib.sha1(content, usedforsecurity=False).hexdigest(),
                    hashlib.sha256(content).hexdigest(),
                )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
