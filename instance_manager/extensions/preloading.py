"""Libraries that are loaded at the start, or with each session: are they there, and in order?

Pure over a question: whoever calls it says how to find out whether there is a file. The server
does not start, or no session of it does, where one of these libraries can't be loaded
(``load_libraries``, miscinit.c), so what is found here forbids the start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from instance_manager.extensions import preload_order
from instance_manager.extensions.findings import Code, finding
from instance_manager.extensions.library_search import SUFFIX, Search, split_list
from instance_manager.extensions.paths import bare_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from instance_manager.extensions.facts import ServerFacts, VolumeFacts
    from instance_manager.extensions.library_search import IsThere
    from instance_manager.extensions.models import Composed, Finding
    from instance_manager.settings.models import Settings

_LIBDIR: Final = "$libdir/"
_PLUGINS: Final = "$libdir/plugins/"
_NO_FILE: Final = "No such file or directory"


class Lists(NamedTuple):
    """The names of libraries as the server reads them; ``None`` where it reads no list.

    *entries* are those that the user gave for the start, *loaded* what is composed of them.
    """

    entries: tuple[str, ...]
    loaded: tuple[str, ...]
    session: tuple[str, ...]
    local: tuple[str, ...]


def lists_of(composed: Composed, settings: Settings) -> Lists:
    """Return what is to be loaded when."""
    own = {name.lower(): value for name, value in settings.postgres.parameters.items()}
    texts = (
        composed.shared_preload_libraries,
        own.get("session_preload_libraries", ""),
        own.get("local_preload_libraries", ""),
    )
    loaded, session, local = (split_list(text) or () for text in texts)
    return Lists(settings.postgres.shared_preload_libraries, loaded, session, local)


def judge(
    volumes: Sequence[VolumeFacts],
    composed: Composed,
    settings: Settings,
    server: ServerFacts,
    is_there: IsThere,
) -> Iterator[Finding]:
    """Yield what is wrong with what is to be loaded.

    Args:
        volumes: those that are used, in precedence order.
        composed: what the server will be told.
        settings: the user's own lists.
        server: where its own directory is not known, nothing is called missing.
        is_there: says whether a file is there.
    """
    lists = lists_of(composed, settings)
    after = preload_order.constraints(volumes)
    # $libdir is part of each search.
    search = (
        Search(composed.dynamic_library_path, server.library_directory, is_there)
        if server.library_directory
        else None
    )
    for volume in volumes:
        yield from _unlisted(volume, frozenset(map(_base_name, lists.loaded)), search)
    yield from _with_macro(lists.entries, server.libraries or ())
    for name, other in preload_order.violations(list(map(_base_name, lists.loaded)), after):
        yield finding(Code.PRELOAD_ORDER, name, _too_early(name, other, lists.loaded))
    if search is not None:
        yield from _missing(lists, search)
        yield from _not_plugins(lists.local, search)


def wanting(volume: VolumeFacts) -> Mapping[str, str]:
    """Return the libraries of a volume that want to be loaded at the start, and who says so.

    Its metadata, or the catalogue in its stead; where that names none, the libraries themselves.
    Of several with versions in their names, such as ``timescaledb`` and ``timescaledb-2.31.0``,
    only the one without: it loads the one that fits.
    """
    described = volume.metadata
    said = described.shared_preload_libraries or described.suggested_libraries
    if said:
        return dict.fromkeys(said, described.origin)
    names = [
        each.name.removesuffix(SUFFIX) for each in volume.searched() if each.speaks_of_preloading
    ]
    return {
        name: "the library itself"
        for name in names
        # A loader such as timescaledb picks the library of the version that a database has.
        if not any(name.startswith(f"{other}-") for other in names)
    }


def _base_name(library: str) -> str:
    return bare_name(library.rpartition("/")[2])


def _unlisted(
    volume: VolumeFacts, loaded: Collection[str], search: Search | None
) -> Iterator[Finding]:
    suggested = volume.metadata.suggested_libraries
    for name, who in wanting(volume).items():
        if name in loaded:
            continue
        # To list it would be bad advice.
        if name in suggested and search is not None and search.find(name) is None:
            message = f'{who} asks for library "{name}" of volume "{volume.name}"'
            message += ", which is not in dynamic_library_path"
            yield finding(Code.CATALOGUE_DIFFERS, name, message)
        else:
            message = f'library "{name}" of volume "{volume.name}" must be in'
            message += f" shared_preload_libraries, as {who} says, but it is not listed"
            yield finding(Code.PRELOAD_NEEDED, name, message)


def _with_macro(entries: Sequence[str], own: Collection[str]) -> Iterator[Finding]:
    """Note what only the manager's composition makes findable: it leaves the prefix out."""
    for entry in entries:
        name = entry.strip().removeprefix(_LIBDIR)
        is_own = name in own or name + SUFFIX in own
        if entry.strip().startswith(_LIBDIR) and "/" not in name and not is_own:
            message = f'shared_preload_libraries lists "{_LIBDIR}{name}", which the server would'
            message += f' not search for in volumes: "{name}" is loaded instead'
            yield finding(Code.PRELOAD_LIBDIR, name, message)


def _too_early(name: str, other: str, loaded: Sequence[str]) -> str:
    message = f'"{name}" must come after "{other}" in shared_preload_libraries'
    is_there = other in map(_base_name, loaded)
    return message if is_there else f'{message}, which does not list "{other}"'


def _missing(lists: Lists, search: Search) -> Iterator[Finding]:
    consequences = {
        "shared_preload_libraries": (lists.loaded, "the server would refuse to start"),
        "session_preload_libraries": (lists.session, "every connection would fail"),
    }
    for parameter, (names, consequence) in consequences.items():
        for name in names:
            # Where the data directory lies is not this module's to know.
            if not _is_judged(name) or search.find(name):
                continue
            message = f'{parameter} lists "{name}", not found; {consequence}:'
            message += f' could not access file "{name}": {_NO_FILE}'
            # The prefix keeps the server from searching in volumes at the start, unlike in a
            # script.
            bare = name.removeprefix(_LIBDIR)
            if bare != name and "/" not in bare and search.find(bare):
                message += f' (as "{bare}" it would be found)'
            yield finding(Code.PRELOAD_MISSING, name, message)


def _is_judged(name: str) -> bool:
    """Say whether a name can be looked for: a relative path begins in the data directory."""
    return "/" not in name or name.startswith(("/", "$"))


def _not_plugins(names: Sequence[str], search: Search) -> Iterator[Finding]:
    """Note what sessions may not load, or would not find (``check_restricted_library_name``)."""
    for name in names:
        # Without a directory the server puts this one in front (load_libraries, miscinit.c).
        path = name if "/" in name else _PLUGINS + name
        if not path.startswith(_PLUGINS) or "/" in path.removeprefix(_PLUGINS):
            answer = f'access to library "{path}" is not allowed'
        elif search.find(path) is None:
            answer = f'could not access file "{path}": {_NO_FILE}'
        else:
            continue
        message = f'local_preload_libraries lists "{name}", which is not in {_PLUGINS[:-1]};'
        yield finding(Code.LOCAL_PRELOAD, name, f"{message} every connection would fail: {answer}")
