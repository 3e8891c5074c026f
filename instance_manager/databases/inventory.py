"""The inventory beside the data: kept while the server runs, asked before it is started.

The file tells whose it is; one that came with a copy of the directory does not count. What can't
be understood is no inventory: a start must not fail for it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from instance_manager.configuration.writing import write_atomically
from instance_manager.databases import needs
from instance_manager.databases.facts import Database, Installed, Inventory, Library, Override
from instance_manager.extensions.offers import nothing
from instance_manager.log import get_logger
from instance_manager.postgres import identity, small_files

if TYPE_CHECKING:
    from instance_manager.extensions.facts import ServerFacts
    from instance_manager.extensions.models import ExtensionsReport, Finding
    from instance_manager.extensions.offers import Offers
    from instance_manager.postgres.data_directory import OurFiles

LIMIT_BYTES: Final = 16 << 20
"""Ten thousand databases with a dozen extensions each."""
_log: Final = get_logger()


class UnusableInventoryError(Exception):
    """The file is damaged, or *is_foreign*: another instance's, which came with a copy."""

    def __init__(self, path: Path, reason: str, *, is_foreign: bool = False) -> None:
        super().__init__(f"cannot use the inventory of the databases {str(path)!r}: {reason}")
        self.is_foreign = is_foreign


def load(files: OurFiles, instance: str) -> Inventory | None:
    """Return the inventory of *instance*; None without one.

    Raises:
        UnusableInventoryError: it can't be read or understood, or is not *instance*'s.
    """
    path = files.inventory
    try:
        # What is longer is cut off, and so is no JSON.
        raw = json.loads(small_files.read_head(path, LIMIT_BYTES))
        owner, inventory = identity.Identity.read(raw), _parsed(raw)
        is_ours = owner.holds_for(identity.here(files, instance))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise UnusableInventoryError(path, reason or type(error).__name__) from error
    if not is_ours:
        raise UnusableInventoryError(path, "it came with a copy", is_foreign=True)
    return inventory


def store(files: OurFiles, instance: str, inventory: Inventory) -> bool:
    """Keep the inventory of *instance*, durably, all of it or nothing.

    One that is too long to be read again is not kept, and neither is the one before it.

    Returns:
        Whether anything was changed.

    Raises:
        DataDirectoryError, DiskSpaceError: it can't be written; the one before stays whole.
        OSError: our directory can't be looked at.
    """
    owner = asdict(identity.here(files, instance))
    text = json.dumps(owner | _document(inventory), separators=(",", ":")) + "\n"
    # One that can't be read again would be a warning at each start; an older one would be wrong.
    if len(text) > LIMIT_BYTES:
        files.inventory.unlink(missing_ok=True)
        _log.warning("the inventory of the databases is too long to be kept", bytes=len(text))
        return True
    return write_atomically(files.inventory, text)


def findings(
    inventory: Inventory,
    report: ExtensionsReport,
    server: ServerFacts,
    offered: Offers = nothing,
) -> tuple[Finding, ...]:
    """Return what the databases need and the server would not find; looks at files."""
    needed = {file for need in needs.needs_of(inventory, report, server) for file in need.files}
    for controls in needs.control_files(inventory, report, server).values():
        needed.update(controls)
    present = frozenset(file for file in needed if _is_there(file))
    return needs.judge(inventory, report, server, present, offered)


def _is_there(file: str) -> bool:
    try:
        return Path(file).is_file()
    except (OSError, ValueError):
        return False


def _document(inventory: Inventory) -> dict[str, Any]:
    """Return the inventory as JSON; named tuples become lists."""
    return {
        "read_at": inventory.read_at,
        # Problems are of one reading; kept, they would change the file each time.
        "databases": [each._replace(problems=()) for each in inventory.databases],
        "overrides": inventory.overrides,
    }


def _parsed(raw: dict[str, Any]) -> Inventory:
    """Return the inventory that a document holds.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it holds none.
    """
    return Inventory(
        _text(raw["read_at"]),
        tuple(_database(*row) for row in raw["databases"]),
        tuple(
            Override(_text(name), _text(value), _optional(database), _optional(role))
            for name, value, database, role in raw["overrides"]
        ),
    )


def _database(name: object, oid: object, extensions: Any, libraries: Any, _: object) -> Database:
    # The file may have been changed by anybody who can write in the data directory.
    if not isinstance(oid, int):
        raise TypeError(f"{oid!r} is no number")
    return Database(
        _text(name),
        oid,
        None if extensions is None else tuple(Installed(*map(_text, row)) for row in extensions),
        None
        if libraries is None
        else tuple(
            Library(_text(name), _optional(extension), _texts(methods), _texts(languages))
            for name, extension, methods, languages in libraries
        ),
    )


def _texts(values: list[object]) -> tuple[str, ...]:
    return tuple(map(_text, values))


def _optional(value: object) -> str | None:
    return None if value is None else _text(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    # JSON can spell what is no character: a ValueError here, instead of somewhere later.
    value.encode()
    return value
