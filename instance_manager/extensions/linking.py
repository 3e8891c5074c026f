"""What the dynamic loader would do with a module: what it loads from where, and what it lacks.

Pure over a view of files, so that it serves this host, another root, or a tree made up by a test.
It follows the GNU loader (ld.so(8); ``dl-load.c``, ``dl-deps.c`` and ``dl-version.c`` of glibc):
the server and its libraries are in the process before the module is, and a name that is loaded,
as it was asked for or as the SONAME of an object, is never searched again. Unlike the loader it
goes on where something is missing, so that all that is wrong is seen at once.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import (
        Callable,
        Collection,
        Hashable,
        Iterable,
        Iterator,
        Mapping,
        Sequence,
    )

    from instance_manager.extensions.linkable import Linkable, Symbols


class File(NamedTuple):
    """What lies at *path*, which is as it was asked for, links and all.

    One *identity* is one file. *linkable* is None where the loader can't take it; *problem* says
    what it would say then, and is empty for an object of another machine, which it passes over.
    """

    path: str
    identity: Hashable
    linkable: Linkable | None
    problem: str = ""


class Files(Protocol):
    """The files that the loader would see. Nothing here raises."""

    def at(self, path: str) -> File | None:
        """Return the file at a path; None where there is none that the server may open."""
        ...

    def find(self, directory: str, name: str) -> File | None:
        """Return the file of this name in a directory, likewise."""
        ...

    def has_directory(self, path: str) -> bool:
        """Say whether there is such a directory."""
        ...

    def symbols(self, path: str) -> Symbols:
        """Return the symbols of the object at a path."""
        ...


class Platform(NamedTuple):
    """The loader of a root, and what it was built for.

    *loader* is the path of its file, *library* and *platform* are what ``$LIB`` and
    ``$PLATFORM`` stand for, *directories* are searched last. *hwcaps* names the subdirectories of
    ``glibc-hwcaps`` that the processor supports, best first. *cached* looks in ``ld.so.cache``.
    """

    machine: str
    loader: str
    library: str
    platform: str
    directories: tuple[str, ...]
    hwcaps: tuple[str, ...]
    cached: Callable[[str], str | None]


class Loaded(NamedTuple):
    """An object in the process; *parent* is the one that asked for it first."""

    path: str
    object: Linkable
    identity: Hashable
    parent: Loaded | None = None


class Missing(NamedTuple):
    """A library that is nowhere; *searched* are the directories, in order."""

    name: str
    needed_by: str
    searched: tuple[str, ...]


class Unloadable(NamedTuple):
    """A file at which the loader gives up, although another one may lie further on."""

    path: str
    needed_by: str
    problem: str


class MissingVersion(NamedTuple):
    """A version that *needed_by* wants of *file*, which *provider* does not define."""

    file: str
    version: str
    needed_by: str
    provider: str


class MissingSymbol(NamedTuple):
    """A name that nobody in the process defines."""

    name: bytes
    needed_by: str


class Linking(NamedTuple):
    """What came of loading the object at *path*.

    *loaded* holds it and all that it brings into the process, in the loader's order, without what
    was there before it.
    """

    path: str
    loaded: tuple[Loaded, ...] = ()
    missing: tuple[Missing, ...] = ()
    unloadable: tuple[Unloadable, ...] = ()
    versions: tuple[MissingVersion, ...] = ()
    symbols: tuple[MissingSymbol, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing."""
        return not (self.missing or self.unloadable or self.versions or self.symbols)


_TOKEN: Final = re.compile(r"\$(?:\{(ORIGIN|LIB|PLATFORM)\}|(ORIGIN|LIB|PLATFORM))")
_C_LIBRARIES: Final = frozenset({"libc.so.6", "libm.so.6"})
_MAXIMUM_OBJECTS: Final = 4096
_MAXIMUM_DIRECTORIES: Final = 1024


