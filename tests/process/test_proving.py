"""Looks at volumes that overlap, and libraries that change while a server runs."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from instance_manager.errors import VolumesUnansweringError
from instance_manager.extensions.composition import Base
from instance_manager.extensions.facts import ServerFacts
from instance_manager.extensions.models import ExtensionsReport
from instance_manager.extensions.scan import Server
from instance_manager.postgres.embedded import Demonstration
from instance_manager.postgres.tracing import Tracer
from instance_manager.proving import Prover
from instance_manager.settings.models import Settings
from instance_manager.supervision.children import Children
from instance_manager.supervision.threads import in_thread
from tests.support.manager import DEADLINE_SECONDS

SERVER = Server(ServerFacts(major=18, machine=os.uname().machine), Base("/usr/bin"))


def _settings(root: Path) -> Settings:
    return Settings.model_validate({"extensions": {"root": str(root)}})


def _unchanged(report: ExtensionsReport, _: ServerFacts, __: Settings) -> ExtensionsReport:
    return report


def _prover(
    children: Children,
    events: list[str],
    completed: Callable[[ExtensionsReport, ServerFacts, Settings], ExtensionsReport] = _unchanged,
) -> Prover:
    return Prover(
        Tracer(children, Path("/nonexistent/postgres"), time.monotonic),
        clock=time.monotonic,
        completed=completed,
        on_warning=lambda reason, message: events.append(f"{reason}: {message}"),
    )


def test_what_is_completed_late_does_not_hide_a_newer_look(
    tmp_path: Path, server: Demonstration
) -> None:
    """While the loader was asked about the old volumes, others were mounted."""
    old, new = tmp_path / "old", tmp_path / "new"
    library = _volume(old, "vector", 1)
    shutil.copy(server.extensions / "pgvector" / "lib" / "vector.so", library)
    _volume(new, "few", 1)
    completing, looked = threading.Event(), threading.Event()

    async def look() -> str:
        with Children() as children:
            prover = _prover(children, [], second_waits)
            await prover.look(_settings(old), SERVER)
            completion = asyncio.create_task(prover.complete())
            await in_thread("wait", completing.wait, DEADLINE_SECONDS)
            await prover.look(_settings(new), SERVER)
            looked.set()
            await completion
            assert prover.report is not None
            return prover.report.root

    calls = iter(range(3))

    def second_waits(report: ExtensionsReport, _: ServerFacts, __: Settings) -> ExtensionsReport:
        if next(calls) == 1:
            completing.set()
            assert looked.wait(DEADLINE_SECONDS)
        return report

    assert asyncio.run(look()) == str(new)
    assert completing.is_set()


def _volume(root: Path, name: str, files: int) -> Path:
    directory = root / name / "share" / "extension"
    directory.mkdir(parents=True)
    for number in range(files):
        (directory / f"x{number}.control").write_text("default_version = '1'\n")
    (root / name / "lib").mkdir()
    library = root / name / "lib" / "plain.so"
    library.write_bytes(b"no library")
    return library


def test_of_two_looks_that_overlap_the_later_one_counts(tmp_path: Path) -> None:
    """However long the first one takes: what it saw is older."""
    _volume(tmp_path / "many", "many", 400)
    _volume(tmp_path / "few", "few", 1)

    async def look() -> str:
        with Children() as children:
            prover = _prover(children, [])
            await asyncio.gather(
                prover.look(_settings(tmp_path / "many"), SERVER),
                prover.look(_settings(tmp_path / "few"), SERVER),
            )
            assert prover.report is not None
            return prover.report.root

    assert asyncio.run(look()) == str(tmp_path / "few")


def test_what_others_learn_during_a_look_is_judged_after_it(tmp_path: Path) -> None:
    """The look has asked them before, and may end after they learned it."""
    _volume(tmp_path, "few", 1)
    known, judged_by = ["old"], list[str]()
    asked, learned = threading.Event(), threading.Event()

    def waits(report: ExtensionsReport, _: ServerFacts, __: Settings) -> ExtensionsReport:
        judged_by.append(known[-1])
        asked.set()
        assert learned.wait(DEADLINE_SECONDS)
        return report

    async def look() -> None:
        with Children() as children:
            prover = _prover(children, [], waits)
            looking = asyncio.create_task(prover.look(_settings(tmp_path), SERVER))
            await in_thread("wait", asked.wait, DEADLINE_SECONDS)
            known.append("new")
            prover.reconsider()
            learned.set()
            await looking
            await prover.complete()
            await prover.complete()

    asyncio.run(look())

    assert judged_by == ["old", "new"]


def test_what_could_not_be_completed_is_asked_again(tmp_path: Path) -> None:
    """Volumes that do not answer for a while leave no volume half proven for ever."""
    _volume(tmp_path, "few", 1)
    calls: list[bool] = []

    def fails_once(report: ExtensionsReport, _: ServerFacts, __: Settings) -> ExtensionsReport:
        calls.append(True)
        if len(calls) == 2:
            raise VolumesUnansweringError("cannot read the extension volumes")
        return report

    async def look() -> None:
        with Children() as children:
            prover = _prover(children, [], fails_once)
            await prover.look(_settings(tmp_path), SERVER)
            prover.reconsider()
            with pytest.raises(VolumesUnansweringError):
                await prover.complete()
            await prover.complete()
            await prover.complete()

    asyncio.run(look())

    assert len(calls) == 3


def test_each_change_under_a_server_is_told_once_and_ends_with_it(tmp_path: Path) -> None:
    """Replaced, gone, and nothing more once there is no server."""
    library = _volume(tmp_path, "sample", 1)
    library.unlink()
    plain = library.with_name("libplain.so.1")
    maps = Path("/proc/self/maps").read_text().splitlines()
    shutil.copy(next(line.split()[5] for line in maps if line.endswith("/libc.so.6")), plain)
    events: list[str] = []

    async def follow() -> list[list[str]]:
        seen: list[list[str]] = []

        def note() -> None:
            assert prover.report is not None
            found = prover.report.findings
            seen.append([one.message for one in found if one.code == "EXT082"])

        with Children() as children:
            prover = _prover(children, events)
            await prover.look(_settings(tmp_path), SERVER)
            prover.start()
            assert not await prover.compare(os.getpid())
            note()
            plain.write_bytes(b"changed")
            await prover.compare(os.getpid())
            note()
            await prover.compare(os.getpid())
            plain.unlink()
            await prover.compare(os.getpid())
            note()
            prover.end()
            note()
        return seen

    first, second, third, last = asyncio.run(follow())

    assert first == last == []
    assert len(second) == len(third) == 1
    assert "was replaced" in second[0]
    assert "vanished" in third[0]
    assert [event.split(":")[0] for event in events] == ["LibraryReplaced"] * 2
