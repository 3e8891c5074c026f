"""What was found on disk, and what is known of the server: the input of the preflight.

Pure values, made by the discovery and by tests. Named tuples, because dozens of them are made on
the way to the first connection. Paths are relative to the volume unless said otherwise.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from instance_manager.extensions.metadata import Metadata

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from instance_manager.extensions.control import ControlFile
    from instance_manager.extensions.loader_trace import Trace
    from instance_manager.extensions.magic import Magic
    from instance_manager.extensions.models import Finding

NO_TRACES: Final[Mapping[str, Trace]] = MappingProxyType({})
"""What the dynamic loader says of modules, by their absolute paths: it was not asked."""


class ServerFacts(NamedTuple):
    """The server that the volumes must fit.

    *machine* is named as ``uname -m`` does. *libraries* are the file names in the server's own
    library directory, ``$libdir``, and *extensions* the names of the control files in its
    ``$system`` directory; None where they are not known. *number* is ``server_version_num``, 0
    where only the major is known. *program* and *library_directory* are absolute paths, empty
    where they are not known.
    """

    major: int
    machine: str
    abi: str = "PostgreSQL"
    libraries: frozenset[str] | None = None
    extensions: frozenset[str] | None = None
    number: int = 0
    program: str = ""
    library_directory: str = ""


class Identity(NamedTuple):
    """Which file it is, and in which state: stat(2). Two that differ may differ in content."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


class LibraryFacts(NamedTuple):
    """A file that the loader could be asked to load; *problem* says why it could not.

    *bits*, *little_endian* and *machine* are known wherever there is an ELF header, the rest only
    for 64-bit little-endian shared objects. *magic* is ``None`` where it was not looked for.
    *entry_points* are those of ``signals`` that a module exports; *speaks_of_preloading* says that
    its text names ``shared_preload_libraries``.
    *identity* is that of the file itself, behind all links.
    """

    directory: str
    name: str
    problem: str = ""
    bits: int = 0
    little_endian: bool = True
    machine: str | None = None
    needed: tuple[str, ...] = ()
    magic: Magic | None = None
    entry_points: frozenset[str] = frozenset()
    speaks_of_preloading: bool = False
    identity: Identity | None = None

    @property
    def path(self) -> str:
        """The file's path."""
        return join(self.directory, self.name)

    @property
    def is_module(self) -> bool:
        """Whether the server can load it as a module, for all that its tables say."""
        # Where it was not looked for, the server does not search either.
        return self.magic is not None and self.magic.is_module


class ControlFacts(NamedTuple):
    """A control file; *directory* is the element of the path under which it lies.

    *versions* are those that its scripts can install; None where their directory is missing.
    *secondary* holds the control files of single versions, by path. *scripts* are the names of
    its scripts, in *script_directory*. *asks_for_module* says that they may name the library of
    the control file; it is false only where the volume lacks that one, and the script
    of the default version does not; where it has none of its own, no script does.
    """

    directory: str
    extension: str
    path: str
    control: ControlFile
    script_directory: str
    versions: tuple[str, ...] | None
    secondary: tuple[tuple[str, ControlFile], ...] = ()
    scripts: tuple[str, ...] = ()
    asks_for_module: bool = True


class PathLists(NamedTuple):
    """The four lists of a volume's paths, those that exist and can be used only."""

    extension_control_path: tuple[str, ...] = ()
    dynamic_library_path: tuple[str, ...] = ()
    ld_library_path: tuple[str, ...] = ()
    bin_path: tuple[str, ...] = ()


class VolumeFacts(NamedTuple):
    """A volume as it lies on disk.

    *path* is absolute, as the server will be told it; it may hold what can't be printed.
    *is_open* is false where nothing inside could be looked at: then *obstacles* say why.
    *loader_paths_given* says that the loader's path is the user's or the builder's choice and not
    ours. *suffixless* are the names without a suffix in the library directories. *obstacles* are
    what the discovery could not get past.
    """

    name: str
    path: str
    is_open: bool = True
    is_mount: bool = True
    read_only: bool = True
    noexec: bool = False
    paths: PathLists = PathLists()
    loader_paths_given: bool = False
    metadata: Metadata = Metadata()
    controls: tuple[ControlFacts, ...] = ()
    libraries: tuple[LibraryFacts, ...] = ()
    suffixless: frozenset[str] = frozenset()
    obstacles: tuple[Finding, ...] = ()

    def searched(self) -> tuple[LibraryFacts, ...]:
        """Return the libraries in the directories where the server searches for modules."""
        directories = self.paths.dynamic_library_path
        return tuple(each for each in self.libraries if each.directory in directories)

    def module_files(self) -> frozenset[str]:
        """Return the names of the files that the server can find in this volume."""
        return self.suffixless.union(each.name for each in self.searched())


class RootFacts(NamedTuple):
    """Everything under the root."""

    root: str
    volumes: tuple[VolumeFacts, ...]
    obstacles: tuple[Finding, ...] = ()


def join(directory: str, name: str) -> str:
    """Return the path of *name* in *directory*, where ``.`` is the volume itself."""
    return name if directory == "." else f"{directory}/{name}"


def identity_of(status: os.stat_result) -> Identity:
    """Return what tells one state of a file from another."""
    return Identity(
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )
