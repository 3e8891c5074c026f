"""A base image and a repository of Debian packages, both made up, for the host's real apt."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.support.made_objects import HOST, interpreter, make_object

ARCHITECTURE: Final = {"x86_64": "amd64", "aarch64": "arm64"}.get(HOST, HOST)
TRIPLET: Final = f"{HOST}-linux-gnu"
LIBRARIES: Final = f"usr/lib/{TRIPLET}"
SERVER_LIBRARIES: Final = "usr/lib/postgresql/18/lib"
EXTENSIONS: Final = "usr/share/postgresql/18/extension"
MADE: Final = 1_700_000_000
"""When the files of the packages were made."""

Content = bytes | str | Path
"""What a file holds; a path is where a link leads."""


def make_base(root: Path, repository: Path, *, options: str = "[trusted=yes]") -> Path:
    """Make the files of an image with a server, whose source is a repository."""
    libc = make_object(soname="libc.so.6", exports=("dlopen", "write"), build_id=b"c" * 20)
    had = make_object(soname="libhad.so.1", versions=("HAD_1",), exports=("had",))
    server = make_object(needed=("libc.so.6",), interpreter=interpreter(), exports=("palloc",))
    put(
        root,
        {
            "usr/lib/postgresql/18/bin/postgres": server,
            f"{EXTENSIONS}/plpgsql.control": "default_version = '1.0'\n",
            f"{LIBRARIES}/libc.so.6": libc,
            f"{LIBRARIES}/libhad.so.1": had,
            "etc/os-release": 'ID=debian\nVERSION_CODENAME="trial"\n',
            "etc/apt/sources.list": f"deb {options} file:{repository} ./\n",
            "var/lib/dpkg/status": f"Package: dpkg\nStatus: install ok installed\n"
            f"Architecture: {ARCHITECTURE}\nMaintainer: nobody\nVersion: 1\nDescription: d\n",
        },
    )
    place = root / interpreter().lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    # Its own text says where it looks.
    shutil.copy(interpreter(), place)
    (root / "lib").mkdir(exist_ok=True)
    (root / f"lib/{TRIPLET}").symlink_to(f"../{LIBRARIES}")
    return root


def put(root: Path, files: Mapping[str, Content]) -> None:
    """Write files and links below a directory."""
    for path, content in files.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            place.symlink_to(content)
        else:
            place.write_bytes(content.encode() if isinstance(content, str) else content)


class Repository:
    """A directory of packages that apt takes for an archive."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._entries: list[str] = []
        place.mkdir()

    def add(
        self,
        name: str,
        files: Mapping[str, Content],
        *,
        version: str = "1.0-1",
        depends: Sequence[str] = (),
        source: str = "",
        postinst: str = "",
    ) -> None:
        """Build a package and list it."""
        tree = self.place / "trees" / name
        shutil.rmtree(tree, ignore_errors=True)
        put(tree, {**files, f"usr/share/doc/{name}/copyright": f"licence of {name}\n"})
        for each in (each for each in tree.rglob("*") if not each.is_symlink()):
            os.utime(each, (MADE, MADE))
        lines = [
            *(f"Package: {name}", f"Version: {version}", f"Architecture: {ARCHITECTURE}"),
            *([f"Source: {source}"] if source else []),
            *([f"Depends: {', '.join(depends)}"] if depends else []),
            *("Maintainer: Nobody <nobody@example.org>", "Description: made up"),
        ]
        stanza = "\n".join(lines)
        put(tree, {"DEBIAN/control": f"{stanza}\n"})
        if postinst:
            put(tree, {"DEBIAN/postinst": f"#!/bin/sh\n{postinst}"})
            (tree / "DEBIAN/postinst").chmod(0o755)
        for directory in (tree, *(each for each in tree.rglob("*") if each.is_dir())):
            directory.chmod(0o755)
        file = self.place / f"{name}_{version}_{ARCHITECTURE}.deb"
        build = ("dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(file))
        subprocess.run(build, check=True, capture_output=True)
        content = file.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        self._entries.append(
            f"{stanza}\nFilename: ./{file.name}\nSize: {len(content)}\nSHA256: {sha256}\n"
        )
        (self.place / "Packages").write_text("\n".join(self._entries))
