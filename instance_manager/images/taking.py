"""The files of an image that was built: from an OCI layout, an archive of one, or podman's store.

An image is whatever somebody was sent: blobs are held against their digests, and nothing in a
layer may write outside of its directory. Format: opencontainers/image-spec v1.1, layer.md.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import posixpath
import re
import shutil
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from instance_manager.errors import DiskSpaceError, UsageError
from instance_manager.images import archives
from instance_manager.images.layers import Budget, LayerError, entries, opened
from instance_manager.images.tools import run_tool

if TYPE_CHECKING:
    from instance_manager.supervision.children import Children

_MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
_TITLE: Final = "org.opencontainers.image.title"
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"
_OF_A_LAYOUT: Final = re.compile(r"oci-layout|index\.json|blobs/sha256/[0-9a-f]{64}")
_CHUNK: Final = 1 << 20
_DOCUMENT_LIMIT: Final = 4 << 20
_ALL_MAY_READ: Final = 0o755
_MOST_LAYERS: Final = 500
_FORMS: Final = (
    "an OCI layout, or an archive of one: podman save --format oci-archive --output FILE IMAGE;"
    " layers are plain, or compressed by gzip or zstd"
)


async def take(children: Children, name: str, work: Path) -> tuple[Path, str]:
    """Return the directory of a volume's files, and a name for the volume.

    A directory that is no layout is the volume itself; all else is unpacked below *work*.

    Raises:
        UsageError: there is nothing of this name, or it is no image.
    """
    found = _found(name)
    if found is None:
        saved = await _saved(children, name, work / "image.tar")
        return await _unpacked(children, saved, work, name)
    if found.is_dir and not found.is_layout:
        return found.path, _name(found.path.name)
    return await _unpacked(children, found.path, work, name)


class _Found(NamedTuple):
    path: Path
    is_dir: bool
    is_layout: bool


def _found(name: str) -> _Found | None:
    path = Path(name).resolve()
    if not path.exists():
        return None
    return _Found(path, path.is_dir(), (path / "oci-layout").is_file())


async def _unpacked(children: Children, image: Path, work: Path, name: str) -> tuple[Path, str]:
    """Unpack a layout, or an archive of one, below *work*."""
    layout, root = image, _new(work / "files")
    try:
        if not _is_directory(image):
            layout = _new(work / "layout")
            await _unpack_layout(children, image, layout)
        # The image's own title: a file or a tag may be called anything.
        title = await _unpack(children, layout, root)
    except (LayerError, tarfile.TarError) as error:
        hint = error.hint if isinstance(error, LayerError) else ""
        raise UsageError(f"cannot use {name!r}: {error}", hint=hint or _FORMS) from error
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise DiskSpaceError(
            f"cannot unpack {name!r}: no space left in {work}",
            hint="set TMPDIR to a directory with more",
        ) from error
    # Unpacked, its blobs are of no more use and take as much again.
    shutil.rmtree(work / "layout", ignore_errors=True)
    return root, _name(title or Path(name).name.partition(":")[0].removesuffix(".tar"))


def _name(text: str) -> str:
    """Return what a volume may be called, near to *text*."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:59] or "volume"


async def _saved(children: Children, name: str, archive: Path) -> Path:
    podman = shutil.which("podman")
    if podman is None:
        raise UsageError(
            f"cannot use {name!r}: no directory or file is there, and no podman",
            hint="name the directory of a volume, an OCI layout, or an archive of one",
        )
    archive.parent.mkdir(mode=_ALL_MAY_READ)
    arguments = (podman, "save", "--quiet", "--format=oci-archive", f"--output={archive}", name)
    done = await run_tool(children, "podman", arguments, check=False)
    if not done.status.is_success:
        raise UsageError(
            f"cannot use {name!r}: no directory or file is there, and no image of podman",
            hint=f"podman pull {name}; podman says: {done.errors.strip()[-300:]}",
        )
    return archive


def _new(directory: Path) -> Path:
    directory.parent.mkdir(mode=_ALL_MAY_READ, exist_ok=True)
    # Where root tests an image, the server that reads it is another user.
    directory.mkdir(mode=_ALL_MAY_READ)
    return directory


def _is_directory(path: Path) -> bool:
    return path.is_dir()


async def _unpack_layout(children: Children, archive: Path, layout: Path) -> None:
    budget = Budget()
    async with opened(children, archive, budget) as files:
        for member in entries(files, budget):
            name = posixpath.normpath(member.name)
            if member.isreg() and _OF_A_LAYOUT.fullmatch(name):
                archives.put(files, member, layout / name, layout)


