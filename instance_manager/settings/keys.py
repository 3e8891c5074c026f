"""The keys that exist, drawn from the models: paths, kinds, and the nearest one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, get_args, get_origin

from instance_manager.settings.models import Section, Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pydantic.fields import FieldInfo

VARIABLE_PREFIX = "INSTANCE_MANAGER_"

# Fields without a key: the official image's environment or another file fills them.
# In this order they are shown, each time.
KEYLESS = (
    "bootstrap.superuser_password",
    "postgres.host_auth_method",
    "extensions.catalogued",
    "extensions.catalogue_fault",
)


@dataclass(frozen=True, slots=True)
class Key:
    """One key: *is_scalar* tells text from lists and maps.

    *null_is_value* marks a key that has a default and can be switched off: there, null is said
    and not left out.
    """

    path: str
    is_scalar: bool
    null_is_value: bool

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return VARIABLE_PREFIX + self.path.upper().replace(".", "__")


@cache
def known_keys() -> Mapping[str, Key]:
    """Return every key by its dotted path, in the order of the models."""
    return {key.path: key for key in _walk(Settings, "")}


@cache
def known_sections() -> frozenset[str]:
    """Return the dotted paths of the maps in which keys stand."""
    return frozenset(path.rpartition(".")[0] for path in known_keys()) - {""}


def _walk(model: type[Section], prefix: str) -> Iterator[Key]:
    for name, info in model.model_fields.items():
        path = f"{prefix}{name}"
        if section := _section(info.annotation):
            yield from _walk(section, f"{path}.")
        elif path not in KEYLESS:
            yield _key(path, info)


def _key(path: str, info: FieldInfo) -> Key:
    nullable = type(None) in get_args(info.annotation)
    return Key(
        path,
        is_scalar=not _is_container(get_origin(info.annotation)),
        null_is_value=nullable and info.default is not None,
    )


def _is_container(origin: object) -> bool:
    return isinstance(origin, type) and issubclass(origin, tuple | Mapping)


def _section(annotation: object) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return None


def _section_within(annotation: object) -> type[Section] | None:
    """Return the section in an annotation such as ``tuple[VolumeSettings, ...]``."""
    found = (_section_within(argument) for argument in get_args(annotation))
    return _section(annotation) or next(filter(None, found), None)


def names_at(location: Iterable[str | int]) -> tuple[str, ...]:
    """Return the names known in the map at *location*, which may lie within lists."""
    model: type[Section] | None = Settings
    parents: list[str] = []
    for part in location:
        if model is not None and isinstance(part, str):
            info = model.model_fields.get(part)
            model = _section_within(info.annotation) if info else None
            parents.append(part)
    if model is None:
        return ()
    names = (info.alias or name for name, info in model.model_fields.items())
    return tuple(name for name in names if ".".join((*parents, name)) not in KEYLESS)


def nearest(name: str, names: Iterable[str], likeness: float = 0.6) -> str:
    """Return the one of *names* that is most like *name*; empty if none is.

    *likeness* is the least that counts, from 0 to 1 (:func:`difflib.get_close_matches`).
    """
    # Only for a message about an error.
    from difflib import get_close_matches

    close = get_close_matches(name, list(names), n=1, cutoff=likeness)
    return close[0] if close else ""


def suggestion(location: Sequence[str | int]) -> str:
    """Return the half sentence that names the key which was probably meant at *location*."""
    *parents, name = map(str, location)
    siblings = names_at(location[:-1])
    if not siblings:
        # What lies within a value that has no keys is a matter of that value's own key.
        return suggestion(location[:-1])
    # A key may stand in the wrong section, or be written as a path.
    elsewhere = {path.rpartition(".")[2]: path for path in known_keys()}
    elsewhere |= {path: path for path in known_keys()}
    meant = elsewhere.get(name, "")
    if not meant and (sibling := nearest(name, siblings, likeness=0.5)):
        meant = ".".join((*parents, sibling))
    meant = meant or elsewhere.get(nearest(name, elsewhere), "")
    return f"; did you mean {meant!r}?" if meant else f"; known here: {', '.join(siblings)}"
