"""Making a new cluster: initdb, roles and database, the user's scripts; then moving it in.

A server that must run meanwhile listens on a socket in a private directory only. Nobody can reach
the cluster before it is whole. How a kill in the middle is survived: :mod:`.marker`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from instance_manager.errors import (
    DataDirectoryError,
    DiskSpaceError,
    Problem,
    SettingsError,
    StartError,
)
from instance_manager.log import get_logger
from instance_manager.postgres import control_data, init_scripts, instance_state, marker, roles
from instance_manager.postgres.connection import Answer, ask
from instance_manager.settings.secrets import read_secret
from instance_manager.supervision.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from instance_manager.postgres.binaries import Binaries
    from instance_manager.postgres.data_directory import OurFiles
    from instance_manager.settings.models import BootstrapSettings
    from instance_manager.supervision.children import Child, Children, Completed, ExitStatus
    from instance_manager.supervision.threads import Serial

_INITDB_SECONDS: Final = 1800.0
_SERVER_SECONDS: Final = 300.0
_POLL_SECONDS: Final = 0.02
_DISCARD_SECONDS: Final = 2.0
_log: Final = get_logger()


@dataclass(frozen=True, slots=True)
class Passwords:
    """The passwords of the new cluster's roles; None is a role without one."""

    superuser: str | None
    owner: str | None


def passwords_of(settings: BootstrapSettings) -> Passwords:
    """Return the passwords that the settings give, from files where they name some.

    Raises:
        SettingsError: a file can't be read, or initdb would cut the password.
    """
    superuser = settings.superuser_password
    if settings.superuser_password_file is not None:
        superuser = read_secret(
            settings.superuser_password_file, "bootstrap.superuser_password_file"
        )
    owner = None
    if settings.owner_password_file is not None:
        owner = read_secret(settings.owner_password_file, "bootstrap.owner_password_file")
    return Passwords(
        _one_line(superuser.get_secret_value()) if superuser else None,
        owner.get_secret_value() if owner else None,
    )


def _one_line(password: str) -> str:
    """Return the password; refuse what initdb would cut."""
    if "\n" in password or "\r" in password:
        path = "bootstrap.superuser_password"
        raise SettingsError([Problem(path, "cannot use the password: it must be one line")])
    return password


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """All that making a cluster needs.

    *environment* is the tools' own; *server_environment* and *server_parameters* are those of the
    server that runs the scripts, so that they can use the extension volumes.
    """

    files: OurFiles
    binaries: Binaries
    settings: BootstrapSettings
    wal_directory: Path | None
    runtime_directory: Path
    environment: Mapping[str, str]
    server_environment: Mapping[str, str]
    server_parameters: Mapping[str, str]
    passwords: Passwords
    instance: str
    """The instance's name, kept beside the data."""
    lock: int
    """The data directory's lock: whoever works in it keeps it locked, a server above all."""


async def make_cluster(
    children: Children, plan: Bootstrap, progress: Callable[[str], None], files_turn: Serial
) -> None:
    """Make a whole new cluster in the data directory, which is empty.

    *progress* is called with each step's name. Cancelled, it ends what it started; what is left
    on disk is taken back by the next start.

    Raises:
        StartError: a tool or a script failed; its own words are in the message.
        DataDirectoryError: the WAL directory isn't empty, or a file operation is refused.
    """
    try:
        # In turn: the thread of an attempt that was cancelled may still be writing there.
        begun = await files_turn.run("begin bootstrap", _begin, plan)
        progress("initdb")
        await _initdb(children, plan)
        # In a thread: the scripts may lie on storage that hangs.
        if await in_thread("find scripts", needs_server, plan):
            progress("roles, database and scripts")
            await _populate(children, plan)
        progress("syncing")
        # Neither initdb nor the server has synced anything: without this, the move could outlive
        # the files that it moves.
        await _tool(children, plan, "initdb --sync-only", ["--sync-only", "-D", _new(plan)])
        await files_turn.run("move cluster", _finish, plan, begun)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(plan, str(error)) from error
        raise DataDirectoryError(
            f"cannot make a cluster in {str(plan.files.data_directory)!r}: {error}",
            hint="the volume must be writable, and have space, for the user that runs postgres",
        ) from error


def _disk_full(plan: Bootstrap, reason: str) -> DiskSpaceError:
    return DiskSpaceError(
        f"cannot make a cluster in {str(plan.files.data_directory)!r}: {reason}",
        hint="enlarge the volume, or free space on it",
    )


def needs_server(plan: Bootstrap) -> bool:
    """Whether the new cluster gets more than initdb gives."""
    settings = plan.settings
    return bool(settings.database or settings.owner or init_scripts.find(settings.init_directory))


def _new(plan: Bootstrap) -> Path:
    return plan.files.new_cluster


def _begin(plan: Bootstrap) -> marker.Marker:
    wal = plan.wal_directory
    if wal is not None:
        wal.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Before the marker names it: what a marker names is emptied after a kill.
        if any(os.scandir(wal)):
            raise DataDirectoryError(
                f"cannot use WAL directory {str(wal)!r} for a new cluster: it isn't empty",
                hint="empty it, or set postgres.wal_directory to a subdirectory of the volume",
            )
    begun = marker.Marker(str(wal) if wal else None)
    marker.write(plan.files, begun)
    return begun


def _finish(plan: Bootstrap, begun: marker.Marker) -> None:
    identifier = str(control_data.read(_new(plan)).system_identifier)
    state = instance_state.InstanceState(identifier, plan.instance, made_here=True)
    # Before the cluster is in its place: after a kill in between nobody would know that we made
    # it, and that its access rules are ours.
    instance_state.write(plan.files.instance, state)
    marker.move_up(plan.files, begun)


