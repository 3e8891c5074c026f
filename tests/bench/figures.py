"""Figures: what was measured, side by side, and how it is told. Pure.

Contestants take turns within a run, so each figure is a list of pairs: a host that gets slower
meanwhile slows both of a pair. Medians, since one disturbed run must not count.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Protocol


@dataclass(frozen=True)
class Series:
    """Repeated measurements of one thing, in the order in which they were made; at least one."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return median(self.values)

    def text(self, digits: int) -> str:
        """Return the median and, of several, the range."""
        middle = f"{self.median:.{digits}f}"
        if len(self.values) == 1:
            return middle
        return f"{middle} ({min(self.values):.{digits}f}-{max(self.values):.{digits}f})"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One row: the manager, beside bare postgres where that can be asked the same."""

    name: str
    unit: str
    manager: Series
    bare: Series | None = None
    aim: str = ""
    digits: int = 0

    @property
    def difference(self) -> float | None:
        """The median of manager minus bare, pair by pair."""
        pairs = self._pairs()
        return median(ours - theirs for ours, theirs in pairs) if pairs else None

    @property
    def ratio(self) -> float | None:
        """The median of manager to bare, pair by pair."""
        pairs = self._pairs()
        return median(ours / theirs for ours, theirs in pairs) if pairs else None

    def _pairs(self) -> list[tuple[float, float]]:
        if self.bare is None:
            return []
        return list(zip(self.manager.values, self.bare.values, strict=True))

    def cells(self) -> list[str]:
        """Return the row's texts, in the order of :data:`HEADINGS`."""
        difference, ratio = self.difference, self.ratio
        return [
            f"{self.name}, {self.unit}",
            self.bare.text(self.digits) if self.bare else "",
            self.manager.text(self.digits),
            f"{difference:+.{self.digits}f}" if difference is not None else "",
            f"{ratio:.3g}" if ratio is not None else "",
            self.aim,
        ]

    def document(self) -> dict[str, Any]:
        """Return the row for programs, with every value."""
        return {
            "name": self.name,
            "unit": self.unit,
            "manager": _series(self.manager),
            "bare": _series(self.bare) if self.bare else None,
            "difference": self.difference,
            "ratio": self.ratio,
            "aim": self.aim,
        }


HEADINGS = ("figure", "bare postgres", "manager", "difference", "ratio", "aim")
"""Of the table; values are medians, with the range in brackets."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """What the run was made on: figures of different hosts can't be compared."""

    processor: str
    cores: int
    memory_bytes: int
    kernel: str
    python: str
    postgres: str
    manager: str
    file_system: str
    load_before: float
    load_after: float = 0.0

    def text(self) -> str:
        """Return one line for people."""
        return (
            f"{self.processor}, {self.cores} cores, {self.memory_bytes / 2**30:.1f} GiB,"
            f" kernel {self.kernel}, data on {self.file_system}; Python {self.python},"
            f" PostgreSQL {self.postgres}, instance-manager {self.manager};"
            f" load {self.load_before:.1f} before, {self.load_after:.1f} after"
        )


@dataclass(frozen=True, kw_only=True)
class Storm:
    """What orphans of others did to a server whose PID 1 had to reap them."""

    orphans: int
    crash_restarts: int
    """How often the postmaster ended all its processes and recovered."""
    sessions: int
    sessions_lost: int
    postmaster_replaced: bool
    reaped: int | None
    """As PID 1 counts them; None where it doesn't."""
    zombies: int

    def cells(self) -> list[str]:
        """Return the values' texts, in the order of :data:`STORM_ROWS`."""
        return [
            str(self.crash_restarts),
            f"{self.sessions_lost} of {self.sessions}",
            "yes" if self.postmaster_replaced else "no",
            "not counted" if self.reaped is None else f"{self.reaped} of {self.orphans}",
            str(self.zombies),
        ]


STORM_ROWS = (
    "crash restarts",
    "open sessions lost",
    "postmaster replaced",
    "orphans reaped",
    "zombies left",
)


@dataclass(frozen=True)
class Storms:
    """The same storm on both."""

    bare: Storm
    manager: Storm

    def document(self) -> dict[str, Any]:
        """Return both for programs."""
        return asdict(self)

    def text(self) -> str:
        """Return a table in Markdown."""
        heading = f"after {self.manager.orphans} orphans"
        rows = zip(STORM_ROWS, self.bare.cells(), self.manager.cells(), strict=True)
        return render_table((heading, "postgres as PID 1", "manager as PID 1"), list(rows))


def crash_restarts_in(log: str) -> int:
    """Return how many crash restarts a log tells of: that of postgres, or of the manager."""
    return log.count("terminating any other active server processes")


def reaped_in(metrics: str) -> int:
    """Return how many orphans the manager's metrics say were reaped."""
    found = re.search(r"^instance_manager_orphans_reaped_total (\S+)$", metrics, re.MULTILINE)
    if found is None:
        raise ValueError("the metrics don't count orphans")
    return int(float(found[1]))


class Section(Protocol):
    """A table of its own."""

    def document(self) -> dict[str, Any]:
        """Return it for programs."""
        ...

    def text(self) -> str:
        """Return it for people."""
        ...


@dataclass(frozen=True)
class Report:
    """A whole run; *steps* are the steps of a start, in milliseconds."""

    host: Host
    figures: tuple[Figure, ...]
    steps: dict[str, Series] = field(default_factory=dict[str, Series])
    storms: Storms | None = None
    probes: Section | None = None
    crowd: Section | None = None

    def document(self) -> dict[str, Any]:
        """Return the report for programs."""
        return {
            "host": asdict(self.host),
            "figures": [figure.document() for figure in self.figures],
            "startup_steps_ms": {name: _series(series) for name, series in self.steps.items()},
            "orphans": self.storms.document() if self.storms else None,
            "probes": self.probes.document() if self.probes else None,
            "crowd": self.crowd.document() if self.crowd else None,
        }

    def text(self) -> str:
        """Return the report for people, as Markdown."""
        rows = [figure.cells() for figure in self.figures]
        steps = [[name, series.text(1)] for name, series in self.steps.items()]
        return "\n\n".join(
            [
                self.host.text(),
                render_table(HEADINGS, rows),
                render_table(("step of a start", "ms"), steps),
                *(one.text() for one in (self.probes, self.crowd, self.storms) if one is not None),
            ]
        )


def _series(series: Series) -> dict[str, Any]:
    return {
        "median": series.median,
        "minimum": min(series.values),
        "maximum": max(series.values),
        "values": list(series.values),
    }


def render_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown whose columns stand below each other."""
    lines = [list(headings), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in (lines[0], rule, *lines[1:])
    )
