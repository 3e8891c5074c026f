"""Extension volumes of SQL alone, made up for a test: control files, scripts and update paths."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.support.manager import Manager


def write(
    root: Path,
    name: str,
    scripts: Mapping[str, str],
    *,
    volume: str = "made-up",
    **control: str | bool,
) -> None:
    """Write extension *name* into a volume; scripts by version, or by both ends of an update.

    The control file's default version is 1.0, and it is relocatable, unless *control* says
    otherwise.
    """
    directory = root / volume / "share" / "extension"
    directory.mkdir(parents=True, exist_ok=True)
    given: dict[str, str | bool] = {
        "default_version": "1.0",
        "relocatable": "schema" not in control,
    }
    given |= control
    lines = [f"{key} = {_value(value)}" for key, value in given.items()]
    (directory / f"{name}.control").write_text("\n".join(lines) + "\n")
    for versions, script in scripts.items():
        (directory / f"{name}--{versions}.sql").write_text(script + "\n")


def _value(value: str | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "'" + value.replace("'", "''") + "'"


def own_root(manager: Manager) -> Path:
    """Give the manager a root of volumes of its own, with pgvector in it, and return it."""
    root = manager.directory / "extensions"
    root.mkdir()
    (root / "pgvector").symlink_to(manager.server.extensions / "pgvector")
    manager.settings["extensions"]["root"] = str(root)
    return root


def declare(manager: Manager, *extensions: Mapping[str, object], name: str = "postgres") -> None:
    """Declare extensions of a database in the settings, in place of those before."""
    manager.settings["databases"] = [{"name": name, "extensions": [dict(e) for e in extensions]}]


def reload(manager: Manager) -> None:
    """Write the settings, and have the manager read them."""
    manager.write_settings()
    code, operation = manager.ask("POST", "/v1/postgres/reload", Prefer="wait=60")
    assert (code, operation["state"]) == (200, "succeeded"), operation


def installed(manager: Manager, database: str = "postgres") -> dict[str, tuple[str, str]]:
    """Return version and schema of each extension of a database, but of plpgsql."""
    rows = manager.query(
        "SELECT extname, extversion, extnamespace::regnamespace::text FROM pg_extension"
        " WHERE extname <> 'plpgsql'",
        dbname=database,
    )
    return {name: (version, schema) for name, version, schema in rows}


def condition(manager: Manager) -> tuple[str, str, str]:
    """Return status, reason and message of the condition on databases."""
    status = manager.status()
    assert status is not None
    found = next(one for one in status["conditions"] if one["type"] == "DatabasesReconciled")
    return found["status"], found["reason"], found["message"]


def events(manager: Manager, *reasons: str) -> list[str]:
    """Return the messages of the events of these reasons, newest last."""
    _, document = manager.ask("GET", "/v1/events")
    return [one["message"] for one in document["items"] if one["reason"] in reasons]
