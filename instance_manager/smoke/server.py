"""A server for one test: the manager itself, as ``run`` is, with volumes and data of its own.

What it makes lies in one directory and goes with it. Nothing listens on a network but the health
listener, on the loopback interface.
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import socket
import tempfile
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from instance_manager import bundle
from instance_manager.client import Client, ClientError, Status
from instance_manager.databases.sessions import Sessions
from instance_manager.errors import Exit, UsageError
from instance_manager.health.snapshot import Target
from instance_manager.postgres import account
from instance_manager.postgres.connection import Answer, ask
from instance_manager.smoke.keeping import CONFIG, DATA
from instance_manager.supervision.states import Phase

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping

    from instance_manager.extensions.models import ExtensionsReport
    from instance_manager.smoke.keeping import Keeper
    from instance_manager.smoke.models import Request
    from instance_manager.supervision.children import Child, Children

_START_SECONDS: Final = 180.0
_NOTICE_SECONDS: Final = 10.0
"""How long a crash may take to be noticed."""
_POLL_SECONDS: Final = 0.05
_STOP_SECONDS: Final = 30.0
_ASK_SECONDS: Final = 5.0
_SHOWN_LINES: Final = 15
_SOCKET_LIMIT: Final = 107
"""Bytes of a unix socket's path (unix(7))."""
_PORT: Final = 5432
_SUPERUSER: Final = "postgres"
_KEPT: Final = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "TZ", "TMPDIR")
"""All that the manager gets of our environment: no setting of another instance."""


class NotStartedError(Exception):
    """The server did not come up; the text says why, the hint what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Place:
    """The directory of one test."""

    root: Path

    @property
    def log(self) -> Path:
        """What the manager says."""
        return self.root / "log"

    @property
    def control(self) -> Path:
        """The manager's socket."""
        return self.root / "run" / "control.sock"

    def last_lines(self) -> tuple[str, ...]:
        """Return the end of the log."""
        with suppress(OSError):
            text = self.log.read_text(encoding="utf-8", errors="replace")
            return tuple(map(_plain, text.splitlines()[-_SHOWN_LINES:]))
        return ()


class Server:
    """A running manager and its server."""

    def __init__(self, place: Place, child: Child, client: Client) -> None:
        self._place = place
        self._child = child
        self._client = client
        self._target = Target(place.control.parent, _PORT, _SUPERUSER)
        self._version = 0
        self.version = ""
        # A function, since the version is known only once the server runs.
        self.sessions = Sessions(self._target, lambda: self._version, search_path="public")

    async def started(self) -> None:
        """Wait until it accepts connections.

        Raises:
            NotStartedError: it can't.
        """
        status = await self._until_running()
        self._version = status.postgres.version_number or 0
        self.version = status.postgres.version or ""

    async def report(self) -> ExtensionsReport:
        """Return what the manager says of the volumes."""
        return await self._client.extensions()

    async def restarts(self) -> int:
        """Return how often the server ended by itself."""
        with suppress(ClientError):
            return (await self._client.status()).postgres.restarts
        return 0

    async def last_words(self) -> str:
        """Return what is known of how the server ended last."""
        with suppress(ClientError):
            last = (await self._client.status()).postgres.last_exit
            if last is not None:
                how = last.signal or f"exit code {last.exit_code}"
                return f"{last.message or last.cause} ({how})"
        return ""

    async def recovered(self, restarts: int) -> None:
        """Wait until a server that broke a session is up again, after *restarts* before that.

        Raises:
            NotStartedError: it does not come up again.
        """
        # A session may break off without a restart of the server: then there is nothing to wait
        # for.
        with suppress(TimeoutError):
            async with asyncio.timeout(_NOTICE_SECONDS):
                while await self.restarts() == restarts:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(_POLL_SECONDS)
        await self._until_running()

    async def _until_running(self) -> Status:
        try:
            async with asyncio.timeout(_START_SECONDS):
                while True:
                    status = await self._status()
                    if status is not None and await self._accepts(status):
                        return status
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise NotStartedError(f"it did not start within {_START_SECONDS:.0f} s") from None

    async def _status(self) -> Status | None:
        if self._child.status is not None:
            if self._child.status.code == Exit.SETTINGS:
                # What is to be tested can't be at fault: it changes no setting.
                told = (line.strip() for line in self._place.last_lines()[-1:])
                raise UsageError(" ".join(("cannot start a server to test in:", *told)))
            raise NotStartedError(f"the manager ended with {self._child.status}")
        with suppress(ClientError):
            return await self._client.status()
        return None

    async def _accepts(self, status: Status) -> bool:
        if status.failure is not None:
            said = "; ".join((status.failure.message, *status.failure.log))
            raise NotStartedError(said, status.failure.hint)
        if status.phase is not Phase.RUNNING:
            return False
        # The phase is the manager's view; a session is what the test needs.
        answer = await ask(self._target.socket, deadline_seconds=_ASK_SECONDS)
        return answer is Answer.ACCEPTS


