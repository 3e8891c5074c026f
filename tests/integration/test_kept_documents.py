"""The accepted configuration document, when something comes between while it is kept."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from instance_manager.documents import Documents
from instance_manager.errors import DataDirectoryError, Problem
from instance_manager.observability.log_pipe import PostgresLog
from instance_manager.postgres.data_directory import OurFiles
from instance_manager.settings.configuration_document import document_of
from instance_manager.settings.models import Settings
from instance_manager.startup import Startup
from instance_manager.supervision.children import Children
from instance_manager.supervision.endings import Cause
from instance_manager.supervision.threads import Serial
from instance_manager.supervision.work import LastExit
from tests.support.surroundings import observer_in, silent_journal, surroundings_in

if TYPE_CHECKING:
    from pathlib import Path


LAST_EXIT = LastExit(datetime.now(UTC), None, False, Cause.OUT_OF_MEMORY, "no memory")


def _startup(directory: Path, children: Children, log: PostgresLog) -> Startup:
    return Startup(
        surroundings_in(directory, _settings("5MB")),
        children,
        observer_in(directory),
        log,
        clock=time.monotonic,
        journal=silent_journal(),
    )


def _work_mem(settings: Settings) -> str:
    return str(document_of(settings)["parameters"]["work_mem"])


def _settings(work_mem: str) -> Settings:
    return Settings.model_validate({"postgres": {"parameters": {"work_mem": work_mem}}})


class Held:
    """Documents of a directory whose disk answers when the test lets it."""

    def __init__(self, tmp_path: Path) -> None:
        files = OurFiles(tmp_path)
        files.directory.mkdir(exist_ok=True)
        self._entered, self._gate = threading.Event(), threading.Event()
        self._gate.set()
        self.is_ours = True
        load: Any = None
        self.documents = Documents(load, lambda: files, "one", Serial(), self._is_ours)

    def _is_ours(self) -> bool:
        self._entered.set()
        return self._gate.wait(60) and self.is_ours

    async def accepting(self, settings: Settings) -> asyncio.Task[None]:
        """Begin to accept a document; return when its thread is held, about to write."""
        self._entered.clear()
        self._gate.clear()
        task = asyncio.create_task(self.documents.accept(settings))
        await asyncio.to_thread(self._entered.wait, 60)
        return task

    def let_go(self) -> None:
        """Have the disk answer."""
        self._gate.set()


async def _given_up(tmp_path: Path, first: Settings | None) -> dict[str, Any] | None:
    """Give up to accept a document while its thread writes; return which one is kept then."""
    held = Held(tmp_path)
    if first is not None:
        await held.documents.accept(first)
    accepting = await held.accepting(_settings("9MB"))
    accepting.cancel()
    with suppress(asyncio.CancelledError):
        await accepting
    await asyncio.sleep(0)  # what takes it back has its turn in the queue
    held.let_go()
    return await held.documents._accepted_file.load()  # noqa: SLF001 - what is on the disk


def test_what_is_given_up_while_it_is_written_is_not_kept(tmp_path: Path) -> None:
    """The document before, which is in force again, is the kept one."""
    first = _settings("5MB")

    assert asyncio.run(_given_up(tmp_path, first)) == document_of(first)


def test_a_first_document_that_is_given_up_leaves_none(tmp_path: Path) -> None:
    """The settings file counts as before."""
    assert asyncio.run(_given_up(tmp_path, None)) is None


def test_a_fall_back_while_a_document_is_accepted_stays_told(tmp_path: Path) -> None:
    """The server ended with it before the disk had it: the status must not call it well."""

    async def fallen_back() -> tuple[Problem, ...]:
        held = Held(tmp_path)
        accepting = await held.accepting(_settings("9MB"))
        held.documents.tell_fallen_back("it has ended", silent_journal())
        held.let_go()
        await accepting
        return held.documents.problems

    (problem,) = asyncio.run(fallen_back())

    assert "the last good one is used: it has ended" in problem.message


def test_a_document_that_can_not_be_kept_leaves_the_fault_of_the_one_before(
    tmp_path: Path,
) -> None:
    """What was wrong with the configuration in force is wrong still."""
    fault = Problem("postgres.parameters.work_mem", "it is none")

    async def not_kept() -> tuple[Problem, ...]:
        held = Held(tmp_path)
        held.documents.problems = (fault,)
        held.is_ours = False
        with pytest.raises(DataDirectoryError):
            await held.documents.accept(_settings("9MB"))
        return held.documents.problems

    assert asyncio.run(not_kept()) == (fault,)


def test_accepting_a_document_takes_the_fault_of_the_one_before_away(tmp_path: Path) -> None:
    """It was about a configuration that nobody wants any more."""

    async def kept() -> tuple[Problem, ...]:
        held = Held(tmp_path)
        held.documents.problems = (Problem("", "it is none"),)
        await held.documents.accept(_settings("9MB"))
        return held.documents.problems

    assert asyncio.run(kept()) == ()


async def _after_an_end(
    tmp_path: Path, meanwhile: Settings | None = None
) -> tuple[bool, str, tuple[Problem, ...]]:
    """Fall back after an end; return the answer, what counts then, and what is told of it."""
    await Held(tmp_path).documents.remember_good(_settings("5MB"))
    with Children() as children, PostgresLog(tmp_path) as log:
        startup = _startup(tmp_path, children, log)
        startup.settings = _settings("7GB")
        falling_back = asyncio.create_task(startup.fall_back(LAST_EXIT))
        await asyncio.sleep(0)  # it has begun to read
        startup.settings = meanwhile or startup.settings
        is_other = await falling_back
        return is_other, _work_mem(startup.settings), startup.documents.problems


def test_what_has_failed_gives_way_to_the_last_good_configuration(tmp_path: Path) -> None:
    """Why is told for as long as it counts."""
    is_other, work_mem, (problem,) = asyncio.run(_after_an_end(tmp_path))

    assert (is_other, work_mem) == (True, "5MB")
    assert "no memory" in problem.message


def test_a_change_that_comes_while_the_last_good_one_is_read_is_tried(tmp_path: Path) -> None:
    """What is wanted by then is not what the server has just failed with."""
    assert asyncio.run(_after_an_end(tmp_path, _settings("9MB"))) == (True, "9MB", ())


def test_a_start_that_is_given_up_leaves_the_accepted_document_to_the_next(tmp_path: Path) -> None:
    """A stop may come while storage that is slow is read: the document stays the truth."""

    async def second_start() -> Settings:
        await Held(tmp_path).documents.accept(_settings("9MB"))
        documents = Held(tmp_path).documents
        file = Settings.model_validate({"configuration": {"source": "api"}})
        first = asyncio.create_task(documents.adopted(file, silent_journal()))
        await asyncio.sleep(0)  # it has begun to read
        first.cancel()
        await asyncio.wait({first})
        assert first.cancelled()
        return await documents.adopted(file, silent_journal())

    assert _work_mem(asyncio.run(second_start())) == "9MB"
