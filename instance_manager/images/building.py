"""A build from its beginning to its end: packages, volume, verdict, image.

All of it happens in a directory beside the result, which is moved into place at the end: whoever
interrupts it, or has no space left, finds what was there before.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from instance_manager.errors import DiskSpaceError, PreflightError, UsageError
from instance_manager.extensions import control
from instance_manager.extensions.elf import ElfError
from instance_manager.extensions.facts import ServerFacts
from instance_manager.extensions.files import FileView, open_regular
from instance_manager.extensions.findings import Code
from instance_manager.extensions.inspection import inspect
from instance_manager.extensions.linkable import read_linkable
from instance_manager.extensions.metadata import PATH as METADATA
from instance_manager.extensions.models import Severity
from instance_manager.extensions.paths import is_volume_name
from instance_manager.images import base as bases
from instance_manager.images import debian, describing, oci, placing
from instance_manager.images.apt import Apt
from instance_manager.images.beside import take_all
from instance_manager.images.closure import Closure, add_data, note_others
from instance_manager.images.models import Compression, Form, Role, Summary
from instance_manager.images.packages import Union, unpack, with_roles
from instance_manager.images.squeezing import require_zstd, zstd_layer
from instance_manager.images.tools import BuildError
from instance_manager.images.volume import (
    VolumeTree,
    lay_out,
    lay_out_directory,
    put_licences,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from pathlib import Path

    from instance_manager.extensions.models import Finding
    from instance_manager.images.base import Base
    from instance_manager.images.beside import Beside
    from instance_manager.images.models import Package, Request, Target
    from instance_manager.supervision.children import Children

    Tell = Callable[[str], None]

_AT_A_TIME: Final = 4
# The size of Elf64_Ehdr: what is shorter is no object.
_HEADER_BYTES: Final = 64


class _Content(NamedTuple):
    """A volume that is laid out, and what it was made of."""

    volume: VolumeTree
    packages: tuple[Package, ...]
    closure: Closure


async def build(children: Children, request: Request, tell: Tell) -> Summary:
    """Build what is asked for; *tell* is called with what is done next.

    Raises:
        UsageError: something that the request names is not there, or can't be used.
        BuildError: a package can't be had, or not be laid out.
        PreflightError: the volume would not work, and *force* is not set.
        DiskSpaceError: there is no space left.
    """
    # All that can be refused without a base: to get one can take minutes.
    _require_usable(request)
    with _beside(request.target) as work:
        async with bases.open_base(children, request.base, work, _major(request)) as base:
            return await _build(children, request, base, work, tell)


async def _build(
    children: Children, request: Request, base: Base, work: Path, tell: Tell
) -> Summary:
    tell(f"base {base.name}: PostgreSQL {base.major} on {base.machine}")
    # What is named beside costs no download, so a wrong name is told first.
    beside = await take_all(children, request.beside, work, request.name)
    packages = await _packages(children, request, base, work, tell)
    tell("laying out")
    content = _lay_out(request, base, packages, beside, work)
    tell("judging")
    epoch = request.epoch if request.epoch is not None else _newest(request, packages)
    facts = _describe(content, request, base, epoch)
    findings = _judge(content, base)
    errors = [each for each in findings if each.severity is Severity.ERROR]
    # Before anything is written in the result's place.
    if errors and not request.force:
        told = "\n  ".join(f"{each.code} {each.message}: {each.hint}" for each in errors)
        # All of them at once: each that is mended takes another build.
        raise PreflightError(
            f"cannot build {request.name}: a server would refuse it:\n  {told}",
            hint="--force writes it all the same",
        )
    tell(f"writing {request.target.path}")
    # Before the tree is moved into its place.
    size = sum((content.volume.root / path).lstat().st_size for path in content.volume.files())
    summary = _summary(content, request, base, facts, findings)
    layer = None
    if request.compression is Compression.ZSTD and request.target.form is not Form.DIRECTORY:
        # Mostly by a program, which takes the event loop; gzip is written with the archive, in one
        # pass.
        layer = await zstd_layer(children, content.volume.root, work, epoch)
    written = _write(content, request, base, facts, epoch, layer)
    return summary.model_copy(
        update={
            "size_bytes": size,
            "digest": written.digest,
            "compressed_bytes": written.compressed,
        }
    )


def _major(request: Request) -> int | None:
    """Return the server to build for: the one that is asked for, or that packages are for."""
    named = sorted(
        {
            each
            for name in map(debian.bare_package, request.packages)
            if (each := debian.major_of(name))
        }
    )
    # A module's magic block names one major version, and a volume fits one server.
    if len(named) > 1 and request.major is None:
        raise UsageError(
            f"cannot build for PostgreSQL {' and '.join(map(str, named))}:"
            " an image is for one server"
        )
    return request.major or (named[0] if named else None)


def _require_usable(request: Request) -> None:
    if not is_volume_name(request.name):
        raise UsageError(
            f"cannot name a volume {request.name!r}",
            hint="--name NAME: lower-case letters, digits, - and _, at most 59",
        )
    if not request.packages and request.directory is None:
        raise UsageError(
            "cannot build from nothing", hint="--package NAME, or --from-directory DIR"
        )
    if request.directory is not None and not request.directory.is_dir():
        raise UsageError(f"cannot build from {str(request.directory)!r}: it is no directory")
    if request.compression is Compression.ZSTD:
        require_zstd()
    path = request.target.path
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {str(path)!r}: there is no directory {path.parent}")
    if path.exists() and not request.overwrite:
        raise UsageError(
            f"cannot write {str(path)!r}: it is there", hint="--overwrite replaces it"
        )
    # --overwrite with a slip in the path must not remove somebody's directory.
    if path.is_dir() and not _is_ours(path):
        raise UsageError(
            f"cannot replace {str(path)!r}: it is no result of a build", hint="name another one"
        )


def _is_ours(path: Path) -> bool:
    return (
        (path / "oci-layout").is_file() or (path / METADATA).is_file() or not any(path.iterdir())
    )


@contextmanager
def _beside(target: Target) -> Generator[Path]:
    """Yield a directory on the result's file system; whatever happens, nothing of it is left."""
    path = target.path
    try:
        with placing.workplace(path) as work:
            yield work
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskSpaceError(
                f"cannot build {path}: no space left ({error.filename or path.parent})",
                hint="a build needs about four times the size of the volume beside its result",
            ) from error
        raise BuildError(f"cannot build {path}: {error}") from error