async def _initdb(children: Children, plan: Bootstrap) -> None:
    options: list[str | Path] = [
        "-D",
        _new(plan),
        "--username",
        plan.settings.superuser,
        # Synced once, at the end, with all that comes after.
        "--no-sync",
        "--no-instructions",
        "--encoding=UTF8",
        # So the manager logs in by its user id, and needs no password of its own.
        "--auth-local=peer",
        "--auth-host=scram-sha-256",
    ]
    if plan.wal_directory is not None:
        options += ["--waldir", plan.wal_directory]
    # Last: of an option that is given twice, the later one counts.
    options += plan.settings.initdb_arguments
    if plan.passwords.superuser is None:
        await _tool(children, plan, "initdb", options)
        return
    # On standard input, so that the password is in no file, argument or environment.
    with _as_file(plan.passwords.superuser) as descriptor:
        await _tool(children, plan, "initdb", [*options, "--pwfile=/dev/stdin"], descriptor)


class _as_file:  # noqa: N801 - reads as the verb that it is
    """A text as a descriptor to read from, in memory only."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __enter__(self) -> int:
        self._descriptor = os.memfd_create("password", os.MFD_CLOEXEC)
        os.write(self._descriptor, f"{self._text}\n".encode())
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


async def _tool(
    children: Children,
    plan: Bootstrap,
    name: str,
    options: list[str | Path],
    stdin: int | None = None,
) -> Completed:
    done = await children.run(
        name,
        [plan.binaries.initdb, *options],
        # Its messages in English, since they are read here; gettext asks LANGUAGE first, and the
        # locale of the cluster, which comes from LANG and LC_*, stays what it is.
        environment={**plan.environment, "LANGUAGE": "en"},
        deadline_seconds=_INITDB_SECONDS,
        stdin=stdin,
        # With the lock it is found, and ended, by the next start if this manager is killed.
        inherit=(plan.lock,),
    )
    for line in done.output.splitlines():
        if line.strip():
            _log.debug(line.strip(), logger="initdb")
    if not done.status.is_success:
        said = (done.errors or done.output).strip()
        # By its words only: initdb ends with 1 whatever is wrong.
        if os.strerror(errno.ENOSPC) in said:
            raise _disk_full(plan, os.strerror(errno.ENOSPC))
        raise StartError(
            f"cannot make a cluster: {name} ended with {done.status}: {said}",
            hint="see bootstrap.initdb_arguments and postgres.wal_directory",
        )
    return done


async def _populate(children: Children, plan: Bootstrap) -> None:
    async with _temporary_server(children, plan) as socket_directory:
        connection = roles.Target(socket_directory, plan.settings.superuser)
        database = await roles.create(connection, plan.settings, plan.passwords.owner)
        await init_scripts.run_all(
            children,
            init_scripts.Scripts(
                directory=plan.settings.init_directory,
                psql=plan.binaries.psql,
                environment=plan.environment,
                socket_directory=socket_directory,
                superuser=plan.settings.superuser,
                database=database,
                lock=plan.lock,
            ),
        )


@asynccontextmanager
async def _temporary_server(children: Children, plan: Bootstrap) -> AsyncGenerator[Path]:
    """Run a server on the new cluster that only this user can reach; yield its socket's place."""
    with tempfile.TemporaryDirectory(prefix="bootstrap-", dir=plan.runtime_directory) as name:
        directory = Path(name)
        hba = directory / "pg_hba.conf"
        # The directory is 0700: whoever gets through it is this user already.
        hba.write_text("local all all trust\n", encoding="utf-8")
        parameters = {
            **plan.server_parameters,
            "listen_addresses": "",
            "unix_socket_directories": str(directory),
            "port": str(roles.PORT),
            "hba_file": str(hba),
            # What it says is to come into the file below, from which a failure is told.
            "logging_collector": "off",
            "log_destination": "stderr",
            # A crash throws this cluster away in any case, and all of it is synced at the end.
            "fsync": "off",
        }
        options = [f"--{name}={value}" for name, value in parameters.items()]
        log = os.open(directory / "log", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            server = children.spawn(
                "bootstrap postgres",
                [plan.binaries.postgres, "-D", _new(plan), *options],
                environment=plan.server_environment,
                streams=(None, log, log),
                inherit=(plan.lock,),
            )
            try:
                await _until_ready(server, directory, log)
                yield directory
                status = await _stop(children, server)
            # A cancellation, too: no server outlives its bootstrap.
            except BaseException:
                # What this server did is thrown away: it need not end well, only soon.
                server.signal(signal.SIGQUIT)
                await children.end(server, _DISCARD_SECONDS)
                raise
        finally:
            os.close(log)
        if not status.is_success:
            raise StartError(f"cannot make a cluster: its server ended with {status}")


async def _stop(children: Children, server: Child) -> ExitStatus:
    # Fast and not immediate: after its checkpoint the new cluster needs no recovery.
    server.signal(signal.SIGINT)
    try:
        async with asyncio.timeout(_SERVER_SECONDS):
            return await server.wait()
    except TimeoutError:
        return await children.end(server)


async def _until_ready(server: Child, directory: Path, log: int) -> None:
    path = directory / f".s.PGSQL.{roles.PORT}"
    async with asyncio.timeout(_SERVER_SECONDS):
        while await ask(path, deadline_seconds=1.0) is not Answer.ACCEPTS:
            if server.status is not None:
                said = os.pread(log, 4096, 0).decode("utf-8", "replace").strip()
                raise StartError(f"cannot make a cluster: its server ended: {said}")
            await asyncio.sleep(_POLL_SECONDS)
