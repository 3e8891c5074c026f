"""Who owns each directory on the way to another, for hints: asked by the event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from instance_manager.postgres.data_directory import chain_of
from instance_manager.supervision.threads import in_thread

if TYPE_CHECKING:
    from pathlib import Path

_SECONDS: Final = 5.0


async def way_to(path: Path) -> str:
    """Return what :func:`chain_of` says; or, if the storage takes too long, that it does."""
    try:
        async with asyncio.timeout(_SECONDS):
            return await in_thread("way", chain_of, path)
    except TimeoutError:
        return f"{path} (does not answer)"
