"""One look at the extension volumes: discover, judge, compose.

The calls of this room for those above: at once, or step by step for those who have the dynamic
loader asked in between. To look blocks while it reads, so the caller runs it in a
thread and gives it a deadline.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from instance_manager.extensions import preloading
from instance_manager.extensions.composition import Base, compose
from instance_manager.extensions.discovery import discover
from instance_manager.extensions.facts import NO_TRACES, RootFacts
from instance_manager.extensions.files import is_there
from instance_manager.extensions.findings import Code
from instance_manager.extensions.models import ExtensionsReport, PendingAction
from instance_manager.extensions.paths import join_search_path, split_search_path
from instance_manager.extensions.preflight import LoaderView, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from instance_manager.extensions.facts import ServerFacts, VolumeFacts
    from instance_manager.extensions.loader_trace import Trace
    from instance_manager.settings.models import Settings


class Examination(NamedTuple):
    """The report, and the parameters that the metadata of volumes asks for.

    *volumes* are the facts that the report is made of, *accepted* those of the volumes that may
    be used; *accused* are those that nothing but the emulation of the dynamic loader speaks
    against.
    """

    report: ExtensionsReport
    parameters: Mapping[str, str]
    volumes: tuple[VolumeFacts, ...] = ()
    accepted: tuple[VolumeFacts, ...] = ()
    accused: tuple[VolumeFacts, ...] = ()


class Server(NamedTuple):
    """The server that the volumes must fit, and what it is given in any case."""

    facts: ServerFacts
    base: Base


def examine(
    settings: Settings,
    server: ServerFacts,
    *,
    base_path: str | None,
    base_ld_library_path: str | None,
    root: Path | RootFacts | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Examination:
    """Return what is mounted, what is wrong with it, and what to tell the server.

    Args:
        settings: what the user wants.
        server: the server that the volumes must fit.
        base_path: PATH of the manager's own environment, which stays first.
        base_ld_library_path: its LD_LIBRARY_PATH, likewise.
        root: looked at instead of ``extensions.root``, or what was found there.
        clock: seconds, for the duration.
    """
    begun = clock()
    given = Server(server, Base(base_path, base_ld_library_path))
    found = root if isinstance(root, RootFacts) else look(settings, root, server)
    examination = conclude(found, settings, given)
    return timed(examination, clock() - begun)


def look(
    settings: Settings, root: Path | None = None, server: ServerFacts | None = None
) -> RootFacts:
    """Return what lies under *root*, or ``extensions.root``; the catalogue is for a *server*."""
    place = (root or settings.extensions.root).absolute()
    volumes = settings.extensions.volumes
    if server is None or not settings.extensions.catalogued:
        return discover(place, volumes)
    from instance_manager.extensions.catalogue import Catalogue

    return discover(place, volumes, Catalogue(settings, server).descriptions())


def conclude(
    found: RootFacts,
    settings: Settings,
    server: Server,
    traces: Mapping[str, Trace] = NO_TRACES,
) -> Examination:
    """Return what follows from what was found; *traces* are the loader's, by absolute path."""
    # To read the server's program and libraries takes time, which a start without volumes saves.
    loader = _loader(server) if found.volumes else None
    verdict = judge(found, server.facts, settings, is_there, traces, loader)
    composition = compose(verdict.accepted, settings, server.facts, server.base)
    loaded = preloading.judge(
        verdict.accepted, composition.composed, settings, server.facts, is_there
    )
    absent = {Code.ABSENT.value, Code.REQUIRED_ABSENT.value}
    # No restart brings a mount: that takes another container.
    is_absent = any(each.code in absent for each in verdict.findings)
    report = ExtensionsReport(
        root=found.root,
        scan_seconds=0,
        volumes=verdict.volumes,
        findings=(*verdict.findings, *composition.findings, *loaded),
        composed=composition.composed,
        pending_action=PendingAction.REMOUNT if is_absent else PendingAction.NONE,
    )
    return Examination(
        report, composition.parameters, found.volumes, verdict.accepted, verdict.accused
    )


def timed(examination: Examination, seconds: float) -> Examination:
    """Return the examination with the time that it took."""
    report = examination.report.model_copy(update={"scan_seconds": seconds})
    return examination._replace(report=report)


def complete(examination: Examination, server: ServerFacts) -> Examination:
    """Return what takes long in addition: findings in scripts, and the hashes of the contents.

    It reads every byte of every volume, so it is for when there is time.
    """
    from instance_manager.extensions.hashing import with_content_hashes
    from instance_manager.extensions.scripts import with_script_findings

    report = with_script_findings(
        examination.report, examination.volumes, server.libraries or frozenset()
    )
    return examination._replace(report=with_content_hashes(report))


def _loader(server: Server) -> LoaderView | None:
    """Return the view of the server's dynamic loader; None where it is none that we know."""
    from instance_manager.extensions.objects import prepare

    linkers = prepare(server.facts.program) if server.facts.program else None
    # In the form of the composed one: the two are compared.
    path = join_search_path(split_search_path(server.base.ld_library_path))
    return LoaderView(linkers, path) if linkers else None
