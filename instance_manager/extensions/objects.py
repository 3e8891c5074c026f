"""The files that the dynamic loader would see, on this host or below another root.

Only reads, with pread(2), and may block on slow storage. What was read of an object is kept as
long as its file is the same, so that a second look costs little; how much is kept is bounded.
"""

from __future__ import annotations

import errno
import filecmp
import os
import stat
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from instance_manager.extensions import ld_cache, machines
from instance_manager.extensions.elf import ElfError, read_header
from instance_manager.extensions.files import FileView, open_regular, read_at
from instance_manager.extensions.linkable import Linkable, Symbols, read_linkable, read_symbols
from instance_manager.extensions.linking import File, Linker, Platform

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

_MAXIMUM_WEIGHT: Final = 16 * 1024 * 1024
_MAXIMUM_LISTING: Final = 20_000
# The kernel gives up after as many (path_resolution(7)).
_MAXIMUM_LINKS: Final = 40
_MAXIMUM_FILE_BYTES: Final = 8 * 1024 * 1024
# The size of Elf64_Ehdr.
_SMALLEST: Final = 64
_WEIGHT: Final = 4000
_PASSED_OVER: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP})


class _Content(NamedTuple):
    """What a file holds for the loader; neither of the two where it is for another machine."""

    linkable: Linkable | None
    problem: str = ""


_What = TypeVar("_What", _Content, Symbols)


class ObjectStore:
    """What was read of objects, by the identity of their files, the oldest forgotten first.

    Args:
        maximum_weight: about how many bytes are kept.
    """

    def __init__(self, maximum_weight: int = _MAXIMUM_WEIGHT) -> None:
        self._maximum = maximum_weight
        self.weight = 0
        """About how many bytes are kept."""
        self._contents: dict[Hashable, _Content] = {}
        self._symbols: dict[Hashable, Symbols] = {}

    def read(self, path: Path, status: os.stat_result) -> _Content:
        """Return what the regular file at *path* holds.

        Raises:
            OSError: it can't be opened or read.
        """
        return self._read(self._contents, _read_content, path, status)

    def read_symbols(self, path: Path, status: os.stat_result) -> Symbols:
        """Return the symbols of the object at *path*.

        Raises:
            OSError: it can't be opened or read.
        """
        return self._read(self._symbols, _read_symbols, path, status)

    def _read(
        self,
        kept: dict[Hashable, _What],
        reader: Callable[[FileView], _What],
        path: Path,
        status: os.stat_result,
    ) -> _What:
        # A file that was written to since has another time of change, whatever it pretends.
        key = (
            *(status.st_dev, status.st_ino, status.st_size),
            *(status.st_mtime_ns, status.st_ctime_ns),
        )
        found = kept.get(key)
        if found is None:
            with open_regular(path) as (descriptor, size):
                found = kept[key] = reader(FileView(descriptor, size))
            self.weight += _weight(found)
            self._forget()
        return found

    def _forget(self) -> None:
        for kept in (self._symbols, self._contents):
            # The newest stays, however large: it was read to be used now.
            while self.weight > self._maximum and len(kept) > 1:
                self.weight -= _weight(kept.pop(next(iter(kept))))


def _weight(found: _Content | Symbols) -> int:
    """Return about how many bytes it takes."""
    if isinstance(found, _Content):
        return _WEIGHT
    names = found.undefined
    return _WEIGHT + 8 * len(found.exports) + 60 * len(names) + sum(map(len, names))


def _read_content(view: FileView) -> _Content:
    """Judge a file in the loader's order and words (``open_verify``, dl-load.c)."""
    if len(view) < _SMALLEST:
        return _Content(None, "file too short")
    if view[0:4] != b"\x7fELF":
        return _Content(None, "invalid ELF header")
    try:
        header = read_header(view)
        # No problem: the loader passes over an object of another machine and looks further.
        if not header.is_native_form or header.machine not in machines.MACHINES:
            return _Content(None)
        return _Content(read_linkable(view))
    except ElfError as error:
        return _Content(None, str(error))


