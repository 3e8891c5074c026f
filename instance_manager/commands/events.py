"""``events``: what happened to the instance, newest last; with ``--follow``, for ever."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING

from instance_manager.api.models import StreamNotice
from instance_manager.client import Client
from instance_manager.commands import loading
from instance_manager.commands.text import printable
from instance_manager.errors import Exit

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from instance_manager.api.models import Event


def run(options: argparse.Namespace) -> int:
    """Print the events; one line each, as text or as JSON."""
    socket = loading.control_socket(options)
    is_json = options.output == "json"
    asyncio.run(_follow(socket, is_json) if options.follow else _list(socket, is_json))
    return Exit.DONE


async def _list(socket: Path, is_json: bool) -> None:
    async with Client.unix(socket) as client:
        for event in await client.events():
            _say(event, is_json)


async def _follow(socket: Path, is_json: bool) -> None:
    async with Client.unix(socket) as client, aclosing(client.follow_events()) as stream:
        async for one in stream:
            if isinstance(one, StreamNotice):
                # Not among the events: who reads them from a pipe would take it for one.
                print(f"instance-manager: {one.reason}", file=sys.stderr, flush=True)
            else:
                # At once: whoever reads a pipe waits for it.
                _say(one, is_json)
                sys.stdout.flush()


def _say(event: Event, is_json: bool) -> None:
    print(event.model_dump_json() if is_json else describe(event))


def describe(event: Event) -> str:
    """Return the line that people read."""
    by = "" if event.actor == "manager" else f" ({event.actor})"
    when = f"{event.time:%Y-%m-%d %H:%M:%S}Z"
    return printable(f"{when} {event.type:<7} {event.reason}: {event.message}{by}")
