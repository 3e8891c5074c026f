"""The stream that people read: how wide it is, whether it has colours, what it can show."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Final

from instance_manager.commands.text import Style

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TextIO

_WIDEST: Final = 120
"""Longer lines are hard to read."""
_USUAL: Final = 80
"""The width of a terminal that doesn't tell its own."""


def style_of(stream: TextIO, environment: Mapping[str, str]) -> Style:
    """Return how to write to *stream*.

    Lines are broken and colours used on a terminal only, and no colours where ``NO_COLOR`` is set
    to something (no-color.org) or the terminal has none.
    """
    # With another encoding, one sign that it lacks would end the command with an error.
    is_plain = (stream.encoding or "ascii").lower().replace("-", "") != "utf8"
    if not stream.isatty():
        return Style(ascii=is_plain)
    has_colours = not environment.get("NO_COLOR") and environment.get("TERM") not in {None, "dumb"}
    columns = shutil.get_terminal_size().columns
    return Style(width=min(columns, _WIDEST), colour=has_colours, ascii=is_plain)


def can_redraw(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Return whether a line on *stream* can be erased and written anew."""
    return stream.isatty() and environment.get("TERM") not in {None, "", "dumb"}


def columns_of(stream: TextIO) -> int:
    """Return how wide the terminal *stream* is now: people make windows narrower meanwhile."""
    try:
        # Of this stream: shutil's function asks standard output, and COLUMNS, which follows no
        # window.
        return os.get_terminal_size(stream.fileno()).columns or _USUAL
    except OSError:
        return _USUAL


def write(stream: TextIO, lines: Iterable[str]) -> None:
    """Write lines that a :class:`Style` of this stream has made."""
    stream.write("".join(f"{line}\n" for line in lines))
