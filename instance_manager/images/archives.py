"""The files of a root from an archive of them, such as ``podman export`` writes.

An archive is whatever somebody was sent: nothing in it may write outside of its directory.
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
from typing import TYPE_CHECKING, Final

from instance_manager.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

# What a build looks at, of all that an image has.
_WANTED: Final = re.compile(
    r"(?:etc/(?:apt|ld\.so|os-release|alternatives)|lib(?:64)?(?:/|$)|usr/lib|usr/local/lib"
    r"|usr/share/(?:postgresql|keyrings|proj|gdal|tcltk|doc)|var/lib/dpkg/(?:status|arch)).*"
)


def unpack_root(archive: Path, root: Path) -> None:
    """Unpack what a build needs of the files of a root.

    Raises:
        UsageError: it is no archive, or a damaged one.
    """
    root.mkdir(parents=True)
    try:
        with tarfile.open(archive, "r|*") as files:
            for member in files:
                name = os.path.normpath(member.name).lstrip("/")
                if _WANTED.fullmatch(name) and ".." not in name.split("/"):
                    put(files, member, root / name, root)
    except (tarfile.TarError, EOFError) as error:
        raise UsageError(
            f"cannot use base {str(archive)!r}: it is no archive of files: {error}",
            hint="podman export CONTAINER > base.tar; an archive of an image is to be loaded:"
            f" podman load --input {archive}",
        ) from error


def put(files: tarfile.TarFile, member: tarfile.TarInfo, place: Path, root: Path) -> None:
    """Write one member of an archive to *place*, where that is below *root* and stays so."""
    parent = place.parent
    parent.mkdir(parents=True, exist_ok=True)
    # An earlier link must not lead this one away.
    if not f"{os.path.realpath(parent)}/".startswith(f"{os.path.realpath(root)}/"):
        return
    if member.isdir():
        if not place.is_symlink():
            place.mkdir(exist_ok=True)
        return
    if place.is_symlink() or place.is_file():
        place.unlink()
    _write(files, member, place, root)


def _write(files: tarfile.TarFile, member: tarfile.TarInfo, place: Path, root: Path) -> None:
    if member.issym():
        place.symlink_to(member.linkname)
    elif member.islnk():
        first = root / os.path.normpath(member.linkname).lstrip("/")
        if ".." not in member.linkname.split("/") and first.is_file() and not first.is_symlink():
            os.link(first, place)
    elif member.isfile() and (content := files.extractfile(member)) is not None:
        with place.open("wb") as file:
            shutil.copyfileobj(content, file)