def _read_symbols(view: FileView) -> Symbols:
    try:
        return read_symbols(view)
    except ElfError as error:
        return Symbols(problem=str(error))


_STORE: Final = ObjectStore()


class ObjectFiles:
    """The files of a root, for one look: directories are listed once.

    Args:
        root: the directory that the loader would see as ``/``; links that begin with a slash
            lead from there.
        store: where what was read is kept.
    """

    def __init__(self, root: str = "/", store: ObjectStore = _STORE) -> None:
        self._root = os.path.realpath(root)
        self._store = store
        self._files: dict[str, File | None] = {}
        self._listings: dict[str, frozenset[str] | None] = {}

    def at(self, path: str) -> File | None:
        """Return the file at a path of the root; None where there is none, or it is closed."""
        if path not in self._files:
            self._files[path] = self._look(path)
        return self._files[path]

    def find(self, directory: str, name: str) -> File | None:
        """Return the file of this name in a directory."""
        names = self._listing(directory)
        # A library is searched in many directories and is in one: a listing answers for all names.
        if names is not None and name not in names:
            return None
        return self.at(f"{directory.rstrip('/')}/{name}")

    def has_directory(self, path: str) -> bool:
        """Say whether there is such a directory."""
        place = self.place(path)
        return place is not None and place.is_dir()

    def symbols(self, path: str) -> Symbols:
        """Return the symbols of the object at a path; they have a problem if it vanished."""
        place = self.place(path)
        try:
            if place is not None:
                return self._store.read_symbols(place, place.stat())
        except OSError as error:
            return Symbols(problem=f"cannot read file data: {error.strerror or error}")
        return Symbols(problem="it vanished")

    def read(self, path: str) -> bytes:
        """Return a file's content; empty where it can't be read, or is too long to be meant."""
        place = self.place(path)
        try:
            if place is not None:
                with open_regular(place) as (descriptor, size):
                    return read_at(descriptor, 0, size) if size <= _MAXIMUM_FILE_BYTES else b""
        except OSError:
            pass
        return b""

    def place(self, path: str) -> Path | None:
        """Return where a path of the root is on this host; None for a chain of links too long."""
        if self._root == "/":
            return Path(path)
        inner = self.real(path)
        return None if inner is None else Path(self._root + inner)

    def real(self, path: str) -> str | None:
        """Return a path of the root without links on its way."""
        if self._root == "/":
            return os.path.realpath(path)
        parts, done, links = path.split("/")[::-1], [""], 0
        while parts:
            part = parts.pop()
            # Above the root is the root itself, as after chroot(2).
            if part == ".." and len(done) > 1:
                done.pop()
            if part in {"", ".", ".."}:
                continue
            target = _link(f"{self._root}{'/'.join(done)}/{part}")
            if target is None:
                done.append(part)
                continue
            links += 1
            if links > _MAXIMUM_LINKS:
                return None
            if target.startswith("/"):
                # An absolute link leads from the root that the loader would see.
                done = [""]
            parts += target.split("/")[::-1]
        return "/".join(done) or "/"

    def _look(self, path: str) -> File | None:
        place = self.place(path)
        # No file's name holds a NUL, but a string in an object may come with one.
        if place is None or "\0" in path:
            return None
        try:
            status = place.stat()
            identity = (status.st_dev, status.st_ino)
            if not stat.S_ISREG(status.st_mode):
                # The loader stops at a directory or a device of the name that it searches.
                return File(path, identity, None, "cannot read file data")
            return File(path, identity, *self._store.read(place, status))
        except OSError as error:
            if error.errno in _PASSED_OVER:
                return None
            return File(path, path, None, f"cannot read file data: {error.strerror or error}")

    def _listing(self, directory: str) -> frozenset[str] | None:
        """Return the names in a directory; None where it can't be listed, or is not worth it."""
        if directory not in self._listings:
            self._listings[directory] = _names_in(self.place(directory))
        return self._listings[directory]


