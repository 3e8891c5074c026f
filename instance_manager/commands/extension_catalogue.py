"""``extension catalogue``: what images there are, for the manager or for an operator.

Exit code 2 for what is no image, or can't be said in the form that is asked for.
"""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from instance_manager import log
from instance_manager.errors import Exit, UsageError
from instance_manager.images import catalogue_forms
from instance_manager.images.cataloguing import describe
from instance_manager.supervision.children import Children

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from types import FrameType

    from instance_manager.settings.catalogue import CatalogueImage

_REGISTRY: Final = re.compile(r"[A-Za-z0-9][\w.:/-]*")
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_REFERENCE: Final = re.compile(r"[!-~]{1,512}")


def run(options: argparse.Namespace) -> int:
    """Describe the images, and print the catalogue."""
    registry = options.registry.rstrip("/")
    if not _REGISTRY.fullmatch(registry):
        raise UsageError(f"cannot use --registry {options.registry!r}: it is no registry's name")
    if not _NAME.fullmatch(options.name):
        raise UsageError(f"cannot use --name {options.name!r}: Kubernetes takes no such name")
    servers = dict(map(_server, options.postgres_image))
    signal.signal(signal.SIGTERM, _interrupt)
    with log.beside_an_answer():
        images = asyncio.run(_describe(options.sources, registry))
    # The manager would refuse such a catalogue.
    _require_distinct(images)
    document = (
        catalogue_forms.operator_form(options.name, images, servers)
        if options.format == "cloudnativepg"
        else catalogue_forms.own_form(images)
    )
    sys.stdout.write(_yaml(document))
    return Exit.DONE


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End at once: what was unpacked is cleared away on the way out."""
    raise KeyboardInterrupt


async def _describe(sources: Sequence[str], registry: str) -> list[CatalogueImage]:
    images: list[CatalogueImage] = []
    with Children() as children:
        for source in sources:
            # One after the other, so that no more than one is unpacked.
            with tempfile.TemporaryDirectory(prefix="instance-manager-") as work:
                images.append(await describe(children, source, Path(work) / "image", registry))
    return images


def _server(text: str) -> tuple[int, str]:
    major, equals, image = text.partition("=")
    if not equals or not re.fullmatch(r"[1-9]\d", major) or not _REFERENCE.fullmatch(image):
        raise UsageError(
            f"cannot use --postgres-image {text!r}: it must be MAJOR=IMAGE",
            hint="such as 18=registry.example/postgresql:18",
        )
    return int(major), image


def _require_distinct(images: Sequence[CatalogueImage]) -> None:
    seen: dict[Any, str] = {}
    for each in images:
        identity = each.name, each.postgres_major, each.architecture
        if identity in seen:
            raise UsageError(
                f"cannot write the catalogue: {seen[identity]} and {each.image} are both"
                f" {each.name!r} for PostgreSQL {each.postgres_major} on {each.architecture}",
                hint="name one of them only",
            )
        seen[identity] = each.image


def _yaml(document: dict[str, Any]) -> str:
    dump: Any = yaml.safe_dump  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    # A width that no line reaches: digests and references stay whole, for grep(1).
    text: str = dump(document, sort_keys=False, allow_unicode=False, width=1000)
    return text
