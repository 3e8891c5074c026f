"""What a new configuration changes, and what it takes to have the server use it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from instance_manager.configuration.rendering import HASH_PARAMETER, values_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from instance_manager.configuration.values import Parameter

_AT_A_START: Final = "postmaster"
"""The context of parameters that the server takes only when it starts (pg_settings.context)."""
_LISTS: Final = ("hba", "ident", "volumes", "databases")


class Action(StrEnum):
    """What it takes, from the least to the most."""

    NONE = "none"
    """Nothing."""
    RELOAD = "reload"
    """A reload, which is done at once."""
    RESTART = "restart"
    """A restart, which waits for somebody to ask for it."""


@dataclass(frozen=True, slots=True)
class Change:
    """One parameter: its values in the configuration before and after; None where it has none."""

    name: str
    old: str | None
    new: str | None
    action: Action


@dataclass(frozen=True, slots=True)
class Plan:
    """All that changes: parameters, other parts of the document, and the action for the whole."""

    changes: tuple[Change, ...] = ()
    sections: tuple[str, ...] = ()
    action: Action = Action.NONE
    overridden: tuple[str, ...] = ()
    """Parameters that count as something else has set them; known once a server has read it."""


def plan(
    before: str,
    after: str,
    known: Mapping[str, Parameter] | None,
    sections: tuple[str, ...],
) -> Plan:
    """Return what changes between two texts of our file.

    Args:
        before: the text in force; empty where there is none.
        after: the candidate's.
        known: the live server's parameters, by name in lower case; None without a server, whose
            next start takes everything.
        sections: what else of the document changes.
    """
    changes = tuple(_changes(_values(before), _values(after), known))
    actions = [change.action for change in changes]
    if sections:
        # Access rules and search paths are read at a reload; for what takes more, volumes have a
        # pending_action.
        actions.append(Action.RELOAD if known is not None else Action.RESTART)
    order = list(Action)
    return Plan(changes, sections, max(actions, key=order.index, default=Action.NONE))


def changed_sections(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """Return which lists of two documents differ; parameters are told one by one."""
    return tuple(name for name in _LISTS if old[name] != new[name])


def _values(text: str) -> dict[str, str]:
    return {name: value for name, value in values_of(text).items() if name != HASH_PARAMETER}


def _changes(
    before: Mapping[str, str], after: Mapping[str, str], known: Mapping[str, Parameter] | None
) -> Iterator[Change]:
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old != new:
            yield Change(name, old, new, _action(name, new, known))


def _action(name: str, new: str | None, known: Mapping[str, Parameter] | None) -> Action:
    if known is None:
        return Action.RESTART
    parameter = known.get(name)
    # Unknown names are those of libraries that are not loaded: the server keeps them as they are.
    if parameter is None or parameter.context != _AT_A_START:
        return Action.RELOAD
    # Written in another way, or what the server runs with all the same: it has only to read it.
    return Action.RELOAD if new is not None and parameter.is_at(new) else Action.RESTART
