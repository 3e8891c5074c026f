"""Directories that are, or are to be, extension volumes: all that can be told of them.

Only reads, and nothing is executed: authors look at their work here, also at an image of another
machine. Neither a directory's name nor how it is mounted counts.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict

from instance_manager.extensions import scan
from instance_manager.extensions.control import updatable_versions
from instance_manager.extensions.elf import ElfError, SharedObject
from instance_manager.extensions.exploration import look_into
from instance_manager.extensions.facts import RootFacts, ServerFacts
from instance_manager.extensions.files import FileView, open_regular
from instance_manager.extensions.hashing import with_content_hashes
from instance_manager.extensions.models import Extension, Finding, Library, State, Volume
from instance_manager.extensions.paths import display, is_volume_name
from instance_manager.extensions.reading import VolumeReader
from instance_manager.extensions.volumes import FIRST_MAJOR
from instance_manager.settings.models import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from instance_manager.extensions.facts import (
        ControlFacts,
        Identity,
        LibraryFacts,
        VolumeFacts,
    )
    from instance_manager.extensions.models import ExtensionsReport

_MAXIMUM_FILES: Final = 20_000


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class InspectedExtension(Extension):
    """An extension, and the versions that can be updated to its default version."""

    updatable_from: tuple[str, ...]


class InspectedLibrary(Library):
    """A shared object, with the name that others need it by, and its size.

    ``link_to`` is the path of the library of the volume that this one is only another name of.
    """

    soname: str | None
    link_to: str | None
    size_bytes: int | None


class InspectedVolume(_Frozen):
    """What ``GET /v1/extensions`` says of a volume but for its mount, and more.

    ``size_bytes`` is None where there are more files than any volume has.
    """

    name: str
    path: str
    state: State
    size_bytes: int | None
    content_sha256: str | None
    extensions: tuple[InspectedExtension, ...]
    libraries: tuple[InspectedLibrary, ...]
    findings: tuple[Finding, ...]


class Judge(_Frozen):
    """The server that the volumes had to fit; *version* and *program* where one was found."""

    postgres_major: int
    machine: str
    version: str | None
    program: str | None


class Inspection(_Frozen):
    """Several volumes, judged as if a server had them all; *findings* are those of the set."""

    server: Judge
    volumes: tuple[InspectedVolume, ...]
    findings: tuple[Finding, ...]

    def all_findings(self) -> tuple[Finding, ...]:
        """Return the findings of the whole set, and those of every volume."""
        of_volumes = (finding for volume in self.volumes for finding in volume.findings)
        return (*self.findings, *of_volumes)


def inspect(
    directories: Sequence[Path],
    server: ServerFacts | None,
    version: str | None = None,
    *,
    major: int | None = None,
    machine: str | None = None,
    hash_contents: bool = False,
) -> Inspection:
    """Return what *directories* hold, and what is wrong with it.

    Args:
        directories: absolute paths.
        server: what the volumes must fit; if it is None, what most of their modules are for.
        version: the server's, as text.
        major: judge against another major version.
        machine: judge against another machine, named as ``uname -m`` does.
        hash_contents: read every byte, for ``content_sha256``.
    """
    # Findings and links between volumes go by the name, which has to be unique.
    names = _names(directories)
    volumes = tuple(map(look_into, directories, names))
    judge = _adapt(server or _usual(volumes), major, machine)
    report = _examine(volumes, names, judge)
    if judge.major < FIRST_MAJOR:
        # That no volume fits such a server says nothing of the volume, which is for a newer one.
        report = _together(report, _examine(volumes, names, _adapt(judge, FIRST_MAJOR, None)))
    if hash_contents:
        report = with_content_hashes(report)
    return Inspection(
        server=Judge(
            postgres_major=judge.major,
            machine=judge.machine,
            version=version if judge.program else None,
            program=judge.program or None,
        ),
        volumes=tuple(map(_inspected, report.volumes, volumes, directories)),
        findings=report.findings,
    )


def _examine(
    volumes: tuple[VolumeFacts, ...], names: Iterable[str], server: ServerFacts
) -> ExtensionsReport:
    # Listed, so that what their metadata wants loaded is composed and judged too.
    listed = [{"name": name} for name in names if is_volume_name(name)]
    return scan.examine(
        Settings.model_validate({"extensions": {"volumes": listed}}),
        server,
        base_path=None,
        base_ld_library_path=None,
        root=RootFacts("", volumes),
    ).report


def _together(one: ExtensionsReport, other: ExtensionsReport) -> ExtensionsReport:
    """Return the first of two reports on the same volumes, with the findings of both."""
    volumes = tuple(
        volume.model_copy(update={"findings": _once(volume.findings, more.findings)})
        for volume, more in zip(one.volumes, other.volumes, strict=True)
    )
    findings = _once(one.findings, other.findings)
    return one.model_copy(update={"volumes": volumes, "findings": findings})


def _once(one: Iterable[Finding], other: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(dict.fromkeys((*one, *other)))


def _names(directories: Sequence[Path]) -> list[str]:
    """Return a name for each: its own, or its whole path where another one has the same."""
    counts = Counter(path.name for path in directories)
    return [
        display(path.name if path.name and counts[path.name] == 1 else str(path))
        for path in directories
    ]


def _usual(volumes: Iterable[VolumeFacts]) -> ServerFacts:
    modules = [one for each in volumes for one in each.libraries if one.magic]
    majors = Counter(one.magic.block.major for one in modules if one.magic and one.magic.block)
    machines = Counter(one.machine for one in modules if one.machine)
    return ServerFacts(
        major=majors.most_common(1)[0][0] if majors else FIRST_MAJOR,
        machine=machines.most_common(1)[0][0] if machines else os.uname().machine,
    )


def _adapt(server: ServerFacts, major: int | None, machine: str | None) -> ServerFacts:
    """Return the facts of the server that is asked for: of another one, less is known."""
    if major is not None and major != server.major:
        # The program, the libraries and the extensions that are known are those of another major.
        return ServerFacts(major=major, machine=machine or server.machine, abi=server.abi)
    if machine is not None and machine != server.machine:
        # Its loader can't be emulated for a program that is built for this machine.
        return server._replace(machine=machine, program="", library_directory="")
    return server


def _inspected(volume: Volume, facts: VolumeFacts, directory: Path) -> InspectedVolume:
    reader = VolumeReader(directory)
    return InspectedVolume(
        name=volume.name,
        path=volume.path,
        state=volume.state,
        size_bytes=_size_of(directory),
        content_sha256=volume.content_sha256,
        extensions=tuple(
            InspectedExtension(**one.model_dump(), updatable_from=_updatable_from(reader, control))
            for one, control in zip(volume.extensions, facts.controls, strict=True)
        ),
        libraries=tuple(
            _inspected_library(one, directory, link_to)
            for one, link_to in zip(
                volume.libraries, _links(facts.libraries, directory), strict=True
            )
        ),
        findings=volume.findings,
    )


def _updatable_from(reader: VolumeReader, control: ControlFacts) -> tuple[str, ...]:
    version = control.control.default_version
    names = reader.files(control.script_directory)
    return updatable_versions(control.extension, names or (), version) if version else ()


def _links(libraries: Sequence[LibraryFacts], directory: Path) -> list[str | None]:
    """Return for each library the path of the one that it is a link to, or None."""
    first: dict[Identity | None, str] = {}
    # The file itself comes before the links to it.
    for each in sorted(libraries, key=lambda each: (directory / each.path).is_symlink()):
        # Named by the first: whether one is a link or a hard link, the file is the same.
        first.setdefault(each.identity, each.path)
    paths = [first[each.identity] if each.identity else each.path for each in libraries]
    return [
        path if path != each.path else None for path, each in zip(paths, libraries, strict=True)
    ]


def _inspected_library(library: Library, directory: Path, link_to: str | None) -> InspectedLibrary:
    soname, size = None, None
    try:
        with open_regular(directory / library.path) as (descriptor, size):
            soname = SharedObject(FileView(descriptor, size)).soname
    except (OSError, ElfError):
        pass  # what is wrong with the file is a finding already
    return InspectedLibrary(
        **library.model_dump(), soname=soname, link_to=link_to, size_bytes=size
    )


def _size_of(directory: Path) -> int | None:
    """Return the sizes of all files together; links are not followed."""
    count = total = 0
    for place, _, names in os.walk(directory):
        count += 1 + len(names)
        if count > _MAXIMUM_FILES:
            return None
        for name in names:
            with suppress(OSError):  # it may vanish while we look
                total += os.lstat(Path(place) / name).st_size
    return total
