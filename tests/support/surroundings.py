"""What a start finds around it, in a directory of a test's own, without a server's programs."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from instance_manager.health.snapshot import Observer, Target
from instance_manager.journal import Journal
from instance_manager.postgres import account, binaries
from instance_manager.settings.models import Settings
from instance_manager.surroundings import Place, Surroundings


class NoSettingsFile:
    """Stands where settings are read again; a test that does so brings its own."""

    file = None
    digest = ""


def surroundings_in(directory: Path, settings: Settings) -> Surroundings:
    """Return surroundings whose every place is *directory*."""
    load: Any = NoSettingsFile()
    place = Place(binaries.Binaries(directory), directory, directory, directory, {"PATH": ""}, "")
    return Surroundings(
        settings=settings,
        place=place,
        account=account.Account(os.geteuid(), os.getegid(), None),
        name="one",
        control_group=None,
        load=load,
        was_root=False,
        is_settled=True,
    )


def observer_in(directory: Path) -> Observer:
    """Return an observer of a server that is not there."""
    target = Target(directory, 5432, "postgres")
    return Observer(target, clock=time.monotonic, period_seconds=1, needs_query=False)


def silent_journal() -> Journal:
    """Return a journal that tells nobody."""
    return Journal(*[lambda one, other: None] * 3)
