"""What is said of an operation that goes on: what it is at, how to look at it, and to end it.

Pure: the lines can be copied into a shell as they stand.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from instance_manager.api.models import Operation

_NO_TURN: Final = frozenset({"reload", "checkpoint"})
"""What the status does not show: it takes no turn among the operations of the lifecycle."""
_FOR_GOOD: Final = frozenset({"stop", "fence", "reload"})
"""What can't be called back; a test asks the manager."""
_TAKEN_OVER: Final = frozenset({"start", "restart", "unfence"})
"""What a stop takes over from."""


class Place(NamedTuple):
    """Where the manager is asked: its socket, and how that was named on the command line."""

    socket: Path
    config: str | None = None
    is_overridden: bool = False

    def command(self, word: str) -> str:
        """Return a command line of this program for the same manager."""
        file = ("--config", self.config) if self.config else ()
        # No other override is repeated: it may be a secret, and says nothing of the way there.
        override = ("--set", f"control.socket={self.socket}") if self.is_overridden else ()
        # Quoted, so that a path with blanks can be copied as well.
        return shlex.join(("instance-manager", *file, word, *override))

    def curl(self, path: str, *options: str) -> str:
        """Return a command line that asks the API over the same socket."""
        url = f"http://localhost{path}"
        return shlex.join(("curl", "-s", *options, "--unix-socket", str(self.socket), url))


def doing(operation: Operation) -> str:
    """Return what an operation is at, for people."""
    progress = operation.progress
    if progress is None:
        return str(operation.state)
    percent = "" if progress.percent is None else f"{progress.percent:.0f} %"
    return ": ".join(filter(None, (progress.step, progress.message, percent)))


def lines_about(operation: Operation, place: Place) -> Iterator[str]:
    """Yield the lines about an operation that goes on."""
    path = f"/v1/operations/{operation.id}"
    yield f"  the {operation.kind} goes on in the manager, as operation {operation.id}"
    if operation.kind not in _NO_TURN:
        yield f"  look:   {place.command('status')}"
    yield f"  look:   {place.curl(path)}"
    if operation.kind in _FOR_GOOD:
        yield f"  cancel: a {operation.kind} can't be called back"
    else:
        yield f"  cancel: {place.curl(path, '-X', 'DELETE')}"
    if operation.kind in _TAKEN_OVER:
        # To cancel it only ends the operation: what postgres was told is not taken back.
        yield f"  stop:   {place.command('stop')}"


def lost_lines(operation: Operation, place: Place) -> Iterator[str]:
    """Yield the lines about an operation of which the manager can't tell any more."""
    yield f"{operation.kind}: how operation {operation.id} ends is not known"
    yield f"  look:   {place.command('status')}"


def unknown_lines(command: str, place: Place) -> Iterator[str]:
    """Yield the lines about a request whose answer was not waited for."""
    yield f"{command}: no longer waited for; the manager has not answered yet"
    yield f"  whether the {command} has begun is not known; if so, it goes on in the manager"
    yield f"  look:   {place.curl('/v1/operations')}"
