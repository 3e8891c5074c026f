"""The file in which the kubelet looks for the cause of a container's end, where it is there.

It tells the present: what has passed is cleared away. Nothing comes of it if it can't be written:
the exit code counts more. Source: Kubernetes, ``terminationMessagePath`` of a container.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from instance_manager.errors import InstanceManagerError

_PATH: Final = "/dev/termination-log"
_LIMIT_BYTES: Final = 4096
"""As much as the kubelet reads."""


def write(error: InstanceManagerError, said: tuple[str, ...] = ()) -> None:
    """Write the cause, and of *said*, the postmaster's last lines, those that have room."""
    cause = f"exit code {error.exit_code}: {error.message}\n{error.hint}\n"
    text, tail = cause.encode(errors="replace"), b""
    # From the end: the last lines are nearest to the cause, and the cause itself comes first.
    for line in reversed(said):
        longer = f"{line}\n".encode(errors="replace") + tail
        if len(text) + len(longer) > _LIMIT_BYTES:
            break
        tail = longer
    _replace(text + tail)


def clear() -> None:
    """Leave nothing in it: all is well, or as somebody asked for."""
    _replace(b"")


def _replace(text: bytes) -> None:
    with contextlib.suppress(OSError):
        # Without O_CREAT: outside Kubernetes nothing is to appear in /dev.
        descriptor = os.open(_PATH, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            os.write(descriptor, text[:_LIMIT_BYTES])
        finally:
            os.close(descriptor)
