"""The files of a root from an archive of them, such as ``podman export`` writes.

An archive is whatever somebody was sent: nothing in it may write outside of its directory.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tarfile
from pathlib import Path
from typing import Final

from instance_manager.errors import UsageError

# What a build looks at, of all that an image has.
_WANTED: Final = re.compile(
    r"(?:etc/(?:apt|ld\.so|os-release|alternatives)|lib(?:64)?(?:/|$)|usr/lib|usr/local/lib"
    r"|usr/share/(?:postgresql|keyrings|proj|gdal|tcltk|doc)|var/lib/dpkg/(?:status|arch)).*"
)
_ITS_OWN_FAULT: Final = frozenset(
    {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL}
)
_SHOWN: Final = 200


def unpack_root(archive: Path, root: Path) -> None:
    """Unpack what a build needs of the files of a root.

    Raises:
        UsageError: it is no archive, or a damaged one.
    """
    root.mkdir(parents=True)
    try:
        # As a stream: it is gone through once, from its beginning to its end.
        with tarfile.open(archive, "r|*") as files:
            for member in files:
                name = os.path.normpath(member.name).lstrip("/")
                # normpath leaves `..` only at the beginning, where it leads out.
                if _WANTED.fullmatch(name) and ".." not in name.split("/"):
                    put(files, member, root / name, root)
    except (tarfile.TarError, EOFError) as error:
        raise UsageError(
            f"cannot use base {str(archive)!r}: it is no archive of files: {error}",
            hint="podman export CONTAINER > base.tar; an archive of an image is to be loaded:"
            f" podman load --input {archive}",
        ) from error


def put(files: tarfile.TarFile, member: tarfile.TarInfo, place: Path, root: Path) -> None:
    """Write one member of an archive to *place*, where that is below *root* and stays so.

    Raises:
        tarfile.ExtractError: it can't stand where earlier ones are, or its name is too long.
    """
    try:
        # An earlier member may be a link in the place of a directory: what leads out of the root
        # is passed over.
        parent = inside(place.parent, root)
        if parent is not None:
            parent.mkdir(parents=True, exist_ok=True)
            _put(files, member, parent / place.name, root)
    except OSError as error:
        # No space, or no permission, is a matter of this host and not of the archive.
        if error.errno not in _ITS_OWN_FAULT:
            raise
        raise tarfile.ExtractError(f"{member.name[:_SHOWN]!r}: {error.strerror}") from error


def inside(place: Path, root: Path) -> Path | None:
    """Return where a path leads, links followed; None where that is not below *root*."""
    real, top = os.path.realpath(place), os.path.realpath(root)
    return Path(real) if f"{real}/".startswith(f"{top}/") else None


def _put(files: tarfile.TarFile, member: tarfile.TarInfo, place: Path, root: Path) -> None:
    if member.isdir():
        # A link to a directory stays, as in a merged /usr, where /lib is one.
        if not place.is_dir() and not place.is_symlink():
            place.unlink(missing_ok=True)
            place.mkdir()
        return
    # A later member replaces an earlier one, whatever that was.
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    _write(files, member, place, root)


def _write(files: tarfile.TarFile, member: tarfile.TarInfo, place: Path, root: Path) -> None:
    if member.issym():
        place.symlink_to(member.linkname)
    # A hard link is made only to a file of the same root that is there, and never through a link.
    elif member.islnk():
        first = root / os.path.normpath(member.linkname).lstrip("/")
        real = inside(first.parent, root)
        if real is not None and (real / first.name).is_file() and not first.is_symlink():
            os.link(real / first.name, place)
    elif member.isreg() and (content := files.extractfile(member)) is not None:
        with place.open("wb") as file:
            shutil.copyfileobj(content, file)
