"""The one owner of every child process: starts them, and alone waits for them.

As PID 1, or as a child subreaper, this process inherits every orphan. Whoever else waited for a
child beside a loop that reaps them all would now and then read a wrong status, or none. So one
module spawns and one handler waits; both run in the event loop's thread, hence a child can't be
reaped before its pid is known, and a pid that is not reaped yet can't be another process: a plain
``kill`` is as safe as a pidfd here. Sources: waitid(2), posix_spawn(3),
PR_SET_CHILD_SUBREAPER(2const).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import math
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from instance_manager.errors import StartError, UnresponsiveError
from instance_manager.supervision import signals
from instance_manager.supervision.cleanup import undisturbed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

_PR_SET_CHILD_SUBREAPER: Final = 36
_STANDARD_ERROR: Final = 2
_OUTPUT_LIMIT_BYTES: Final = 1 << 20
_DRAIN_SECONDS: Final = 0.5
"""How long output is awaited after a child's end: a grandchild may hold the pipe for ever."""
_KILL_GRACE_SECONDS: Final = 5.0
_RESET_SIGNALS: Final = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
"""An ignored signal stays ignored over exec, and Python ignores some, the manager others."""


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended: by *code*, or by *signal*; the other one is None."""

    code: int | None = None
    signal: int | None = None

    @classmethod
    def of(cls, wait_status: int) -> ExitStatus:
        """Return the meaning of a status as waitpid(2) gives it."""
        if os.WIFSIGNALED(wait_status):
            return cls(signal=os.WTERMSIG(wait_status))
        return cls(code=os.WEXITSTATUS(wait_status))

    @property
    def is_success(self) -> bool:
        """Whether the process ended with code 0."""
        return self.code == 0

    @property
    def signal_name(self) -> str | None:
        """The signal's name, or its number where it has none; None without a signal."""
        if self.signal is None:
            return None
        try:
            return signal.Signals(self.signal).name
        except ValueError:
            return str(self.signal)

    def __str__(self) -> str:
        return f"exit code {self.code}" if self.signal is None else f"signal {self.signal_name}"


@dataclass(frozen=True, slots=True)
class Completed:
    """A finished tool: its status, and what it said."""

    status: ExitStatus
    output: str
    errors: str


@dataclass(frozen=True, slots=True)
class Orphan:
    """A process that we did not start and had to reap."""

    pid: int
    command: str
    status: ExitStatus


