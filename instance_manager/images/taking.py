"""The files of an image that was built: from an OCI layout, an archive of one, or podman's store.

An image is whatever somebody was sent: blobs are held against their digests, and nothing in a
layer may write outside of its directory. Format: opencontainers/image-spec v1.1, layer.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from instance_manager.errors import UsageError
from instance_manager.images import archives
from instance_manager.images.tools import run_tool

if TYPE_CHECKING:
    from instance_manager.supervision.children import Children

_MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
_TITLE: Final = "org.opencontainers.image.title"
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"
_CHUNK: Final = 1 << 20
_DOCUMENT_LIMIT: Final = 4 << 20
_ALL_MAY_READ: Final = 0o755


async def take(children: Children, name: str, work: Path) -> tuple[Path, str]:
    """Return the directory of a volume's files, and a name for the volume.

    A directory that is no layout is the volume itself; all else is unpacked below *work*.

    Raises:
        UsageError: there is nothing of this name, or it is no image.
    """
    found = _found(name)
    if found is None:
        return _unpacked(await _saved(children, name, work / "image.tar"), work, name)
    if found.is_dir and not found.is_layout:
        return found.path, _name(found.path.name)
    return _unpacked(found.path, work, name)


class _Found(NamedTuple):
    path: Path
    is_dir: bool
    is_layout: bool


def _found(name: str) -> _Found | None:
    path = Path(name).resolve()
    if not path.exists():
        return None
    return _Found(path, path.is_dir(), (path / "oci-layout").is_file())


def _unpacked(image: Path, work: Path, name: str) -> tuple[Path, str]:
    """Unpack a layout, or an archive of one, below *work*."""
    work.mkdir(mode=_ALL_MAY_READ, exist_ok=True)
    layout = image
    if not image.is_dir():
        layout = work / "layout"
        _unpack_layout(image, layout, name)
    root = work / "files"
    title = _unpack(layout, root, name)
    shutil.rmtree(work / "layout", ignore_errors=True)
    return root, _name(title or Path(name).name.partition(":")[0].removesuffix(".tar"))


def _name(text: str) -> str:
    """Return what a volume may be called, near to *text*."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:59] or "volume"


async def _saved(children: Children, name: str, archive: Path) -> Path:
    podman = shutil.which("podman")
    if podman is None:
        raise UsageError(
            f"cannot test {name!r}: no directory or file is there, and no podman",
            hint="name the directory of a volume, an OCI layout, or an archive of one",
        )
    archive.parent.mkdir(mode=_ALL_MAY_READ)
    arguments = (podman, "save", "--quiet", "--format=oci-archive", f"--output={archive}", name)
    done = await run_tool(children, "podman", arguments, check=False)
    if not done.status.is_success:
        raise UsageError(
            f"cannot test {name!r}: no directory or file is there, and no image of podman",
            hint=f"podman pull {name}; podman says: {done.errors.strip()[-300:]}",
        )
    return archive


def _unpack_layout(archive: Path, layout: Path, name: str) -> None:
    layout.mkdir()
    try:
        with tarfile.open(archive, "r|*") as files:
            for member in files:
                place = os.path.normpath(member.name)
                if member.isfile() and re.fullmatch(
                    r"oci-layout|index\.json|blobs/sha256/[0-9a-f]{64}", place
                ):
                    archives.put(files, member, layout / place, layout)
    except (tarfile.TarError, EOFError) as error:
        raise UsageError(f"cannot test {name!r}: it is no archive: {error}") from error
    if not (layout / "index.json").is_file():
        raise UsageError(
            f"cannot test {name!r}: it is no archive of an OCI layout",
            hint="podman save --format oci-archive --output FILE IMAGE writes one",
        )


def _unpack(layout: Path, root: Path, name: str) -> str:
    """Unpack the layers of the image for this machine; return the image's title."""
    root.mkdir(mode=_ALL_MAY_READ)
    try:
        manifest = _manifest(layout)
        layers = [_blob(layout, one) for one in manifest["layers"]]
        title = manifest.get("annotations", {}).get(_TITLE) or _label(layout, manifest)
        for layer in layers:
            with tarfile.open(layer, "r|*") as files:
                for member in files:
                    _put(files, member, root)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UsageError(f"cannot test {name!r}: it is no whole OCI layout: {error}") from error
    except (tarfile.TarError, EOFError) as error:
        raise UsageError(
            f"cannot test {name!r}: a layer can't be unpacked: {error}",
            hint="layers may be plain or compressed by gzip",
        ) from error
    return title if isinstance(title, str) else ""


def _manifest(layout: Path) -> dict[str, Any]:
    document = _document(layout / "index.json")
    while "manifests" in document:
        document = _document(_blob(layout, _of_this_machine(document["manifests"])))
    return document


def _of_this_machine(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    for one in manifests:
        architecture = one.get("platform", {}).get("architecture", "")
        if _MACHINES.get(architecture, architecture) == platform.machine():
            return one
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
    digest = hashlib.sha256()
    try:
        with place.open("rb") as file:
            while part := file.read(_CHUNK):
                digest.update(part)
    except FileNotFoundError:
        raise ValueError(f"it lacks {descriptor['digest']}") from None
    if digest.hexdigest() != found[1]:
        raise ValueError(f"{descriptor['digest']} is damaged")
    return place


def _document(place: Path) -> dict[str, Any]:
    with place.open("rb") as file:
        document: object = json.loads(file.read(_DOCUMENT_LIMIT))
    if not isinstance(document, dict):
        raise TypeError(f"{place.name} is no JSON object")
    return cast("dict[str, Any]", document)


def _put(files: tarfile.TarFile, member: tarfile.TarInfo, root: Path) -> None:
    name = os.path.normpath(member.name).lstrip("/")
    if name in {"", "."} or ".." in name.split("/"):
        return
    place = root / name
    if place.name.startswith(_WHITEOUT):
        _take_away(place, root)
        return
    archives.put(files, member, place, root)
    if member.isreg() and member.mode & 0o100 and place.is_file() and not place.is_symlink():
        place.chmod(_ALL_MAY_READ)


def _take_away(whiteout: Path, root: Path) -> None:
    """Remove what a later layer says is gone."""
    parent = whiteout.parent
    inside = f"{os.path.realpath(parent)}/".startswith(f"{os.path.realpath(root)}/")
    if not inside or not parent.is_dir():
        return
    is_opaque = whiteout.name == _OPAQUE
    gone = [*parent.iterdir()] if is_opaque else [parent / whiteout.name[len(_WHITEOUT) :]]
    for place in gone:
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
