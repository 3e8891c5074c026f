"""Images as files: a layout, or an archive of one (opencontainers/image-spec v1.1).

One layer, written as it is read, and the same bytes for the same files, whoever builds when and
where: names are sorted, and owners, modes and times are fixed.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
import time
from typing import TYPE_CHECKING, Final, NamedTuple, cast

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import IO

_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_INDEX: Final = "application/vnd.oci.image.index.v1+json"
_REFERENCE: Final = "org.opencontainers.image.ref.name"
_ARCHITECTURES: Final = {"amd64": "amd64", "arm64": "arm64"}
_COMPRESSION: Final = 6
_CHUNK: Final = 1024 * 1024


class Descriptor(NamedTuple):
    """A blob: its kind, its digest and its size in bytes."""

    kind: str
    digest: str
    size: int

    def document(self, **more: object) -> dict[str, object]:
        """Return it as documents name it."""
        return {"mediaType": self.kind, "digest": self.digest, "size": self.size, **more}


class Identity(NamedTuple):
    """What an image says of itself. *epoch* is when it was made, in seconds."""

    architecture: str
    labels: Mapping[str, str]
    epoch: int
    reference: str


def timestamp(epoch: int) -> str:
    """Return a moment as RFC 3339 has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))


class Layer(NamedTuple):
    """A layer that is a file already: its kind, and the digest of what it holds unpacked."""

    place: Path
    kind: str
    contents: str


def write_layout(
    tree: Path, layout: Path, image: Identity, ready: Layer | None = None
) -> tuple[Descriptor, Descriptor]:
    """Write the image of a tree as a layout; return its manifest and its layer.

    A layer that is *ready* is moved into it in the place of one that is made.
    """
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    layer, contents = _adopt(ready, blobs) if ready else _write_layer(tree, blobs, image.epoch)
    created = timestamp(image.epoch)
    configuration = {
        "created": created,
        "architecture": _ARCHITECTURES.get(image.architecture, image.architecture),
        "os": "linux",
        "config": {"User": "65532:65532", "Labels": dict(sorted(image.labels.items()))},
        # diff_ids are of the layers before compression, the manifest's digests of them after it.
        "rootfs": {"type": "layers", "diff_ids": [contents]},
        "history": [{"created": created, "created_by": "instance-manager extension build"}],
    }
    config = _write_document(blobs, _CONFIG, configuration)
    manifest = _write_document(
        blobs,
        _MANIFEST,
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": config.document(),
            "layers": [layer.document()],
            "annotations": dict(sorted(image.labels.items())),
        },
    )
    platform = {"architecture": configuration["architecture"], "os": "linux"}
    index = {
        "schemaVersion": 2,
        "mediaType": _INDEX,
        "manifests": [
            manifest.document(platform=platform, annotations={_REFERENCE: image.reference})
        ],
    }
    (layout / "index.json").write_bytes(_encoded(index))
    (layout / "oci-layout").write_bytes(_encoded({"imageLayoutVersion": "1.0.0"}))
    for path in (layout / "index.json", layout / "oci-layout"):
        path.chmod(0o644)
    return manifest, layer


def _encoded(document: object) -> bytes:
    # One form of each document: its digest is the image's name.
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _write_document(blobs: Path, kind: str, document: object) -> Descriptor:
    content = _encoded(document)
    name = hashlib.sha256(content).hexdigest()
    (blobs / name).write_bytes(content)
    (blobs / name).chmod(0o644)
    return Descriptor(kind, f"sha256:{name}", len(content))


class _Hashing(io.RawIOBase):
    """A file to write to, which knows the hash of what went through."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.hash = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, content: object) -> int:
        part = bytes(memoryview(content))  # type: ignore[arg-type]  # whatever holds bytes
        self.hash.update(part)
        self.size += len(part)
        self._file.write(part)
        return len(part)


def _write_layer(tree: Path, blobs: Path, epoch: int) -> tuple[Descriptor, str]:
    """Write the layer; return it, and the digest of its contents before compression."""
    # The name is the digest, which is known at the end.
    unnamed = blobs / "layer"
    with unnamed.open("wb") as file:
        packed = _Hashing(file)
        # No name and no time in the header, or each build had other bytes.
        with gzip.GzipFile("", "wb", _COMPRESSION, packed, mtime=0) as squeezed:
            contents = _Hashing(squeezed)  # type: ignore[arg-type]
            # A stream: nothing is gone back to, so that hashes are of what was written. PAX has no
            # limit on names.
            with tarfile.open(fileobj=contents, mode="w|", format=tarfile.PAX_FORMAT) as archive:
                write_tree(archive, tree, epoch)
    name = packed.hash.hexdigest()
    unnamed.rename(blobs / name)
    (blobs / name).chmod(0o644)
    return Descriptor(_LAYER, f"sha256:{name}", packed.size), f"sha256:{contents.hash.hexdigest()}"


def write_plain(tree: Path, file: Path, epoch: int) -> str:
    """Write the layer of a tree as it is; return its digest."""
    with file.open("wb") as content:
        hashed = _Hashing(content)
        with tarfile.open(
            fileobj=cast("gzip.GzipFile", hashed), mode="w|", format=tarfile.PAX_FORMAT
        ) as archive:
            write_tree(archive, tree, epoch)
    return f"sha256:{hashed.hash.hexdigest()}"


def _adopt(ready: Layer, blobs: Path) -> tuple[Descriptor, str]:
    with ready.place.open("rb") as file:
        name = hashlib.file_digest(file, "sha256").hexdigest()
    place = ready.place.rename(blobs / name)
    place.chmod(0o644)
    return Descriptor(ready.kind, f"sha256:{name}", place.stat().st_size), ready.contents


def write_tree(archive: tarfile.TarFile, tree: Path, epoch: int) -> None:
    """Add all files of a tree: sorted, of root, with the modes that images have."""
    for path in _paths(tree):
        place = tree / path
        # Made anew, with no owner and no time of this host's: the digest is to be the same
        # anywhere.
        member = tarfile.TarInfo(path)
        member.mtime = epoch
        status = place.lstat()
        if stat.S_ISLNK(status.st_mode):
            member.type, member.mode = tarfile.SYMTYPE, 0o777
            member.linkname = os.readlink(place)  # noqa: PTH115 - the text
            archive.addfile(member)
        elif stat.S_ISDIR(status.st_mode):
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(member)
        else:
            # Of the modes only this counts: umask and checkouts differ in the others.
            member.mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
            member.size = status.st_size
            with place.open("rb") as content:
                archive.addfile(member, content)


def _paths(tree: Path) -> Iterator[str]:
    """Yield what is below a directory, each directory before what is in it."""
    found: list[str] = []
    for directory, names, files in os.walk(tree):
        found += [os.path.relpath(f"{directory}/{name}", tree) for name in (*names, *files)]
    # By parts, so that no name sorts between a directory and its files.
    yield from sorted(found, key=lambda path: path.split("/"))


def write_archive(layout: Path, file: Path) -> None:
    """Write a layout as one archive."""
    with file.open("wb") as content, tarfile.open(fileobj=content, mode="w") as archive:
        write_tree(archive, layout, 0)
    with contextlib.suppress(OSError):
        file.chmod(0o644)
