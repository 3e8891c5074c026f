"""One postmaster after another without a supervisor: a program told by lines, answering in JSON.

    python startup_program.py CONFIG

It becomes the account of postgres, as the manager does, which a test's own process can't. Its log
goes to standard error. Commands: ``prepare`` checks, makes the cluster and writes what a start
needs; ``spawn`` answers with the pid; ``ended`` waits for the end and tells why; ``crashes``
answers with the sentences so far.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from contextlib import closing

from instance_manager import log
from instance_manager.commands.loading import loader
from instance_manager.health.snapshot import Observer, Target
from instance_manager.journal import Journal
from instance_manager.observability.log_pipe import PostgresLog
from instance_manager.shutdown import Shutdown
from instance_manager.startup import Startup
from instance_manager.supervision.children import Child, Children
from instance_manager.supervision.states import Event
from instance_manager.surroundings import Surroundings, survey


class Program:
    """What the commands do."""

    def __init__(self, startup: Startup, shutdown: Shutdown, postgres_log: PostgresLog) -> None:
        self.startup = startup
        self.shutdown = shutdown
        self.log = postgres_log
        self.crashes: list[str] = []
        self.postmaster: Child | None = None
        postgres_log.on_crash = self.crashes.append

    async def answer(self, command: str) -> dict[str, object]:
        match command:
            case "prepare":
                if await self.startup.prepare() is Event.DIRECTORY_EMPTY:
                    await self.startup.initialize()
                    await self.startup.prepare()
                return {}
            case "spawn":
                self.postmaster = self.startup.spawn()
                return {"pid": self.postmaster.pid}
            case "ended":
                assert self.postmaster is not None
                status = await self.postmaster.wait()
                ending = await self.shutdown.why_ended(status)
                return {
                    "status": str(status),
                    "cause": ending.cause,
                    "message": ending.message,
                    "tail": self.log.tail(),
                }
            case "crashes":
                return {"sentences": self.crashes, "count": self.log.crashes}
        raise AssertionError(command)


async def serve(surroundings: Surroundings) -> None:
    settings = surroundings.settings
    observer = Observer(
        Target(settings.postgres.socket_directory, settings.postgres.port, "postgres"),
        clock=time.monotonic,
        period_seconds=1,
        needs_query=False,
    )
    place = surroundings.place
    with Children() as children, PostgresLog(place.log_directory) as postgres_log:
        startup = Startup(
            surroundings,
            children,
            observer,
            postgres_log,
            clock=time.monotonic,
            journal=Journal(*[lambda one, other: None] * 3),
        )
        with closing(startup):
            program = Program(startup, Shutdown(startup, observer, postgres_log), postgres_log)
            while line := await asyncio.to_thread(sys.stdin.readline):
                sys.stdout.write(json.dumps(await program.answer(line.strip())) + "\n")
                sys.stdout.flush()


def main() -> None:
    options = argparse.Namespace(config=sys.argv[1], set=[], log_level=None)
    surroundings = survey(loader(options), dict(os.environ))
    sink = log.configure(style="json", descriptor=2)
    asyncio.run(serve(surroundings))
    sink.close()


if __name__ == "__main__":
    main()
