"""The directory that becomes the volume: files are put into it, with what is known of each."""

from __future__ import annotations

import os
import posixpath
import shutil
from collections import Counter
from typing import TYPE_CHECKING, Final

from instance_manager.images import layout
from instance_manager.images.models import Ledger, LeftOut, Origin, Role
from instance_manager.images.packages import files_of
from instance_manager.images.tools import BuildError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from instance_manager.images.models import Package
    from instance_manager.images.packages import Found, Union

_MAXIMUM_SCRIPT: Final = 64 * 1024 * 1024


class VolumeTree:
    """A volume while it is made, in *root*."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self.name = name
        self.ledger = Ledger()
        self.rewritten: Counter[str] = Counter()
        """How many statements were rewritten, by script."""
        root.mkdir(parents=True)

    def put(self, path: str, found: Found) -> None:
        """Copy a file to a path of the volume; scripts are rewritten where they have to be."""
        place = self._make_room(path)
        note = ""
        if path.startswith("share/") and path.endswith(".sql"):
            note = self._put_script(path, found.place, place)
        else:
            shutil.copyfile(found.place, place)
        # Libraries need no execute permission: the loader maps them, and the kernel asks the mount
        # alone.
        place.chmod(0o755 if path.startswith("bin/") else 0o644)
        package = found.package.name if found.package else ""
        self.ledger.origins[path] = Origin(package, found.path, note)

    def _put_script(self, path: str, source: Path, place: Path) -> str:
        # A script is rewritten in memory, whose use is to be bounded.
        if source.stat().st_size > _MAXIMUM_SCRIPT:
            shutil.copyfile(source, place)
            return ""
        content, count = layout.rewrite_script(source.read_bytes())
        place.write_bytes(content)
        self.rewritten.update({path: count} if count else {})
        return f"$libdir/ was taken out of {count} LOAD statements" if count else ""

    def link(self, path: str, target: str) -> None:
        """Make a link to another path of the volume, relative."""
        place = self._make_room(path)
        # Relative, since nobody knows where the volume will be mounted.
        place.symlink_to(posixpath.relpath(target, posixpath.dirname(path) or "."))

    def write(self, path: str, content: bytes) -> None:
        """Write a file of our own."""
        place = self._make_room(path)
        place.write_bytes(content)
        place.chmod(0o644)

    def has(self, path: str) -> bool:
        """Say whether there is such a file or link."""
        return os.path.lexists(self.root / path)

    def files(self) -> list[str]:
        """Return the paths of all files and links, sorted."""
        found: list[str] = []
        for directory, names, files in os.walk(self.root):
            links = [name for name in names if os.path.islink(f"{directory}/{name}")]  # noqa: PTH114
            found += [
                os.path.relpath(f"{directory}/{name}", self.root) for name in (*files, *links)
            ]
        return sorted(found)

    def _make_room(self, path: str) -> Path:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        # lexists, since a link that leads nowhere is in the way as well.
        if os.path.lexists(place):
            place.unlink()
        return place


def lay_out(
    volume: VolumeTree,
    union: Union,
    packages: Sequence[Package],
    major: int,
    excluded: Sequence[str] = (),
) -> None:
    """Put the files of the extension's own packages where a server looks for them.

    Links within the volume stay links; what leads out of it becomes a copy.

    Raises:
        BuildError: a link leads nowhere.
    """
    placed: dict[str, tuple[str, Package]] = {}
    left: dict[str, int] = {}
    for package in packages:
        if package.role is not Role.OWN:
            continue
        own = dict(files_of(package))
        for path in sorted({*own, *(link for link, _ in package.links)}):
            where = layout.without(layout.place_of(path, major), excluded)
            if where.place:
                placed[path] = (where.place, package)
            elif where.reason:
                place = own.get(path)
                size = place.lstat().st_size if place else 0
                left[where.reason] = left.get(where.reason, 0) + size
    _put_all(volume, union, _under_final_names(placed, packages))
    note_left_out(volume, left)


def _under_final_names(
    placed: dict[str, tuple[str, Package]], packages: Sequence[Package]
) -> dict[str, tuple[str, Package]]:
    """Return where files go, without control files that are there for an alternative only.

    Debian has ``postgis-3.control`` for a link ``postgis.control``, and no script of such a name:
    the server would list an extension that can't be created.
    """
    links = {link: target for package in packages for link, target in package.links}
    scripts = {posixpath.basename(path).partition("--")[0] for path in placed if "--" in path}
    found = dict(placed)
    for link, target in links.items():
        is_control = link in placed and target in placed and target.endswith(".control")
        if is_control and posixpath.basename(target).removesuffix(".control") not in scripts:
            found.pop(target, None)
    return found


def _put_all(volume: VolumeTree, union: Union, placed: dict[str, tuple[str, Package]]) -> None:
    for path, (place, package) in placed.items():
        real = union.real(path)
        # Names of one library should stay one file: the loader tells them apart by inode.
        if real is not None and real != path and real in placed:
            volume.link(place, placed[real][0])
            continue
        found = union.find(path)
        if found is None:
            raise BuildError(
                f"cannot lay out {package.name}: {path} is a link to"
                f" {real or 'itself'}, which is in no package",
                hint="add the package that has it with --package, or report it to the packager",
            )
        volume.put(place, found)


def lay_out_directory(volume: VolumeTree, directory: Path, excluded: Sequence[str] = ()) -> None:
    """Put the files of a tree that was installed into where a server looks for them."""
    from instance_manager.images.packages import Found

    left: dict[str, int] = {}
    for place in _sorted_files(directory):
        path = str(place.relative_to(directory))
        where = layout.without(layout.place_in_tree(path), excluded)
        if where.place and volume.has(where.place):
            raise BuildError(
                f"cannot lay out {directory}: two files of it would be {where.place}",
                hint="the directory must hold one installation: make install DESTDIR=EMPTY",
            )
        if where.place:
            if not place.is_file():
                raise BuildError(f"cannot lay out {place}: it is a link that leads nowhere")
            volume.put(where.place, Found(path, place, None))
        else:
            left[where.reason] = left.get(where.reason, 0) + place.lstat().st_size
    note_left_out(volume, left)


def _sorted_files(directory: Path) -> list[Path]:
    return sorted(
        place for place in directory.rglob("*") if place.is_symlink() or not place.is_dir()
    )


def note_left_out(volume: VolumeTree, sizes: dict[str, int]) -> None:
    """Note what was left out, by reason."""
    volume.ledger.left_out += [
        LeftOut(what=reason, reason="no server uses it from a volume", size_bytes=size)
        for reason, size in sorted(sizes.items())
    ]


def put_licences(volume: VolumeTree, union: Union, packages: Iterable[Package]) -> None:
    """Add the licences of all packages that gave a file."""
    givers = {origin.package for origin in volume.ledger.origins.values()}
    for package in packages:
        if package.name in givers:
            found = union.find(f"usr/share/doc/{package.name}/copyright")
            if found is None:
                volume.ledger.notes.append(f"{package.name} has no file of its licences")
            else:
                volume.put(f"licenses/{package.name}/copyright", found)
                origin = volume.ledger.origins[f"licenses/{package.name}/copyright"]
                volume.ledger.origins[f"licenses/{package.name}/copyright"] = Origin(
                    package.name, origin.path, origin.note
                )
