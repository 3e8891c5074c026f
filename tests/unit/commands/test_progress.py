from __future__ import annotations

import asyncio
import io
import os
import pty
from collections.abc import Iterator

import pytest

from instance_manager.commands.progress import Waiting
from instance_manager.commands.terminal import can_redraw, columns_of

TERMINAL = {"TERM": "xterm"}


@pytest.fixture
def terminal() -> Iterator[tuple[int, io.TextIOWrapper]]:
    """Yield both ends of a terminal: the descriptor that sees what is written, and the stream."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    with open(theirs, "w", encoding="utf-8") as stream:  # noqa: PTH123 - it is a descriptor
        yield ours, stream
    os.close(ours)


async def wait_a_turn(waiting: Waiting) -> None:
    async with waiting:
        waiting.note("noted")
        for _ in range(10):
            await asyncio.sleep(0)


def test_a_wait_that_is_over_at_once_writes_nothing_to_the_terminal(
    terminal: tuple[int, io.TextIOWrapper],
) -> None:
    """Not even the erasing of a line that was never there."""
    ours, stream = terminal
    asyncio.run(wait_a_turn(Waiting("stop", stream, TERMINAL)))

    with pytest.raises(BlockingIOError):
        os.read(ours, 1)


def test_what_is_told_is_one_line_and_told_once() -> None:
    """Whatever the text holds; what is only noted is for terminals."""
    stream = io.StringIO()
    waiting = Waiting("stop", stream, TERMINAL)
    waiting.note("noted")
    for text in ("first", "first", "one\ntwo\x1b[2J", "first"):
        waiting.tell(text)

    assert stream.getvalue() == "stop: first\nstop: one\\ntwo\\x1b[2J\nstop: first\n"


def test_a_reader_that_has_gone_does_not_end_the_wait() -> None:
    """The result counts, also where nobody looks any more."""
    reading, writing = os.pipe()
    os.close(reading)
    stream = open(writing, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - it is a descriptor
    try:
        Waiting("stop", stream, TERMINAL).tell("nobody reads this")
    finally:
        with pytest.raises(BrokenPipeError):
            stream.close()


@pytest.mark.parametrize("environment", [{}, {"TERM": ""}, {"TERM": "dumb"}], ids=str)
def test_a_terminal_that_can_not_erase_is_not_redrawn(
    terminal: tuple[int, io.TextIOWrapper], environment: dict[str, str]
) -> None:
    """It would show the orders as they are."""
    assert not can_redraw(terminal[1], environment)
    assert can_redraw(terminal[1], TERMINAL)


def test_what_does_not_tell_its_width_has_the_usual_one(
    terminal: tuple[int, io.TextIOWrapper],
) -> None:
    """A new terminal says 0, and what is none says nothing."""
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "w") as pipe:
        assert (columns_of(terminal[1]), columns_of(pipe)) == (80, 80)
