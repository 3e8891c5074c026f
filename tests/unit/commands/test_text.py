from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instance_manager.commands.text import (
    Style,
    clock_of,
    counted,
    duration,
    printable,
    size,
    status_line,
    width_of,
)

TERMINAL = Style(width=60, colour=True)
LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


def test_lines_for_files_are_whole() -> None:
    """What is searched with grep is not broken, and has no colours."""
    assert list(Style().lines("EXT001 error:", LONG, indent=2, colour="red")) == [
        f"  EXT001 error: {LONG}"
    ]


def test_lines_for_terminals_are_broken_and_their_label_has_the_colour() -> None:
    """The label is one piece; what follows hangs below it."""
    first, *others = TERMINAL.lines("EXT001 error:", LONG, indent=2, hang=6, colour="red")

    assert first.startswith("  \x1b[31mEXT001 error:\x1b[0m one two")
    assert len(first) <= 60 + len("\x1b[31m\x1b[0m")
    assert others
    assert all(line.startswith("      ") and len(line) <= 60 for line in others)


def test_a_search_path_is_broken_between_its_elements() -> None:
    """An element stays whole, so that it can be copied."""
    elements = [f"/extensions/volume-{number}/share" for number in range(5)]
    lines = list(TERMINAL.table([("extension_control_path", ":".join(["$system", *elements]))]))

    assert len(lines) > 1
    assert all(any(element in line for line in lines) for element in elements)
    assert "".join(line.strip() for line in lines[1:]) in ":".join(elements)


def test_a_word_that_is_wider_than_the_terminal_stays_whole() -> None:
    """Paths are there to be copied."""
    assert list(Style(width=40).lines("", "x" * 100)) == ["x" * 100]


@pytest.mark.parametrize("width", [0, 60])
def test_nothing_is_said_where_there_is_no_text(width: int) -> None:
    """A label alone has no blank at its end."""
    assert list(Style(width=width).lines("label:", "", indent=2)) == ["  label:"]


def test_what_a_stream_can_not_show_is_escaped() -> None:
    """An old terminal is no reason to fail."""
    assert list(Style(ascii=True).lines("…", "grün")) == ["... gr\\xfcn"]


@given(st.text(), st.sampled_from([Style(), TERMINAL, Style(ascii=True)]))
def test_no_text_moves_the_cursor_or_adds_a_line(text: str, style: Style) -> None:
    """Names from volumes may hold anything."""
    lines = list(style.lines("label:", text))

    assert all(line.replace("\x1b", "").isprintable() for line in lines)
    assert len(lines) == 1 or style.width


def test_escapes_are_shown_as_what_they_are() -> None:
    """Also those that change the direction of text, and bytes that were no UTF-8."""
    assert printable("a\x1b[31m\u202eb\udcff\n") == r"a\x1b[31m\u202eb\udcff\n"


@pytest.mark.parametrize(
    ("given_number", "shown"), [(0, "0 volumes"), (1, "1 volume"), (2, "2 volumes")]
)
def test_a_number_goes_with_its_noun(given_number: int, shown: str) -> None:
    """One of them is no plural."""
    assert counted(given_number, "volume") == shown


def test_sizes_and_durations_have_the_unit_that_reads_best() -> None:
    """Three figures, not thirteen."""
    assert [size(number) for number in (0, 1023, 1024, 1536 * 1024)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 MiB",
    ]
    assert [duration(seconds) for seconds in (0.004, 1.25)] == ["4 ms", "1.2 s"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.9, "0 s"), (59.9, "59 s"), (60, "1 min 00 s"), (125, "2 min 05 s"), (3725, "1 h 02 min")],
)
def test_a_time_that_goes_on_is_told_in_whole_seconds(seconds: float, text: str) -> None:
    """It never shows one that has not passed."""
    assert clock_of(seconds) == text


@pytest.mark.parametrize(
    ("columns", "is_ascii", "line"),
    [
        (30, False, "stop: waiting (12 s)"),
        (20, False, "stop: waiting (12 s)"),
        (19, False, "stop: waiti… (12 s)"),
        (19, True, "stop: wai... (12 s)"),
        (9, False, "s… (12 s)"),
        (8, False, "12 s"),
        (3, False, "12 "),
        (0, False, ""),
        (-1, False, ""),
    ],
)
def test_a_status_line_fits_its_columns_and_keeps_the_time(
    columns: int, is_ascii: bool, line: str
) -> None:
    """The text is cut first, then left out."""
    assert "".join(status_line("stop: waiting", "12 s", columns, is_ascii=is_ascii)) == line


@given(st.text(max_size=40), st.integers(0, 60), st.booleans())
def test_a_status_line_is_never_wider_than_it_may_be_nor_moves_the_cursor(
    text: str, columns: int, is_ascii: bool
) -> None:
    """Whatever the text holds: wide characters, marks, escapes."""
    line = "".join(status_line(text, "12 s", columns, is_ascii=is_ascii))

    assert width_of(line) <= columns
    assert line.isprintable()