class Child:
    """A process that we started. Await :meth:`wait` for its status; it is reaped elsewhere."""

    def __init__(self, name: str, pid: int, ended: asyncio.Future[ExitStatus]) -> None:
        self.name = name
        self.pid = pid
        self.is_to_end = False
        """Whether it is being ended, which no process of its group is to outlive."""
        self._ended = ended

    def __repr__(self) -> str:
        return f"<Child {self.name!r} pid={self.pid} status={self.status}>"

    @property
    def status(self) -> ExitStatus | None:
        """The exit status, or None while the process lives."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> ExitStatus:
        """Return the exit status once the process has ended. Any number may wait."""
        # Shielded: one waiter that is cancelled would cancel the future under all the others.
        return await asyncio.shield(self._ended)

    def signal(self, number: int) -> None:
        """Send a signal; without effect if the process has ended."""
        if not self._ended.done():
            # No error is possible: until it is reaped, a process that has ended keeps its pid as
            # a zombie.
            os.kill(self.pid, number)

    def signal_group(self, number: int) -> None:
        """Send a signal to the process group that the child leads."""
        if not self._ended.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)


class Children:
    """Starts child processes, and reaps all that end: ours and orphans.

    Use as a context manager inside a running loop, in its thread; one instance for a process.
    """

    def __init__(
        self,
        on_orphan: Callable[[Orphan], None] | None = None,
        *,
        grace_seconds: float = _KILL_GRACE_SECONDS,
    ) -> None:
        self._on_orphan = on_orphan
        self._grace_seconds = grace_seconds
        self._living: dict[int, tuple[Child, asyncio.Future[ExitStatus]]] = {}
        self._kill_at = math.inf
        self.orphans_reaped = 0

    def __enter__(self) -> Self:
        close_inherited_descriptors()
        # Before anything is started: the orphans of a child that ends early are ours, too.
        become_subreaper()
        signals.catch(signal.SIGCHLD, self._reap)
        # Children of a program that this process was before exec may have ended already.
        self._reap()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signals.release(signal.SIGCHLD)
        # Nobody reaps orphans here any more: let them go to who does.
        become_subreaper(False)

    def pids(self) -> tuple[int, ...]:
        """Return the pids of the children that live; each leads a process group."""
        return tuple(self._living)

    def spawn(
        self,
        name: str,
        arguments: Sequence[str | Path],
        *,
        environment: Mapping[str, str],
        streams: tuple[int | None, int | None, int | None] = (None, None, None),
        inherit: Sequence[int] = (),
    ) -> Child:
        """Start a program in its own process group, with a clean signal mask.

        Args:
            name: what logs call it.
            arguments: the program's absolute path, and its arguments.
            environment: all of its environment.
            streams: descriptors for its standard input, output and error; None is /dev/null.
            inherit: further descriptors that it keeps, under the same numbers.

        Raises:
            StartError: the program can't be executed.
        """
        argv = [os.fspath(argument) for argument in arguments]
        actions: list[tuple[int, int, int] | tuple[int, int, str, int, int]] = []
        for number, descriptor in enumerate(streams):
            if descriptor is None:
                # Never closed: the first file that the program opens would become its standard
                # stream.
                mode = os.O_RDONLY if number == 0 else os.O_WRONLY
                actions.append((os.POSIX_SPAWN_OPEN, number, os.devnull, mode, 0))
            else:
                actions.append((os.POSIX_SPAWN_DUP2, descriptor, number))
        # Onto itself: that clears close-on-exec in the child, and there only.
        actions += [(os.POSIX_SPAWN_DUP2, descriptor, descriptor) for descriptor in inherit]
        try:
            pid = os.posix_spawn(
                argv[0],
                argv,
                environment,
                file_actions=actions,
                # A group of its own: what the program starts in it is ended with it, by one
                # killpg(2).
                setpgroup=0,
                # A mask is inherited over exec, and the entrypoint has blocked the signals to
                # end.
                setsigmask=(),
                setsigdef=_RESET_SIGNALS,
            )
        except OSError as error:
            raise StartError(
                f"cannot start {name}: {argv[0]!r}: {error.strerror}",
                hint="check that the file exists and may be executed by this user",
            ) from error
        # Nothing is awaited since the start, so the handler of SIGCHLD finds the pid registered.
        ended = asyncio.get_running_loop().create_future()
        child = Child(name, pid, ended)
        self._living[pid] = child, ended
        return child

    async def end(self, child: Child, grace_seconds: float | None = None) -> ExitStatus:
        """End a child's whole group: TERM, and KILL after the grace, or when :meth:`hasten` says.

        However often it is cancelled, the child has ended when this returns.
        """
        # Before the signal: who reaps it kills then what is left of its group.
        child.is_to_end = True
        child.signal_group(signal.SIGTERM)
        grace = self._grace_seconds if grace_seconds is None else grace_seconds
        loop = asyncio.get_running_loop()
        kill = loop.call_at(
            # The sooner of both: a stop has one budget, whatever grace each tool would have.
            min(loop.time() + grace, self._kill_at),
            child.signal_group,
            signal.SIGKILL,
        )
        try:
            return await undisturbed(child.wait())
        finally:
            kill.cancel()

    def hasten(self, seconds: float) -> None:
        """Kill in *seconds* what is being ended by then: also what is begun to be ended later.

        The last call counts for what begins later; none prolongs a grace that has begun.
        """
        loop = asyncio.get_running_loop()
        self._kill_at = loop.time() + seconds
        for child, _ in self._living.values():
            # An infinite one only takes the limit off for what begins later.
            if child.is_to_end and seconds < math.inf:
                loop.call_at(self._kill_at, child.signal_group, signal.SIGKILL)

    async def run(  # noqa: PLR0913 - all but two are given by name
        self,
        name: str,
        arguments: Sequence[str | Path],
        *,
        environment: Mapping[str, str],
        deadline_seconds: float,
        stdin: int | None = None,
        inherit: Sequence[int] = (),
        grace_seconds: float | None = None,
    ) -> Completed:
        """Run a tool to its end and return what it said; each stream at most 1 MiB.

        Cancelled, however often, or too late, the tool's whole process group is ended before this
        returns; *grace_seconds* are as those of :meth:`end`.

        Raises:
            StartError: the program can't be executed.
            UnresponsiveError: it did not end within the deadline.
        """
        with contextlib.ExitStack() as ends:
            # Closed right after the start: while we have a writing end, the end of output never
            # comes.
            with contextlib.ExitStack() as theirs:
                output, output_end = _reading_pipe(ends, theirs)
                errors, errors_end = _reading_pipe(ends, theirs)
                child = self.spawn(
                    name,
                    arguments,
                    environment=environment,
                    streams=(stdin, output_end, errors_end),
                    inherit=inherit,
                )
            readers = [
                asyncio.create_task(read_to_end(stream), name=f"read {name}")
                for stream in (output, errors)
            ]
            try:
                async with asyncio.timeout(deadline_seconds):
                    status = await child.wait()
                await asyncio.wait(readers, timeout=_DRAIN_SECONDS)
            except TimeoutError as error:
                raise UnresponsiveError(
                    f"cannot finish {name}: no end within {deadline_seconds:g} s"
                ) from error
            finally:
                # All of it before the pipes are closed: a reader that is left would wait for
                # whatever gets the number of its pipe next.
                said = await undisturbed(self._finish(child, readers, grace_seconds))
        return Completed(status, *said)

    async def _finish(
        self, child: Child, readers: Sequence[asyncio.Task[str]], grace_seconds: float | None
    ) -> list[str]:
        """End what is left of a tool; return what its streams have carried."""
        # One that was reaped gets no signal any more: its number may be another group's by now.
        await self.end(child, grace_seconds)
        for reader in readers:
            reader.cancel()
        texts = await asyncio.gather(*readers, return_exceptions=True)
        return [text if isinstance(text, str) else "" for text in texts]

    def _reap(self) -> None:
        # SIGCHLDs coalesce: go on until nothing is left. WNOWAIT first, so that the command of an
        # orphan can be read while its /proc entry is still there.
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            ours = self._living.pop(ended.si_pid, None)
            command = "" if ours else command_of(ended.si_pid)
            if ours is not None and ours[0].is_to_end:
                # Before it is reaped: until then its number can't be another group's.
                ours[0].signal_group(signal.SIGKILL)
            status = ExitStatus.of(os.waitpid(ended.si_pid, 0)[1])
            if ours is None:
                self._report(Orphan(ended.si_pid, command, status))
            elif not ours[1].done():
                ours[1].set_result(status)

    def _report(self, orphan: Orphan) -> None:
        self.orphans_reaped += 1
        if self._on_orphan is not None:
            self._on_orphan(orphan)


def become_subreaper(wanted: bool = True) -> None:
    """Make orphaned descendants children of this process: as PID 1 that is so anyway.

    Needed where another process is PID 1, as in a pod with a shared process namespace.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0)


