"""Small pieces of text for people: tables, sizes, durations. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_STEP: Final = 1024


def table(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield two columns, the first as wide as its longest entry, both indented."""
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        yield f"  {name:<{width}}  {value}"


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
