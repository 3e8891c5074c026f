from __future__ import annotations

import io
import os
import pty
from collections.abc import Iterator

import pytest

from instance_manager.commands.terminal import style_of, write
from instance_manager.commands.text import Style


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.TextIOWrapper]:
    """Yield a stream that is a terminal of 70 columns."""
    monkeypatch.setenv("COLUMNS", "70")
    ours, theirs = pty.openpty()
    with open(theirs, "w", encoding="utf-8") as stream:  # noqa: PTH123 - it is a descriptor
        yield stream
    os.close(ours)


def test_a_terminal_has_width_and_colours(terminal: io.TextIOWrapper) -> None:
    """Lines are broken for people."""
    assert style_of(terminal, {"TERM": "xterm"}) == Style(width=70, colour=True)


@pytest.mark.parametrize(
    "environment", [{"TERM": "xterm", "NO_COLOR": "1"}, {"TERM": "dumb"}, {}], ids=str
)
def test_colours_are_left_out_where_they_are_not_wanted(
    terminal: io.TextIOWrapper, environment: dict[str, str]
) -> None:
    """The width stays."""
    assert style_of(terminal, environment) == Style(width=70)


def test_an_empty_no_color_says_nothing(terminal: io.TextIOWrapper) -> None:
    """So no-color.org has it."""
    assert style_of(terminal, {"TERM": "xterm", "NO_COLOR": ""}).colour


def test_a_very_wide_terminal_is_not_filled(
    terminal: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long lines are hard to read."""
    monkeypatch.setenv("COLUMNS", "400")

    assert style_of(terminal, {}).width == 120


@pytest.mark.parametrize(("encoding", "is_ascii"), [("utf-8", False), ("latin-1", True)])
def test_a_pipe_gets_whole_lines_without_colours(encoding: str, is_ascii: bool) -> None:
    """In an encoding that can't say everything, only what every one can."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    style = style_of(stream, {"TERM": "xterm"})
    write(stream, style.lines("", "…"))
    stream.flush()

    assert style == Style(ascii=is_ascii)
    assert stream.buffer.getvalue() == ("..." if is_ascii else "…").encode() + b"\n"
