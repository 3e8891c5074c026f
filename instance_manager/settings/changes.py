"""What a change of the settings needs: to be read again, or a new start of the manager. Pure."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from instance_manager.settings.keys import known_keys

if TYPE_CHECKING:
    from collections.abc import Iterable

    from instance_manager.settings.models import Section, Settings

# Applied when the settings are read again. What postgres itself takes only at its start is
# written at once too, and then waits for a restart of postgres.
LIVE_KEYS = frozenset(
    {
        "failure",
        "postgres.listen_addresses",
        "postgres.parameters",
        "postgres.shared_preload_libraries",
        "postgres.allow_alter_system",
        "postgres.hba",
        "postgres.ident",
        "extensions.policy",
        "extensions.inventory",
        "extensions.volumes",
        "extensions.catalogue",
        "databases",
        "shutdown.smart_seconds",
        "shutdown.fast_seconds",
        "shutdown.immediate_seconds",
        "restart.policy",
        "restart.maximum",
        "restart.window_seconds",
        "health.readiness",
        "health.maximum_lag_bytes",
        "log.level",
    }
)


def changed_keys(old: Settings, new: Settings) -> tuple[str, ...]:
    """Return the keys whose values differ, in the order of the models."""
    return tuple(key for key in known_keys() if attrgetter(key)(old) != attrgetter(key)(new))


def keys_needing_start(old: Settings, new: Settings) -> tuple[str, ...]:
    """Return the changed keys that only a new start of the manager applies."""
    return tuple(key for key in changed_keys(old, new) if key not in LIVE_KEYS)


def keep(old: Settings, new: Settings, keys: Iterable[str]) -> Settings:
    """Return *new* with the old values of *keys*."""
    for key in keys:
        section, _, name = key.rpartition(".")
        if section:
            # Sections are frozen: what changes is a copy, up to the top.
            part = attrgetter(section)(new)
            value = part.model_copy(update={name: attrgetter(key)(old)})
            new = _with_section(new, section, value)
        else:
            new = new.model_copy(update={name: attrgetter(key)(old)})
    return new


def _with_section(settings: Settings, path: str, value: Section) -> Settings:
    """Return *settings* with the section at the dotted *path* replaced."""
    above, _, name = path.rpartition(".")
    if not above:
        return settings.model_copy(update={name: value})
    part: Section = attrgetter(above)(settings)
    return _with_section(settings, above, part.model_copy(update={name: value}))
