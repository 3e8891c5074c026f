"""What the kernel says of processes: who is a postmaster, who is whose child, who uses how much.

Source: proc(5); the flags of a process are in the kernel's include/linux/sched.h.
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_FORKED_WITHOUT_EXEC: Final = 0x40
_SAMPLE_SECONDS: Final = 0.05
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Process:
    """One process as ``/proc/PID/stat`` shows it; *started* is in seconds since the boot."""

    pid: int
    command: str
    state: str
    parent: int
    flags: int
    started: float

    @property
    def was_executed(self) -> bool:
        """Whether it is a program that was started, not a fork that goes on with another's."""
        return not self.flags & _FORKED_WITHOUT_EXEC


def look(pid: int) -> Process | None:
    """Return what the kernel says of a process; None where there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The command stands in brackets, and may hold brackets and spaces itself.
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return Process(
        pid=pid,
        command=head.partition("(")[2],
        state=fields[0],
        parent=int(fields[1]),
        flags=int(fields[6]),
        started=int(fields[19]) / _TICKS,
    )


def working_in(directory: Path) -> list[Process]:
    """Return the processes whose working directory is *directory*; zombies have none."""
    found: list[Process] = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cwd").readlink() == directory and (one := look(int(entry.name))):
                found.append(one)
    return found


def postmasters(data_directory: Path) -> list[int]:
    """Return the postmasters of a data directory.

    A server that is killed leaves children behind for a moment, or for long, and those are no
    postmasters. Neither the parent nor the title tells the two apart in every moment: an orphan's
    parent is the manager, and a backend keeps the postmaster's command line until it has read its
    client's first packet. The kernel knows: the children of a postmaster are forked and never
    executed, a postmaster is executed, as ``postgres -D DIRECTORY``.
    """
    return [one.pid for one in working_in(data_directory) if is_postmaster(one)]


def is_postmaster(process: Process) -> bool:
    """Whether it was executed as a postmaster: not forked by one, nor a trial of a start.

    One that is asked for its version, or about a module, has no data directory.
    """
    if not process.was_executed or process.command != "postgres":
        return False
    arguments = arguments_of(process.pid)
    return arguments[1:2] == ["-D"] and "-C" not in arguments


def arguments_of(pid: int) -> list[str]:
    """Return the command line of a process, or its title; empty where there is none."""
    try:
        content = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return content.decode("utf-8", "replace").rstrip("\0 ").split("\0")


def titled(data_directory: Path, words: str) -> list[int]:
    """Return the server processes of a data directory whose title holds *words*."""
    return [
        one.pid for one in working_in(data_directory) if words in " ".join(arguments_of(one.pid))
    ]


def children_of(pid: int) -> list[Process]:
    """Return the children of a process, zombies too."""
    found = [look(int(entry.name)) for entry in Path("/proc").glob("[0-9]*")]
    return [one for one in found if one is not None and one.parent == pid]


def pid_inside(pid: int) -> int:
    """Return the number that a process has in its own PID namespace."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        name, _, numbers = line.partition(":")
        if name == "NSpid":
            return int(numbers.split()[-1])
    raise ProcessLookupError(pid)


def memory_bytes(pid: int) -> int:
    """Return the memory that a process has for itself: all but what it maps of files.

    Its share of those grows when another process ends that has mapped them, too.
    """
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


@dataclass
class Sampler:
    """Looks for postmasters of a data directory every 50 ms while its context lasts."""

    data_directory: Path
    samples: int = 0
    too_many: list[list[int]] = field(default_factory=list)
    """Each sample that saw more than one postmaster."""

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sampler", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_SAMPLE_SECONDS):
            found = postmasters(self.data_directory)
            self.samples += 1
            if len(found) > 1:
                self.too_many.append(found)

    def verify(self) -> None:
        """Fail if there ever was a second postmaster, or nobody looked."""
        assert self.samples, "the sampler never looked"
        assert not self.too_many, f"more than one postmaster at once: {self.too_many}"