@asynccontextmanager
async def running(
    children: Children, place: Place, volumes: Mapping[str, Path], request: Request
) -> AsyncGenerator[Server]:
    """Yield a server with these volumes; it need not be up yet, and is gone afterwards.

    Raises:
        UsageError: the account that it runs as can't get to a volume.
    """
    _write(place, volumes, request)
    # A file and no pipe: nobody reads while the test waits, and a full pipe would stop the
    # manager.
    output = os.open(place.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        config = place.root / CONFIG
        child = children.spawn(
            "manager",
            (*bundle.command(), "--config", config, "run"),
            environment={name: os.environ[name] for name in _KEPT if name in os.environ},
            streams=(None, output, output),
        )
    finally:
        # The child has it; here it would be held open for nothing.
        os.close(output)
    try:
        async with Client.unix(place.control) as client:
            yield Server(place, child, client)
    finally:
        await children.end(child, _STOP_SECONDS)


@contextmanager
def make_place(request: Request, keeper: Keeper) -> Generator[Place]:
    """Yield a directory that belongs to whom the server runs as.

    Raises:
        SettingsError: there is no such account.
        UsageError: the directory for temporary files can't be used.
    """
    owner = account.find(request.run_as) if os.geteuid() == 0 else None
    root = Path(tempfile.mkdtemp(prefix="im-"))
    try:
        # From the moment it exists: a kill comes without a finally.
        with keeper.keeps(root):
            yield _prepared(root, owner)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _prepared(root: Path, owner: account.Account | None) -> Place:
    """Return a directory that the account can use."""
    place = Place(root)
    # bind(2) would fail later, in the words of another program.
    if len(os.fsencode(place.control)) > _SOCKET_LIMIT:
        raise UsageError(
            f"cannot make a socket in {str(root)!r}: the path is too long",
            hint="set TMPDIR to a directory with a short path, such as /tmp",
        )
    place.control.parent.mkdir()
    (root / "extensions").mkdir()
    if owner is not None:
        closed = account.unreachable(owner, [root])
        if closed:
            raise UsageError(
                f"cannot run a server as {owner}: it can't get through {closed[0]}",
                hint="set TMPDIR to a directory that everybody may enter, such as /tmp",
            )
        for directory in (root, place.control.parent):
            os.chown(directory, owner.uid, owner.gid)
    return place


def _write(place: Place, volumes: Mapping[str, Path], request: Request) -> None:
    root = place.root / "extensions"
    for name, directory in volumes.items():
        # A link is a volume, too, and nothing has to be copied.
        (root / name).symlink_to(directory)
    if os.geteuid() == 0:
        owner = account.find(request.run_as)
        # What is asked for lies in the directory itself.
        closed = account.unreachable(owner, [each / "x" for each in volumes.values()])
        if closed:
            raise UsageError(
                f"cannot run a server as {owner}: it can't get through {closed[0]}",
                hint="move the volume to where everybody may enter, or test as that user",
            )
    # JSON is YAML, too.
    config = place.root / CONFIG
    config.write_text(json.dumps(_settings(place, list(volumes), request)), encoding="utf-8")
    config.chmod(0o644)


def _settings(place: Place, volumes: list[str], request: Request) -> dict[str, object]:
    postgres: dict[str, object] = {
        "data_directory": str(place.root / DATA),
        "socket_directory": str(place.control.parent),
        # A test must not be met by others, nor by another test on the same port.
        "listen_addresses": "",
        "port": _PORT,
        "run_as": request.run_as,
        # What it holds is thrown away.
        "parameters": {"fsync": "off", **dict(request.parameters)},
    }
    if request.bin_directory is not None:
        postgres["bin_directory"] = str(request.bin_directory)
    if os.geteuid() == 0:
        # The superuser's login goes by the name of the account that asks.
        postgres["ident"] = [f"instance_manager {pwd.getpwuid(0).pw_name} {_SUPERUSER}"]
    return {
        "instance": {"name": "smoke-test"},
        # The reason of a failed start is asked for over the socket, which ends with the manager.
        "failure": "stay",
        "postgres": postgres,
        "bootstrap": {"superuser": _SUPERUSER, "init_directory": str(place.root / "no-scripts")},
        "extensions": {
            "root": str(place.root / "extensions"),
            "volumes": [{"name": name} for name in volumes],
        },
        # Nothing in this server is worth a slow end.
        "shutdown": {"fast_seconds": 5, "immediate_seconds": 5},
        "health": {"listen": f"127.0.0.1:{_free_port()}"},
        "control": {"socket": str(place.control), "listen": None},
        "log": {"format": "json"},
    }


def _plain(line: str) -> str:
    """Return what a line of the log says, without when and where."""
    try:
        entry: object = json.loads(line)
    except ValueError:
        return line
    if not isinstance(entry, dict):
        return line
    fields = cast("dict[str, object]", entry)
    return f"{fields.get('level', '')}: {fields.get('message', line)}"


def _free_port() -> int:
    with socket.socket() as probe:
        # The kernel chooses one that is free; it may be taken again before it is used.
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
