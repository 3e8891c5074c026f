"""What one database has and could have of extensions, as values. Pure.

Source: the manual, ``pg_extension``, ``pg_available_extension_versions`` and
``pg_extension_update_paths``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Installed:
    """An extension that the database has."""

    version: str
    schema: str
    relocatable: bool
    requires: tuple[str, ...] = ()
    """The extensions that it depends on, by the catalog."""


@dataclass(frozen=True, slots=True)
class Version:
    """A version that could be created."""

    relocatable: bool = False
    schema: str | None = None
    """The schema that its control file fixes."""
    requires: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Available:
    """An extension that the server finds on its path."""

    default_version: str | None
    versions: Mapping[str, Version] = field(default_factory=dict[str, Version])


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """One database at one moment, as far as somebody asked."""

    in_recovery: bool = False
    installed: Mapping[str, Installed] = field(default_factory=dict[str, Installed])
    """All that it has."""
    available: Mapping[str, Available] = field(default_factory=dict[str, Available])
    """The extensions that were asked for, and those that they require."""
    paths: Mapping[str, Mapping[str, tuple[str, ...]]] = field(
        default_factory=dict[str, dict[str, tuple[str, ...]]]
    )
    """Where updates of an installed extension lead to: the versions on the way, both ends too."""
    schemas: frozenset[str] = frozenset()
    """Those that exist, of the schemas that were asked for."""
