"""Settings for the sub-commands: the sources, and what the command line overrides."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from instance_manager.configuration.checks import CHECKS
from instance_manager.errors import UsageError
from instance_manager.settings.files import load_settings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

    from instance_manager.settings.models import Settings


def load(options: argparse.Namespace) -> Settings:
    """Return the settings in force.

    Raises:
        SettingsError: with every problem.
        UsageError: an override that is none.
    """
    return loader(options)()


def loader(options: argparse.Namespace) -> Callable[[], Settings]:
    """Return what reads the settings, from the same sources at each call."""
    config = Path(options.config).absolute() if options.config else None
    overrides = dict(map(_override, options.set))
    if options.log_level:
        overrides["log.level"] = options.log_level
    environment: Mapping[str, str] = dict(os.environ)

    def read() -> Settings:
        return load_settings(
            environment, config=config, overrides=overrides, checks=CHECKS
        ).settings

    return read


def _override(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(
            f"cannot use --set {text!r}: it must be KEY=VALUE",
            hint="such as --set postgres.port=5433",
        )
    return key, value
