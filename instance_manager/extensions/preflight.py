"""The preflight: do these volumes fit this server, and may it start with them?

Pure: facts in, findings and states out. A volume with an error is quarantined. Under the policy
``quarantine`` it is left out and the rest starts, unless something that the user asked for by name
needs it; under ``refuse`` any error forbids the start. A warning never does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from instance_manager.extensions import environment, preloading
from instance_manager.extensions.composition import loader_path
from instance_manager.extensions.facts import NO_TRACES
from instance_manager.extensions.findings import Code, finding
from instance_manager.extensions.library_search import split_list
from instance_manager.extensions.models import (
    Extension,
    Library,
    Preload,
    Severity,
    State,
    Volume,
)
from instance_manager.extensions.offers import offers
from instance_manager.extensions.paths import bare_name, display
from instance_manager.extensions.volumes import FIRST_MAJOR, is_empty, judge_volume

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from instance_manager.extensions.facts import (
        ControlFacts,
        LibraryFacts,
        RootFacts,
        ServerFacts,
        VolumeFacts,
    )
    from instance_manager.extensions.library_search import IsThere
    from instance_manager.extensions.links import Judged, Linkers
    from instance_manager.extensions.loader_trace import Trace
    from instance_manager.extensions.models import Finding
    from instance_manager.extensions.offers import Offers
    from instance_manager.settings.models import Settings, VolumeSettings


class Verdict(NamedTuple):
    """What became of the volumes; *accepted* are the facts of those that are not quarantined.

    *accused* are those that only the emulation of the dynamic loader keeps out: the loader itself
    may be asked whether it is right.
    """

    volumes: tuple[Volume, ...]
    findings: tuple[Finding, ...]
    accepted: tuple[VolumeFacts, ...]
    accused: tuple[VolumeFacts, ...] = ()


class LoaderView(NamedTuple):
    """What the server's dynamic loader sees; *base_path* is LD_LIBRARY_PATH without volumes."""

    linkers: Linkers
    base_path: str


def judge(
    root: RootFacts,
    server: ServerFacts,
    settings: Settings,
    is_there: IsThere = lambda _: False,
    traces: Mapping[str, Trace] = NO_TRACES,
    loader: LoaderView | None = None,
) -> Verdict:
    """Return the state and the findings of every volume, in precedence order.

    *is_there* says whether there is a file at an absolute path, outside of the volumes too;
    *traces* is what the dynamic loader said of modules, by their absolute paths: its word counts
    more than that of its emulation. Without a *loader* there is no emulation.
    """
    listed = {volume.name: volume for volume in settings.extensions.volumes}
    preloaded = frozenset(map(bare_name, settings.postgres.shared_preload_libraries))
    findings = {
        volume.name: list(judge_volume(volume, server, listed.get(volume.name), preloaded))
        for volume in root.volumes
    }
    accused: tuple[VolumeFacts, ...] = ()
    # A start without volumes does without what judges them.
    is_judged = bool(root.volumes) and server.major >= FIRST_MAJOR
    if is_judged:
        _note_missing_modules(root.volumes, server, findings)
        _note_conflicts(root.volumes, listed, findings)
        # A volume that a conflict took away may have held what another one needs.
        _note_missing_modules(root.volumes, server, findings)
        accused = _note_loading(root.volumes, server, settings, findings, traces, loader)
    accepted = _accepted(root.volumes, findings)
    if is_judged:
        from instance_manager.extensions import advice

        for name, found in advice.judge(root.volumes, accepted, server, settings, is_there):
            findings[name].append(found)
    return Verdict(
        volumes=tuple(_describe(volume, findings[volume.name]) for volume in root.volumes),
        findings=(
            *root.obstacles,
            *_catalogue(settings),
            *_absent(root.volumes, settings.extensions.volumes, offers(settings, server)),
            *_duplicates(accepted),
        ),
        accepted=accepted,
        accused=accused,
    )


def _accepted(
    volumes: Sequence[VolumeFacts], findings: Mapping[str, Sequence[Finding]]
) -> tuple[VolumeFacts, ...]:
    return tuple(volume for volume in volumes if not _has_error(findings[volume.name]))


def _has_error(findings: Iterable[Finding]) -> bool:
    return any(each.severity is Severity.ERROR for each in findings)


def _note_missing_modules(
    volumes: Sequence[VolumeFacts], server: ServerFacts, findings: dict[str, list[Finding]]
) -> None:
    """Note modules that no accepted volume and not the server has, until nothing new is missing.

    A volume that lacks a module is not accepted, so that what it held is missing too.
    """
    while True:
        present = {name for each in _accepted(volumes, findings) for name in each.module_files()}
        # $libdir comes first in the path, and so what the server itself has is found.
        present |= server.libraries or frozenset()
        is_settled = True
        for volume in volumes:
            for missing in _missing_modules(volume, present, server):
                if missing not in findings[volume.name]:
                    findings[volume.name].append(missing)
                    is_settled = False
        if is_settled:
            return


