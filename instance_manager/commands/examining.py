"""What ``check`` and ``compose`` share: the proofs that need no postgres, and write nothing."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from instance_manager.errors import DataDirectoryError
from instance_manager.extensions import scan
from instance_manager.postgres import before_start, binaries, data_directory, lost, process
from instance_manager.supervision.children import Children

if TYPE_CHECKING:
    from instance_manager.extensions.models import ExtensionsReport
    from instance_manager.extensions.scan import Examination
    from instance_manager.postgres.binaries import Binaries, Version
    from instance_manager.settings.models import Settings


@dataclass(frozen=True, slots=True)
class Examined:
    """The volumes, the server's version, and what is wrong with the data directory."""

    examination: Examination
    version: Version
    problem: DataDirectoryError | None

    @property
    def report(self) -> ExtensionsReport:
        """What the volumes hold, and what is composed of them."""
        return self.examination.report


def examine(
    settings: Settings, extensions_root: str | None = None, *, hash_contents: bool = False
) -> Examined:
    """Look at the volumes and the data directory; with *hash_contents* at every byte of them.

    Raises:
        SettingsError: there is no server to look for.
        StartError: its program does not run.
    """
    server = binaries.find(
        settings.postgres.bin_directory, os.environ.get("PATH", process.DEFAULT_PATH)
    )
    tools = process.tool_environment(os.environ)
    version = asyncio.run(_read_version(server, tools))
    facts = binaries.server_facts(server, version)
    examination = scan.examine(
        settings,
        facts,
        base_path=tools["PATH"],
        base_ld_library_path=os.environ.get("LD_LIBRARY_PATH", ""),
        root=Path(extensions_root) if extensions_root else None,
        clock=time.monotonic,
    )
    if hash_contents:
        examination = scan.complete(examination, facts)
    directory = data_directory.resolve(settings.postgres.data_directory)
    problem = _problem_of(directory, version, settings.postgres.wal_directory)
    return Examined(examination, version, problem)


async def _read_version(server: Binaries, tools: dict[str, str]) -> Version:
    with Children() as children:
        return await binaries.read_version(server, children, tools)


def _problem_of(directory: Path, version: Version, wal: Path | None) -> DataDirectoryError | None:
    files = data_directory.OurFiles(directory)
    try:
        if files.marker.exists():
            data_directory.require_no_data_nearby(directory)  # the rest is taken back by a start
        elif directory.exists() and not data_directory.is_empty(directory):
            before_start.require_whole(directory, version.major, wal)
        else:
            data_directory.require_no_data_nearby(directory)
            lost.require_never_used(files, wal)
    except DataDirectoryError as error:
        return error
    except OSError as error:
        return DataDirectoryError(
            f"cannot read data directory {str(directory)!r}: {error}",
            hint=f"the way there: {data_directory.chain_of(directory)}",
        )
    return None
