"""What the server is told, so that it finds what the volumes offer.

Pure: accepted volumes and settings in, parameters and environment out. The server's own
directories come first, so that no volume can replace what the server ships; a path is named only
where it has something to offer. A mount alone changes nothing in the server's behaviour: what a
volume's metadata wants to load is loaded only where the settings list the volume.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from instance_manager.extensions import environment, preload_order, run_time_data
from instance_manager.extensions.facts import join
from instance_manager.extensions.findings import Code, finding
from instance_manager.extensions.models import Composed
from instance_manager.extensions.paths import (
    bare_name,
    is_searchable,
    join_search_path,
    split_search_path,
)
from instance_manager.extensions.volumes import FIRST_MAJOR

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from instance_manager.extensions.facts import ServerFacts, VolumeFacts
    from instance_manager.extensions.models import Finding
    from instance_manager.settings.models import Settings

_PLAIN: Final = r"[A-Za-z0-9_./+$-]+"
_PARAMETER: Final = r"([A-Za-z_][A-Za-z0-9_$]*)\.[A-Za-z_][A-Za-z0-9_$]*"


class Base(NamedTuple):
    """The search paths of the environment that the manager itself was given."""

    path: str | None = None
    ld_library_path: str | None = None


class Composition(NamedTuple):
    """What to set; *parameters* are those that the metadata of volumes asks for."""

    composed: Composed
    parameters: Mapping[str, str]
    findings: tuple[Finding, ...]


def compose(
    volumes: Sequence[VolumeFacts], settings: Settings, server: ServerFacts, base: Base
) -> Composition:
    """Return what makes *volumes* usable, in their order.

    Args:
        volumes: those that the preflight accepted, in precedence order.
        settings: the user's own values, which come after the volumes' in search paths, before
            them in the preload list, and win where only one value can be.
        server: one before 18 gets no ``extension_control_path``, which it does not know.
        base: comes first in the environment's search paths.
    """
    # The server compares names of parameters without regard to case (guc_name_compare).
    own = {name.lower(): value for name, value in settings.postgres.parameters.items()}
    listed = {volume.name: volume for volume in settings.extensions.volumes}
    user_preload = [bare_name(name) for name in settings.postgres.shared_preload_libraries]
    wanted = [each.metadata.shared_preload_libraries for each in volumes if each.name in listed]
    preload = preload_order.merge(user_preload, wanted, preload_order.constraints(volumes))
    control_path = join_search_path(
        ["$system"], _control_paths(volumes), split_search_path(own.get("extension_control_path"))
    )
    composed = Composed(
        # An unknown parameter in the configuration keeps the server from starting.
        extension_control_path=control_path if server.major >= FIRST_MAJOR else "",
        dynamic_library_path=join_search_path(
            # Named, since a value that lacks it would hide the server's own modules.
            ["$libdir"],
            _library_paths(volumes),
            split_search_path(own.get("dynamic_library_path")),
        ),
        shared_preload_libraries=",".join(map(_quote, preload)),
        ld_library_path=loader_path(volumes, base.ld_library_path),
        # At the end, so that a volume's program never runs in place of one of the server's image.
        path=join_search_path(split_search_path(base.path), _program_paths(volumes)),
        env={
            name: value
            for volume in volumes
            for name, value in environment.of_volume(
                volume, listed.get(volume.name)
            ).variables.items()
        },
    )
    parameters, refused = _parameters(volumes, own)
    return Composition(composed, MappingProxyType(parameters), tuple(refused))


def loader_path(volumes: Sequence[VolumeFacts], base: str | None) -> str:
    """Return LD_LIBRARY_PATH for these volumes, after *base*."""
    return join_search_path(split_search_path(base), _loader_paths(volumes))


def _absolute(volume: VolumeFacts, directories: Iterable[str]) -> Iterator[str]:
    for directory in directories:
        # The server would take "/." as well; one directory should have one name in every list.
        path = volume.path if directory == "." else join(volume.path, directory)
        if is_searchable(path):
            yield path


def _control_paths(volumes: Iterable[VolumeFacts]) -> Iterator[str]:
    for volume in volumes:
        offering = {control.directory for control in volume.controls}
        paths = volume.paths.extension_control_path
        yield from _absolute(volume, (path for path in paths if path in offering))


def _library_paths(volumes: Iterable[VolumeFacts]) -> Iterator[str]:
    for volume in volumes:
        offering = {library.directory for library in volume.libraries if library.is_module}
        paths = volume.paths.dynamic_library_path
        yield from _absolute(volume, (path for path in paths if path in offering))


def _program_paths(volumes: Iterable[VolumeFacts]) -> Iterator[str]:
    for volume in volumes:
        # Without a look inside: in PATH, what a volume brings is found after all else anyway.
        yield from _absolute(volume, volume.paths.bin_path)


def _loader_paths(volumes: Sequence[VolumeFacts]) -> Iterator[str]:
    needed = _needed_files(volumes)
    for volume in volumes:
        # LD_LIBRARY_PATH comes before ld.so.cache and the default directories (ld.so(8)), for
        # postgres and all that it starts: a directory that nobody needs could only replace
        # something.
        offering = {library.directory for library in volume.libraries if library.name in needed}
        paths = volume.paths.ld_library_path
        chosen = (
            # Given on purpose, it may hold what modules open by name, which no table of theirs
            # shows.
            paths if volume.loader_paths_given else [path for path in paths if path in offering]
        )
        yield from _absolute(volume, chosen)


def _needed_files(volumes: Iterable[VolumeFacts]) -> set[str]:
    """Return the names that modules need, and that what they need needs, and so on."""
    needs: dict[str, set[str]] = {}
    frontier: list[str] = []
    for volume in volumes:
        for library in volume.libraries:
            needs.setdefault(library.name, set()).update(library.needed)
            if library.is_module:
                # dlopen(3) by name leaves no trace in DT_NEEDED, so that these are known from a
                # list.
                frontier += (*library.needed, *run_time_data.opened_by(library.name))
    reached: set[str] = set()
    while frontier:
        name = frontier.pop()
        # Libraries may need each other in a circle.
        if name not in reached:
            reached.add(name)
            frontier += needs.get(name, ())
    return reached


def _quote(library: str) -> str:
    # The list is split at commas, and blanks around names go: such names need quotes
    # (SplitDirectoriesString, varlena.c).
    return library if re.fullmatch(_PLAIN, library) else '"' + library.replace('"', '""') + '"'


def _parameters(
    volumes: Iterable[VolumeFacts], own: Mapping[str, str]
) -> tuple[dict[str, str], list[Finding]]:
    parameters: dict[str, str] = {}
    refused: list[Finding] = []
    for volume in volumes:
        prefixes = _prefixes(volume)
        for name, value in volume.metadata.postgresql_parameters:
            match = re.fullmatch(_PARAMETER, name)
            # Else a mount could turn fsync off: only what the volume's own code reads is its to
            # set.
            if match is None or match[1].lower() not in prefixes:
                message = (
                    f'volume "{volume.name}" asks for the parameter "{name}",'
                    " which does not belong to its own extensions"
                )
                refused.append(finding(Code.PARAMETER_REFUSED, name, message))
            elif name.lower() not in own:
                # The first volume wins here as in the search paths.
                parameters.setdefault(name.lower(), value)
    return parameters, refused


def _prefixes(volume: VolumeFacts) -> set[str]:
    """Return the first parts of the names of parameters that belong to a volume.

    Those of its extensions and modules, with and without the customary ``pg_``: pg_cron's own
    parameters begin with ``cron``.
    """
    names = {control.extension.lower() for control in volume.controls}
    names.update(bare_name(each.name).lower() for each in volume.libraries if each.is_module)
    return names | {name.removeprefix("pg_") for name in names}