def _missing_modules(
    volume: VolumeFacts, present: Collection[str], server: ServerFacts
) -> Iterator[Finding]:
    own = volume.module_files()

    def is_missing(module: str) -> bool:
        return not any(name in own or name in present for name in (module, f"{module}.so"))

    for control in volume.controls:
        module = control.control.module
        if module is not None and control.asks_for_module and is_missing(module):
            message = f'extension "{control.extension}" needs library "{module}"'
            message += ", which is not in dynamic_library_path"
            yield finding(Code.MODULE_MISSING, control.path, message)
    # The library may be the server's own: without a look into its directory nobody can tell.
    if server.libraries is not None:
        for module in filter(is_missing, volume.metadata.shared_preload_libraries):
            message = f'{volume.metadata.origin} asks for library "{module}"'
            message += ", which is not in dynamic_library_path"
            yield finding(Code.MODULE_MISSING, module, message)


def _note_loading(
    volumes: Sequence[VolumeFacts],
    server: ServerFacts,
    settings: Settings,
    findings: dict[str, list[Finding]],
    traces: Mapping[str, Trace],
    loader: LoaderView | None,
) -> tuple[VolumeFacts, ...]:
    """Note what keeps modules from being loaded; return whom the emulation alone accuses.

    The loader decides where it was asked, and its emulation explains: it says where was searched.
    Each turn but the last takes volumes away, and with them what they held: the rest is judged
    anew, since it may lack that, or be spoiled by it no more.
    """
    from instance_manager.extensions.tracing_verdict import asked_for, judge_traces

    preloaded = frozenset(map(bare_name, settings.postgres.shared_preload_libraries))
    asked, lent = asked_for(volumes, preloaded), _lent(volumes, traces, loader)
    accused: set[str] = set()
    untried = left = _accepted(volumes, findings)
    while left:
        valid = _still_valid(traces, [volume for volume in untried if volume not in left])
        noted = _judge_links(left, server, settings, loader, valid)
        traced = {
            volume.name: list(judge_traces(volume, valid, asked, server.program, lent))
            for volume in left
        }
        broken = _broken(left, server.program, noted, traced, valid)
        guilty = _guilty(broken)
        # Of the last turn, all that is said; before it, only of those who go: the rest is judged
        # again.
        for name in guilty or traced:
            _add_new(findings[name], noted.findings.get(name, ()))
            _add_new(findings[name], traced[name])
        if not guilty:
            break
        _note_missing_modules(volumes, server, findings)
        proven = {name for name in guilty if _has_error(traced[name])}
        before, left = left, _accepted(volumes, findings)
        # The loader has not confirmed these: it may be asked about them itself.
        if proven != guilty:
            # Who only lacks what an accused one holds is back where that one is.
            accused.update({volume.name for volume in before if volume not in left} - proven)
    return tuple(volume for volume in untried if volume.name in accused)


def _still_valid(traces: Mapping[str, Trace], gone: Sequence[VolumeFacts]) -> Mapping[str, Trace]:
    """Return the traces in which no file of the volumes had a part that are *gone*."""
    return {
        module: trace
        for module, trace in traces.items()
        if not any(trace.takes_from(volume.path) for volume in gone)
    }


def _broken(
    volumes: Sequence[VolumeFacts],
    program: str,
    noted: Judged,
    traced: Mapping[str, Sequence[Finding]],
    traces: Mapping[str, Trace],
) -> dict[str, set[str]]:
    """Return the volumes with an error, each with the other ones whose files had a part in it."""
    broken = {name: set(others) for name, others in noted.involved.items()}
    for volume in volumes:
        if _has_error(traced[volume.name]):
            own = [
                trace
                for module, trace in traces.items()
                if not trace.is_clean
                and (module == program or module.startswith(volume.path + "/"))
            ]
            broken.setdefault(volume.name, set()).update(
                other.name
                for other in volumes
                if other is not volume and any(trace.takes_from(other.path) for trace in own)
            )
    return broken


def _guilty(broken: Mapping[str, Collection[str]]) -> set[str]:
    """Return whom to leave out first: who is broken, and by no other that may be left out too."""
    # In this order, since a volume that another one spoils may be fine without that one.
    alone = {name for name, others in broken.items() if not others}
    unspoiled = {name for name, others in broken.items() if broken.keys().isdisjoint(others)}
    return alone or unspoiled or set(broken)


def _add_new(findings: list[Finding], found: Iterable[Finding]) -> None:
    """Add what is not said yet: of one subject, a code says one thing."""
    known = {(each.code, each.subject) for each in findings}
    findings += [each for each in found if (each.code, each.subject) not in known]


