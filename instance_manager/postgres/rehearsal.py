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
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from instance_manager.configuration.parameters import TAKEN_FROM_AUTO_CONF
from instance_manager.configuration.rendering import values_of
from instance_manager.configuration.writing import take_out_auto_entries
from instance_manager.errors import DataDirectoryDamagedError, UnresponsiveError
from instance_manager.postgres import (
    control_data,
    data_directory,
    process,
    processes,
    shared_memory,
    socket_group,
)
from instance_manager.postgres.endings import (
    LastWords,
    classify,
    said_on_stderr,
    split_severity,
)
from instance_manager.supervision.endings import Cause, Ending
from instance_manager.supervision.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from instance_manager.postgres.binaries import Binaries
    from instance_manager.supervision.children import Children, Completed
    from instance_manager.supervision.threads import Serial

_DEADLINE_SECONDS: Final = 60.0
_TRIES: Final = 5
_STRIKE_SECONDS: Final = 1.0
_WITHOUT_LIBRARY: Final = frozenset(
    {Cause.BAD_CONFIGURATION, Cause.DISK_FULL, Cause.OUT_OF_MEMORY}
)
"""What ends a server before it comes to its libraries."""
_AUTO_CONF: Final = "postgresql.auto.conf"
_SERVERS_OWN: Final = frozenset(
    {
        *("base", "global", "current_logfiles", "postmaster.pid", "postmaster.opts"),
        *(data_directory.OUR_DIRECTORY, data_directory.VERSION_FILE, _AUTO_CONF),
        *("pg_commit_ts", "pg_dynshmem", "pg_logical", "pg_multixact", "pg_notify", "pg_replslot"),
        *("pg_serial", "pg_snapshots", "pg_stat", "pg_stat_tmp", "pg_subtrans", "pg_tblspc"),
        *("pg_twophase", "pg_wal", "pg_xact"),
    }
)
"""What the stage has of its own, or not at all; users may name their files ``pg_…``, too.

Source: the manual, "Database File Layout".
"""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What is tried: the start in *data_directory* with *configuration*, the text of our file.

    *stage* is a path of our own where nothing else is; *environment* is the server's, *libraries*
    are those that it loads at its start, in their order, *session_libraries* those that each
    session loads.
    *inherit* has the lock's descriptor, so that the process is found if its manager is killed.
    """

    binaries: Binaries
    data_directory: Path
    stage: Path
    configuration: str
    environment: Mapping[str, str]
    libraries: Sequence[str] = ()
    session_libraries: Sequence[str] = ()
    inherit: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the start would fail, and at which library, if it is known to be one."""

    ending: Ending
    library: str = ""
    is_silent: bool = False
    """Whether the server itself did not say why: it crashed, or had no end."""
    said: tuple[str, ...] = ()
    """All that it said, a message each, with the hint that follows it."""


async def rehearse(children: Children, rehearsal: Rehearsal, turn: Serial) -> Failure | None:
    """Try the start; return why it failed, or None where it did not.

    One that has no end within a minute has failed: so would the start, without a word. *turn*
    keeps the work on files of one manager in order.

    Raises:
        OSError: the stage can't be set.
        DataDirectoryError: the data directory can't be read.
        StartError: the program can't be executed.
    """
    try:
        await turn.run("rehearsal", _set_stage, rehearsal)
        return await _try_all(children, rehearsal)
    finally:
        # The next one strikes what is left; storage that hangs must not hold up who gave this up.
        striking = asyncio.create_task(turn.run("rehearsal", strike, rehearsal.stage))
        await asyncio.wait({striking}, timeout=_STRIKE_SECONDS)


async def _try_all(children: Children, rehearsal: Rehearsal) -> Failure | None:
    failure = await _try_libraries(children, rehearsal, None)
    if failure is None and rehearsal.session_libraries:
        libraries = (*rehearsal.libraries, *rehearsal.session_libraries)
        more = replace(rehearsal, libraries=libraries)
        failure = await _try_libraries(children, more, libraries)
        # What is loaded too early may refuse that, in words, and do well in sessions.
        return failure if failure and failure.is_silent else None
    return failure


async def _try_libraries(
    children: Children, rehearsal: Rehearsal, chosen: Sequence[str] | None
) -> Failure | None:
    """Try it on the stage, and find out which library is at fault."""
    try:
        failure = await _try(children, rehearsal, chosen)
    except UnresponsiveError as error:
        return _endless(error, rehearsal.libraries)
    if failure is None or failure.ending.cause in _WITHOUT_LIBRARY:
        return failure
    library = await _library_at_fault(children, rehearsal)
    if not library:
        return failure
    message = f'{failure.ending.message}, when "{library}" was loaded'
    return Failure(Ending(failure.ending.cause, message), library, failure.is_silent)


async def _try(
    children: Children, rehearsal: Rehearsal, chosen: Sequence[str] | None
) -> Failure | None:
    """Try it once: with the *chosen* libraries, or with what the configuration says."""
    own = []
    if chosen is not None:
        own = ["-c", f"shared_preload_libraries={', '.join(map(_quoted, chosen))}"]
    done = await children.run(
        "a trial of the start",
        [
            *process.arguments(rehearsal.binaries, rehearsal.stage),
            # The user's own file may name another directory: no file outdoes this.
            *("-c", f"data_directory={rehearsal.stage}"),
            *own,
            *process.TRIAL,
        ],
        environment=rehearsal.environment,
        deadline_seconds=_DEADLINE_SECONDS,
        inherit=rehearsal.inherit,
        # It owns nothing that an end could damage.
        grace_seconds=0,
    )
    return await _not_reached(done, rehearsal.configuration) if _has_passed(done) else _why(done)


