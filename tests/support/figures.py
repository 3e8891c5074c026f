"""A plugin of pytest for fault tests: short and long counts, and the figures that they give.

With ``--soak`` only the tests that have a long count are run, with it; the figures of each fault
are then written to ``build/faults.csv``, and held against their bounds. The table at the end of a
run shows them in any case, and how many tests are marked ``fault``, with their time.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from statistics import median, quantiles
from typing import Final

import pytest

FILE: Final = Path(__file__).parents[2] / "build" / "faults.csv"
_MILLISECONDS: Final = 1000


@dataclass(frozen=True, slots=True)
class Row:
    """What all rounds of one fault gave; times in milliseconds, None where none were taken."""

    fault: str
    n: int
    detect_ms_worst: float | None
    ready_ms_worst: float | None
    ready_ms_median: float | None
    ready_ms_p99: float | None
    lost: int
    duplicates: int


@dataclass
class _Rounds:
    number: int = 0
    detect_ms: list[float] = field(default_factory=list)
    ready_ms: list[float] = field(default_factory=list)
    lost: int = 0
    duplicates: int = 0

    def row(self, fault: str) -> Row:
        return Row(
            fault,
            self.number,
            _rounded(max(self.detect_ms, default=None)),
            _rounded(max(self.ready_ms, default=None)),
            _rounded(median(self.ready_ms) if self.ready_ms else None),
            _rounded(percentile_99(self.ready_ms)),
            self.lost,
            self.duplicates,
        )


def percentile_99(values: list[float]) -> float | None:
    """Return the 99th percentile as far as the values tell: of few, it is the worst."""
    if len(values) < 2:
        return max(values, default=None)
    return quantiles(values, n=100, method="inclusive")[98]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


class Figures:
    """Collects the figures of each fault, over all tests of a run; *file* has them at any time."""

    def __init__(self, file: Path | None = None) -> None:
        self._faults: dict[str, _Rounds] = {}
        self._file = file

    def add(
        self,
        fault: str,
        *,
        number: int = 1,
        detect_seconds: float | None = None,
        ready_seconds: float | None = None,
        lost: int = 0,
        duplicates: int = 0,
    ) -> None:
        """Add one round of a fault, or *number* that were made and judged together."""
        rounds = self._faults.setdefault(fault, _Rounds())
        rounds.number += number
        if detect_seconds is not None:
            rounds.detect_ms.append(detect_seconds * _MILLISECONDS)
        if ready_seconds is not None:
            rounds.ready_ms.append(ready_seconds * _MILLISECONDS)
        rounds.lost += lost
        rounds.duplicates += duplicates
        if self._file is not None:
            # At once: whoever ends a run of hours keeps what it has shown.
            self._write(self._file)

    def require(
        self,
        fault: str,
        *,
        detect_seconds: float | None = None,
        ready_seconds: float | None = None,
    ) -> None:
        """Fail if the 99th percentile of a fault's times is not within its bound.

        Only with long counts: a bound on one time that other work delays says nothing.
        """
        if self._file is None:
            return
        rounds = self._faults[fault]
        for what, times, bound in (
            ("seen", rounds.detect_ms, detect_seconds),
            ("over", rounds.ready_ms, ready_seconds),
        ):
            worst = percentile_99(times)
            if bound is not None:
                assert worst is not None, f"{fault}: no time was taken until it was {what}"
                assert worst < bound * _MILLISECONDS, (
                    f"{fault}: {what} after {worst:.0f} ms, which should be {bound:g} s at most"
                )

    def _write(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(self.table())

    def table(self) -> list[list[str]]:
        """Return the rows as text, below the names of their columns."""
        rows = [asdict(row) for row in self.rows()]
        cells = [["" if cell is None else str(cell) for cell in row.values()] for row in rows]
        return [[one.name for one in fields(Row)], *cells]

    def rows(self) -> list[Row]:
        """Return one row for each fault, in the order of their names."""
        return [rounds.row(fault) for fault, rounds in sorted(self._faults.items())]


_FIGURES: Final = pytest.StashKey[Figures]()


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> Figures:
    """Return where fault tests leave their figures."""
    return pytestconfig.stash[_FIGURES]


@pytest.fixture(scope="session")
def times(pytestconfig: pytest.Config) -> Callable[[int, int], int]:
    """Return ``times(short, long)``: how often to make a fault, *long* with ``--soak``."""
    is_long = bool(pytestconfig.getoption("--soak"))
    return lambda short, long: long if is_long else short


def pytest_configure(config: pytest.Config) -> None:
    """Begin a run without figures."""
    config.stash[_FIGURES] = Figures(FILE if config.getoption("--soak") else None)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what makes faults and counts them; leave only long counts where those are asked for."""
    for item in items:
        if {"times", "figures"} <= set(getattr(item, "fixturenames", ())):
            item.add_marker("fault")
    if not config.getoption("--soak"):
        return
    long = [item for item in items if "times" in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=[item for item in items if item not in long])
    items[:] = long


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Show the figures, and what the faults took."""
    _tell_faults(terminalreporter)
    cells = config.stash[_FIGURES].table()
    if len(cells) == 1:
        return
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    terminalreporter.section("figures of faults")
    for name, *others in cells:
        words = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        terminalreporter.write_line("  ".join([name.ljust(widths[0]), *words]))
    if config.getoption("--soak"):
        terminalreporter.write_line(f"written to {FILE}")


def _tell_faults(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests made faults, and how long they took with all that they set up."""
    reports = [
        report
        for category in ("passed", "failed", "error", "")
        for report in terminalreporter.getreports(category)
        if isinstance(report, pytest.TestReport) and "fault" in report.keywords
    ]
    if reports:
        number = len({report.nodeid for report in reports})
        seconds = sum(report.duration for report in reports)
        terminalreporter.write_line(f"faults: {number} tests, {seconds:.0f} s")
