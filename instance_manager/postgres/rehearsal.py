"""A start tried out: the server loads its configuration and its preload libraries, and ends.

``postgres -C shared_memory_size`` does all that a start does up to the shared memory, the
initialisation of preload libraries too. It is done on a stage, a directory that looks like the
data directory to the server but is none: so it works beside a server that runs, and touches
neither its files nor its memory nor its sockets. What can fail there are the configuration, the
libraries and the server's own program, and nothing else. Source: PostmasterMain, postmaster.c.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from instance_manager.configuration.parameters import TAKEN_FROM_AUTO_CONF
from instance_manager.configuration.writing import take_out_auto_entries
from instance_manager.errors import DataDirectoryDamagedError
from instance_manager.postgres import control_data, data_directory, process
from instance_manager.postgres.endings import LastWords, classify, said_on_stderr

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from instance_manager.postgres.binaries import Binaries
    from instance_manager.supervision.children import Children, Completed
    from instance_manager.supervision.endings import Ending
    from instance_manager.supervision.threads import Serial

_DEADLINE_SECONDS: Final = 60.0
_TRIES: Final = 5
_STRIKE_SECONDS: Final = 1.0
_AUTO_CONF: Final = "postgresql.auto.conf"
_SERVERS_OWN: Final = frozenset(
    {
        *("base", "global", "current_logfiles", "postmaster.pid", "postmaster.opts"),
        *(data_directory.OUR_DIRECTORY, data_directory.VERSION_FILE, _AUTO_CONF),
    }
)
"""What the stage has of its own, or not at all, beside all that begins with ``pg_``."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What is tried: the start in *data_directory* with *configuration*, the text of our file.

    *stage* is a path of our own where nothing else is; *environment* is the server's.
    """

    binaries: Binaries
    data_directory: Path
    stage: Path
    configuration: str
    environment: Mapping[str, str]


async def rehearse(children: Children, rehearsal: Rehearsal, turn: Serial) -> Ending | None:
    """Try the start; return why it failed, or None where it did not.

    *turn* keeps the work on files of one manager in order.

    Raises:
        OSError: the stage can't be set.
        DataDirectoryError: the data directory can't be read.
        StartError: the program can't be executed.
        UnresponsiveError: it did not end in time.
    """
    try:
        await turn.run("rehearsal", _set_stage, rehearsal)
        done = await children.run(
            "a trial of the start",
            [
                *process.arguments(rehearsal.binaries, rehearsal.stage),
                # The user's own file may name another directory: no file outdoes this.
                *("-c", f"data_directory={rehearsal.stage}"),
                *("-C", "shared_memory_size"),
            ],
            environment=rehearsal.environment,
            deadline_seconds=_DEADLINE_SECONDS,
        )
    finally:
        # The next one strikes what is left; storage that hangs must not hold up who gave this up.
        striking = asyncio.create_task(turn.run("rehearsal", _strike, rehearsal.stage))
        await asyncio.wait({striking}, timeout=_STRIKE_SECONDS)
    return None if done.status.is_success else _why(done)


def _why(done: Completed) -> Ending:
    said = tuple(filter(None, map(said_on_stderr, done.errors.splitlines())))
    return classify(done.status, LastWords(own=said), memory_ran_out=False)


def _strike(stage: Path) -> None:
    shutil.rmtree(stage, ignore_errors=True)


def _set_stage(rehearsal: Rehearsal) -> None:
    stage, directory = rehearsal.stage, rehearsal.data_directory
    # What a killed manager left behind.
    _strike(stage)
    for made in (stage, stage / "global", stage / data_directory.OUR_DIRECTORY):
        made.mkdir(mode=0o700)
    for path in _configuration_of(directory):
        # The server finds what a file includes beside the link, not beside the file.
        (stage / path.name).symlink_to(path)
    for name in (data_directory.VERSION_FILE, _AUTO_CONF):
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(directory / name, stage / name)
    take_out_auto_entries(stage, TAKEN_FROM_AUTO_CONF, "rehearsal")
    _copy_control_data(directory, stage)
    files = data_directory.OurFiles(stage)
    files.configuration.write_text(
        rehearsal.configuration, encoding="utf-8", errors="surrogateescape"
    )


def _configuration_of(directory: Path) -> Iterator[Path]:
    """Yield what users may have put beside the server's own: configuration, certificates."""
    for path in directory.iterdir():
        if path.name not in _SERVERS_OWN and not path.name.startswith("pg_"):
            yield path


def _copy_control_data(directory: Path, stage: Path) -> None:
    """Copy the control file of a server that may be writing it: until its checksum fits."""
    for _ in range(_TRIES):
        shutil.copyfile(directory / control_data.FILE_NAME, stage / control_data.FILE_NAME)
        with contextlib.suppress(DataDirectoryDamagedError):
            control_data.read(stage)
            return
    control_data.read(directory)
