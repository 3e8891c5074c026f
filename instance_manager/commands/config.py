"""``config show`` and ``config schema``: the settings in force, and what settings there are."""

from __future__ import annotations

import json
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from instance_manager.commands import loading
from instance_manager.commands.text import printable
from instance_manager.configuration.masking import MASK, mask_document
from instance_manager.errors import Exit
from instance_manager.settings.configuration_document import KEYS, document_of
from instance_manager.settings.keys import KEYLESS, known_keys
from instance_manager.settings.sources import Source

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from instance_manager.settings.loading import LoadedSettings
    from instance_manager.settings.models import Settings

_WIDTH: Final = 40


def run(options: argparse.Namespace) -> int:
    """Print what was asked for."""
    if options.config_command == "schema":
        from instance_manager.settings.schema import schema

        print(json.dumps(schema(), indent=2))
        return Exit.DONE
    loaded = loading.loader(options).loaded()
    if options.output == "json":
        print(json.dumps({"items": list(entries(loaded))}, indent=2))
    else:
        print("\n".join(_lines(loaded)))
    return Exit.DONE


def entries(loaded: LoadedSettings) -> Iterator[dict[str, Any]]:
    """Yield each key with its value, secrets masked, and where that comes from."""
    values = shown(loaded.settings)
    for key, origin in loaded.origins.items():
        # Nobody set it: it is none that people could set, either.
        if key in KEYLESS and origin.source is Source.DEFAULT:
            continue
        yield {"key": key, "value": values[key], "source": origin.source, "origin": str(origin)}


def shown(settings: Settings) -> dict[str, Any]:
    """Return the value of each key as JSON has it, secrets masked."""
    dumped = settings.model_dump(mode="json", by_alias=True)
    values = {key: _at(dumped, key) for key in (*known_keys(), *KEYLESS)}
    # As over HTTP, by the same rules.
    masked = mask_document(document_of(settings))
    values |= {path: masked[name] for name, path in KEYS.items()}
    if attrgetter("bootstrap.superuser_password")(settings) is not None:
        values["bootstrap.superuser_password"] = MASK
    return values


def _at(tree: Any, path: str) -> Any:
    for part in path.split("."):
        tree = tree[part]
    return tree


def _lines(loaded: LoadedSettings) -> Iterator[str]:
    """Yield a line for each key, so that it can be read and searched."""
    for entry in entries(loaded):
        value = entry["value"]
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield printable(f"{entry['key']:<{_WIDTH}} {text}  ({entry['origin']})")