def close_inherited_descriptors() -> None:
    """Make sure that no descriptor which somebody left open for us reaches a child."""
    for entry in Path("/proc/self/fd").iterdir():
        descriptor = int(entry.name)
        if descriptor > _STANDARD_ERROR:
            # The listing's own descriptor is gone by now.
            with contextlib.suppress(OSError):
                os.set_inheritable(descriptor, False)


def command_of(pid: int) -> str:
    """Return the command name of a process, or a question mark if it can't be told."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "?"


async def read_to_end(descriptor: int, limit_bytes: int = _OUTPUT_LIMIT_BYTES) -> str:
    """Return what a non-blocking pipe carries up to its end; what passes the limit is dropped.

    Cancelled, it returns what came until then: a tool's last words matter most when it hangs.
    """
    loop = asyncio.get_running_loop()
    finished = loop.create_future()
    parts = bytearray()

    def readable() -> None:
        try:
            # As much as a pipe holds by default, pipe(7).
            part = os.read(descriptor, 65536)
        except BlockingIOError:
            return
        # Read on beyond the limit: a tool would wait for ever for room in a pipe that is full.
        parts.extend(part[: max(0, limit_bytes - len(parts))])
        if not part and not finished.done():
            finished.set_result(None)

    loop.add_reader(descriptor, readable)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await finished
    finally:
        loop.remove_reader(descriptor)
    return parts.decode("utf-8", "replace")


def _reading_pipe(ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[int, int]:
    """Return a pipe's reading end, non-blocking and closed with *ours*, and its writing end."""
    # Close-on-exec: another child that is started meanwhile would keep the pipe open.
    reading, writing = os.pipe2(os.O_CLOEXEC)
    # This end only, which has a flag of its own: the tool's writes block, as tools expect.
    os.set_blocking(reading, False)
    ours.callback(os.close, reading)
    theirs.callback(os.close, writing)
    return reading, writing
