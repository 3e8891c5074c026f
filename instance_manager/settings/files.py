"""The files behind the settings: which ones, and what they say.

Only this module, ``reading`` and ``secrets`` of this room touch the file system.
"""

from __future__ import annotations

import codecs
import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from instance_manager.errors import Problem, SettingsError
from instance_manager.settings.image_environment import FILE_VARIABLES
from instance_manager.settings.layers import FILE_VARIABLE
from instance_manager.settings.loading import LoadedSettings, load
from instance_manager.settings.reading import read_text
from instance_manager.settings.sources import SettingsText

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from instance_manager.settings.checks import Check
    from instance_manager.settings.models import Settings

DEFAULT_FILE = Path("/etc/instance-manager/config.yaml")
# Far beyond any real file; a Kubernetes ConfigMap holds as much.
SETTINGS_LIMIT_BYTES = 1 << 20
VARIABLE_LIMIT_BYTES = 1 << 16


def load_settings(
    environment: Mapping[str, str],
    *,
    config: Path | None = None,
    overrides: Mapping[str, str] | None = None,
    checks: Iterable[Check] = (),
    document: str | None = None,
    last: Settings | None = None,
) -> LoadedSettings:
    """Read every source and load the settings.

    Args:
        environment: of the process, as it was at its start.
        config: the file named on the command line, if one is.
        overrides: dotted keys and text, from the command line.
        checks: as in :func:`load`.
        document: the configuration document that was accepted over HTTP, if one is in force.
        last: what was loaded before, if anything was.

    Raises:
        SettingsError: with all problems, those of reading too.
    """
    text = read_sources(environment, config=config, overrides=overrides)
    loaded = load(replace(text, document=document), checks)
    settings = with_catalogue(loaded.settings, last)
    return replace(loaded, settings=settings, file_digest=digest_of(text.file_text.encode()))


def with_catalogue(settings: Settings, last: Settings | None = None) -> Settings:
    """Return *settings* with what the catalogue holds that they name.

    Where it can't be read or used, it is as in the *last* settings, if they name the same one.

    Raises:
        SettingsError: it can't be read, or used.
    """
    path = settings.extensions.catalogue
    if path is None:
        return settings
    from instance_manager.settings import catalogue

    try:
        text = read_text(path, catalogue.LIMIT_BYTES, f"the file {str(path)!r}", catalogue.KEY)
        images, fault = catalogue.parse(text, str(path)), ""
    except SettingsError as error:
        # Whoever writes the file need not be who changes the settings, and a change of these may
        # be urgent.
        if last is None or last.extensions.catalogue != path:
            raise
        first, *others = error.problems
        more = f", and {len(others)} more" if others else ""
        images, fault = last.extensions.catalogued, f"{first.message}{more}"
    extensions = settings.extensions.model_copy(
        update={"catalogued": images, "catalogue_fault": fault}
    )
    return settings.model_copy(update={"extensions": extensions})


def digest_of(content: bytes) -> str:
    """Return what tells one content of a settings file from another."""
    # As the text is read: a mark at the beginning is no change.
    return hashlib.sha256(content.removeprefix(codecs.BOM_UTF8)).hexdigest()


def read_sources(
    environment: Mapping[str, str],
    *,
    config: Path | None = None,
    overrides: Mapping[str, str] | None = None,
) -> SettingsText:
    """Read the settings file and the files that the official image's variables name.

    Never raises for a file: what can't be read is a problem in the result.
    """
    problems: list[Problem] = []
    text = ""
    path = config_path(environment, config)
    if path is not None:
        try:
            text = read_text(path, SETTINGS_LIMIT_BYTES, f"settings file {str(path)!r}")
        except SettingsError as err:
            problems.extend(err.problems)
    variable_files, faults = _read_variable_files(environment)
    return SettingsText(
        command_line=overrides or {},
        environment=environment,
        file_name=str(path) if path and not problems else "",
        file_text=text,
        variable_files=variable_files,
        problems=(*problems, *faults),
    )


def config_path(environment: Mapping[str, str], config: Path | None = None) -> Path | None:
    """Return the settings file to read; the default one only if something is there."""
    # The one that was named is read or refused: another one in its place would surprise.
    if config is not None:
        return config
    if named := environment.get(FILE_VARIABLE):
        return Path(named)
    # lexists: a link that leads nowhere is a file that was meant to be there.
    return DEFAULT_FILE if os.path.lexists(DEFAULT_FILE) else None


def _read_variable_files(
    environment: Mapping[str, str],
) -> tuple[dict[str, str], list[Problem]]:
    texts: dict[str, str] = {}
    problems: list[Problem] = []
    for name in FILE_VARIABLES:
        if named := environment.get(name):
            try:
                what = f"the file {named!r}"
                # The official image takes such a file by $(< FILE), which drops the ends of lines
                # at its end.
                texts[name] = read_text(Path(named), VARIABLE_LIMIT_BYTES, what).rstrip("\r\n")
            except SettingsError as err:
                problems.extend(Problem(name, problem.message) for problem in err.problems)
    return texts, problems
