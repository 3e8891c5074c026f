"""Who is told what happens in a start."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


class Journal(NamedTuple):
    """Takes the steps and the events of starts."""

    on_step: Callable[[str, float], None]
    """A step's name and its seconds."""
    on_event: Callable[[str, str], object]
    on_warning: Callable[[str, str], object]
    """An event's reason and its message; a warning is for somebody to look at."""
