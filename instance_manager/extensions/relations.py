"""Extensions against each other and the server: what requires, hides or takes what.

Pure: facts in, findings by volume out. Nothing here quarantines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from instance_manager.extensions.facts import join
from instance_manager.extensions.findings import Code, finding
from instance_manager.extensions.library_search import SUFFIX
from instance_manager.extensions.metadata import PATH
from instance_manager.extensions.offers import nothing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from instance_manager.extensions.facts import ControlFacts, ServerFacts, VolumeFacts
    from instance_manager.extensions.library_search import IsThere
    from instance_manager.extensions.models import Finding
    from instance_manager.extensions.offers import Offers

_MAXIMUM_REQUIRED: Final = 64
"""So many names of one control file are looked at."""


class Offer(NamedTuple):
    """Everything that extensions can come from.

    *volumes* are all that were found, *accepted* those that are used, in precedence order.
    *own_directories* are the user's own elements of ``extension_control_path``; *offers* says
    which image has what is missing.
    """

    volumes: Sequence[VolumeFacts]
    accepted: Sequence[VolumeFacts]
    server: ServerFacts
    own_directories: Sequence[str]
    is_there: IsThere
    offers: Offers = nothing

    def extensions(self) -> Mapping[str, str]:
        """Return the volume that the server takes each extension from."""
        offered: dict[str, str] = {}
        for volume in self.accepted:
            for control in volume.controls:
                offered.setdefault(control.extension, volume.name)
        return offered

    def called(self) -> frozenset[str]:
        """Return what the volumes are called that are used: as mounted, and as they were built."""
        return frozenset(name for volume in self.accepted for name in _names(volume))


def _names(volume: VolumeFacts) -> set[str]:
    return {volume.name, dict(volume.metadata.provenance).get("name", volume.name)}


def judge(offer: Offer) -> Iterator[tuple[str, Finding]]:
    """Yield the name of a volume and what is to be said of it."""
    offered = offer.extensions()
    for volume in offer.volumes:
        for found in (*_requires(volume, offer, offered), *_shadowed(volume, offer.server)):
            yield volume.name, found
    hits = _first_hits(offer)
    for volume in offer.accepted:
        for control in volume.controls:
            if offered[control.extension] == volume.name:
                for found in _elsewhere(volume, control, offer, hits):
                    yield volume.name, found


def _requires(volume: VolumeFacts, offer: Offer, offered: Mapping[str, str]) -> Iterator[Finding]:
    own = {control.extension for control in volume.controls}
    called = offer.called()
    for subject, requiring, name in _requirements(volume):
        # What the builder says may be met by a volume of that name, such as one of libraries.
        if subject == PATH and name in called:
            continue
        if name not in offered and name not in own and not _is_elsewhere(name, offer):
            message = f'{requiring} requires "{name}", which no volume and not the server provides'
            holder, hint = _holder(name, offer), offer.offers(name)
            if holder is not None:
                message = f'{requiring} requires "{name}", which only the quarantined volume'
                message += f' "{holder}" provides'
                hint = ""
            yield finding(Code.REQUIRES, subject, message, hint)


def _requirements(volume: VolumeFacts) -> Iterator[tuple[str, str, str]]:
    """Yield the file that says so, who requires, and the extension that is required."""
    said: set[str] = set()
    for control in volume.controls:
        files = [(control.path, control.control), *control.secondary]
        required = {
            name: path
            # Backwards, so that a name that the primary control file requires is told with that
            # file.
            for path, parsed in reversed(files)
            for name in parsed.requires[:_MAXIMUM_REQUIRED]
        }
        said.update(required)
        for name, path in required.items():
            yield path, f'extension "{control.extension}"', name
    for name in dict.fromkeys(volume.metadata.requires):
        if name not in said:
            yield PATH, f'volume "{volume.name}"', name


def _is_elsewhere(name: str, offer: Offer) -> bool:
    """Say whether the server or the user's own directories have it, or may have it."""
    own = offer.server.extensions
    # Unknown counts as there: a warning that may be wrong is worse than none.
    if own is None or name in own:
        return True
    files = (f"{each}/extension/{name}.control" for each in offer.own_directories)
    return any(map(offer.is_there, files))


def _holder(name: str, offer: Offer) -> str | None:
    holders = (
        volume.name
        for volume in offer.volumes
        if name in _names(volume) or any(each.extension == name for each in volume.controls)
    )
    return next(holders, None)


def _shadowed(volume: VolumeFacts, server: ServerFacts) -> Iterator[Finding]:
    for control in volume.controls:
        if control.extension in (server.extensions or ()):
            message = f'extension "{control.extension}" in volume "{volume.name}" is hidden by'
            yield finding(Code.SHADOWED, control.path, f"{message} the server's own copy")


def _first_hits(offer: Offer) -> Mapping[str, tuple[VolumeFacts | None, str]]:
    """Return what the server finds for each name of a file: the volume and the path.

    None for the volume is the server's own directory, which comes first.
    """
    hits: dict[str, tuple[VolumeFacts | None, str]] = {
        name: (None, join("$libdir", name)) for name in offer.server.libraries or ()
    }
    for volume in offer.accepted:
        for directory in volume.paths.dynamic_library_path:
            for library in volume.libraries:
                if library.directory == directory:
                    path = f"{volume.path}/{library.path}"
                    hits.setdefault(library.name, (volume, path))
        for name in volume.suffixless:
            hits.setdefault(name, (volume, f"a file {name} without a suffix"))
    return hits


def _elsewhere(
    volume: VolumeFacts,
    control: ControlFacts,
    offer: Offer,
    hits: Mapping[str, tuple[VolumeFacts | None, str]],
) -> Iterator[Finding]:
    """Note where another's library is loaded, unless that is said to be required."""
    module = control.control.module
    if module is None or control.extension in (offer.server.extensions or ()):
        return
    # The server tries the name as it is before it appends the suffix.
    holder, path = hits.get(module) or hits.get(module + SUFFIX) or (volume, "")
    own = volume.module_files()
    has_own = module in own or module + SUFFIX in own
    # To take a required extension's library is what some are built for.
    if holder is volume or (not has_own and _is_required(volume, control, holder)):
        return
    whose = "the server's own directory" if holder is None else f'volume "{holder.name}"'
    message = f'library "{module}" of extension "{control.extension}" resolves to {path},'
    yield finding(Code.MODULE_ELSEWHERE, control.path, f"{message} in {whose}")


def _is_required(volume: VolumeFacts, control: ControlFacts, holder: VolumeFacts | None) -> bool:
    wanted = {*control.control.requires, *volume.metadata.requires}
    return holder is not None and any(each.extension in wanted for each in holder.controls)
