"""``start``, ``stop``, ``fence`` and the like: the control API from a shell.

Waits until the operation has finished and says what it does meanwhile. Exit code 0 where it
succeeded, 9 where another operation or the state of the instance is in the way, 130 where Ctrl-C
ended the wait, else 1.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING, Final

from instance_manager.client import Client
from instance_manager.commands import failures, loading
from instance_manager.commands.going_on import Place, doing, lines_about, lost_lines, unknown_lines
from instance_manager.commands.progress import Waiting
from instance_manager.commands.text import printable
from instance_manager.errors import ErrorCode, Exit, InstanceManagerError
from instance_manager.supervision.operations import OperationState

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from instance_manager.api.models import Operation

_ASK_SECONDS: Final = 1.0
"""How often progress is asked for."""
_INTERRUPTED: Final = 128 + signal.SIGINT
_PLAIN: Final = {
    "reload": Client.reload,
    "checkpoint": Client.checkpoint,
    "unfence": Client.unfence,
}
_WITH_MODE: Final = {"stop": Client.stop, "restart": Client.restart, "fence": Client.fence}


def run(options: argparse.Namespace) -> int:
    """Ask for the operation and wait for its end."""
    is_overridden = any(one.startswith("control.socket=") for one in options.set)
    place = Place(loading.control_socket(options), options.config, is_overridden)
    errand = _Errand(options, place)
    try:
        operation = asyncio.run(errand.done())
    except KeyboardInterrupt:
        return errand.interrupted()
    except InstanceManagerError:
        if errand.operation is not None:
            # The error itself is told by whom it reaches.
            _warn(lost_lines(errand.operation, place))
        raise
    return errand.ended(operation)


class _Errand:
    """One operation that a command asks for, and what is known of it."""

    def __init__(self, options: argparse.Namespace, place: Place) -> None:
        self._options = options
        self._place = place
        self.operation: Operation | None = None
        """As the manager told it last; None before it has told anything."""

    async def done(self) -> Operation:
        """Ask for the operation, and return it finished, or as it is when the time is up."""
        clock = asyncio.get_running_loop().time
        # From before the request: a manager that is slow to answer takes from the same time.
        end = clock() + self._options.timeout
        waiting = Waiting(self._options.command, sys.stderr, os.environ)
        async with Client.unix(self._place.socket) as client, waiting:
            # Without waiting: from its answer on it can be said which operation goes on.
            operation = self.operation = await self._begin(client)
            waiting.note(doing(operation))
            while not operation.finished and clock() < end:
                # A short wait each time: what it is at is told while it lasts.
                operation = await client.operation(operation.id, wait_seconds=_ASK_SECONDS)
                self.operation = operation
                if not operation.finished:
                    waiting.tell(doing(operation))
        return operation

    async def _begin(self, client: Client) -> Operation:
        command = self._options.command
        if command in _WITH_MODE:
            return await _WITH_MODE[command](client, mode=self._options.mode)
        if command == "start":
            return await client.start(ignore_inventory=self._options.ignore_inventory)
        return await _PLAIN[command](client)

    def interrupted(self) -> int:
        """Say that only the wait has ended, and return the exit code."""
        if self.operation is None:
            _warn(unknown_lines(self._options.command, self._place))
            answer = failures.document_of_interruption(self._options.command)
        else:
            _warn([f"{self._options.command}: no longer waited for"])
            _warn(lines_about(self.operation, self._place))
            answer = self.operation.model_dump_json(indent=2)
        if self._options.output == "json":
            print(answer)
        return _INTERRUPTED

    def ended(self, operation: Operation) -> int:
        """Print how it ended, or that it has not, and return the exit code."""
        if self._options.output == "json":
            print(operation.model_dump_json(indent=2))
        if not operation.finished:
            _warn([f"{operation.kind}: {operation.state}: not done within {self._timeout} s"])
            _warn(lines_about(operation, self._place))
        elif operation.state is not OperationState.SUCCEEDED:
            _warn(_failure_lines(operation))
        elif self._options.output != "json":
            print(f"{operation.kind}: done")
        return exit_code_of(operation)

    @property
    def _timeout(self) -> str:
        return f"{self._options.timeout:g}"


def exit_code_of(operation: Operation) -> int:
    """Return the exit code for the way in which an operation ended, or did not."""
    if operation.state is OperationState.SUCCEEDED:
        return Exit.DONE
    # A refusal is the same whether the request met it or the operation that it began.
    is_conflict = operation.error is not None and operation.error.code == ErrorCode.CONFLICT
    return Exit.CONFLICT if is_conflict else Exit.FAILED


def _failure_lines(operation: Operation) -> Iterable[str]:
    if operation.error is None:
        # Its last step tells by whom.
        by = operation.progress.message if operation.progress else ""
        yield f"{operation.kind}: {operation.state} {by}".rstrip()
        return
    yield f"{operation.kind}: {operation.state}: {operation.error.detail}"
    if operation.error.hint:
        yield f"  {operation.error.hint}"


def _warn(lines: Iterable[str]) -> None:
    for line in lines:
        print(printable(line), file=sys.stderr)
