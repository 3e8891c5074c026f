"""``start``, ``stop``, ``fence`` and the like: the control API from a shell.

Waits until the operation has finished and says what it does meanwhile. Exit code 0 where it
succeeded, 9 where another operation is in the way, else 1.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Final

from instance_manager.client import Client
from instance_manager.commands import loading
from instance_manager.errors import Exit
from instance_manager.supervision.operations import OperationState

if TYPE_CHECKING:
    import argparse

    from instance_manager.api.models import Operation

_ASK_SECONDS: Final = 1.0
"""How often progress is shown."""
_PLAIN: Final = {
    "reload": Client.reload,
    "checkpoint": Client.checkpoint,
    "unfence": Client.unfence,
}
_WITH_MODE: Final = {"stop": Client.stop, "restart": Client.restart, "fence": Client.fence}


def run(options: argparse.Namespace) -> int:
    """Ask for the operation and wait for its end."""
    operation = asyncio.run(_operate(options))
    if options.output == "json":
        print(operation.model_dump_json(indent=2))
    else:
        _say(operation, options.timeout)
    return Exit.DONE if operation.state is OperationState.SUCCEEDED else Exit.FAILED


async def _operate(options: argparse.Namespace) -> Operation:
    clock = asyncio.get_running_loop().time
    end = clock() + options.timeout
    socket = loading.control_socket(options)
    async with Client.unix(socket) as client:
        operation = await _begin(client, options)
        shown = ""
        while not operation.finished and clock() < end:
            shown = _show_progress(operation, shown)
            operation = await client.operation(operation.id, wait_seconds=_ASK_SECONDS)
    return operation


async def _begin(client: Client, options: argparse.Namespace) -> Operation:
    if options.command in _WITH_MODE:
        return await _WITH_MODE[options.command](
            client, mode=options.mode, wait_seconds=_ASK_SECONDS
        )
    if options.command == "start":
        return await client.start(
            ignore_inventory=options.ignore_inventory, wait_seconds=_ASK_SECONDS
        )
    return await _PLAIN[options.command](client, wait_seconds=_ASK_SECONDS)


def _show_progress(operation: Operation, shown: str) -> str:
    """Tell people what changed since *shown*, on standard error; return what is told now."""
    progress = operation.progress
    text = f"{progress.step}: {progress.message}" if progress and progress.message else ""
    if text and text != shown:
        print(f"{operation.kind}: {text}", file=sys.stderr)
    return text or shown


def _say(operation: Operation, timeout: float) -> None:
    if operation.state is OperationState.SUCCEEDED:
        print(f"{operation.kind}: done")
        return
    reason = operation.error.detail if operation.error else f"not done within {timeout:g} s"
    print(f"{operation.kind}: {operation.state}: {reason}", file=sys.stderr)
    if operation.error is not None and operation.error.hint:
        print(f"  {operation.error.hint}", file=sys.stderr)
