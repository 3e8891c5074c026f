"""``extension test``: is an image good? A server is started with it, and all in it is used.

Exit code 0 where every image is good, 1 where one is bad, 3 where a server would refuse one and
none is bad, 2 for what can't be asked for.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from typing import TYPE_CHECKING, Final

from instance_manager import log
from instance_manager.commands import loading, terminal
from instance_manager.commands.test_report import render
from instance_manager.errors import Exit, UsageError
from instance_manager.smoke.keeping import keeping
from instance_manager.smoke.models import Request, Verdict
from instance_manager.smoke.testing import test_images
from instance_manager.supervision.children import Children

if TYPE_CHECKING:
    import argparse
    from types import FrameType

    from instance_manager.smoke.keeping import Keeper
    from instance_manager.smoke.models import Result

_READABLE: Final = 0o022


def run(options: argparse.Namespace) -> int:
    """Test the images, print what came of it, and return the verdict."""
    request = request_of(options)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # What nohup(1) has ignored stays so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    # Another account is to read what is unpacked.
    os.umask(_READABLE)
    # Before the loop: a fork takes only the thread that calls it along.
    with keeping() as keeper, log.beside_an_answer():
        results = asyncio.run(_test(request, keeper))
    if options.output == "json":
        print(json.dumps({"items": [one.model_dump(mode="json") for one in results]}, indent=2))
    else:
        style = terminal.style_of(sys.stdout, os.environ)
        terminal.write(sys.stdout, render(results, style))
    return exit_code(results)


def exit_code(results: tuple[Result, ...]) -> int:
    """Return the worst that came of the images."""
    verdicts = {one.verdict for one in results}
    # Bad before refused: a test has shown it, where the preflight only foresees.
    if Verdict.BAD in verdicts:
        return Exit.FAILED
    return Exit.PREFLIGHT if Verdict.REFUSED in verdicts else Exit.DONE


def request_of(options: argparse.Namespace) -> Request:
    """Return what the command line asks for; of the settings, only which server and as whom.

    Raises:
        UsageError: it can't be asked for.
        SettingsError: the settings are wrong.
    """
    if not 0 < options.statement_timeout < float("inf"):
        raise UsageError("cannot use --statement-timeout: it must be more than 0")
    settings = loading.load(options)
    return Request(
        sources=tuple(options.sources),
        beside=tuple(options.beside),
        statements=tuple(options.sql),
        parameters=tuple(map(_parameter, options.parameter)),
        bin_directory=settings.postgres.bin_directory,
        run_as=settings.postgres.run_as,
        statement_seconds=options.statement_timeout,
    )


def _parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][\w.$]*", name):
        raise UsageError(f"cannot use --parameter {text!r}: it must be NAME=VALUE")
    return name, value


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End at once, wherever we are: the server is ended on the way out."""
    raise KeyboardInterrupt


async def _test(request: Request, keeper: Keeper) -> tuple[Result, ...]:
    with Children() as children:
        return await test_images(children, request, keeper, _tell)


def _tell(doing: str) -> None:
    if sys.stderr.isatty():
        print(f"instance-manager: {doing}", file=sys.stderr, flush=True)
