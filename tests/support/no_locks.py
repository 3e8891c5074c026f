"""``no_locks.py ARGUMENT…``: the program, with a data directory that can't be locked.

From the moment when the program opens the lock of its data directory, a filter in the kernel
answers flock(2) and the record locks of fcntl(2) with ENOLCK, as a network file system without its
lock server does: for all its threads, and for all that it starts. The lock of its control socket,
which lies elsewhere, is taken before. Sources: seccomp(2), linux/filter.h, linux/audit.h.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import runpy
import struct
import sys
from pathlib import Path

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER = 1
_ALL_THREADS = 1
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER_AT, _MACHINE_AT, _SECOND_ARGUMENT_AT = 0, 4, 24
_MACHINES = {"x86_64": (0xC000003E, 73, 72, 317), "aarch64": (0xC00000B7, 32, 25, 277)}
"""Of each machine: its name in the kernel's audit, the numbers of flock, fcntl and seccomp."""
_LOCK = "/instance-manager/lock"


class _Program(ctypes.Structure):
    """A ``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _filter() -> list[tuple[int, int, int, int]]:
    """Return the instructions: code, jumps if true and if false, operand."""
    machine, flock, fcntl_number, _ = _MACHINES[platform.machine()]
    return [
        (_LOAD, 0, 0, _MACHINE_AT),
        (_EQUAL, 0, 6, machine),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_EQUAL, 5, 0, flock),
        (_EQUAL, 0, 3, fcntl_number),
        (_LOAD, 0, 0, _SECOND_ARGUMENT_AT),
        (_EQUAL, 2, 0, fcntl.F_SETLK),
        (_EQUAL, 1, 0, fcntl.F_SETLKW),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | errno.ENOLCK),
    ]


def forbid_locks() -> None:
    """Let no lock be had any more in this process and in all that it starts."""
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in _filter())
    program = _Program(len(code) // 8, code)
    library = ctypes.CDLL(None, use_errno=True)
    seccomp = _MACHINES[platform.machine()][3]
    # An unprivileged process may filter what it gives up for good.
    if library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or library.syscall(
        seccomp, _SET_MODE_FILTER, _ALL_THREADS, ctypes.byref(program)
    ):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class _Watch:
    """An audit hook that forbids locks when the data directory's lock is opened first."""

    def __init__(self) -> None:
        self._has_happened = False

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and not self._has_happened and str(arguments[0]).endswith(_LOCK):
            self._has_happened = True
            forbid_locks()


if __name__ == "__main__":
    sys.addaudithook(_Watch())
    # As `python -m` has it, not the directory of this file.
    sys.path[0] = str(Path.cwd())
    runpy.run_module("instance_manager", run_name="__main__", alter_sys=True)
