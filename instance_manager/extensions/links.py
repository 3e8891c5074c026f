"""What the dynamic loader would say of the volumes, before it is asked.

Pure: linkings in, findings out. The volumes are judged together, with the LD_LIBRARY_PATH that
they would get, since each may hold what another one needs or spoils.

What keeps a module from being loaded that something asks for (`asked_for`) is an error; the same
of any other file is a warning.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from instance_manager.extensions.facts import NO_TRACES, join
from instance_manager.extensions.findings import Code, finding
from instance_manager.extensions.loader_trace import base_name, printable
from instance_manager.extensions.models import Severity
from instance_manager.extensions.paths import display
from instance_manager.extensions.tracing_verdict import Needs, asked_for, disagreement, needs_of

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence

    from instance_manager.extensions.facts import LibraryFacts, VolumeFacts
    from instance_manager.extensions.linking import File, Files, Linker, Linking, Loaded
    from instance_manager.extensions.loader_trace import Trace
    from instance_manager.extensions.models import Finding

_SHOWN: Final = 5
_MAXIMUM_SAME: Final = 20
_WAL_RECEIVER: Final = "libpqwalreceiver.so"


class Linkers(Protocol):
    """Makes the loader of the server's process for any LD_LIBRARY_PATH."""

    @property
    def files(self) -> Files:
        """What the loader would see."""
        ...

    def linker(self, library_path: str) -> Linker:
        """Return the server's process with this LD_LIBRARY_PATH."""
        ...

    def same_content(self, one: str, other: str) -> bool:
        """Say whether two files hold the same bytes."""
        ...


class Loading(NamedTuple):
    """What is to be judged.

    *preloaded* are the bare names of all libraries that the settings want loaded; *program* is
    the server's path, and its *library_directory* is empty where it is not known. *base_path* is
    the LD_LIBRARY_PATH without the volumes, *library_path* that with them.
    """

    volumes: Sequence[VolumeFacts]
    preloaded: Collection[str]
    program: str
    library_directory: str
    base_path: str
    library_path: str


class Judged(NamedTuple):
    """What is wrong with each volume, by its name.

    *involved* are, for each volume with an error, the other ones whose files were taken there.
    """

    findings: dict[str, list[Finding]]
    involved: dict[str, set[str]]


class _Said(NamedTuple):
    """A finding of the volume *name*, and the paths of the files that it came of."""

    name: str
    finding: Finding
    paths: Collection[str] = ()


def judge_links(
    loading: Loading, linkers: Linkers, traces: Mapping[str, Trace] = NO_TRACES
) -> Judged:
    """Return what is wrong with each volume, and whose files had a part in that.

    Where the server itself could not start, that is all that is said: every module would be
    judged by what spoils the server. Where the loader has been asked, by the absolute path of the
    module or of the server's program, only what it says too is said of it, and that they differ.
    """
    linker = linkers.linker(loading.library_path)
    said: list[_Said] = []
    # Without a directory of a volume in the path, the server gets what it always gets.
    if loading.library_path != loading.base_path:
        base = linkers.linker(loading.base_path)
        server_trace = traces.get(loading.program)
        # The loader itself could start the server: then the emulation errs.
        is_wrong = server_trace is not None and server_trace.is_clean
        said += [
            each
            for each in _judge_server(loading, base, linker)
            if not (is_wrong and each.finding.code == Code.BREAKS_SERVER)
        ]
        if any(each.finding.code == Code.BREAKS_SERVER for each in said):
            return _judged(loading, said)
    said += _judge_files(loading, linker, linkers.files, traces)
    said += _judge_conflicts(loading, linkers)
    return _judged(loading, said)


def _judged(loading: Loading, said: Iterable[_Said]) -> Judged:
    found: defaultdict[str, list[Finding]] = defaultdict(list)
    involved: defaultdict[str, set[str]] = defaultdict(set)
    for name, each, paths in said:
        found[name].append(each)
        if each.severity is Severity.ERROR:
            holders = (_holder(loading.volumes, path) for path in paths)
            involved[name].update(holder.name for holder in holders if holder is not None)
    return Judged(
        {name: _limited(findings) for name, findings in found.items()},
        {name: others - {name} for name, others in involved.items()},
    )


