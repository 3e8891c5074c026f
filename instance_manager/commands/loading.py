"""Settings for the sub-commands: the sources, and what the command line overrides."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from instance_manager.configuration.checks import CHECKS
from instance_manager.errors import SettingsError, UsageError
from instance_manager.settings.documents import parse_document
from instance_manager.settings.files import config_path, load_settings, read_sources
from instance_manager.settings.keys import VARIABLE_PREFIX
from instance_manager.settings.loading import load as pure_load
from instance_manager.settings.sources import SettingsText

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from instance_manager.settings.loading import LoadedSettings
    from instance_manager.settings.models import Settings

_SOCKET_KEY: Final = "control.socket"


def load(options: argparse.Namespace) -> Settings:
    """Return the settings in force.

    Raises:
        SettingsError: with every problem.
        UsageError: an override that is none.
    """
    return loader(options)()


def control_socket(options: argparse.Namespace) -> Path:
    """Return where the manager listens, for commands that only talk with it.

    Settings that are wrong elsewhere must not keep people from looking, or from stopping.
    """
    try:
        return load(options).control.socket
    except SettingsError as error:
        socket = _loaded(options, only=_SOCKET_KEY).control.socket
        for problem in error.problems:
            print(f"instance-manager: warning: {problem}", file=sys.stderr)
        return socket


@dataclass(slots=True)
class Loader:
    """Reads the settings, from the same sources at each call; *file* is their file, if any."""

    environment: Mapping[str, str]
    config: Path | None
    overrides: Mapping[str, str]
    digest: str = field(default="", init=False)
    """Of the file's content that was loaded last."""
    _last: Settings | None = field(default=None, init=False)

    @property
    def file(self) -> Path | None:
        """The settings file; None where there is none."""
        return config_path(self.environment, self.config)

    def __call__(self, document: str | None = None) -> Settings:
        """Return the settings, with a configuration *document* where one is in force.

        Raises:
            SettingsError: with every problem.
        """
        return self.loaded(document).settings

    def loaded(self, document: str | None = None) -> LoadedSettings:
        """Return the same with the origin of each key."""
        loaded = load_settings(
            self.environment,
            config=self.config,
            overrides=self.overrides,
            checks=CHECKS,
            document=document,
            last=self._last,
        )
        self.digest, self._last = loaded.file_digest, loaded.settings
        return loaded


def loader(options: argparse.Namespace) -> Loader:
    """Return what reads the settings.

    Raises:
        UsageError: an override that is none.
    """
    return Loader(dict(os.environ), _config_of(options), _overrides_of(options))


def _loaded(options: argparse.Namespace, only: str) -> Settings:
    """Load one key from every source, and defaults for the rest.

    Raises:
        SettingsError: that key is wrong.
    """
    variable = VARIABLE_PREFIX + only.upper().replace(".", "__")
    text = read_sources(os.environ, config=_config_of(options))
    if text.problems:
        raise SettingsError(text.problems)
    document = parse_document(text.file_text, text.file_name)
    unread = [problem for problem in document.problems if not problem.path]
    if unread:
        # Which socket it names can't be told: another instance must not be spoken to instead.
        raise SettingsError(unread)
    node: object = document.values
    for part in only.split("."):
        node = cast("dict[str, object]", node).get(part) if isinstance(node, dict) else None
    overrides = {only: node} if isinstance(node, str) else {}
    if variable in os.environ:
        overrides[only] = os.environ[variable]
    # The command line last: it is the strongest of the three.
    overrides |= {key: value for key, value in _overrides_of(options).items() if key == only}
    return pure_load(SettingsText(command_line=overrides)).settings


def _config_of(options: argparse.Namespace) -> Path | None:
    return Path(options.config).absolute() if options.config else None


def _overrides_of(options: argparse.Namespace) -> dict[str, str]:
    overrides = dict(map(_override, options.set))
    if options.log_level:
        overrides["log.level"] = options.log_level
    return overrides


def _override(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(
            f"cannot use --set {text!r}: it must be KEY=VALUE",
            hint="such as --set postgres.port=5433",
        )
    return key, value