async def _packages(
    children: Children, request: Request, base: Base, work: Path, tell: Tell
) -> tuple[Package, ...]:
    if not request.packages:
        return ()
    apt = Apt(
        children, base, request.cache, request.apt_options, host_sources=request.host_sources
    )
    if request.update:
        tell("reading what the distribution has")
        await apt.update()
    tell(f"fetching {', '.join(request.packages)} and what it needs")
    files = await apt.fetch(request.packages)
    tell(f"unpacking {len(files)} packages")
    turns = asyncio.Semaphore(_AT_A_TIME)

    async def unpack_in_turn(file: Path) -> Package:
        async with turns:
            return await unpack(children, file, work / "packages")

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(unpack_in_turn(file)) for file in files]
    except ExceptionGroup as failed:
        # One that is damaged says enough.
        first = failed.exceptions[0]
        # Callers know the error itself, and no group of them.
        raise first from first.__cause__
    asked = frozenset(map(debian.bare_package, request.packages))
    installed = _installed(base)
    return with_roles([task.result() for task in tasks], asked, request.bundled, installed)


def _installed(base: Base) -> frozenset[str]:
    text = base.status.read_text(encoding="utf-8", errors="replace")
    return frozenset(re.findall(r"^Package: (\S+)$", text, re.MULTILINE))