def _limited(findings: Iterable[Finding]) -> list[Finding]:
    counts: defaultdict[str, int] = defaultdict(int)
    kept: list[Finding] = []
    # Several modules may lack the same for the same reason.
    for each in dict.fromkeys(findings):
        counts[each.code] += 1
        if counts[each.code] <= _MAXIMUM_SAME:
            kept.append(each)
    return kept


def _judge_server(loading: Loading, base: Linker, linker: Linker) -> Iterator[_Said]:
    """Yield what the volumes do to the server: other libraries than its own, or none that fit."""
    own = _server_libraries(base, loading.library_directory)
    now = _server_libraries(linker, loading.library_directory)
    culprits: defaultdict[str, list[str]] = defaultdict(list)
    for name, file in now.items():
        before, volume = own.get(name), _holder(loading.volumes, file.path)
        if volume is not None and (before is None or before.identity != file.identity):
            culprits[volume.name].append(_shown(volume, file.path))
            if before is not None:
                message = f'volume "{volume.name}" ships {name}, which would replace the'
                message += f" server's own copy ({display(before.path)})"
                path = _shown(volume, file.path)
                yield _Said(volume.name, finding(Code.SHADOWS_SERVER, path, message))
    if not culprits:
        return
    # What the server lacks without any volume is not the doing of one.
    fine = set(_problems(base.server_with_symbols()))
    for problem, places in _problems(linker.server_with_symbols()).items():
        if problem not in fine:
            holders = [_holder(loading.volumes, place) for place in places]
            # Where no file of a volume is named, each that replaces something may be the cause.
            names = [volume.name for volume in holders if volume][:1] or list(culprits)
            for name in names:
                message = f"the server could not start{_with(culprits[name])}: {problem}"
                blamed = finding(Code.BREAKS_SERVER, name, message)
                yield _Said(name, blamed, [file.path for file in now.values()])