def _judge_links(
    volumes: Sequence[VolumeFacts],
    server: ServerFacts,
    settings: Settings,
    loader: LoaderView | None,
    traces: Mapping[str, Trace],
) -> Judged:
    """Return what the emulation of the dynamic loader says of these volumes together."""
    from instance_manager.extensions.links import Judged, Loading, judge_links

    if loader is None:
        return Judged({}, {})
    path = loader_path(volumes, loader.base_path)
    loading = Loading(
        volumes,
        _preloaded_names(settings),
        server.program,
        server.library_directory,
        loader.base_path,
        path,
    )
    return judge_links(loading, loader.linkers, traces)


def _lent(
    volumes: Sequence[VolumeFacts], traces: Mapping[str, Trace], loader: LoaderView | None
) -> frozenset[str]:
    """Return the symbols that the loader misses in one module, and that another one defines."""
    lacking = {each.name for trace in traces.values() for each in trace.undefined}
    if loader is None or not lacking:
        return frozenset()
    from instance_manager.extensions.links import defined_by_modules

    return defined_by_modules(volumes, lacking, loader.linkers.files)


def _preloaded_names(settings: Settings) -> frozenset[str]:
    """Return the bare names of what the settings want loaded at a server's or session's start."""
    own = {name.lower(): value for name, value in settings.postgres.parameters.items()}
    # A list that is none loads nothing.
    session = split_list(own.get("session_preload_libraries", "")) or ()
    return frozenset(map(bare_name, (*settings.postgres.shared_preload_libraries, *session)))


def _note_conflicts(
    volumes: Sequence[VolumeFacts],
    listed: Mapping[str, VolumeSettings],
    findings: dict[str, list[Finding]],
) -> None:
    """Note variables that an earlier volume sets otherwise: the later volume is left out."""
    seen: dict[str, tuple[str, str]] = {}
    for volume in _accepted(volumes, findings):
        variables = environment.of_volume(volume, listed.get(volume.name)).variables
        conflicts = [
            name for name, value in variables.items() if seen.get(name, (value, ""))[0] != value
        ]
        for name in conflicts:
            message = f'volumes "{seen[name][1]}" and "{volume.name}" set {name} differently'
            findings[volume.name].append(finding(Code.ENVIRONMENT, name, message))
        # What is left out sets no variable, and so conflicts with no later volume.
        if not conflicts:
            seen.update((name, (value, volume.name)) for name, value in variables.items())


def _describe(volume: VolumeFacts, findings: Sequence[Finding]) -> Volume:
    state = State.EMPTY if is_empty(volume) else State.READY
    preloaded = frozenset(preloading.wanting(volume))
    return Volume(
        name=volume.name,
        path=display(volume.path),
        state=State.QUARANTINED if _has_error(findings) else state,
        read_only=volume.read_only,
        content_sha256=None,
        extensions=tuple(map(_describe_extension, volume.controls)),
        libraries=tuple(_describe_library(each, preloaded) for each in volume.libraries),
        findings=tuple(findings),
        provenance=dict(volume.metadata.provenance),
    )


def _describe_extension(facts: ControlFacts) -> Extension:
    control = facts.control
    return Extension(
        name=facts.extension,
        default_version=control.default_version,
        versions=facts.versions or (),
        requires=control.requires,
        trusted=control.trusted,
        module=control.module,
    )


def _describe_library(library: LibraryFacts, preloaded: Collection[str]) -> Library:
    block = library.magic.block if library.magic else None
    return Library(
        path=library.path,
        module=library.is_module,
        postgres_major=block.major if block else None,
        machine=library.machine,
        needed=library.needed,
        preload=Preload.SERVER if bare_name(library.name) in preloaded else Preload.NO,
        name=block.module_name if block else None,
        version=block.module_version if block else None,
    )


def _catalogue(settings: Settings) -> Iterator[Finding]:
    if fault := settings.extensions.catalogue_fault:
        message = f"the catalogue can't be used, what it said before is: {fault}"
        subject = display(str(settings.extensions.catalogue))
        yield finding(Code.CATALOGUE_UNREAD, subject, display(message))


def _absent(
    volumes: Sequence[VolumeFacts], listed: Sequence[VolumeSettings], offered: Offers
) -> Iterator[Finding]:
    present = {volume.name for volume in volumes}
    for settings in listed:
        if settings.name not in present:
            code = Code.REQUIRED_ABSENT if settings.required else Code.ABSENT
            message = f'volume "{settings.name}" is listed in extensions.volumes but is not there'
            yield finding(code, settings.name, message, offered(settings.name))


def _duplicates(volumes: Sequence[VolumeFacts]) -> Iterator[Finding]:
    providers: dict[str, str] = {}
    for volume in volumes:
        for control in volume.controls:
            # The server takes the first directory of its path that has the control file.
            first = providers.setdefault(control.extension, volume.name)
            if first != volume.name:
                message = f'extension "{control.extension}" is provided by {first} and'
                message += f" {volume.name}; {first} wins because it comes first"
                yield finding(Code.DUPLICATE, control.extension, message)
