"""Small pieces of text for people: tables, sizes, durations, lines that fit a terminal. Pure."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SECONDS: Final = 60
"""In a minute, as minutes in an hour."""
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_STEP: Final = 1024
_NARROWEST: Final = 40
_COLOURS: Final = {"bold": 1, "faint": 2, "red": 31, "green": 32, "yellow": 33, "cyan": 36}
"""SGR parameters of ECMA-48, as every terminal knows them."""


class _Wrapper(textwrap.TextWrapper):
    """Breaks at blanks, and within a search path after a colon."""

    wordsep_simple_re = re.compile(r"(\s+|(?<=:)(?=[/$]))")


class Style(NamedTuple):
    """How lines are shown: the default is for files and pipes.

    *width* is in columns; 0 keeps each line whole. *ascii* is for where nothing else can be shown.
    """

    width: int = 0
    colour: bool = False
    ascii: bool = False

    def paint(self, text: str, colour: str) -> str:
        """Return the text in a colour, where there are any."""
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if self.colour and colour else text

    def lines(
        self, label: str, text: str, *, indent: int = 0, hang: int = 4, colour: str = ""
    ) -> Iterator[str]:
        """Yield *label*, in its colour, and *text*: one line, or as many as the width asks for.

        Args:
            label: never broken.
            text: the rest; what can't be printed is shown as an escape.
            indent: blanks before the label.
            hang: blanks before every further line.
            colour: of the label.
        """
        label, text = self.shown(label), self.shown(text)
        whole = f"{label} {text}".rstrip() if label else text
        blanks = " " * indent
        if not self.width:
            yield blanks + self.paint(label, colour) + whole[len(label) :]
            return
        wrapper = _Wrapper(
            width=max(self.width, _NARROWEST),
            initial_indent=blanks,
            subsequent_indent=" " * hang,
            break_on_hyphens=False,
            break_long_words=False,
        )
        for number, line in enumerate(wrapper.wrap(whole) or [""]):
            start = blanks + label
            # Painted after it was broken: escapes would count as columns.
            is_first = number == 0 and line.startswith(start)
            yield blanks + self.paint(label, colour) + line[len(start) :] if is_first else line

    def table(self, rows: Sequence[tuple[str, str]], *, indent: int = 2) -> Iterator[str]:
        """Yield two columns; a long value goes on below itself."""
        width = max((len(self.shown(name)) for name, _ in rows), default=0)
        for name, value in rows:
            label = f"{self.shown(name):<{width}} "
            yield from self.lines(label, value, indent=indent, hang=indent + width + 2)

    def shown(self, text: str) -> str:
        """Return the text as this stream can show it."""
        text = printable(text)
        if self.ascii:
            text = text.replace("…", "...").encode("ascii", "backslashreplace").decode("ascii")
        return text


def printable(text: str) -> str:
    """Return the text on one line, with escapes for all that would move a cursor or hide text.

    Names and texts from volumes are the word of others, and a terminal does what it is told.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def table(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield two columns, the first as wide as its longest entry, both indented."""
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        yield f"  {name:<{width}}  {value}"


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return the number with its noun: ``1 volume``, ``2 volumes``."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def size(number: float) -> str:
    """Return a number of bytes with the unit that keeps it under 1024."""
    for unit in _UNITS[:-1]:
        if number < _STEP:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= _STEP
    return f"{number:.1f} {_UNITS[-1]}"


def duration(seconds: float) -> str:
    """Return seconds, or milliseconds where that reads better."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def clock_of(seconds: float) -> str:
    """Return a time that goes on, in whole seconds: ``7 s``, ``2 min 05 s``, ``1 h 02 min``."""
    minutes, rest = divmod(int(seconds), _SECONDS)
    hours, minutes = divmod(minutes, _SECONDS)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def status_line(text: str, end: str, columns: int, *, is_ascii: bool = False) -> tuple[str, str]:
    """Return *text* and *end*, on one line that is no wider than *columns*.

    The text is cut where it must be, then left out; of the end nothing is lost before that.
    """
    shown = Style(ascii=is_ascii).shown(text)
    end = f" ({end})"
    room = columns - len(end)
    if width_of(shown) <= room:
        return shown, end
    dots = "..." if is_ascii else "…"
    if room <= len(dots):
        return "", end.strip(" ()")[: max(columns, 0)]
    return _cut(shown, room - len(dots)) + dots, end


def width_of(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return sum(map(_columns, text))


def _columns(char: str) -> int:
    # It is drawn over the sign before it.
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in {"W", "F"} else 1


def _cut(text: str, columns: int) -> str:
    """Return as much of the beginning as the columns have room for."""
    for number, char in enumerate(text):
        columns -= _columns(char)
        if columns < 0:
            return text[:number]
    return text