def _with(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f" with {', '.join(names[:_SHOWN])}{more} of the volume" if names else ""


def _server_libraries(linker: Linker, library_directory: str) -> dict[str, Loaded]:
    """Return what the server loads for itself, by SONAME: a standby loads its receiver too."""
    linkings = [linker.server]
    # libpqwalreceiver is loaded at run time, so that the program's own tables don't name libpq.
    if library_directory:
        linkings += linker.link([f"{library_directory}/{_WAL_RECEIVER}"])
    return {
        each.object.soname: each
        for linking in linkings
        for each in linking.loaded
        if each.object.soname is not None
    }


def _problems(linking: Linking) -> dict[str, tuple[str, ...]]:
    """Return all that keeps an object from being loaded, with the files that it lies with."""
    found: dict[str, tuple[str, ...]] = {}
    for missing in linking.missing:
        text = f"{missing.name}, which {display(missing.needed_by)} needs, is not found"
        found[text] = (missing.needed_by,)
    for bad in linking.unloadable:
        found[f"{display(bad.path)}: {bad.problem}"] = (bad.path,)
    for each in linking.versions:
        found[_version(each.needed_by, each.file, each.version, each.provider)] = (
            each.provider,
            each.needed_by,
        )
    for needed_by, names in _by_object(linking).items():
        found[f"{display(needed_by)}: undefined symbol{_list(names)}"] = ()
    return found


def _version(needed_by: str, file: str, version: str, provider: str) -> str:
    return (
        f"{display(needed_by)} needs {file}({version}), but {display(provider)} does not provide"
        " it"
    )


def _by_object(
    linking: Linking, lent: Collection[bytes] = (), *, lent_only: bool = False
) -> Mapping[str, list[str]]:
    """Return the names that each object lacks; those that are *lent* only, or without them."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name, needed_by in linking.symbols:
        if (name in lent) == lent_only:
            found[needed_by].append(_text(name))
    return found


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(name[:200] for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{'s' if len(names) > 1 else ''} {shown}{more}"


def _judge_files(
    loading: Loading, linker: Linker, files: Files, traces: Mapping[str, Trace]
) -> Iterator[_Said]:
    """Yield what each file of the volumes lacks: the modules first, then what none has loaded."""
    asked = asked_for(loading.volumes, loading.preloaded)
    loaded: set[Hashable] = set()
    beside = {volume.name: _third_party(volume) for volume in loading.volumes}
    # Modules first: what they load is judged with them, and a library by itself only where none
    # does.
    for is_module in (True, False):
        chosen = {
            file.identity: (volume, library, file.path)
            for volume, library, file in _files(loading.volumes, files)
            if _is_searched(volume, library) == is_module and file.identity not in loaded
        }
        linkings = linker.link(path for _, _, path in chosen.values())
        lent = _lent(linkings, files)
        for (volume, library, path), linking in zip(chosen.values(), linkings, strict=True):
            loaded.update(each.identity for each in linking.loaded)
            is_asked = is_module and library.name.removesuffix(".so") in asked
            at_hand = frozenset[str]() if is_module else beside[volume.name]
            trace = traces.get(path)
            if trace is not None and (differs := _differing(library, trace, linking)):
                yield _Said(volume.name, differs)
            taken = [part.path for part in linking.loaded]
            taken += [bad.path for bad in linking.unloadable]
            complaints = _complaints(volume, linking, lent, at_hand)
            for each in _judge(library, complaints, trace, is_asked=is_asked):
                yield _Said(volume.name, each, taken)
            if is_module:
                for each in _judge_lent(volume, library, linking, lent):
                    yield _Said(volume.name, each)


def _third_party(volume: VolumeFacts) -> frozenset[str]:
    """Return the names in the volume's directories for the loader.

    Where no module needs any of them, they are not in LD_LIBRARY_PATH: then one that needs another
    does not find it, and lacks nothing for all that.
    """
    directories = volume.paths.ld_library_path
    return frozenset(each.name for each in volume.libraries if each.directory in directories)


def _differing(library: LibraryFacts, trace: Trace, linking: Linking) -> Finding | None:
    """Return the finding that the loader and its emulation differ, where they can be compared."""
    if trace.stop or trace.refusal or linking.unloadable:
        return None  # the loader has not looked at the rest
    emulated = Needs(
        frozenset(printable(each.name) for each in linking.missing),
        frozenset(
            (base_name(printable(each.provider)), printable(each.version))
            for each in linking.versions
        ),
        frozenset(printable(_text(each.name)) for each in linking.symbols),
    )
    return disagreement(library.path, needs_of(trace), emulated)


def _codes_of(trace: Trace) -> frozenset[Code]:
    """Return what a trace complains of."""
    said = {
        Code.MISSING_LIBRARY: trace.missing,
        Code.SYMBOL_VERSION: trace.versions,
        Code.UNDEFINED_SYMBOL: trace.undefined,
        Code.BAD_LIBRARY: trace.stop or trace.refusal,
    }
    return frozenset(code for code, complaints in said.items() if complaints)


def defined_by_modules(
    volumes: Iterable[VolumeFacts], names: Iterable[str], files: Files
) -> frozenset[str]:
    """Return those of the symbols that some module of the volumes brings into the process."""
    wanted = {name.encode() for name in names}
    found: set[bytes] = set()
    for volume, library, file in _files(volumes, files):
        if library.is_module and _is_searched(volume, library):
            found.update(files.symbols(file.path).defines(wanted))
    return frozenset(map(_text, found))


def _text(symbol: bytes) -> str:
    return symbol.decode("utf-8", "backslashreplace")


def _lent(linkings: Sequence[Linking], files: Files) -> frozenset[bytes]:
    """Return the names that one module lacks and another one brings into the process.

    The server loads modules with RTLD_GLOBAL, so those that are loaded earlier lend their names.
    """
    lacking = {each.name for linking in linkings for each in linking.symbols}
    if not lacking:
        return frozenset()
    paths = {each.identity: each.path for linking in linkings for each in linking.loaded}
    symbols = map(files.symbols, paths.values())
    return frozenset[bytes]().union(*(each.defines(lacking) for each in symbols))


def _files(
    volumes: Iterable[VolumeFacts], files: Files
) -> Iterator[tuple[VolumeFacts, LibraryFacts, File]]:
    """Yield the libraries that the loader could take; what ails the others is said elsewhere."""
    for volume in volumes:
        for library in volume.libraries:
            # What is known to be no shared object has its finding already.
            file = files.at(join(volume.path, library.path)) if not library.problem else None
            if file is not None and (file.linkable is not None or file.problem):
                yield volume, library, file


def _is_searched(volume: VolumeFacts, library: LibraryFacts) -> bool:
    return library.directory in volume.paths.dynamic_library_path


def _judge(
    library: LibraryFacts,
    complaints: Iterable[tuple[Code, str]],
    trace: Trace | None,
    *,
    is_asked: bool,
) -> Iterator[Finding]:
    path = library.path
    # Where the loader gave up, it has not looked at the rest.
    is_whole = trace is not None and not (trace.stop or trace.refusal)
    confirmed = _codes_of(trace) if trace is not None and is_whole else None
    for code, message in complaints:
        if confirmed is not None and code not in confirmed:
            continue  # the loader itself has no such complaint
        # At a file that can't be loaded the loader stops, for whoever needs one of that name.
        if is_asked or code is Code.BAD_LIBRARY:
            yield finding(code, path, message)
        else:
            text = f"{message}; nothing that is known to be used loads {path}"
            yield finding(Code.UNUSED_MISSING_LIBRARY, path, text)


def _judge_lent(
    volume: VolumeFacts, library: LibraryFacts, linking: Linking, lent: Collection[bytes]
) -> Iterator[Finding]:
    if linking.missing or linking.unloadable or linking.versions:
        return  # they may be in there
    for needed_by, names in _by_object(linking, lent, lent_only=True).items():
        text = f"{_shown(volume, needed_by)}: only another module defines the symbol{_list(names)}"
        text += "; that one must be loaded first"
        yield finding(Code.UNUSED_MISSING_LIBRARY, library.path, text)


def _complaints(
    volume: VolumeFacts, linking: Linking, lent: Collection[bytes], at_hand: Collection[str]
) -> Iterator[tuple[Code, str]]:
    """Yield all that is wrong; a library *at_hand* is not missing, though it is not found."""
    path = _shown(volume, linking.path)
    for name, needed_by, searched in linking.missing:
        if name in at_hand:
            continue
        who = "" if needed_by == linking.path else f" (required by {_shown(volume, needed_by)})"
        yield Code.MISSING_LIBRARY, f"{path} needs {name}{who}, not found in {_places(searched)}"
    for bad in linking.unloadable:
        text = f"{_shown(volume, bad.path)} is not loadable; ld.so would abort"
        text += f' ("{bad.problem}") when {_shown(volume, bad.needed_by)} is loaded'
        yield Code.BAD_LIBRARY, text
    for each in linking.versions:
        text = _version(
            _shown(volume, each.needed_by),
            each.file,
            each.version,
            _shown(volume, each.provider),
        )
        yield Code.SYMBOL_VERSION, f"{text} (image built for a newer distribution?)"
    if linking.missing or linking.unloadable or linking.versions:
        return  # what is not defined may be in there
    for needed_by, names in _by_object(linking, lent).items():
        text = f"{_shown(volume, needed_by)}: undefined symbol{_list(names)}"
        yield Code.UNDEFINED_SYMBOL, f"{text}; built for another PostgreSQL minor or fork?"


def _places(searched: Sequence[str]) -> str:
    if not searched:
        return "any directory"
    more = f" and {len(searched) - _SHOWN} more directories" if len(searched) > _SHOWN else ""
    return display(", ".join(searched[:_SHOWN])) + more


def _shown(volume: VolumeFacts, path: str) -> str:
    return display(path.removeprefix(f"{volume.path}/"))


def _holder(volumes: Iterable[VolumeFacts], path: str) -> VolumeFacts | None:
    return next((each for each in volumes if path.startswith(f"{each.path}/")), None)


def _judge_conflicts(loading: Loading, linkers: Linkers) -> Iterator[_Said]:
    """Yield libraries of one SONAME that differ between volumes: who loads first decides."""
    first: dict[str, tuple[VolumeFacts, File]] = {}
    for volume, library, file in _files(loading.volumes, linkers.files):
        soname = file.linkable.soname if file.linkable else None
        if soname is None or library.directory not in volume.paths.ld_library_path:
            continue
        other, known = first.setdefault(soname, (volume, file))
        if other.name != volume.name and not _is_same(file, known, linkers):
            message = f"{soname} differs between {other.name} and {volume.name}; the first one"
            message += " loaded is used by both"
            yield _Said(volume.name, finding(Code.LIBRARY_CONFLICT, library.path, message))


def _is_same(one: File, other: File, linkers: Linkers) -> bool:
    # Equal build IDs are one build, and spare reading both files to their end.
    ids = [file.linkable.build_id for file in (one, other) if file.linkable]
    return ids[0] == ids[1] if all(ids) else linkers.same_content(one.path, other.path)
