"""What commands share that only look: the proofs that need no postgres, and write nothing."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from instance_manager import log
from instance_manager.databases import inventory
from instance_manager.errors import DataDirectoryError
from instance_manager.extensions import refusals, scan
from instance_manager.extensions.composition import Base
from instance_manager.extensions.offers import offers
from instance_manager.postgres import (
    before_start,
    binaries,
    data_directory,
    lost,
    process,
    wal_directory,
)
from instance_manager.postgres.tracing import Tracer
from instance_manager.proving import Look, prove
from instance_manager.supervision.children import Children
from instance_manager.supervision.threads import Serial

if TYPE_CHECKING:
    from instance_manager.errors import PreflightError
    from instance_manager.extensions.facts import ServerFacts
    from instance_manager.extensions.models import ExtensionsReport
    from instance_manager.extensions.scan import Examination
    from instance_manager.postgres.binaries import Binaries, Version
    from instance_manager.settings.models import Settings


@dataclass(frozen=True, slots=True)
class Examined:
    """The volumes, the server's version, and what is wrong with the data directory.

    *refusal* is why ``run`` would not start postgres with the volumes. *is_new* says that there is
    no cluster in *directory*, which ``run`` would make.
    """

    examination: Examination
    version: Version
    refusal: PreflightError | None
    directory: Path
    problem: DataDirectoryError | None
    is_new: bool

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
    # Standard output is the answer's.
    with log.beside_an_answer():
        return _examine(settings, extensions_root, hash_contents=hash_contents)


def _examine(settings: Settings, extensions_root: str | None, *, hash_contents: bool) -> Examined:
    tools = process.tool_environment(os.environ)
    server, version = find_server(settings)
    # As run gives it to postgres: there is a PATH also where we were given none.
    given = scan.Server(server, Base(tools["PATH"], os.environ.get("LD_LIBRARY_PATH", "")))
    root = Path(extensions_root) if extensions_root else None
    examination = asyncio.run(_look(settings, given, root))
    if hash_contents:
        examination = scan.complete(examination, server)
    directory = data_directory.resolve(settings.postgres.data_directory)
    report = _with_needs(examination.report, server, directory, settings)
    examination = examination._replace(report=report)
    problem, is_new = _look_at(directory, version, settings.postgres.wal_directory)
    return Examined(
        examination=examination,
        version=version,
        refusal=refusals.refusal(
            examination.report,
            settings,
            server.libraries,
            # A standby loads no library of an extension while it replays; run does not refuse it
            # either.
            ignore_inventory=_is_replaying(directory),
        ),
        directory=directory,
        problem=problem,
        is_new=is_new,
    )


def find_server(settings: Settings) -> tuple[ServerFacts, Version]:
    """Return the server that ``run`` would start, and its version.

    Raises:
        SettingsError: there is no server to look for.
        StartError: its program does not run.
    """
    server = binaries.find(
        settings.postgres.bin_directory, os.environ.get("PATH", process.DEFAULT_PATH)
    )
    version = asyncio.run(_read_version(server, process.tool_environment(os.environ)))
    return binaries.server_facts(server, version), version


def _with_needs(
    report: ExtensionsReport, server: ServerFacts, directory: Path, settings: Settings
) -> ExtensionsReport:
    """Return the report with what databases need by the inventory, where that can be read."""
    files = data_directory.OurFiles(directory)
    try:
        known = inventory.load(files, settings.instance.name or socket.gethostname())
    except inventory.UnusableInventoryError as error:
        # run goes on without it, too.
        print(f"instance-manager: {error}", file=sys.stderr)
        return report
    offered = offers(settings, server)
    found = inventory.findings(known, report, server, offered) if known else ()
    return report.model_copy(update={"findings": (*report.findings, *found)})


def _is_replaying(directory: Path) -> bool:
    try:
        return wal_directory.comes_from_elsewhere(directory)
    except OSError:
        return False  # why it can't be read is told by itself


async def _read_version(server: Binaries, tools: dict[str, str]) -> Version:
    with Children() as children:
        return await binaries.read_version(server, children, tools)


async def _look(settings: Settings, server: scan.Server, root: Path | None) -> Examination:
    """Look at the volumes, and have the dynamic loader asked about all that may be used."""
    begun = time.monotonic()
    look = Look(scan.look(settings, root, server.facts), settings, server)
    with Children() as children:
        tracer = Tracer(children, Path(server.facts.program), time.monotonic)
        # Without a deadline: nobody waits here for a first connection.
        examination, _ = await prove(tracer, look, math.inf, Serial())
    return scan.timed(examination, time.monotonic() - begun)


def _look_at(
    directory: Path, version: Version, wal: Path | None
) -> tuple[DataDirectoryError | None, bool]:
    """Return what is wrong with a data directory, and whether there is no cluster in it."""
    files, is_new = data_directory.OurFiles(directory), False
    try:
        # What a broken initialisation left is no cluster: a start takes it away and makes one.
        if files.marker.exists():
            is_new = True
            data_directory.require_no_data_nearby(directory)  # the rest is taken back by a start
        elif directory.exists() and not data_directory.is_empty(directory):
            before_start.require_whole(directory, version.major, wal)
        else:
            is_new = True
            data_directory.require_no_data_nearby(directory)
            lost.require_never_used(files, wal)
    except DataDirectoryError as error:
        return error, is_new
    except OSError as error:
        problem = DataDirectoryError(
            f"cannot read data directory {str(directory)!r}: {error}",
            hint=f"the way there: {data_directory.chain_of(directory)}",
        )
        return problem, is_new
    return None, is_new
