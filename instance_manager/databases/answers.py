"""What was read of the databases, put into the API's words. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from instance_manager.databases.models import (
    DatabaseExtension,
    DatabaseExtensions,
    DatabaseInUse,
    Databases,
)
from instance_manager.databases.needs import outdated

if TYPE_CHECKING:
    from instance_manager.databases.facts import Available, Database, Installed, Reading


def databases_of(reading: Reading | None) -> Databases:
    """Return all databases of a reading; none before there was one."""
    if reading is None:
        return Databases(read_at=None, items=())
    return Databases.model_validate(
        {
            "read_at": reading.inventory.read_at,
            "items": [_in_use(each, reading) for each in reading.inventory.databases],
            "problems": reading.problems,
        }
    )


def extensions_of(reading: Reading | None, name: str) -> DatabaseExtensions | None:
    """Return the extensions of the database *name*; None where none of that name was read."""
    if reading is None:
        return None
    database = next((each for each in reading.inventory.databases if each.name == name), None)
    if database is None:
        return None
    installed = {each.name: each for each in database.extensions or ()}
    available = {each.name: each for each in reading.available or ()}
    return DatabaseExtensions.model_validate(
        {
            "database": name,
            "read_at": reading.inventory.read_at,
            "items": [
                _extension(each, installed.get(each), available.get(each), reading)
                for each in sorted(installed.keys() | available.keys())
            ],
            "problems": (*database.problems, *reading.problems),
        }
    )


def _in_use(database: Database, reading: Reading) -> DatabaseInUse:
    return DatabaseInUse.model_validate(
        {
            "name": database.name,
            "extensions": database.extensions,
            "libraries": database.libraries,
            "overrides": [
                each
                for each in reading.inventory.overrides
                if each.database in (None, database.name)
            ],
            "findings": tuple(outdated(database, reading)),
            "problems": database.problems,
        }
    )


def _extension(
    name: str, installed: Installed | None, available: Available | None, reading: Reading
) -> DatabaseExtension:
    # None is "not known", which is something else than "no update".
    updates = reading.updates.get((name, installed.version)) if installed else ()
    return DatabaseExtension.model_validate(
        {
            "name": name,
            "installed_version": installed.version if installed else None,
            "schema": installed.schema if installed else None,
            "default_version": available.default_version if available else None,
            "versions": available.versions if available else (),
            "updates": updates,
        }
    )
