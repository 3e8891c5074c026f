"""``extension build``: an image of an extension, from packages or from an installed tree.

Exit code 3 where a server would refuse the volume, 2 for what can't be asked for, 4 where no space
is left, 1 for packages that can't be had; nothing is written then.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from instance_manager import log
from instance_manager.commands import terminal
from instance_manager.commands.build_report import render
from instance_manager.commands.metadata_arguments import metadata_of
from instance_manager.errors import Exit, UsageError
from instance_manager.images import debian
from instance_manager.images.building import build
from instance_manager.images.models import Compression, Form, Request, Target
from instance_manager.supervision.children import Children

if TYPE_CHECKING:
    import argparse
    from types import FrameType

    from instance_manager.images.models import Summary

_EPOCH: Final = "SOURCE_DATE_EPOCH"


def run(options: argparse.Namespace) -> int:
    """Build the image, print what came of it, and return the exit code."""
    # Before signals are caught: what can't be asked for ends as any command does.
    request = request_of(options)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # What nohup(1) has ignored stays so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    with log.beside_an_answer():
        summary = asyncio.run(_build(request))
    if options.format == "json":
        print(summary.model_dump_json(indent=2))
    else:
        terminal.write(sys.stdout, render(summary, terminal.style_of(sys.stdout, os.environ)))
    return Exit.DONE


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End at once, wherever we are: what is half done is cleared away on the way out."""
    # asyncio.run() cancels the work at this, so that everything is cleared away.
    raise KeyboardInterrupt


async def _build(request: Request) -> Summary:
    with Children() as children:
        return await build(children, request, _tell)


def _tell(doing: str) -> None:
    # For people who wait; a log has the summary.
    if sys.stderr.isatty():
        print(f"instance-manager: {doing}", file=sys.stderr, flush=True)


def request_of(options: argparse.Namespace) -> Request:
    """Return what the command line asks for.

    Raises:
        UsageError: it can't be asked for.
    """
    packages = tuple(map(debian.checked_package, options.package))
    directory = Path(options.from_directory).absolute() if options.from_directory else None
    return Request(
        name=options.name or image_name(packages, directory),
        base=options.base,
        packages=packages,
        directory=directory,
        target=_target(options.output),
        cache=_cache(options.cache),
        major=options.postgres_major,
        version=options.version_label,
        bundled=frozenset(options.bundle),
        excluded=tuple(options.exclude),
        preload=tuple(options.preload),
        labels=tuple(pair("--label", text) for text in options.label),
        apt_options=tuple("=".join(pair("--apt-option", text)) for text in options.apt_option),
        host_sources=options.sources == "host",
        update=not options.no_update,
        force=options.force,
        overwrite=options.overwrite,
        epoch=_epoch(),
        base_name=options.base_name,
        beside=tuple(options.beside),
        smoke_test=tuple(map(statement, options.smoke_test)),
        compression=Compression(options.compression),
        metadata=metadata_of(options),
    )


def image_name(packages: tuple[str, ...], directory: Path | None) -> str:
    """Return what an image is called that nobody named."""
    if packages and directory is None:
        return debian.short_name(debian.bare_package(packages[0])).replace(".", "-")
    return directory.name if directory is not None else ""


def statement(text: str) -> str:
    """Return a statement that the metadata can hold.

    Raises:
        UsageError: it can't.
    """
    if not text.isprintable() or not text:
        raise UsageError(f"cannot use --smoke-test {text!r}: it must be one line of SQL")
    return text


def _target(text: str) -> Target:
    form, colon, path = text.partition(":")
    if not colon:
        form, path = Form.LAYOUT, text
    # A path without a last part names no file that could be replaced.
    if form not in set(Form) or not path or Path(path).name in {"", ".."}:
        raise UsageError(
            f"cannot write to --output {text!r}",
            hint="a PATH, or oci:PATH, oci-archive:PATH or dir:PATH",
        )
    return Target(Form(form), Path(path).absolute())


def _cache(given: str | None) -> Path:
    if given:
        return Path(given).absolute()
    home = os.environ.get("XDG_CACHE_HOME", "")
    # A relative one is to be ignored (XDG Base Directory Specification).
    root = Path(home) if home.startswith("/") else Path.home() / ".cache"
    return root / "instance-manager"


def pair(option: str, text: str) -> tuple[str, str]:
    """Return key and value of an option.

    Raises:
        UsageError: it has no key or no value.
    """
    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z][\w.:/-]*", key) or "\n" in value:
        raise UsageError(f"cannot use {option} {text!r}: it must be KEY=VALUE")
    return key, value


def _epoch() -> int | None:
    # reproducible-builds.org: whoever sets it decides on all times in the result.
    text = os.environ.get(_EPOCH, "")
    if not text:
        return None
    if not re.fullmatch(r"\d{1,11}", text):
        raise UsageError(f"cannot use {_EPOCH}={text!r}: it must be seconds since 1970")
    return int(text)
