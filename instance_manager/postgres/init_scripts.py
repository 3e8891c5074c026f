"""The user's initialisation scripts, as the official image knows them.

Run once, in the order of their names, on a cluster that nobody else can reach yet. ``*.sh`` that
may be executed are, others are sourced by the shell; ``*.sql``, plain or compressed by gzip, xz or
zstd, goes to psql, which stops at the first error.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import importlib
import lzma
import os
import shutil
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final

from instance_manager.errors import StartError
from instance_manager.log import get_logger
from instance_manager.postgres import roles
from instance_manager.supervision.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from pathlib import Path

    from instance_manager.supervision.children import Children

_SUFFIXES: Final = (".sh", ".sql", ".sql.gz", ".sql.xz", ".sql.zst")
_SCRIPT_SECONDS: Final = 24 * 3600.0
"""A restored dump may take hours; a stop request ends it at any time."""
_LAST_LINES: Final = 4
_log: Final = get_logger()


@dataclass(frozen=True, slots=True)
class Scripts:
    """What to run, and against which server."""

    directory: Path
    psql: Path
    environment: Mapping[str, str]
    socket_directory: Path
    superuser: str
    database: str
    lock: int
    """The data directory's lock, which a script holds for as long as it runs."""


def find(directory: Path) -> tuple[Path, ...]:
    """Return the scripts of a directory in the order of their names; none if it isn't there."""
    try:
        entries = sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except PermissionError as error:
        raise StartError(
            f"cannot read init directory {str(directory)!r}: {error.strerror}",
            hint="let the user that runs postgres read it, or set bootstrap.init_directory",
        ) from error
    return tuple(entry for entry in entries if entry.name.endswith(_SUFFIXES) and entry.is_file())


async def run_all(children: Children, scripts: Scripts) -> None:
    """Run every script.

    Raises:
        StartError: one failed; its last words are in the message.
    """
    for script in await in_thread("find scripts", find, scripts.directory):
        _log.info("running an initialisation script", script=str(script))
        await _run(children, scripts, script)


async def _run(children: Children, scripts: Scripts, script: Path) -> None:
    environment = {
        **scripts.environment,
        "PGHOST": str(scripts.socket_directory),
        "PGPORT": str(roles.PORT),
        "PGUSER": scripts.superuser,
        "PGDATABASE": scripts.database,
        # The official image's names, which scripts that were written for it use.
        "POSTGRES_USER": scripts.superuser,
        "POSTGRES_DB": scripts.database,
        # Scripts call psql by its name: the one of this server comes first.
        "PATH": f"{scripts.psql.parent}:{scripts.environment['PATH']}",
    }
    if script.suffix == ".sh":
        arguments = await in_thread("look at script", _shell_command, script)
    else:
        # By default psql goes on after an error and ends with 0; and a psqlrc can change anything.
        arguments = [str(scripts.psql), "-v", "ON_ERROR_STOP=1", "--no-psqlrc", "-q"]
    async with _reading(script) as stdin:
        done = await children.run(
            script.name,
            arguments,
            environment=environment,
            deadline_seconds=_SCRIPT_SECONDS,
            stdin=stdin,
            inherit=(scripts.lock,),
        )
    for line in (*done.output.splitlines(), *done.errors.splitlines()):
        _log.info(line, logger=script.name)
    if not done.status.is_success:
        raise StartError(
            f"cannot initialise: script {str(script)!r} ended with {done.status}:"
            f" {_last_lines(done.errors or done.output)}",
            hint="mend the script and start again: nothing of this attempt is kept",
        )


def _shell_command(script: Path) -> list[str]:
    if os.access(script, os.X_OK):
        return [str(script)]
    # Bash if it is there: the official image's entrypoint, which sources them, runs in it.
    shell = shutil.which("bash", path="/bin:/usr/bin:/usr/local/bin") or "/bin/sh"
    return [shell, "-e", "-c", '. "$0"', str(script)]


@asynccontextmanager
async def _reading(script: Path) -> AsyncGenerator[int | None]:
    """Yield a descriptor that carries the script's SQL, unpacked; None for a shell script."""
    if script.suffix == ".sh":
        yield None
        return
    reading, writing = os.pipe2(os.O_CLOEXEC)
    feeding = asyncio.create_task(
        in_thread("unpack", _feed, script, writing), name=f"unpack {script.name}"
    )
    # Asked for, so that an error which nobody waits for any more is no warning.
    feeding.add_done_callback(lambda task: task.cancelled() or task.exception())
    try:
        yield reading
    finally:
        # Closed before the thread is awaited: it may wait for a reader that is gone.
        os.close(reading)
    # Not after a failure: the thread may wait for storage that does not answer.
    await feeding


def _feed(script: Path, writing: int) -> None:
    # psql that stops at an error reads no further; its own status tells.
    with (
        contextlib.suppress(BrokenPipeError),
        open(writing, "wb") as target,
        _open(script) as source,
    ):
        shutil.copyfileobj(source, target)


def _open(script: Path) -> Any:
    match script.suffix:
        case ".gz":
            return gzip.open(script)
        case ".xz":
            return lzma.open(script)
        case ".zst":
            return _open_zstd(script)
        case _:
            return script.open("rb")


def _open_zstd(script: Path) -> IO[bytes]:
    try:
        zstd: Any = importlib.import_module("compression.zstd")
    except ImportError as error:
        raise StartError(
            f"cannot read {str(script)!r}: zstd needs Python 3.14",
            hint="use gzip or xz, or an image with Python 3.14",
        ) from error
    opened: IO[bytes] = zstd.open(script)
    return opened


def _last_lines(text: str) -> str:
    return "; ".join(text.strip().splitlines()[-_LAST_LINES:]) or "it said nothing"