def _lay_out(
    request: Request, base: Base, packages: tuple[Package, ...], beside: Beside, work: Path
) -> _Content:
    volume = VolumeTree(work / "volume" / request.name, request.name)
    union = Union(packages, base)
    if request.directory is not None:
        lay_out_directory(volume, request.directory, request.excluded)
    # After the tree: where both have a file, the package's counts.
    lay_out(volume, union, packages, base.major, request.excluded)
    closure = Closure(volume, union, packages, base, beside)
    asked = frozenset(map(debian.bare_package, request.packages))
    plain = [each for each in packages if each.name in asked and each.role is Role.LIBRARY]
    roots = [*volume.files(), *closure.add_asked(plain)]
    closure.add_all(roots)
    # After the libraries, since they decide what data is looked for.
    more = add_data(volume, union, base)
    if more:
        closure.add_all(more)
    note_others(volume, packages, closure)
    if not volume.files():
        raise UsageError(
            f"cannot build {request.name}: what it is made of has nothing that a volume has",
            hint="a tree is what make install DESTDIR=DIR wrote; a package is that of an extension"
            " or of a library",
        )
    # Last: only now is it known which packages gave a file.
    put_licences(volume, union, packages)
    _note(volume, base, packages, request)
    return _Content(volume, packages, closure)


def _note(volume: VolumeTree, base: Base, packages: Sequence[Package], request: Request) -> None:
    """Note what people should know, and what the volume's extensions require of others."""
    controls = dict(_controls(volume))
    own = frozenset(controls)
    wanted = {name for each in controls.values() for name in each.requires}
    # CREATE EXTENSION fails without these, so that a server without them is to be told.
    volume.ledger.requires |= wanted - own - base.extensions()
    notes = volume.ledger.notes
    if volume.rewritten:
        count, scripts = sum(volume.rewritten.values()), len(volume.rewritten)
        notes.append(f"$libdir/ was taken out of {count} LOAD statements in {scripts} scripts")
    if any(path.startswith("share/tsearch_data/") for path in volume.files()):
        notes.append("share/tsearch_data is of no use in a volume: the server reads its own only")
    kept = sorted({each.name for each in packages} & _installed(base))
    if kept:
        notes.append(f"the base has older ones of {', '.join(kept)}, which count")
    missing = request.bundled - {each.name for each in packages}
    if missing:
        raise UsageError(
            f"cannot bundle {', '.join(sorted(missing))}: nothing that is asked for needs it",
            hint="--package adds what is not needed",
        )


def _controls(volume: VolumeTree) -> Iterator[tuple[str, control.ControlFile]]:
    for place in sorted((volume.root / "share" / "extension").glob("*.control")):
        if "--" not in place.name:
            yield place.stem, control.parse(place.read_bytes())


def _judge(content: _Content, base: Base) -> tuple[Finding, ...]:
    """Return what a server would say to the volume: in the words of preflight."""
    volume = content.volume
    server = ServerFacts(
        major=base.major,
        machine=base.machine,
        libraries=base.modules(),
        extensions=base.extensions(),
    )
    inspected = inspect([volume.root], server).all_findings()
    # That another volume is needed is recorded, and no fault of this one.
    expected = Code.REQUIRES.value
    kept = (each for each in inspected if each.code != expected or not volume.ledger.requires)
    return (*map(_for_an_author, kept), *content.closure.judge())


def _for_an_author(finding: Finding) -> Finding:
    """Return the finding with the way out of whoever builds, where a user has another."""
    if finding.code != Code.PRELOAD_NEEDED.value:
        return finding
    hint = (
        f"build it with --preload {finding.subject}: a server that lists the volume loads it then"
    )
    return finding.model_copy(update={"hint": hint})


def _newest(request: Request, packages: Sequence[Package]) -> int:
    """Return when the newest file of the extension's own was made."""
    own = [each.tree for each in packages if each.role is Role.OWN]
    # The extension's own: a security update of a library does not make it younger.
    own = own or [each.tree for each in packages]
    roots = [request.directory] if request.directory is not None else own
    times = (
        int(place.lstat().st_mtime)
        for root in roots
        for place in root.rglob("*")
        if place.is_file() and not place.is_symlink()
    )
    return max(times, default=0)


