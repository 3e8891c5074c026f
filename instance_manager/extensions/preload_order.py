"""In which order libraries are loaded at the start.

Pure. The server loads them as they are listed, and some look for others when they are loaded:
``pg_stat_kcache`` ends the start where ``pg_stat_statements`` was not loaded before it.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from instance_manager.extensions.facts import VolumeFacts

KNOWN: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "pg_stat_kcache": frozenset({"pg_stat_statements"}),
        "pg_documentdb_core": frozenset({"pg_cron"}),
        "pg_documentdb": frozenset({"pg_cron", "pg_documentdb_core"}),
    }
)
"""Libraries, and those that must stand before them where both are loaded."""

NEEDED: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {"pg_stat_kcache": frozenset({"pg_stat_statements"})}
)
"""Libraries, and those without which the server does not start with them."""


def constraints(volumes: Iterable[VolumeFacts]) -> dict[str, frozenset[str]]:
    """Return the libraries and what must stand before them: what is known, and metadata's.

    A volume speaks for its own libraries alone.
    """
    after = dict(KNOWN)
    for volume in volumes:
        own = volume.module_files()
        for name, others in volume.metadata.preload_after:
            if name in own or f"{name}.so" in own:
                after[name] = after.get(name, frozenset()).union(others) - {name}
    return after


def violations(
    libraries: Sequence[str], after: Mapping[str, Collection[str]]
) -> Iterator[tuple[str, str]]:
    """Yield each library that stands too early, and the one that must come before it."""
    # Backwards, so that the first place counts: the server loads a library once.
    place = {name: index for index, name in reversed(list(enumerate(libraries)))}
    for name, index in place.items():
        for other in sorted(after.get(name, ())):
            if place.get(other, -1) > index or other in NEEDED.get(name, frozenset()) - set(place):
                yield name, other


def merge(
    first: Iterable[str],
    others: Iterable[Sequence[str]],
    after: Mapping[str, Collection[str]] = KNOWN,
) -> list[str]:
    """Return the libraries to load: *first* in its order, then the others in theirs.

    Each of *others* says an order that its volume needs, and *after* what must stand before a
    library, so none of *others* is placed before what should precede it, if that is possible at
    all.
    """
    # The user's own order is not touched: where it can't work, a finding says so.
    placed = list(dict.fromkeys(name for name in first if name))
    others = list(others)
    remaining = [name for names in others for name in dict.fromkeys(names)]
    remaining = [name for name in dict.fromkeys(remaining) if name not in placed]

    def must_wait(name: str) -> bool:
        earlier = set(after.get(name, ())).difference({name})
        for names in others:
            if name in names:
                earlier.update(names[: names.index(name)])
        return not earlier.isdisjoint(remaining)

    while remaining:
        # Where they wait for each other in a circle, the first one is as good as any.
        following = next((name for name in remaining if not must_wait(name)), remaining[0])
        remaining.remove(following)
        placed.append(following)
    return placed
