"""Exploration: what lies in one volume.

Only reads, but may block on slow storage, so it runs in a thread. It judges nothing but what it
could not read: the facts that it returns are the preflight's to judge.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from instance_manager.extensions import control, metadata, signals
from instance_manager.extensions.elf import ElfError, SharedObject, read_header
from instance_manager.extensions.facts import (
    ControlFacts,
    LibraryFacts,
    PathLists,
    VolumeFacts,
    identity_of,
    join,
)
from instance_manager.extensions.files import FileView, open_regular
from instance_manager.extensions.findings import Code, finding
from instance_manager.extensions.magic import read_magic
from instance_manager.extensions.paths import display, inner_path, is_searchable, is_volume_name
from instance_manager.extensions.reading import NO_TARGET, VolumeReader, dangling, is_library

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from instance_manager.extensions.control import ControlFile
    from instance_manager.extensions.elf import Image
    from instance_manager.extensions.metadata import Metadata
    from instance_manager.extensions.models import Finding
    from instance_manager.settings.models import VolumeSettings

_MAXIMUM_CONTROL_FILES: Final = 500
_MAXIMUM_LIBRARIES: Final = 4096
_MAXIMUM_CONTROL_BYTES: Final = 64 * 1024
_MAXIMUM_METADATA_BYTES: Final = 256 * 1024
_DEFAULT_PATHS: Final = PathLists(("share",), ("lib",), ("system", "lib"), ("bin",))


def explore(
    path: Path,
    settings: VolumeSettings | None,
    mounts: frozenset[str],
    catalogued: Metadata | None = None,
) -> VolumeFacts | None:
    """Return what the volume at *path* holds; None where it vanished meanwhile.

    Args:
        path: the absolute path of the volume.
        settings: its entry in ``extensions.volumes``.
        mounts: the mount points of this process.
        catalogued: stands in for the volume's metadata where it has none.
    """
    facts = VolumeFacts(display(path.name), str(path))
    if not is_volume_name(path.name):
        return facts._replace(is_open=False, obstacles=(_bad_name(facts.name, path.name),))
    try:
        mount = os.statvfs(path)
        # A bind mount of the same file system has the same device: only mountinfo shows that one.
        is_own_device = path.stat().st_dev != path.parent.stat().st_dev
    except OSError as error:
        return _unreachable(facts, path, error)
    reader = VolumeReader(path)
    facts = _explore(reader, facts, settings, catalogued)
    return facts._replace(
        # mountinfo has real paths, and a volume may be a link to where it is mounted.
        is_mount=is_own_device or str(reader.real) in mounts,
        read_only=bool(mount.f_flag & os.ST_RDONLY),
        noexec=bool(mount.f_flag & os.ST_NOEXEC),
    )


def look_into(directory: Path, name: str) -> VolumeFacts:
    """Return what a directory, an absolute path, holds as a volume of this name.

    Its own name and how it is mounted do not count: it may be mounted elsewhere, otherwise.
    """
    return _explore(VolumeReader(directory), VolumeFacts(name, str(directory)), None)


def _unreachable(facts: VolumeFacts, path: Path, error: OSError) -> VolumeFacts | None:
    if error.errno in NO_TARGET and path.is_symlink():
        return facts._replace(is_open=False, obstacles=(dangling(facts.name, path, error),))
    if error.errno == errno.ENOENT:
        return None  # it vanished while we looked
    message = f"{display(facts.path)} is not readable: {error.strerror}"
    obstacle = finding(Code.UNREADABLE, facts.name, message)
    return facts._replace(is_open=False, obstacles=(obstacle,))


def _bad_name(shown: str, name: str) -> Finding:
    if is_searchable(name):
        message = f'volume name "{shown}" is not allowed'
    else:
        message = (
            f'volume name "{shown}" contains a character that cannot be used in a search path'
        )
    return finding(Code.BAD_NAME, shown, message)


def _explore(
    reader: VolumeReader,
    facts: VolumeFacts,
    settings: VolumeSettings | None,
    catalogued: Metadata | None = None,
) -> VolumeFacts:
    described = _describe(reader, catalogued, is_listed=settings is not None)
    wished = _wished(settings, described)
    paths = PathLists(
        *(
            tuple(filter(reader.is_directory, default))
            if wish is None
            else _given(reader, field, wish)
            for field, default, wish in zip(PathLists._fields, _DEFAULT_PATHS, wished, strict=True)
        )
    )
    controls = tuple(_controls(reader, paths.extension_control_path))
    facts = facts._replace(
        paths=paths,
        loader_paths_given=wished[2] is not None,
        metadata=described,
        libraries=tuple(_libraries(reader, paths)),
        suffixless=frozenset(
            name
            for directory in paths.dynamic_library_path
            for name in reader.files(directory) or ()
            # The server tries a name as it is before it appends the suffix
            # (expand_dynamic_library_name).
            if "." not in name
        ),
    )
    # Only now: what it holds of libraries decides whether its scripts are worth reading.
    present = facts.module_files()
    return facts._replace(
        controls=tuple(_with_its_need(reader, each, present) for each in controls),
        obstacles=reader.notes(),
    )


def _with_its_need(
    reader: VolumeReader, facts: ControlFacts, present: frozenset[str]
) -> ControlFacts:
    """Return the facts completed by whether the library that the volume lacks is asked for."""
    module = facts.control.module
    if module is None or not present.isdisjoint((module, f"{module}.so")):
        return facts
    # Seldom needed, and on the way to the first connection.
    from instance_manager.extensions.module_use import asks_for_module

    # What CREATE EXTENSION runs. An update from a version of long ago may name a library that was
    # given up since, and get along without it, as one of pgTAP does.
    own = f"{facts.extension}--{facts.control.default_version}.sql"
    names = (own,) if own in facts.scripts else facts.scripts
    scripts = (reader.real / facts.script_directory / each for each in names)
    return facts._replace(asks_for_module=asks_for_module(scripts, module))


def _describe(reader: VolumeReader, catalogued: Metadata | None, *, is_listed: bool) -> Metadata:
    content = reader.read(metadata.PATH, _MAXIMUM_METADATA_BYTES)
    if content is None:
        # The image's own word goes before what a catalogue says of it.
        said = catalogued or metadata.Metadata()
        # An image whose own word is not so was built wrongly, listed or not. A catalogue is the
        # word of others, and of a volume that is not listed they can't have anything loaded: a
        # slip of theirs must not take it away.
        return said if is_listed else said.only_suggesting()
    described, problems = metadata.parse(content)
    for problem in problems:
        reader.note(finding(Code.METADATA, metadata.PATH, f"{metadata.PATH}: {problem}"))
    return described


def _wished(
    settings: VolumeSettings | None, described: Metadata
) -> tuple[tuple[str, ...] | None, ...]:
    """Return the four lists of paths as they are wished: settings win, None is the default."""
    own = (
        described.extension_control_path,
        described.dynamic_library_path,
        described.ld_library_path,
        described.bin_path,
    )
    if settings is None:
        return own
    chosen = (
        settings.extension_control_path,
        settings.dynamic_library_path,
        settings.ld_library_path,
        settings.bin_path,
    )
    return tuple(one if one is not None else other for one, other in zip(chosen, own, strict=True))


def _given(reader: VolumeReader, field: str, wished: Sequence[str]) -> tuple[str, ...]:
    paths: dict[str, None] = {}
    for text in wished:
        path = inner_path(text)
        if path is None:
            message = f"{field} has {text!r}, which is no path inside the volume"
            reader.note(finding(Code.BAD_PATH, field, message))
        elif reader.is_directory(path):
            paths[path] = None
        else:
            message = f"{field} has {text!r}, which is no directory in the volume"
            reader.note(finding(Code.PATH_MISSING, field, message))
    return tuple(paths)


def _controls(reader: VolumeReader, paths: Sequence[str]) -> Iterator[ControlFacts]:
    seen: set[str] = set()
    for path in paths:
        directory = join(path, "extension")
        for name in reader.files(directory) or ():
            extension = name.removesuffix(".control")
            # The first of equal names is the one that the server finds.
            # Two hyphens make a control file of one version, which is none of an extension's own.
            if extension == name or "--" in extension or extension in seen:
                continue
            if len(seen) == _MAXIMUM_CONTROL_FILES:
                reader.note_limit(display(directory), f"{_MAXIMUM_CONTROL_FILES} control files")
                return
            seen.add(extension)
            content = reader.read(join(directory, name), _MAXIMUM_CONTROL_BYTES)
            if content is not None:
                yield _control(reader, path, name, control.parse(content))


def _control(reader: VolumeReader, path: str, name: str, parsed: ControlFile) -> ControlFacts:
    # `directory` is relative to the element of the path, not to the control file's directory.
    scripts_in = join(path, parsed.directory or "extension")
    # The server takes an absolute one as it is (get_extension_script_directory).
    if parsed.directory and parsed.directory.startswith("/"):
        scripts_in = parsed.directory
    names = reader.files(scripts_in)
    extension = name.removesuffix(".control")
    # Directories of scripts may be shared: only these belong to the extension.
    own = [each for each in names or () if each.startswith(f"{extension}--")]
    return ControlFacts(
        directory=path,
        extension=display(extension),
        path=display(join(join(path, "extension"), name)),
        control=parsed,
        script_directory=display(scripts_in),
        versions=None if names is None else control.installable_versions(extension, own),
        secondary=tuple(_secondary(reader, scripts_in, own)),
        scripts=tuple(each for each in own if each.endswith(".sql")),
    )


def _secondary(
    reader: VolumeReader, directory: str, names: Sequence[str]
) -> Iterator[tuple[str, ControlFile]]:
    for name in names:
        if name.endswith(".control"):
            content = reader.read(join(directory, name), _MAXIMUM_CONTROL_BYTES)
            if content is not None:
                yield display(join(directory, name)), control.parse(content, secondary=True)


def _libraries(reader: VolumeReader, paths: PathLists) -> Iterator[LibraryFacts]:
    seen: dict[tuple[int, int, bool], LibraryFacts] = {}
    # lib is in both lists by default, and is read once.
    for directory in dict.fromkeys((*paths.dynamic_library_path, *paths.ld_library_path)):
        entries = reader.files(directory) or {}
        names = [name for name in entries if is_library(name)]
        if len(names) > _MAXIMUM_LIBRARIES:
            reader.note_limit(display(directory), f"{_MAXIMUM_LIBRARIES} libraries")
        wants_magic = directory in paths.dynamic_library_path
        for name in names[:_MAXIMUM_LIBRARIES]:
            place = LibraryFacts(directory, display(name))
            try:
                status = entries[name].stat()
                # A library and the links to it are one file.
                # The magic block is read only where the server searches, so that one file may
                # differ in that.
                key = (status.st_dev, status.st_ino, wants_magic)
                if key not in seen:
                    seen[key] = _open_library(Path(entries[name].path), wants_magic=wants_magic)
            except OSError as error:
                reader.note_unreadable(place.path, error)
            else:
                yield seen[key]._replace(
                    directory=directory, name=place.name, identity=identity_of(status)
                )


def _open_library(path: Path, *, wants_magic: bool) -> LibraryFacts:
    with open_regular(path) as (descriptor, size):
        return inspect(FileView(descriptor, size), wants_magic=wants_magic)


def inspect(image: Image, *, wants_magic: bool) -> LibraryFacts:
    """Return what a shared object says; directory and name are left to the caller."""
    facts = LibraryFacts("", "")
    try:
        header = read_header(image)
        facts = facts._replace(
            bits=header.bits, little_endian=header.little_endian, machine=header.machine
        )
        # Of another form, no machine of ours could load it: that is all that needs to be known.
        if header.is_native_form:
            library = SharedObject(image)
            facts = facts._replace(
                needed=library.needed, magic=read_magic(library) if wants_magic else None
            )
            # Only modules are asked by the server for functions by name.
            if facts.is_module:
                facts = facts._replace(
                    entry_points=signals.entry_points(library),
                    speaks_of_preloading=signals.speaks_of_preloading(library),
                )
    except ElfError as error:
        return facts._replace(problem=str(error))
    return facts
