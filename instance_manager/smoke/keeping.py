"""What a test leaves where it is killed: a process of its own ends the server and clears it away.

It is forked before anything else is done, so it needs no program; it learns of the test's end by
a pipe that only the test can write to, and sits in a session of its own, out of reach of what a
terminal sends. Nothing but a kill of all of them, or of the container, comes before it.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

CONFIG: Final = "config.yaml"
"""The name of the manager's settings in the directory of a test: it stands in its command line."""
DATA: Final = "data"
"""The name of the data directory there, in which processes of the server work."""

# What a terminal or its end sends to a group of processes; a closed pipe must not end it either.
_DEAF: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)
_BEGUN: Final = b"+"
_GRACE_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.05
_READ_BYTES: Final = 1 << 16


class Keeper:
    """Who clears up; it is told of each directory."""

    def __init__(self, writing: int) -> None:
        self._writing = writing

    @contextmanager
    def keeps(self, root: Path) -> Generator[None]:
        """Have a directory cleared away if this process ends in here."""
        # Before anything is made in there, so that no moment is without somebody who clears up. A
        # write of less than PIPE_BUF is not split (pipe(7)).
        os.write(self._writing, _BEGUN + os.fsencode(root) + b"\0")
        yield
        # It is broken where somebody ended the keeper, too.
        with suppress(BrokenPipeError):
            os.write(self._writing, b"-" + os.fsencode(root) + b"\0")


@contextmanager
def keeping() -> Generator[Keeper]:
    """Yield a keeper; for a process with one thread, before its event loop runs."""
    # Closed on exec: a program that the test starts would hold the pipe open beyond its end.
    reading, writing = os.pipe2(os.O_CLOEXEC)
    keeper = os.fork()
    # A child of fork(2) has the calling thread alone: a lock that another one held would stay
    # locked.
    if keeper == 0:
        os.close(writing)
        _keep(reading)
    os.close(reading)
    try:
        yield Keeper(writing)
    finally:
        os.close(writing)
        # Somebody else may have reaped it: the spawner waits for all children.
        with suppress(ChildProcessError):
            os.waitpid(keeper, 0)


def _keep(reading: int) -> NoReturn:
    try:
        for number in _DEAF:
            signal.signal(number, signal.SIG_IGN)
        # Out of the terminal's foreground group, which an interrupt is sent to.
        os.setsid()
        # Whoever reads what the test says is not to wait for us.
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        for root in _left(reading):
            _clear(root)
    finally:
        # Nothing of what the test would do at its end.
        os._exit(0)


def _left(reading: int) -> list[Path]:
    """Return the directories that are left when nobody can write any more."""
    said = b""
    # The end of the pipe comes when the last writer is gone, however it ended.
    while part := os.read(reading, _READ_BYTES):
        said += part
    left: dict[bytes, None] = {}
    for entry in said.split(b"\0"):
        if entry.startswith(_BEGUN):
            left[entry[1:]] = None
        else:
            left.pop(entry[1:], None)
    return [Path(os.fsdecode(each)) for each in left]


def _clear(root: Path) -> None:
    """End the manager and the server of a test, and remove its directory."""
    # Process numbers are not kept, since the kernel gives them again: what is meant is known by
    # what it does.
    config, data = os.fsencode(root / CONFIG), str(root / DATA)

    def is_manager(entry: Path) -> bool:
        return config in _arguments(entry)

    def is_server(entry: Path) -> bool:
        return f"{_directory(entry)}/".startswith(f"{data}/")

    # The manager first, since it stops its server in order, and would start it again otherwise.
    _end(lambda: _pids(is_manager), signal.SIGTERM)
    _end(lambda: _pids(is_server), signal.SIGQUIT)
    shutil.rmtree(root, ignore_errors=True)


def _end(living: Callable[[], list[int]], number: int) -> None:
    """Send a signal to processes, and KILL to those that are still there after the grace."""
    # Asked anew each time: what was there a moment ago may have ended, and its number be
    # another's.
    for each in living():
        with suppress(OSError):
            os.kill(each, number)
    end = time.monotonic() + _GRACE_SECONDS
    while (left := living()) and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
    for each in left:
        with suppress(OSError):
            os.kill(each, signal.SIGKILL)


def _pids(is_meant: Callable[[Path], bool]) -> list[int]:
    return [int(entry.name) for entry in _processes() if is_meant(entry)]


def _processes() -> Iterator[Path]:
    me = str(os.getpid())
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != me:
            yield entry


def _arguments(entry: Path) -> list[bytes]:
    """Return the command line of a process; none where it is gone or a zombie."""
    try:
        return (entry / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def _directory(entry: Path) -> str:
    try:
        return str((entry / "cwd").readlink())
    except OSError:
        return ""