class Linker:
    """The loader in a server's process.

    Remembers what it found, so it is good for one look at the files.

    Args:
        files: what the loader would see.
        platform: the loader.
        program: the absolute path of the server's program, without links on its way.
        library_path: LD_LIBRARY_PATH.
    """

    def __init__(self, files: Files, platform: Platform, program: File, library_path: str) -> None:
        self._files = files
        self._platform = platform
        self._expanded: dict[str, tuple[str, ...]] = {}
        self._asked_early: dict[str, File | None] = {}
        self._asked_late: dict[tuple[str, bool], File | None] = {}
        # $ORIGIN of a program is where its file is, behind all links (/proc/self/exe).
        self._origin = _directory(program.path)
        # LD_LIBRARY_PATH alone may be separated by semicolons too (ld.so(8)).
        self._library_path = self._path_list(library_path, self._origin, ":;")
        process = _Process()
        loader = files.at(platform.loader)
        # The loader itself is in each process, before anything that it loads.
        for file in (program, loader):
            if file is not None and file.linkable is not None:
                process.add(Loaded(file.path, file.linkable, file.identity))
        self._main = process.objects[0]
        # The loader itself needs nothing.
        self._close(process, process.objects[:1])
        self._server = process
        self.server = process.result(program.path)
        """The server's own linking, without a look at its symbols."""

    def link(self, paths: Iterable[str]) -> tuple[Linking, ...]:
        """Return what comes of loading each file by itself, its symbols included."""
        processes = [(path, self._load_into_copy(path)) for path in paths]
        # All at once, so that the symbols of what many modules need are read once.
        self._resolve([process for _, process in processes])
        return tuple(process.result(path) for path, process in processes)

    def server_with_symbols(self) -> Linking:
        """Return the server's own linking, its symbols included."""
        process = self._server.copy()
        process.first = 0
        self._resolve([process])
        return self.server._replace(symbols=tuple(process.symbols))

    def _load_into_copy(self, path: str) -> _Process:
        process = self._server.copy()
        file = self._files.at(path)
        if file is None:
            process.missing.append(Missing(path, path, ()))
            return process
        # The server opens it by its path; the loader counts the program as who asked.
        added = self._take(process, path, file, self._main)
        if added is not None:
            self._close(process, [added])
        return process

    def _close(self, process: _Process, queue: list[Loaded]) -> None:
        """Load what those in *queue* need, and what that needs: breadth first."""
        for each in queue:  # grows meanwhile
            for name in each.object.needed:
                if name in process.names:
                    continue
                file, searched = self._search(name, each)
                if file is None:
                    process.missing.append(Missing(name, each.path, searched))
                    process.names[name] = None
                    continue
                added = self._take(process, name, file, each)
                if added is not None and len(queue) < _MAXIMUM_OBJECTS:
                    queue.append(added)
        process.check_versions()

    def _take(self, process: _Process, name: str, file: File, parent: Loaded) -> Loaded | None:
        """Add a file to the process; None where it was there, or can't be."""
        problem = file.problem
        if file.linkable is None:
            problem = problem or "it is for another machine"
        elif file.linkable.is_program:
            problem = "cannot dynamically load executable"
        if problem:
            process.unloadable.append(Unloadable(file.path, parent.path, problem))
            process.names[name] = None
            return None
        # The loader compares device and inode: one file under two names is in the process once.
        known = process.identities.get(file.identity)
        if known is not None:
            process.names[name] = known
            return None
        assert file.linkable is not None  # noqa: S101 - or there were a problem
        added = Loaded(file.path, file.linkable, file.identity, parent)
        process.names[name] = added
        process.add(added)
        return added

    def _search(self, name: str, asker: Loaded) -> tuple[File | None, tuple[str, ...]]:
        """Return the first file that fits, and where it was looked for if there is none."""
        # A name with a slash is a path, and is searched nowhere (dlopen(3)).
        if "/" in name:
            path = self._expand(name, _directory(asker.path))
            return self._fitting(self._files.at(path)), (_directory(path),)
        chain = tuple(self._chain(asker))
        runpath = self._list_of(asker, asker.object.runpath)
        no_defaults = asker.object.no_default_libraries
        file = (
            # In the order of ld.so(8): DT_RPATH, LD_LIBRARY_PATH, DT_RUNPATH, the cache, the
            # defaults.
            self._in(chain, name)
            or self._early(name)
            or self._in(runpath, name)
            or self._late(name, no_defaults=no_defaults)
        )
        if file is not None:
            return file, ()
        last = () if no_defaults else self._platform.directories
        return None, tuple(dict.fromkeys((*chain, *self._library_path, *runpath, *last)))

    def _chain(self, asker: Loaded) -> Iterator[str]:
        """Yield the directories of ``DT_RPATH``: of who asks, and of who asked for that one.

        An object with ``DT_RUNPATH`` has no ``DT_RPATH``, and hides those of its ancestors.
        """
        if asker.object.runpath is not None:
            return
        each: Loaded | None = asker
        is_main = False
        while each is not None:
            if each.object.runpath is None:
                yield from self._list_of(each, each.object.rpath)
            is_main = each is self._main
            each = each.parent
        # DT_RPATH of the program counts for all, also for what it did not ask for itself.
        if not is_main and self._main.object.runpath is None:
            yield from self._list_of(self._main, self._main.object.rpath)

    def _list_of(self, owner: Loaded, text: str | None) -> tuple[str, ...]:
        return self._path_list(text, self._origin_of(owner), ":") if text is not None else ()

    def _origin_of(self, owner: Loaded) -> str:
        return self._origin if owner is self._main else _directory(owner.path)

    def _path_list(self, text: str, origin: str, separators: str) -> tuple[str, ...]:
        if not text:
            return ()
        elements = re.split(f"[{separators}]", text)[:_MAXIMUM_DIRECTORIES]
        paths = [self._expand(element, origin) for element in elements]
        # An empty element is the current directory.
        return tuple(dict.fromkeys(path.rstrip("/") or ("/" if path else ".") for path in paths))

    def _expand(self, text: str, origin: str) -> str:
        if "$" not in text:
            return text
        values = {
            "ORIGIN": origin,
            "LIB": self._platform.library,
            "PLATFORM": self._platform.platform,
        }
        return _TOKEN.sub(lambda match: values[match[1] or match[2]], text)

    def _in(self, directories: Iterable[str], name: str) -> File | None:
        for directory in directories:
            for place in self._places(directory):
                file = self._fitting(self._files.find(place, name))
                if file is not None:
                    return file
        return None

    def _places(self, directory: str) -> tuple[str, ...]:
        """Return a directory with those in it that are made for better processors, best first."""
        places = self._expanded.get(directory)
        if places is None:
            found: list[str] = []
            below = f"{directory}/glibc-hwcaps"
            # Most directories have none: asked once, it spares a look for each level and name.
            if self._platform.hwcaps and self._files.has_directory(below):
                found = [f"{below}/{level}" for level in self._platform.hwcaps]
            if self._files.has_directory(directory):
                found.append(directory)
            places = self._expanded[directory] = tuple(found)
        return places

    def _fitting(self, file: File | None) -> File | None:
        """Return None for what the loader passes over: nothing there, or another machine's."""
        if file is None or (not file.problem and file.linkable is None):
            return None
        # The loader goes on with the next directory, as where libraries of 32 and 64 bits lie side
        # by side.
        is_foreign = file.linkable and file.linkable.machine != self._platform.machine
        return None if is_foreign else file

    def _early(self, name: str) -> File | None:
        if name not in self._asked_early:
            self._asked_early[name] = self._in(self._library_path, name)
        return self._asked_early[name]

    def _late(self, name: str, *, no_defaults: bool) -> File | None:
        key = (name, no_defaults)
        if key not in self._asked_late:
            self._asked_late[key] = self._look_late(name, no_defaults=no_defaults)
        return self._asked_late[key]

    def _look_late(self, name: str, *, no_defaults: bool) -> File | None:
        directories = self._platform.directories
        path = self._platform.cached(name)
        if path is not None and not (
            # DF_1_NODEFLIB: what the cache knows of the default directories does not count either.
            no_defaults and any(path.startswith(f"{each}/") for each in directories)
        ):
            file = self._fitting(self._files.at(path))
            if file is not None:
                return file
        return None if no_defaults else self._in(directories, name)

    def _resolve(self, processes: Sequence[_Process]) -> None:
        """Find the names that nobody defines: of each process by itself.

        The server's objects are asked one by one, and no longer than a name is left.
        """
        added = {each.identity: each for process in processes for each in process.added()}
        symbols = {identity: self._files.symbols(each.path) for identity, each in added.items()}
        wants = {
            identity: frozenset(map(hash, each.undefined)) for identity, each in symbols.items()
        }
        # Cut down to what somebody wants: libraries define far more than anybody asks them for.
        wanted: frozenset[int] = frozenset[int]().union(*wants.values())
        defined = {
            identity: wanted.intersection(each.exports) for identity, each in symbols.items()
        }
        lacking = [
            _union(wants, process.added()) - _union(defined, process.added())
            for process in processes
        ]
        by_server = self._defined_by_server(frozenset[int]().union(*lacking), added.values())
        for process, names in zip(processes, lacking, strict=True):
            process.note_symbols(names - by_server, symbols)

    def _defined_by_server(
        self, names: frozenset[int], askers: Iterable[Loaded]
    ) -> frozenset[int]:
        """Return those of the names that the server and its libraries define.

        A name mostly comes from the program, or from a library that is asked for by name.
        """
        # The tables of symbols are read in this order, and most of them need never be.
        likely = {name for asker in askers for name in asker.object.needed} | _C_LIBRARIES
        left = set(names)
        for each in sorted(
            self._server.objects,
            key=lambda each: each is not self._main and each.object.soname not in likely,
        ):
            if not left:
                break
            left.difference_update(self._files.symbols(each.path).exports)
        return names - left


