"""From what the settings declare and what a database has to an ordered list of actions. Pure.

Nothing is planned that the settings do not ask for. What can't be done is a problem in words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from instance_manager.databases.holdings import DatabaseFacts, Installed, Version
    from instance_manager.settings.models import DatabaseExtensionSettings

DEFAULT_SCHEMA: Final = "public"
"""Where an extension goes that neither the settings nor its control file put anywhere.

The server would take the first schema of the session's search path.
"""
_NAMES_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class Create:
    """``CREATE EXTENSION``; *schema* is None where the control file fixes it."""

    extension: str
    version: str
    schema: str | None
    cascade: bool = False
    needs: tuple[str, ...] = ()
    """The extensions that other actions of the plan must have brought before."""


@dataclass(frozen=True, slots=True)
class Update:
    """``ALTER EXTENSION … UPDATE TO``."""

    extension: str
    from_version: str
    version: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Move:
    """``ALTER EXTENSION … SET SCHEMA``."""

    extension: str
    from_schema: str
    schema: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Drop:
    """``DROP EXTENSION``, and what depends on it only with *cascade*."""

    extension: str
    version: str
    cascade: bool = False
    needs: tuple[str, ...] = ()


Action = Create | Update | Move | Drop


@dataclass(frozen=True, slots=True)
class Problem:
    """What keeps an extension from what is declared, and the way out."""

    extension: str
    message: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, in this order, and what can't be done."""

    actions: tuple[Action, ...] = ()
    problems: tuple[Problem, ...] = ()


def plan(declared: Sequence[DatabaseExtensionSettings], facts: DatabaseFacts) -> Plan:
    """Return what brings a database to what is *declared*: drops first, then what others need."""
    planner = _Planner({one.name: one for one in declared}, facts)
    for one in _dependents_first(
        [one for one in declared if one.ensure == "absent"], facts.installed
    ):
        planner.drop(one)
    for one in declared:
        planner.bring(one)
    return Plan(tuple(planner.actions), tuple(planner.problems))


def is_settled(declared: Iterable[DatabaseExtensionSettings], facts: DatabaseFacts) -> bool:
    """Whether the database has what is declared: nothing more need be known then."""
    return all(_holds(one, facts.installed.get(one.name)) for one in declared)


def _holds(one: DatabaseExtensionSettings, have: Installed | None) -> bool:
    if have is None or one.ensure == "absent":
        return have is None and one.ensure == "absent"
    return one.version in {None, have.version} and one.schema_name in {None, have.schema}


class _CannotError(Exception):
    """Carries the words of a problem."""


