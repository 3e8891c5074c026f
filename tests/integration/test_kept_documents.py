"""The accepted configuration document, when keeping it is given up on the way."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from instance_manager.documents import Documents
from instance_manager.postgres.data_directory import OurFiles
from instance_manager.settings.configuration_document import document_of
from instance_manager.settings.models import Settings
from instance_manager.supervision.threads import Serial

if TYPE_CHECKING:
    from pathlib import Path


def _settings(work_mem: str) -> Settings:
    return Settings.model_validate({"postgres": {"parameters": {"work_mem": work_mem}}})


async def _given_up(tmp_path: Path, first: Settings | None) -> dict[str, Any] | None:
    """Give up to accept a document while its thread writes; return which one is kept then."""
    files = OurFiles(tmp_path)
    files.directory.mkdir(exist_ok=True)
    entered, gate = threading.Event(), threading.Event()

    def is_ours() -> bool:
        entered.set()
        return gate.wait(60)

    load: Any = None
    documents = Documents(load, lambda: files, "one", Serial(), is_ours)
    gate.set()
    if first is not None:
        await documents.accept(first)
    entered.clear()
    gate.clear()
    accepting = asyncio.create_task(documents.accept(_settings("9MB")))
    await asyncio.to_thread(entered.wait, 60)
    accepting.cancel()
    with suppress(asyncio.CancelledError):
        await accepting
    await asyncio.sleep(0)  # what takes it back has its turn in the queue
    gate.set()
    return await documents._accepted_file.load()  # noqa: SLF001 - what is on the disk


def test_what_is_given_up_while_it_is_written_is_not_kept(tmp_path: Path) -> None:
    """The document before, which is in force again, is the kept one."""
    first = _settings("5MB")

    assert asyncio.run(_given_up(tmp_path, first)) == document_of(first)


def test_a_first_document_that_is_given_up_leaves_none(tmp_path: Path) -> None:
    """The settings file counts as before."""
    assert asyncio.run(_given_up(tmp_path, None)) is None