class _Process:
    """A process while it is filled. *names* has None for what can't be had."""

    def __init__(self) -> None:
        self.objects: list[Loaded] = []
        self.names: dict[str, Loaded | None] = {}
        self.identities: dict[Hashable, Loaded] = {}
        self.first = 0
        self.missing: list[Missing] = []
        self.unloadable: list[Unloadable] = []
        self.versions: list[MissingVersion] = []
        self.symbols: list[MissingSymbol] = []

    def copy(self) -> _Process:
        """Return the same process, in which what was there counts as there before."""
        copied = _Process()
        copied.objects = list(self.objects)
        copied.names = dict(self.names)
        copied.identities = dict(self.identities)
        copied.first = len(self.objects)
        return copied

    def add(self, each: Loaded) -> None:
        """Add an object, and the names by which it is known."""
        self.objects.append(each)
        self.identities.setdefault(each.identity, each)
        self.names.setdefault(each.path, each)
        if each.object.soname is not None:
            self.names.setdefault(each.object.soname, each)

    def added(self) -> list[Loaded]:
        """Return the objects that were not there before."""
        return self.objects[self.first :]

    def check_versions(self) -> None:
        """Note the versions that the added objects want and don't get.

        A library without any version is taken for an old one, with a warning at most.
        """
        for each in self.added():
            for file, version, weak in each.object.version_needs:
                provider = self.names.get(file)
                # What is missing altogether has been noted as such.
                defined: Collection[str] = provider.object.versions if provider else ()
                if provider and defined and version not in defined and not weak:
                    self.versions.append(MissingVersion(file, version, each.path, provider.path))

    def note_symbols(self, lacking: Collection[int], symbols: Mapping[Hashable, Symbols]) -> None:
        """Note the names with these hashes, for each object that wants them."""
        for each in self.added():
            own = symbols[each.identity]
            if own.problem:
                # The module itself has nobody but the server that asked for it.
                asker = each.parent.path if each.parent else each.path
                self.unloadable.append(Unloadable(each.path, asker, own.problem))
            if lacking:
                self.symbols += [
                    MissingSymbol(name, each.path)
                    for name in own.undefined
                    if hash(name) in lacking
                ]

    def result(self, path: str) -> Linking:
        """Return what came of it."""
        return Linking(
            path,
            tuple(self.added()),
            tuple(self.missing),
            tuple(self.unloadable),
            tuple(self.versions),
            tuple(self.symbols),
        )


def _union(sets: Mapping[Hashable, frozenset[int]], objects: Iterable[Loaded]) -> frozenset[int]:
    return frozenset[int]().union(*(sets[each.identity] for each in objects))


def _directory(path: str) -> str:
    return path.rpartition("/")[0] or "/"
