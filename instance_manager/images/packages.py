"""The files of packages: unpacked, one tree each, and looked at together as in one root."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from instance_manager.images import debian, layout
from instance_manager.images.models import Package, Role
from instance_manager.images.tools import BuildError, program, run_tool

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from instance_manager.images.base import Base
    from instance_manager.supervision.children import Children

_MAXIMUM_LINKS: Final = 40
_MERGED: Final = re.compile(r"(?:s?bin|lib(?:32|64|x32)?)/")
"""What lies in ``/usr`` today, and below the root in older packages."""


class Found(NamedTuple):
    """A file: its real path in the root, where it is, and the package; None for the base's."""

    path: str
    place: Path
    package: Package | None


async def unpack(children: Children, file: Path, work: Path) -> Package:
    """Unpack one package below *work*; nothing of it is run.

    Raises:
        BuildError: the file is damaged.
    """
    dpkg = program("dpkg-deb", "dpkg")
    tree, control = work / file.stem / "files", work / file.stem / "control"
    tree.mkdir(parents=True)
    try:
        await run_tool(children, "dpkg-deb", (dpkg, "--extract", file, tree))
        await run_tool(children, "dpkg-deb", (dpkg, "--control", file, control))
    except BuildError as error:
        raise BuildError(
            f"cannot unpack {file}: {error.message}", hint="remove the file: it is fetched again"
        ) from error
    text = (control / "control").read_text(encoding="utf-8", errors="replace")
    fields = debian.parse_stanza(text)
    script = control / "postinst"
    said = script.read_text(encoding="utf-8", errors="replace") if script.is_file() else ""
    with file.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    return Package(
        name=fields["Package"],
        version=fields["Version"],
        architecture=fields.get("Architecture", ""),
        source=debian.source_of(fields),
        maintainer=fields.get("Maintainer", ""),
        control=text.rstrip("\n") + "\n",
        sha256=sha256,
        tree=tree,
        links=tuple(debian.alternatives(said)),
    )


def files_of(package: Package) -> Iterator[tuple[str, Path]]:
    """Yield the files and links of a package, sorted, by their paths in the root."""
    found: list[tuple[str, Path]] = []
    for directory, names, files in os.walk(package.tree):
        # os.walk lists a link to a directory among the directories, and does not go into it.
        links = [name for name in names if (Path(directory) / name).is_symlink()]
        for name in (*files, *links):
            place = Path(directory) / name
            path = str(place.relative_to(package.tree))
            # In a merged /usr, one file has one path, whatever its package calls it.
            found.append((f"usr/{path}" if _MERGED.match(path) else path, place))
    yield from sorted(found)


def with_roles(
    packages: Sequence[Package],
    asked: Collection[str],
    bundled: Collection[str],
    installed: Collection[str],
) -> tuple[Package, ...]:
    """Return the packages with what each is to the volume.

    Args:
        packages: all of them.
        asked: the names that the user gave.
        bundled: packages of other extensions that the volume is to hold too.
        installed: the names that the base has: newer ones of those come with nothing.
    """
    sources = {each.name: each.source for each in packages if each.name in asked}
    return tuple(_with_role(each, _role(each, sources, bundled, installed)) for each in packages)


def _role(
    package: Package,
    sources: dict[str, str],
    bundled: Collection[str],
    installed: Collection[str],
) -> Role:
    is_extension = any(layout.is_of_an_extension(path) for path, _ in files_of(package))
    # The base's own copy counts: $system and $libdir come first in the server's paths.
    if not is_extension or package.name in installed:
        return Role.LIBRARY
    if package.name in bundled or debian.is_own(package.name, package.source, sources):
        return Role.OWN
    return Role.OTHER_EXTENSION


def _with_role(package: Package, role: Role) -> Package:
    return dataclasses.replace(package, role=role)


class Union:
    """The files of all packages over those of the base, as they would lie in one root."""

    def __init__(self, packages: Sequence[Package], base: Base) -> None:
        self._base = base
        self._files: dict[str, tuple[Path, Package]] = {}
        self._links: dict[str, str] = {}
        for package in packages:
            for path, place in files_of(package):
                self._files[path] = (place, package)
                if place.is_symlink():
                    self._links[path] = os.readlink(place)  # noqa: PTH115 - the text
        for package in packages:
            for link, target in package.links:
                # A link that a package itself has goes before one of an alternative.
                self._links.setdefault(link, f"/{target}")

    def below(self, directory: str) -> Iterator[str]:
        """Yield the paths of the packages' files below a directory, sorted."""
        yield from sorted(path for path in self._files if path.startswith(f"{directory}/"))

    def find(self, path: str) -> Found | None:
        """Return what lies at a path, links followed; None where there is no file."""
        real = self.real(path)
        if real is None:
            return None
        if real in self._files:
            place, package = self._files[real]
            return Found(real, place, package) if place.is_file() else None
        place_in_base = self._base.place(real)
        if place_in_base is None or not place_in_base.is_file():
            return None
        return Found(real, place_in_base, None)

    def real(self, path: str) -> str | None:
        """Return a path without the packages' links on its way; None for a circle."""
        # As often as the kernel follows links (path_resolution(7)).
        for _ in range(_MAXIMUM_LINKS):
            link = next((prefix for prefix in _prefixes(path) if prefix in self._links), None)
            if link is None:
                return path
            rest = path[len(link) :]
            target = posixpath.join(posixpath.dirname(f"/{link}"), self._links[link])
            path = posixpath.normpath(f"{target}{rest}").lstrip("/")
            path = f"usr/{path}" if _MERGED.match(path) else path
        return None

    def libraries(self) -> dict[str, str]:
        """Return the paths of what may be a library, by name; the loader's directories first."""
        found: dict[str, str] = {}
        paths = (*self._files, *self._links)
        # The loader searches /usr/lib and one directory below it: the same name further down is a
        # plugin.
        for path in sorted(paths, key=lambda path: (path.count("/"), path)):
            name = posixpath.basename(path)
            if path.startswith("usr/lib/") and re.search(r"\.so(\.|$)", name):
                found.setdefault(name, path)
        return found


def _prefixes(path: str) -> Iterator[str]:
    parts = path.split("/")
    for count in range(1, len(parts) + 1):
        yield "/".join(parts[:count])
