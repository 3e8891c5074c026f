"""What the loader's traces mean for the volumes, and whether our own emulation agrees.

Pure: traces in, findings out. A module that something asks for - an extension's control file, the
preload list, the metadata - must load; any other one may be a plug for what is not mounted here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from instance_manager.extensions.facts import join
from instance_manager.extensions.findings import Code, finding
from instance_manager.extensions.loader_trace import Trace, base_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from instance_manager.extensions.facts import LibraryFacts, VolumeFacts
    from instance_manager.extensions.models import Finding

_SHOWN: Final = 3
_FINDINGS: Final = 20
"""Of one kind, for one module."""
CLEAN: Final = Trace()


class Needs(NamedTuple):
    """What a module needs and does not get, as the loader or its emulation sees it.

    *missing* are names of libraries, *versions* pairs of a library's file name and a version,
    *undefined* names of symbols.
    """

    missing: frozenset[str] = frozenset()
    versions: frozenset[tuple[str, str]] = frozenset()
    undefined: frozenset[str] = frozenset()


def needs_of(trace: Trace) -> Needs:
    """Return what a trace says that is needed."""
    return Needs(
        frozenset(trace.missing),
        frozenset((base_name(each.provider), each.version) for each in trace.versions),
        frozenset(each.name for each in trace.undefined),
    )


def disagreement(path: str, traced: Needs, emulated: Needs) -> Finding | None:
    """Return the finding that the loader and its emulation differ on the module at *path*.

    What is undefined only because a library is missing is not compared.
    """
    differences = [
        *_difference("missing libraries", traced.missing, emulated.missing),
        *_difference(
            "versions",
            {f"{name}({version})" for name, version in traced.versions},
            {f"{name}({version})" for name, version in emulated.versions},
        ),
    ]
    if not (traced.missing or emulated.missing):
        differences += _difference("symbols", traced.undefined, emulated.undefined)
    if not differences:
        return None
    message = f"internal: resolver and ld.so disagree for {path}: {'; '.join(differences)}"
    return finding(Code.LOADER_DISAGREES, path, message)


def _difference(what: str, traced: Collection[str], emulated: Collection[str]) -> Iterator[str]:
    for who, own, other in (("ld.so", traced, emulated), ("the resolver", emulated, traced)):
        alone = sorted(set(own) - set(other))
        if alone:
            yield f"{what} by {who} alone: {_listed(alone)}"


def asked_for(volumes: Iterable[VolumeFacts], preloaded: Iterable[str]) -> frozenset[str]:
    """Return the names of the modules that something asks for, without a suffix."""
    names = set(preloaded)
    for volume in volumes:
        names.update(each.control.module or "" for each in volume.controls)
        names.update(volume.metadata.shared_preload_libraries)
    return frozenset(base_name(name).removesuffix(".so") for name in names if name)


def judge_traces(
    volume: VolumeFacts,
    traces: Mapping[str, Trace],
    asked: Collection[str],
    program: str,
    lent: Collection[str] = (),
) -> Iterator[Finding]:
    """Yield what the loader has against a volume.

    Args:
        volume: the volume.
        traces: what it said, by the absolute path of the module; that of the server's own
            *program* is about the server with all the volumes' libraries in its way.
        asked: the names of the modules that something asks for.
        program: the absolute path of the server.
        lent: the symbols that one module brings for others: that is no reason to leave these out,
            since the server loads modules with RTLD_GLOBAL.
    """
    # What was not asked about counts as clean: the emulation has judged it.
    yield from _judge_server(volume, traces.get(program, CLEAN))
    for library in volume.searched():
        trace = traces.get(path_of(volume, library), CLEAN)
        own = tuple(each for each in trace.undefined if each.name not in lent)
        # Only for this verdict: the loader sees one module at a time, the server loads many.
        trace = trace._replace(undefined=own)
        if library.name.removesuffix(".so") in asked:
            yield from _judge_module(volume, library, trace)
        # An error would take the whole volume away for a file that nobody may ever load.
        elif not trace.is_clean:
            reason = _of_unasked(volume, trace)
            message = f"{library.path}, which nothing asked for so far, could not be loaded:"
            yield finding(Code.UNUSED_MISSING_LIBRARY, library.path, f"{message} {reason}")


def path_of(volume: VolumeFacts, library: LibraryFacts) -> str:
    """Return the absolute path of a library of a volume, as the server finds it."""
    return join(volume.path, library.path)


def _judge_server(volume: VolumeFacts, trace: Trace) -> Iterator[Finding]:
    """Blame a volume for what the loader has against the server itself."""
    place = f"{volume.path}/"
    blamed = [
        f"{each.by} needs version {each.version} of {base_name(each.provider)}"
        for each in trace.versions
        if each.provider.startswith(place)
    ]
    # The loader names the file first at which it stops.
    if trace.stop.startswith(place):
        blamed.append(_inside(volume, trace.stop))
    taken = [_inside(volume, path) for _, path in trace.resolved if path.startswith(place)]
    # Where a version is missing, what is undefined is the doing of the library that lacks it.
    if trace.undefined and taken and not trace.versions:
        symbols = _listed([each.name for each in trace.undefined])
        blamed.append(f"{_listed(taken)} is taken for the server's own, and lacks {symbols}")
    if blamed:
        message = f'postgres could not start with a library of volume "{volume.name}"'
        yield finding(Code.BREAKS_SERVER, volume.name, f"{message}: {_listed(blamed)}")


def _judge_module(volume: VolumeFacts, library: LibraryFacts, trace: Trace) -> Iterator[Finding]:
    path = library.path
    if trace.refusal:
        message = f"{path} can't be loaded: the dynamic loader says: {trace.refusal}"
        yield finding(Code.ELF_INVALID, path, message)
    if trace.stop:
        message = f"{path} can't be loaded: the dynamic loader stops: "
        message += _inside(volume, trace.stop)
        yield finding(Code.BAD_LIBRARY, path, message)
    for name in trace.missing[:_FINDINGS]:
        message = f"{path} needs {name}, not found by the dynamic loader"
        yield finding(Code.MISSING_LIBRARY, path, message)
    for each in trace.versions[:_FINDINGS]:
        message = f"{_inside(volume, each.by)} needs {base_name(each.provider)}({each.version}),"
        message += f" but {_inside(volume, each.provider)} does not provide it"
        message += " (image built for a newer distribution?)"
        yield finding(Code.SYMBOL_VERSION, path, message)
    if trace.undefined and not (trace.missing or trace.versions):
        # Else they may be what the missing library would have had.
        symbols = _listed([each.name for each in trace.undefined])
        message = (
            f"{path}: undefined symbol {symbols}; built for another PostgreSQL minor or fork?"
        )
        yield finding(Code.UNDEFINED_SYMBOL, path, message)


def _of_unasked(volume: VolumeFacts, trace: Trace) -> str:
    if trace.missing:
        return f"it needs {_listed(trace.missing)}, not found by the dynamic loader"
    if trace.versions:
        return _listed(
            [f"{base_name(v.provider)} lacks version {v.version}" for v in trace.versions]
        )
    if trace.undefined:
        return f"undefined symbol {_listed([each.name for each in trace.undefined])}"
    return _inside(volume, trace.refusal or trace.stop)


def _inside(volume: VolumeFacts, text: str) -> str:
    """Return a text that begins with a path as seen from within the volume."""
    return text.removeprefix(f"{volume.path}/")


def _listed(names: Collection[str]) -> str:
    """Return the first few of what there is, and how many more."""
    more = len(names) - _SHOWN
    shown = ", ".join(list(names)[:_SHOWN])
    return f"{shown} and {more} more" if more > 0 else shown
