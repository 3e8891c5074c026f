"""What an image is for a catalogue: read from its layout, an archive of one, or podman's store."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
import shutil
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from instance_manager.errors import UsageError
from instance_manager.extensions.composition import loader_path
from instance_manager.extensions.exploration import look_into
from instance_manager.images.taking import of_this_machine, take
from instance_manager.images.tools import run_tool
from instance_manager.settings.catalogue import CatalogueImage

if TYPE_CHECKING:
    from instance_manager.extensions.facts import VolumeFacts
    from instance_manager.supervision.children import Children

_DOCUMENT_LIMIT: Final = 4 << 20
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_MAJORS: Final = ("io.instance-manager.postgres.major", "io.cloudnativepg.image.base.pgmajor")
_VERSION: Final = "org.opencontainers.image.version"


class _Identity(NamedTuple):
    """What the image's own documents say."""

    digest: str
    architecture: str
    labels: dict[str, str]


async def describe(children: Children, source: str, work: Path, registry: str) -> CatalogueImage:
    """Return the entry of an image.

    Args:
        children: starts the programs.
        source: a layout, an archive of one, or an image of podman's.
        work: an empty directory, for what is unpacked.
        registry: what stands before the name of a layout's image.

    Raises:
        UsageError: there is no such image, or it is none of an extension volume.
    """
    layout = _layout(source)
    root, name = await take(children, source, work)
    try:
        # Of the same file that was unpacked: a name could lead to another image in between.
        identity = _identity(layout or work / "image.tar")
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
        tarfile.TarError,
    ) as error:
        raise UsageError(f"cannot catalogue {source!r}: it is no OCI layout: {error}") from error
    facts = look_into(root, name)
    if layout is None:
        digest = await _podman_digest(children, source)
        image = source
    else:
        digest = identity.digest
        # With a digest the tag decides nothing; it tells people what they have.
        tag = _major(facts, identity) or "latest"
        image = f"{registry}/{_name(facts)}:{tag}@{digest}"
    return _entry(facts, identity._replace(digest=digest), image, source)


def _layout(source: str) -> Path | None:
    """Return the layout, or the archive, of this name; None for what podman has."""
    place = Path(source)
    if place.is_dir() and not (place / "oci-layout").is_file():
        raise UsageError(
            f"cannot catalogue {source!r}: a directory that is no OCI layout has no digest",
            hint="name a layout, an archive of one, or an image that podman has",
        )
    return place if place.exists() else None


def _entry(facts: VolumeFacts, identity: _Identity, image: str, source: str) -> CatalogueImage:
    described = facts.metadata
    fields: dict[str, Any] = {
        "name": _name(facts),
        "version": dict(described.provenance).get("version") or identity.labels.get(_VERSION, ""),
        "image": image,
        "digest": identity.digest,
        "postgres_major": _major(facts, identity),
        "architecture": identity.architecture or _machine(facts),
        "extension_control_path": _offering({each.directory for each in facts.controls}),
        "dynamic_library_path": _offering(
            {each.directory for each in facts.searched() if each.is_module}
        ),
        "ld_library_path": _loader_paths(facts),
        "bin_path": facts.paths.bin_path or None,
        "env": [{"name": name, "value": value} for name, value in described.env],
        "shared_preload_libraries": described.shared_preload_libraries,
        "requires": described.requires,
        "extensions": {
            each.extension: each.control.default_version or "" for each in facts.controls
        },
    }
    try:
        return CatalogueImage.model_validate(fields)
    except ValueError as error:
        first = str(error).splitlines()
        raise UsageError(
            f"cannot catalogue {source!r}: {' '.join(part.strip() for part in first[1:3])}",
            hint="a volume's name has lower-case letters, digits, - and _, at most 59",
        ) from error


def _offering(directories: set[str]) -> tuple[str, ...] | None:
    return tuple(sorted(directories)) or None


def _loader_paths(facts: VolumeFacts) -> tuple[str, ...] | None:
    """Return where libraries are that its own modules need, or those of other volumes may."""
    given = facts.metadata.ld_library_path
    if given is not None:
        return given
    needed = loader_path([facts], None).split(":")
    own = [each for each in facts.paths.ld_library_path if f"{facts.path}/{each}" in needed]
    others = {
        each.directory for each in facts.libraries if not each.is_module and not each.problem
    }
    kept = [each for each in facts.paths.ld_library_path if each in own or each in others]
    return tuple(kept) or None


