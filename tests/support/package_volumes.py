"""Debian packages laid out as an extension volume, as CloudNativePG's images are.

``lib`` (modules, without bitcode), ``share/extension``, ``system`` (the libraries that the modules
need and the server's image lacks, each under its real name and linked from the name that is asked
for), ``share/proj`` and ``share/gdal``, ``bin`` and ``licenses``. A volume is a map from paths to
contents, so that a test can damage one.
"""

from __future__ import annotations

import fnmatch
import io
import posixpath
import re
import subprocess
import tarfile
from typing import TYPE_CHECKING, Final, NamedTuple

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile

from tests.support.packages import package_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path


class Link(NamedTuple):
    """A symbolic link."""

    target: str


Tree = dict[str, "bytes | Link"]

_NOT_WANTED: Final = re.compile(
    r"usr/(include|share/(man|info|locale|lintian)|lib/(python3|debug|postgresql/\d+/lib/(bitcode|pgxs)))/"
)
_SERVER: Final = re.compile(r"usr/(?:lib|share)/postgresql/\d+/")
_ALTERNATIVE: Final = re.compile(r"--(?:install|slave)\s+(\S+)\s+\S+\s+(\S+)")
_ASSIGNMENT: Final = re.compile(r'^(\w+)="?([^"\n]*)"?$', re.MULTILINE)
_PLACES: Final = (
    (re.compile(r"usr/lib/postgresql/\d+/(lib|bin)/(.+)"), r"\1/\2"),
    (re.compile(r"usr/share/postgresql/\d+/(.+)"), r"share/\1"),
    (re.compile(r"usr/share/doc/([^/]+)/copyright"), r"licenses/\1/copyright"),
)
_DATA: Final = re.compile(r"usr/(share/(?:proj|gdal)/.+)")


def lay_out(packages: Iterable[Path], own: Collection[str], base: Collection[str]) -> Tree:
    """Return the volume of the packages whose names begin with one of *own*.

    Args:
        packages: the files of all packages, with those that the volume's own ones need.
        own: the extension's packages; what other extensions' packages hold is left out.
        base: the names of the libraries that the server's image has.
    """
    volume: Tree = {}
    others: Tree = {}
    for package in packages:
        tree = unpack(package)
        if package_name(package).startswith(tuple(own)):
            volume.update(_placed(tree))
        elif not any(map(_SERVER.match, tree)):
            others.update(tree)
    volume.update((match[1], others[path]) for path in others if (match := _DATA.match(path)))
    volume.update(_closure(volume, others, base))
    return volume


def unpack(package: Path) -> Tree:
    """Return what a package installs, and the links that its alternatives would make."""
    tree: Tree = {}
    for member, content in _members(package, "--fsys-tarfile"):
        path = member.name.removeprefix("./")
        path = f"usr/{path}" if path.startswith("lib/") else path
        if member.issym():
            tree[path] = Link(member.linkname)
        elif member.islnk() and (first := member.linkname.removeprefix("./")) in tree:
            tree[path] = tree[first]
        elif member.isfile() and not _NOT_WANTED.match(path):
            tree[path] = content
    tree.update(_alternatives(package))
    return tree


def _members(package: Path, part: str) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    command = ["dpkg-deb", part, str(package)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as archive,
    ):
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            yield member, file.read() if file else b""


def _alternatives(package: Path) -> Iterator[tuple[str, Link]]:
    """Yield the links that update-alternatives would make, straight to what they lead to."""
    for member, content in _members(package, "--ctrl-tarfile"):
        if member.name != "./postinst":
            continue
        script = content.decode().replace("\\\n", " ")
        # The last one first: it may be made of earlier ones.
        for name, value in reversed(_ASSIGNMENT.findall(script)):
            script = re.sub(rf"\$(?:{name}\b|{{{name}}})", value, script)
        for link, target in _ALTERNATIVE.findall(script):
            start = posixpath.dirname(link)
            yield link.lstrip("/"), Link(posixpath.relpath(target, start))


def _placed(tree: Tree) -> Iterator[tuple[str, bytes | Link]]:
    for path, content in tree.items():
        for pattern, place in _PLACES:
            if match := pattern.fullmatch(path):
                yield match.expand(place), content


def _closure(
    volume: Tree, others: Tree, base: Collection[str]
) -> Iterator[tuple[str, bytes | Link]]:
    """Yield the libraries that the volume's programs need, from other packages, for ``system``."""
    by_name: dict[str, str] = {}
    # A library of the loader's own directories comes before one of the same name below them.
    for path in sorted(others, key=lambda path: (path.count("/"), path)):
        if ".so" in path and path.startswith("usr/lib/"):
            by_name.setdefault(posixpath.basename(path), path)
    waiting = [name for path in volume for name in needed(volume[path])]
    seen = set(base) | {posixpath.basename(path) for path in volume}
    while waiting:
        name = waiting.pop()
        if name in seen or name not in by_name:
            continue
        seen.add(name)
        real = _real(by_name[name], others)
        if real is None:
            continue
        file = posixpath.basename(real)
        yield f"system/{file}", others[real]
        if file != name:
            yield f"system/{name}", Link(file)
        waiting += needed(others[real])


def _real(path: str, tree: Tree) -> str | None:
    """Return where a path leads; None if nowhere in the tree."""
    while isinstance(content := tree.get(path), Link):
        path = posixpath.normpath(posixpath.join(posixpath.dirname(path), content.target))
        path = path.lstrip("/")
    return None if content is None else path


def needed(content: bytes | Link) -> list[str]:
    """Return the names of the libraries that a file needs; none if it is no ELF file."""
    if isinstance(content, Link) or not content.startswith(b"\x7fELF"):
        return []
    try:
        segments = list(ELFFile(io.BytesIO(content)).iter_segments())
    except ELFError:
        return []
    dynamic = [each for each in segments if isinstance(each, DynamicSegment)]
    tags = [tag for each in dynamic for tag in each.iter_tags("DT_NEEDED")]
    return [str(vars(tag)["needed"]) for tag in tags]


def write(tree: Tree, file: Path) -> None:
    """Write a volume as an archive for ``podman import``."""
    with tarfile.open(file, "w") as archive:
        for path, content in sorted(tree.items()):
            member = tarfile.TarInfo(path)
            if isinstance(content, Link):
                member.type, member.linkname = tarfile.SYMTYPE, content.target
                archive.addfile(member)
            else:
                member.mode = 0o755 if path.startswith("bin/") else 0o644
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def libraries(package: Path) -> Tree:
    """Return a package's libraries as they lie in ``system``."""
    tree = {path: content for path, content in unpack(package).items() if ".so" in path}
    return {
        f"system/{posixpath.basename(path)}": content
        for path, content in tree.items()
        if path.startswith("usr/lib/") and posixpath.dirname(path).count("/") == 2
    }


def hurt(tree: Tree, kind: str, pattern: str) -> None:
    """Damage the files of a volume that a pattern names."""
    paths = fnmatch.filter(tree, pattern)
    assert paths, f"no file of the volume is {pattern}"
    for path in paths:
        content = tree.pop(path)
        if kind == "truncate":
            assert isinstance(content, bytes)
            tree[path] = content[: len(content) // 2]
        elif kind == "alternative":
            tree[path] = Link(f"/etc/alternatives/postgresql-18-{posixpath.basename(path)}")