class _Planner:
    """Collects actions and problems; each extension is looked at once, after what it requires."""

    def __init__(
        self, declared: dict[str, DatabaseExtensionSettings], facts: DatabaseFacts
    ) -> None:
        self.actions: list[Action] = []
        self.problems: list[Problem] = []
        self._declared = declared
        self._facts = facts
        self._seen: set[str] = set()
        self._failed: set[str] = set()

    def drop(self, one: DatabaseExtensionSettings) -> None:
        """Plan to drop an extension, unless something declared would go with it."""
        have = self._facts.installed.get(one.name)
        if have is None:
            return
        needed_by = [
            name
            for name in sorted(_dependents(one.name, self._facts.installed))
            if name in self._declared and self._declared[name].ensure == "present"
        ]
        if needed_by:
            self._refuse(
                one.name,
                f"it can't be dropped: {_listed(needed_by)}, declared present, requires it",
            )
        else:
            self.actions.append(Drop(one.name, have.version, one.cascade))

    def bring(self, one: DatabaseExtensionSettings) -> None:
        """Plan to create or to change an extension, and before it what it requires."""
        # What requires it may have had it planned already.
        if one.ensure == "absent" or one.name in self._seen:
            return
        # Before what it requires is looked at: extensions that require each other end here.
        self._seen.add(one.name)
        have = self._facts.installed.get(one.name)
        try:
            if have is None:
                self.actions.append(self._creation(one))
            else:
                self.actions.extend(self._changes(one, have))
        except _CannotError as error:
            self._refuse(one.name, str(error))

    def _refuse(self, name: str, message: str) -> None:
        self._failed.add(name)
        self.problems.append(Problem(name, message))

    def _creation(self, one: DatabaseExtensionSettings) -> Create:
        offered = self._facts.available.get(one.name)
        if offered is None:
            raise _CannotError(
                "no volume offers it: mount the one that holds it, or see why it is quarantined"
            )
        name = one.version or offered.default_version
        version = offered.versions.get(name) if name else None
        if name is None or version is None:
            raise _CannotError(
                f"it can't be created in version {name!r}: {_there_are(offered.versions)}"
            )
        schema = self._schema_of_new(one, version)
        needs = self._needs(one.name, name, version, cascade=one.cascade)
        return Create(one.name, name, schema, one.cascade, needs)

    def _schema_of_new(self, one: DatabaseExtensionSettings, version: Version) -> str | None:
        if version.schema is not None:
            if one.schema_name not in {None, version.schema}:
                raise _CannotError(
                    f"it can't be created in schema {one.schema_name!r}: its control file fixes"
                    f" {version.schema!r}"
                )
            return None
        return self._existing(one.schema_name or DEFAULT_SCHEMA)

    def _existing(self, schema: str) -> str:
        if schema not in self._facts.schemas:
            raise _CannotError(
                f"there is no schema {schema!r}: make it, or declare another; schemas are not made"
                " by the manager"
            )
        return schema

    def _needs(
        self, extension: str, name: str, version: Version, *, cascade: bool
    ) -> tuple[str, ...]:
        """Plan what a version requires, and return what of it must be brought first."""
        what = f"version {name!r}"
        return tuple(
            needed
            for needed in version.requires
            if needed != extension and self._must_come_first(what, needed, cascade=cascade)
        )

    def _must_come_first(self, what: str, needed: str, *, cascade: bool) -> bool:
        declared = self._declared.get(needed)
        if declared is not None and declared.ensure == "absent":
            raise _CannotError(f"{what} requires {needed!r}, which is declared absent")
        if declared is not None:
            self.bring(declared)
        if needed in self._facts.installed:
            return False
        if declared is not None:
            if needed in self._failed:
                raise _CannotError(f"{what} requires {needed!r}, which can't be brought about")
            return True
        if needed not in self._facts.available:
            raise _CannotError(f"{what} requires {needed!r}, which no volume offers")
        if not cascade:
            # Nothing is created that nobody has declared or allowed.
            raise _CannotError(f"{what} requires {needed!r}: declare it too, or set cascade")
        # By CASCADE, the server creates it in the same statement.
        return False

    def _changes(self, one: DatabaseExtensionSettings, have: Installed) -> list[Action]:
        update = self._update(one, have)
        move = None
        if one.schema_name not in {None, have.schema}:
            move = Move(one.name, have.schema, self._existing(str(one.schema_name)))
        if update is None or move is None:
            if move is not None and not have.relocatable:
                raise _not_relocatable(move)
            return [change for change in (update, move) if change is not None]
        if have.relocatable:
            # Moved while it surely can be: the new version may not be relocatable any more.
            return [move, update]
        offered = self._facts.available[one.name].versions.get(update.version)
        if offered is not None and not offered.relocatable:
            # What can be done is done all the same.
            self._refuse(one.name, str(_not_relocatable(move)))
            return [update]
        return [update, move]

    def _update(self, one: DatabaseExtensionSettings, have: Installed) -> Update | None:
        if one.version is None or one.version == have.version:
            return None
        offered = self._facts.available.get(one.name)
        if offered is None:
            raise _CannotError(
                f"it can't be updated from version {have.version!r}: no volume offers it any more"
            )
        paths = self._facts.paths.get(one.name, {})
        if one.version not in paths:
            raise _CannotError(no_path(have.version, one.version, offered.versions, paths))
        version = offered.versions.get(one.version)
        # ALTER EXTENSION … UPDATE knows no CASCADE.
        needs = self._needs(one.name, one.version, version, cascade=False) if version else ()
        return Update(one.name, have.version, one.version, needs)


def no_path(have: str, wanted: str, versions: Iterable[str], paths: Iterable[str]) -> str:
    """Return why an extension can't be updated from *have* to *wanted*, and where it can."""
    known, reachable = set(versions), set(paths)
    if wanted not in known | reachable:
        return f"it has no version {wanted!r}: {_there_are(known | reachable)}"
    if reachable:
        return (
            f"no update path leads from version {have!r} to {wanted!r}, only to"
            f" {_listed(reachable)}"
        )
    return f"no update path leads from version {have!r} to {wanted!r}, nor anywhere else"


def _not_relocatable(move: Move) -> _CannotError:
    return _CannotError(
        f"it can't be moved from schema {move.from_schema!r} to {move.schema!r}: it is not"
        " relocatable; only dropping and creating it would do that"
    )


def _dependents(name: str, installed: Mapping[str, Installed]) -> set[str]:
    """Return the extensions that depend on *name*, also through others."""
    found: set[str] = set()
    new = {name}
    while new:
        # Without those that were found: catalogs may hold circles.
        new = {one for one, have in installed.items() if new & set(have.requires)} - found
        found |= new
    return found


def _dependents_first(
    absent: Sequence[DatabaseExtensionSettings], installed: Mapping[str, Installed]
) -> list[DatabaseExtensionSettings]:
    """Return them so that each stands before what it depends on."""
    # Whoever depends on another has fewer dependents than that one, which counts them all.
    return sorted(absent, key=lambda one: len(_dependents(one.name, installed)))


def _there_are(versions: Iterable[str]) -> str:
    return f"there are {_listed(versions)}" if set(versions) else "there are none"


def _listed(names: Iterable[str]) -> str:
    found = sorted(names)
    more = f" and {len(found) - _NAMES_SHOWN} more" if len(found) > _NAMES_SHOWN else ""
    return ", ".join(map(repr, found[:_NAMES_SHOWN])) + more