def _link(path: str) -> str | None:
    try:
        return os.readlink(path)  # noqa: PTH115 - the text, of paths that hold anything
    except OSError:
        return None


def _names_in(directory: Path | None) -> frozenset[str] | None:
    if directory is None:
        return frozenset()
    try:
        with os.scandir(directory) as entries:
            names = frozenset(entry.name for entry in islice(entries, _MAXIMUM_LISTING + 1))
    except OSError as error:
        # One that may be searched need not be readable.
        return None if error.errno == errno.EACCES else frozenset()
    return names if len(names) <= _MAXIMUM_LISTING else None


class LinkerMaker:
    """Makes linkers for one server, which differ in LD_LIBRARY_PATH only."""

    def __init__(self, files: ObjectFiles, platform: Platform, program: File) -> None:
        self.files = files
        self._platform = platform
        self._program = program

    def linker(self, library_path: str) -> Linker:
        """Return the server's process with this LD_LIBRARY_PATH."""
        return Linker(self.files, self._platform, self._program, library_path)

    def same_content(self, one: str, other: str) -> bool:
        """Say whether two files hold the same bytes; what can't be read is like nothing else."""
        try:
            return filecmp.cmp(
                self.files.place(one) or one, self.files.place(other) or other, shallow=False
            )
        except OSError:
            return False


def prepare(program: str, files: ObjectFiles | None = None) -> LinkerMaker | None:
    """Return what makes linkers for a server; None where its loader is none that we know.

    Args:
        program: the path of the server's program in the root of *files*.
        files: those of this host by default.
    """
    files = files or ObjectFiles()
    real = files.real(program)
    file = files.at(real) if real else None
    if file is None or file.linkable is None or file.linkable.interpreter is None:
        return None
    platform = platform_of(files, file.linkable)
    return None if platform is None else LinkerMaker(files, platform, file)


def platform_of(files: ObjectFiles, program: Linkable) -> Platform | None:
    """Return the loader that a program names; None where it is none that we know."""
    machine = machines.MACHINES.get(program.machine)
    interpreter = program.interpreter
    # musl has another loader, which searches otherwise: nothing is said rather than something
    # wrong.
    if machine is None or interpreter is None or not interpreter.endswith(f"/{machine.loader}"):
        return None
    directories = machines.default_directories(files.read(interpreter))
    # Without them every library of the system would be missing.
    if not directories:
        return None
    levels = machines.hwcaps(machine, _processor_flags(machine))
    cache = ld_cache.parse(files.read("/etc/ld.so.cache"))
    return Platform(
        machine=machine.name,
        loader=interpreter,
        library=directories[0].lstrip("/"),
        platform=machine.name,
        directories=tuple(directories),
        hwcaps=levels,
        cached=partial(_cached, cache, machine.cache_flags, levels),
    )


def _cached(cache: ld_cache.Cache, flags: int, levels: Sequence[str], name: str) -> str | None:
    return ld_cache.choose(cache, name, flags, levels)


def _processor_flags(machine: machines.Machine) -> Sequence[str]:
    """Return the flags of the first processor; none where it is of another machine."""
    # The flags of this processor say nothing of the one on which the other machine's code will
    # run.
    if not machine.levels or os.uname().machine != machine.name:
        return ()
    try:
        descriptor = os.open("/proc/cpuinfo", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ()
    try:
        # One processor takes about 2 kB, and the kernel renders no more than is asked for.
        text = os.pread(descriptor, 8192, 0)
    except OSError:
        return ()
    finally:
        os.close(descriptor)
    for line in text.splitlines():
        if line.startswith(b"flags"):
            return line.decode("ascii", "replace").split()[2:]
    return ()