def _name(facts: VolumeFacts) -> str:
    return dict(facts.metadata.provenance).get("name", facts.name)


def _major(facts: VolumeFacts, identity: _Identity) -> int | None:
    """Return the version that its modules are for; without modules, that of the label."""
    for each in facts.libraries:
        # The modules are what the server compares; a label may be a builder's slip.
        if each.magic is not None and each.magic.block is not None:
            return each.magic.block.major
    said = next(filter(None, (identity.labels.get(key) for key in _MAJORS)), "")
    return int(said) if re.fullmatch(r"[1-9]\d", said) else None


def _machine(facts: VolumeFacts) -> str:
    machines = {each.machine for each in facts.libraries} - {None}
    machine = machines.pop() if len(machines) == 1 else None
    return _ARCHITECTURES.get(machine or "", "")


def _identity(image: Path) -> _Identity:
    """Return what a layout, or an archive of one, says of its image.

    Of several images that it lists, it is the one that was unpacked. Where it lists one index of
    several, that is what a registry would have, too.
    """
    with _Layout(image) as layout:
        listed = _objects(layout.read("index.json")["manifests"])
        first = of_this_machine(listed)
        platform = cast("dict[str, Any]", first.get("platform") or {})
        architecture = str(platform.get("architecture", ""))
        document = layout.blob(first["digest"])
        while "manifests" in document:
            document = layout.blob(of_this_machine(_objects(document["manifests"]))["digest"])
            # An index holds several; which of them runs is decided where it is pulled.
            architecture = ""
        labels = cast("dict[str, Any]", document.get("annotations") or {})
        config = cast(
            "dict[str, Any]", layout.blob(document["config"]["digest"]).get("config") or {}
        )
        own = cast("dict[str, Any]", config.get("Labels") or {})
        texts = {key: each for key, each in {**labels, **own}.items() if isinstance(each, str)}
        return _Identity(first["digest"], architecture, texts)


def _objects(value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise ValueError("it lists no image")
    return cast("list[dict[str, Any]]", value)


class _Layout:
    """The documents of a layout, or of an archive of one."""

    def __init__(self, image: Path) -> None:
        self._place = image
        self._archive = None if image.is_dir() else tarfile.open(image)  # noqa: SIM115 - see exit

    def __enter__(self) -> _Layout:
        return self

    def __exit__(self, *_: object) -> None:
        if self._archive is not None:
            self._archive.close()

    def blob(self, digest: str) -> dict[str, Any]:
        """Return the document with a digest, which no other content can have."""
        found = re.fullmatch(r"sha256:([0-9a-f]{64})", digest)
        if found is None:
            raise ValueError("a digest is none of SHA-256")
        content = self._bytes(f"blobs/sha256/{found[1]}")
        # A catalogue pins digests: one that was not checked would pin whatever lies there.
        if hashlib.sha256(content).hexdigest() != found[1]:
            raise ValueError(f"{digest} is damaged")
        return _object(content)

    def read(self, path: str) -> dict[str, Any]:
        """Return the document at a path."""
        return _object(self._bytes(path))

    def _bytes(self, path: str) -> bytes:
        if self._archive is None:
            with (self._place / path).open("rb") as file:
                # A limit, since the size is the word of whoever made the file.
                return file.read(_DOCUMENT_LIMIT)
        # Of equal names the last one counts, as where it is unpacked.
        members = [
            each
            for each in self._archive
            if each.isreg() and posixpath.normpath(each.name) == path
        ]
        content = self._archive.extractfile(members[-1]) if members else None
        if content is None:
            raise LookupError(f"it lacks {path}")
        return content.read(_DOCUMENT_LIMIT)


def _object(content: bytes) -> dict[str, Any]:
    document: object = json.loads(content)
    if not isinstance(document, dict):
        raise TypeError("a document of it is no JSON object")
    return cast("dict[str, Any]", document)


async def _podman_digest(children: Children, name: str) -> str:
    podman = shutil.which("podman") or "podman"
    command = (podman, "image", "inspect", "--format={{.Digest}}", "--", name)
    done = await run_tool(children, "podman", command, deadline_seconds=60, check=False)
    digest = done.output.strip()
    return digest if re.fullmatch(r"sha256:[0-9a-f]{64}", digest) else ""
