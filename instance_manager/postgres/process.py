"""The postmaster: how it is started, and what it is given.

It gets an environment made from an allow-list, the lock's descriptor, and a clean signal mask; it
gets no secret, no setting of the manager, and no ``NOTIFY_SOCKET``.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from instance_manager.postgres import memory
from instance_manager.postgres.endings import STRUCTURE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from instance_manager.postgres.binaries import Binaries
    from instance_manager.supervision.children import Child, Children

_PASSED_ON: Final = frozenset(
    {"HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "TMPDIR", "TZ", "TZDIR", "USER"}
)
_PASSED_ON_PREFIXES: Final = ("LC_", "MALLOC_")
_OOM_SCORE_ADJUSTMENT: Final = Path("/proc/self/oom_score_adj")
_HIGHEST_ADJUSTMENT: Final = 1000
_LARGER_THAN_US_BYTES: Final = 128 * 1024 * 1024
_COREDUMP_FILTER: Final = Path("/proc/self/coredump_filter")
_OWN_MEMORY_ONLY: Final = "0x31"
"""Private anonymous memory, huge pages too, and the headers of ELF files: no shared memory."""
TRIAL: Final = ("-C", "shared_memory_size")
"""The end of the command line of a server that only tries a start."""
DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def tool_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a tool: the allowed part of ours, and a locale that exists."""
    allowed = {
        name: value
        for name, value in inherited.items()
        if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
    }
    return {"PATH": DEFAULT_PATH, "LANG": "C.UTF-8"} | allowed


@dataclass(frozen=True, slots=True)
class Launch:
    """All that a start of the postmaster needs."""

    binaries: Binaries
    data_directory: Path
    environment: Mapping[str, str]
    lock: int


def environment_of(
    tools: Mapping[str, str], *, search_path: str, library_path: str, extra: Mapping[str, str]
) -> dict[str, str]:
    """Return the postmaster's environment: the tools', and what the volumes need."""
    environment = {
        **tools,
        **oom_adjustment(_own_oom_score_adjustment(), memory.limit_bytes()),
        **extra,
    }
    if search_path:
        environment["PATH"] = search_path
    if library_path:
        environment["LD_LIBRARY_PATH"] = library_path
    return environment


def oom_adjustment(own: int, limit_bytes: int | None) -> dict[str, str]:
    """Return what makes the kernel kill the postmaster's children first: queries make them large.

    *own* is our adjustment, which the postmaster has too; never do children get less, for they
    would be better protected. Where it is negative they give that protection up. Else, under a
    limit of the cgroup, they are given as much as makes each of them look larger than this process
    is: many sessions of middling size would cost the manager, and so the container. One point is a
    thousandth of the limit; without a limit, the host decides. Source: the manual, "Linux Memory
    Overcommit"; proc_pid_oom_score_adj(5).
    """
    if own < 0:
        value = 0
    elif limit_bytes:
        # Rounded up: with a point less they might not look larger than this process.
        value = min(_HIGHEST_ADJUSTMENT, own + -(-1000 * _LARGER_THAN_US_BYTES // limit_bytes))
    else:
        return {}
    return {"PG_OOM_ADJUST_FILE": str(_OOM_SCORE_ADJUSTMENT), "PG_OOM_ADJUST_VALUE": str(value)}


def _own_oom_score_adjustment() -> int:
    """Return our own adjustment, which children inherit; 0 where the kernel has none."""
    try:
        return int(_OOM_SCORE_ADJUSTMENT.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def keep_shared_memory_out_of_cores() -> None:
    """Let a core of this process and its children hold no shared memory, if the kernel can.

    Else the core of any backend holds all shared buffers: gigabytes on a volume made for data.
    For a start as root before root is given up. Source: core(5).
    """
    with contextlib.suppress(OSError):
        _COREDUMP_FILTER.write_text(_OWN_MEMORY_ONLY, encoding="ascii")


def environment_of_process(pid: int) -> dict[str, str]:
    """Return the environment that a process was started with; empty if it can't be read."""
    try:
        content = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (part.decode("utf-8", "replace").partition("=") for part in content.split(b"\0"))
    return {name: value for name, equals, value in pairs if equals}


def arguments(binaries: Binaries, data_directory: Path) -> list[str | Path]:
    """Return the postmaster's command line: all that is not in a file."""
    # The prefix is here so that it counts before a file is read, which may be what fails.
    return [binaries.postgres, "-D", data_directory, "-c", f"log_line_prefix={STRUCTURE}"]


def start(children: Children, launch: Launch, output: int) -> Child:
    """Start the postmaster; what it says before its log works goes to *output*.

    Raises:
        StartError: the program can't be executed.
    """
    return children.spawn(
        "postgres",
        arguments(launch.binaries, launch.data_directory),
        environment=launch.environment,
        streams=(None, output, output),
        # The output once more, under its own number: the server redirects its standard error, and
        # the pipe is to end with its last process.
        inherit=(launch.lock, output),
    )