def _describe(content: _Content, request: Request, base: Base, epoch: int) -> describing.Facts:
    """Write what the volume says of itself; return what it says."""
    volume, origins = content.volume, content.volume.ledger.origins
    versions = {name: each.default_version or "" for name, each in _controls(volume)}
    facts = describing.Facts(
        name=request.name,
        version=request.version or _version(request, content.packages, versions),
        major=base.major,
        base=request.base_name or base.name,
        base_digest=base.digest,
        system=base.system,
        created=oci.timestamp(epoch),
        extensions=versions,
        requires=tuple(sorted(volume.ledger.requires | set(_given_requires(request)))),
        environment=volume.ledger.environment,
        preload=request.preload,
        smoke_test=request.smoke_test,
        given=request.metadata,
    )
    volume.write(METADATA, describing.metadata(facts))
    givers = {origin.package for origin in origins.values()}
    packages = [each for each in content.packages if each.name in givers]
    files = _hashed_files(volume)
    for package in packages:
        volume.write(f"{describing.STATUS}/{package.name}", describing.stanza(package))
        sums = describing.md5sums(package, files, origins)
        volume.write(f"{describing.STATUS}/{package.name}.md5sums", sums)
    files = _hashed_files(volume)
    volume.write(describing.SBOM, describing.bill(facts, packages, files, origins))
    return facts


def _given_requires(request: Request) -> list[str]:
    return cast("list[str]", request.metadata.get("requires", []))


def _version(request: Request, packages: Sequence[Package], versions: dict[str, str]) -> str:
    """Return the version of the package that was asked for first, or of an extension.

    Packages beside a tree give libraries: there the tree's own extension counts first.
    """
    found = {each.name: each.version for each in packages}
    asked = [found.get(debian.bare_package(each), "") for each in request.packages]
    own = list(versions.values())
    found_first = [*asked, *own] if request.directory is None else [*own, *asked]
    return next(filter(None, found_first), "0")


def _hashed_files(volume: VolumeTree) -> list[describing.HashedFile]:
    return [
        _hashed(volume.root / path, path)
        for path in volume.files()
        if not (volume.root / path).is_symlink()
    ]


def _hashed(place: Path, path: str) -> describing.HashedFile:
    hashes = [hashlib.new(name, usedforsecurity=False) for name in ("sha1", "sha256", "md5")]
    with place.open("rb") as file:
        while part := file.read(1 << 20):
            for each in hashes:
                each.update(part)
    sha1, sha256, md5 = (each.hexdigest() for each in hashes)
    return describing.HashedFile(path, sha1, sha256, md5, _build_id(place))


def _build_id(place: Path) -> str | None:
    # Data can be large, and has no build ID.
    if ".so" not in place.name and place.parent.name != "bin":
        return None
    try:
        with open_regular(place) as (descriptor, size):
            return (
                read_linkable(FileView(descriptor, size)).build_id
                if size > _HEADER_BYTES
                else None
            )
    except (OSError, ElfError):
        return None


class _Written(NamedTuple):
    digest: str | None
    compressed: int | None


def _write(
    content: _Content,
    request: Request,
    base: Base,
    facts: describing.Facts,
    epoch: int,
    ready: oci.Layer | None,
) -> _Written:
    tree, target = content.volume.root, request.target
    if target.form is Form.DIRECTORY:
        placing.put(tree, target.path)
        return _Written(None, None)
    # The name under which `podman load` has the image, as the OCI layout names it.
    reference = f"{facts.name}:{facts.major}"
    identity = oci.Identity(
        base.architecture, describing.labels(facts, request.labels), epoch, reference
    )
    layout = tree.parent.with_name("layout")
    manifest, layer = oci.write_layout(tree, layout, identity, ready)
    if target.form is Form.ARCHIVE:
        archive = layout.with_name("archive")
        oci.write_archive(layout, archive)
        placing.put(archive, target.path)
    else:
        placing.put(layout, target.path)
    return _Written(manifest.digest, layer.size)


def _summary(
    content: _Content,
    request: Request,
    base: Base,
    facts: describing.Facts,
    findings: tuple[Finding, ...],
) -> Summary:
    ledger = content.volume.ledger
    return Summary(
        name=facts.name,
        version=facts.version,
        postgres_major=facts.major,
        machine=base.machine,
        base=request.base_name or base.name,
        output=f"{request.target.form}:{request.target.path}",
        digest=None,
        size_bytes=0,
        compressed_bytes=None,
        extensions=tuple(
            f"{name} {version}".rstrip() for name, version in facts.extensions.items()
        ),
        requires=facts.requires,
        packages=tuple(sorted({each.package for each in ledger.origins.values()} - {""})),
        libraries=tuple(ledger.libraries),
        left_out=tuple(ledger.left_out),
        notes=tuple(ledger.notes),
        findings=findings,
    )