async def _unpack(children: Children, layout: Path, root: Path) -> str:
    """Unpack the layers of the image for this machine; return the image's title."""
    try:
        layers, title = _contents(layout)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LayerError(f"it is no whole OCI layout: {error}") from error
    budget = Budget()
    for layer in layers:
        async with opened(children, layer, budget) as files:
            for member in entries(files, budget):
                _put(files, member, root)
    return title


def _contents(layout: Path) -> tuple[list[Path], str]:
    """Return the layers of the image for this machine, and its title."""
    manifest = _manifest(layout)
    descriptors = manifest["layers"]
    # Each is hashed and opened, however little it holds.
    if len(descriptors) > _MOST_LAYERS:
        raise ValueError(f"it has more than {_MOST_LAYERS} layers")
    title = manifest.get("annotations", {}).get(_TITLE) or _label(layout, manifest)
    layers = [_blob(layout, one) for one in descriptors]
    return layers, title if isinstance(title, str) else ""


def _manifest(layout: Path) -> dict[str, Any]:
    document = _document(layout / "index.json")
    # An index may list an index, as of several platforms.
    while "manifests" in document:
        document = _document(_blob(layout, of_this_machine(document["manifests"])))
    return document


def of_this_machine(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the image of a list that would run here; the only one runs anywhere.

    Raises:
        ValueError: there is none.
    """
    for one in manifests:
        architecture = one.get("platform", {}).get("architecture", "")
        if _MACHINES.get(architecture, architecture) == platform.machine():
            return one
    # Where there is a choice, one must fit; the only one may lack a platform, or hold data alone.
    if len(manifests) != 1:
        raise ValueError(f"it has {len(manifests)} images, and none for {platform.machine()}")
    return manifests[0]


def _label(layout: Path, manifest: dict[str, Any]) -> object:
    config = _document(_blob(layout, manifest["config"]))
    labels: dict[str, object] = config.get("config", {}).get("Labels") or {}
    return labels.get(_TITLE, "")


def _blob(layout: Path, descriptor: dict[str, Any]) -> Path:
    found = _DIGEST.fullmatch(descriptor["digest"])
    if found is None:
        raise ValueError(f"digest {descriptor['digest']!r} is none of SHA-256")
    place = layout / "blobs" / "sha256" / found[1]
    if not place.is_file():
        raise ValueError(f"it lacks {descriptor['digest']}")
    digest = hashlib.sha256()
    with place.open("rb") as file:
        while part := file.read(_CHUNK):
            digest.update(part)
    # The name of a blob is only what it should be.
    if digest.hexdigest() != found[1] or descriptor.get("size", _size(place)) != _size(place):
        raise ValueError(f"{descriptor['digest']} is damaged")
    return place


def _size(place: Path) -> int:
    return place.stat().st_size


def _document(place: Path) -> dict[str, Any]:
    if not place.is_file():
        raise ValueError(f"it has no {place.name}")
    with place.open("rb") as file:
        document: object = json.loads(file.read(_DOCUMENT_LIMIT))
    if not isinstance(document, dict):
        raise TypeError(f"{place.name} is no JSON object")
    return cast("dict[str, Any]", document)


def _put(files: tarfile.TarFile, member: tarfile.TarInfo, root: Path) -> None:
    name = os.path.normpath(member.name).lstrip("/")
    if name in {"", "."} or ".." in name.split("/") or "\0" in name + member.linkname:
        return
    place = root / name
    # layer.md: such a file is no file, but says that a lower layer's is gone.
    if place.name.startswith(_WHITEOUT):
        _take_away(place, root)
        return
    archives.put(files, member, place, root)
    # Of the modes, only whether it is a program counts here.
    if member.isreg() and member.mode & 0o100 and place.is_file() and not place.is_symlink():
        place.chmod(_ALL_MAY_READ)


def _take_away(whiteout: Path, root: Path) -> None:
    """Remove what a later layer says is gone."""
    parent = archives.inside(whiteout.parent, root)
    hidden = whiteout.name[len(_WHITEOUT) :]
    # `.wh...` would name the directory above.
    if parent is None or not parent.is_dir() or hidden in {"", ".", ".."}:
        return
    for place in [*parent.iterdir()] if whiteout.name == _OPAQUE else [parent / hidden]:
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