async def _not_reached(done: Completed, configuration: str) -> Failure | None:
    """Judge what the start would meet later than its trial ends: its memory, its sockets."""
    # The answer is the last number: a library may write to standard output, too.
    megabytes = int(next(filter(str.isdecimal, reversed(done.output.split()))))
    values = values_of(configuration)
    # Of another size than the usual one: how many there are is not told in one place.
    is_usual = values.get("huge_page_size", "0") == "0"
    huge = values.get("huge_pages", "") if is_usual else ""
    if message := shared_memory.shortage(megabytes, huge, _read_kernel):
        return Failure(Ending(Cause.OUT_OF_MEMORY, message))
    group = values.get("unix_socket_group", "")
    if message := await in_thread("group", socket_group.problem, group) if group else "":
        return Failure(Ending(Cause.BAD_CONFIGURATION, message), said=(message,))
    return None


def _read_kernel(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text(encoding="ascii")
    return ""


def _quoted(library: str) -> str:
    escaped = library.replace('"', '""')
    return f'"{escaped}"'


def _has_passed(done: Completed) -> bool:
    """Say whether the server came to its answer, a number: a library may end it with code 0."""
    return done.status.is_success and any(map(str.isdecimal, done.output.split()))


def _why(done: Completed) -> Failure:
    lines = () if done.status.is_success else done.errors.splitlines()
    said = tuple(filter(None, map(said_on_stderr, lines)))
    ending = classify(done.status, LastWords(own=said), memory_ran_out=False)
    cause = Cause.ERROR if done.status.is_success else ending.cause
    if ending.message:
        return Failure(Ending(cause, ending.message), said=tuple(_with_hints(lines)))
    return Failure(Ending(cause, f"it ended with {done.status}"), is_silent=True)


def _with_hints(lines: Sequence[str]) -> Iterator[str]:
    """Yield each message with its hint, which follows it in a line of its own."""
    message = ""
    for line in lines:
        severity, text = split_severity(line)
        if severity == "HINT" and message:
            message = f"{message} ({text.rstrip('.')})"
        elif (said := said_on_stderr(line)) is not None and said.message:
            if message:
                yield message
            message = said.message
    if message:
        yield message


def _endless(error: UnresponsiveError, libraries: Sequence[str]) -> Failure:
    which = ", ".join(f'"{name}"' for name in libraries)
    message = f"{error.message}, with {which} to be loaded" if which else error.message
    library = libraries[0] if len(libraries) == 1 else ""
    return Failure(Ending(Cause.ERROR, message), library, is_silent=True)


async def _library_at_fault(children: Children, rehearsal: Rehearsal) -> str:
    """Return the library with which the start begins to fail.

    The server does not say which one it loads, and who crashes says nothing at all. Empty if it
    fails without any, or if one that has failed has no end now.
    """
    libraries = rehearsal.libraries
    passing, failing = -1, len(libraries)
    try:
        # Halved each time: a trial loads libraries, and may take up to its deadline.
        while failing - passing > 1:
            middle = (passing + failing) // 2
            if await _try(children, rehearsal, libraries[:middle]) is None:
                passing = middle
            else:
                failing = middle
    except UnresponsiveError:
        return ""
    return libraries[failing - 1] if failing else ""


def strike(stage: Path) -> None:
    """Take the stage away, and who is left on it: a library may have made processes. Blocks."""
    place = processes.identity_of(stage)
    if place is None:
        return
    for one in processes.others_of_mine():
        # Before the tree is removed: they could go on making files in it.
        if one.directory == place:
            one.signal(signal.SIGKILL)
    shutil.rmtree(stage, ignore_errors=True)


def _set_stage(rehearsal: Rehearsal) -> None:
    stage, directory = rehearsal.stage, rehearsal.data_directory
    # What a killed manager left behind.
    strike(stage)
    for made in (stage, stage / "global", stage / data_directory.OUR_DIRECTORY):
        # The server refuses a data directory that others than its owner may write to, or that is
        # open to more than its group (checkDataDir).
        made.mkdir(mode=0o700)
    for path in _configuration_of(directory):
        # The server finds what a file includes beside the link, not beside the file.
        (stage / path.name).symlink_to(path)
    # Copied and not linked: the stage's file is written to below, and the real one must not be.
    for name in (data_directory.VERSION_FILE, _AUTO_CONF):
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(directory / name, stage / name)
    # As the start will do in the data directory: else ALTER SYSTEM would decide the trial.
    take_out_auto_entries(stage, TAKEN_FROM_AUTO_CONF, "rehearsal")
    _copy_control_data(directory, stage)
    files = data_directory.OurFiles(stage)
    files.configuration.write_text(
        rehearsal.configuration, encoding="utf-8", errors="surrogateescape"
    )


def _configuration_of(directory: Path) -> Iterator[Path]:
    """Yield what users may have put beside the server's own: configuration, certificates."""
    for path in directory.iterdir():
        if path.name not in _SERVERS_OWN:
            yield path


def _copy_control_data(directory: Path, stage: Path) -> None:
    """Copy the control file of a server that may be writing it: until its checksum fits."""
    for _ in range(_TRIES):
        shutil.copyfile(directory / control_data.FILE_NAME, stage / control_data.FILE_NAME)
        with contextlib.suppress(DataDirectoryDamagedError):
            control_data.read(stage)
            return
    # To say what is wrong with the file itself.
    control_data.read(directory)
