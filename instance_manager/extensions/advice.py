"""What is worth saying of volumes once it is known which of them are used.

Pure over a question: whoever calls it says how to find out whether there is a file. All of this
is said of single volumes, and none of it takes one away.
"""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING, Final

from instance_manager.extensions import environment, relations, roles, run_time_data
from instance_manager.extensions.facts import join
from instance_manager.extensions.offers import offers
from instance_manager.extensions.paths import split_search_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from instance_manager.extensions.facts import ServerFacts, VolumeFacts
    from instance_manager.extensions.library_search import IsThere
    from instance_manager.extensions.models import Finding
    from instance_manager.settings.models import Settings


_MAXIMUM_SAME_FINDINGS: Final = 20
"""So many of one code are told of one volume."""


def judge(
    volumes: Sequence[VolumeFacts],
    accepted: Sequence[VolumeFacts],
    server: ServerFacts,
    settings: Settings,
    is_there: IsThere,
) -> Iterator[tuple[str, Finding]]:
    """Yield the name of a volume and what is to be said of it.

    Args:
        volumes: all of them, in precedence order.
        accepted: those that are used.
        server: what they are used by.
        settings: the user's own values.
        is_there: says whether there is a file at an absolute path.
    """
    # The server compares names of parameters without regard to case (guc_name_compare).
    own = {name.lower(): value for name, value in settings.postgres.parameters.items()}
    directories = [
        element
        for element in split_search_path(own.get("extension_control_path"))
        # $system is the server's own directory, whose control files the server's facts have.
        if element.startswith("/")
    ]
    surroundings = _surroundings(accepted, server, settings, is_there)
    offered = offers(settings, server)
    related = relations.judge(
        relations.Offer(volumes, accepted, server, directories, is_there, offered)
    )
    alone = (
        (volume.name, found)
        for volume in volumes
        for found in (
            *roles.judge(volume, server, own),
            *run_time_data.judge(volume, surroundings),
        )
    )
    counts: Counter[tuple[str, str]] = Counter()
    for name, found in chain(related, alone, _differing(volumes, server, settings)):
        counts[name, found.code] += 1
        if counts[name, found.code] <= _MAXIMUM_SAME_FINDINGS:
            yield name, found


def _differing(
    volumes: Sequence[VolumeFacts], server: ServerFacts, settings: Settings
) -> Iterator[tuple[str, Finding]]:
    # Most managers have none.
    if not settings.extensions.catalogued:
        return
    from instance_manager.extensions.catalogue import Catalogue

    catalogue = Catalogue(settings, server)
    for volume in volumes:
        for found in catalogue.differences(volume):
            yield volume.name, found


def _surroundings(
    accepted: Sequence[VolumeFacts], server: ServerFacts, settings: Settings, is_there: IsThere
) -> run_time_data.Surroundings:
    listed = {volume.name: volume for volume in settings.extensions.volumes}
    variables: dict[str, str] = {}
    directories: list[str] = []
    for volume in accepted:
        # postgres has one environment, so a variable of one volume serves the libraries of all.
        variables.update(environment.of_volume(volume, listed.get(volume.name)).variables)
        directories += [join(volume.path, each) for each in volume.paths.ld_library_path]
    return run_time_data.Surroundings(variables, server.machine, tuple(directories), is_there)
