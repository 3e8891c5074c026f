"""The figures of answers to probes, and how they are told. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import quantiles
from typing import Any

from tests.bench.figures import Series, render_table

MILLISECONDS = 1000.0
_AIM_SECONDS = 0.001
_COLUMNS = ("number", "median, ms", "p99, ms", "median / bare loop", "p99 / bare loop")


@dataclass(frozen=True)
class Answers:
    """How long the answers of one contestant took in each round, in milliseconds."""

    number: int
    failed: int
    medians: tuple[float, ...]
    percentiles_99: tuple[float, ...]

    @classmethod
    def of(cls, rounds: Sequence[Sequence[float | None]]) -> Answers:
        """Return the figures; None is an answer that was bad, or did not come in time."""
        number = sum(map(len, rounds))
        good = [[each * MILLISECONDS for each in one if each is not None] for one in rounds]
        cuts = [quantiles(one, n=100, method="inclusive") for one in good]
        return cls(
            number,
            number - sum(map(len, good)),
            tuple(each[49] for each in cuts),
            tuple(each[98] for each in cuts),
        )

    def cells(self, name: str, bare: Answers) -> list[str]:
        """Return the texts of a row, beside the bare loop's."""
        return [
            name,
            f"{self.number} ({self.failed} failed)" if self.failed else str(self.number),
            Series(self.medians).text(2),
            Series(self.percentiles_99).text(1),
            _ratio(self.medians, bare.medians),
            _ratio(self.percentiles_99, bare.percentiles_99),
        ]


@dataclass(frozen=True)
class Handler:
    """The manager's own histogram of one probe."""

    buckets: Mapping[float, float]
    seconds: float
    number: int

    def since(self, before: Handler) -> Handler:
        """Return what was counted after *before*."""
        buckets = {
            bound: count - before.buckets.get(bound, 0) for bound, count in self.buckets.items()
        }
        return Handler(buckets, self.seconds - before.seconds, self.number - before.number)

    @property
    def mean_ms(self) -> float:
        """The mean."""
        return self.seconds / self.number * MILLISECONDS

    @property
    def share_in_time(self) -> float:
        """How many of them took at most a millisecond, as a part of one."""
        return self.buckets[_AIM_SECONDS] / self.number


@dataclass(frozen=True)
class Probing:
    """All contestants of one run."""

    rate: float
    answers: Mapping[str, Answers]
    handler: Handler

    def document(self) -> dict[str, Any]:
        """Return the figures for programs."""
        return {
            "rate": self.rate,
            "answers": {name: asdict(answers) for name, answers in self.answers.items()},
            "handler_mean_ms": self.handler.mean_ms,
            "handler_share_in_a_millisecond": self.handler.share_in_time,
        }

    def text(self) -> str:
        """Return a table in Markdown, and a line on the handler."""
        bare = self.answers["bare loop"]
        rows = [one.cells(name, bare) for name, one in self.answers.items()]
        headings = (f"answers to a probe, {self.rate:g}/s, pgbench on all cores", *_COLUMNS)
        missing = "" if "Patroni" in self.answers else " Patroni could not be installed."
        return (
            f"{render_table(headings, rows)}\n\nThe manager's handler took"
            f" {self.handler.mean_ms:.3f} ms in the mean, and at most 1 ms in"
            f" {self.handler.share_in_time:.2%} of {self.handler.number} answers.{missing}"
        )


@dataclass(frozen=True)
class Crowding:
    """The manager and a bare loop, each alone and beside the same crowd."""

    rate: float
    idle: int
    handshakes: int
    returned: int
    """How often one of the crowd was shown the door, and came back."""
    answers: Mapping[str, Answers]

    def document(self) -> dict[str, Any]:
        """Return the figures for programs."""
        return asdict(self)

    def text(self) -> str:
        """Return a table in Markdown, and a line on the crowd."""
        rows = [
            one.cells(name, self.answers[name.replace("manager", "bare loop")])
            for name, one in self.answers.items()
        ]
        crowd = f"{self.idle} idle connections and {self.handshakes} handshakes"
        headings = (f"/livez, {self.rate:g}/s, beside {crowd}", *_COLUMNS)
        return (
            f"{render_table(headings, rows)}\n\nOf the crowd, {self.returned} were shown the door"
            " meanwhile, and came back."
        )


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Return the median and the range of the rounds' ratios: a disturbed round must not count."""
    return Series(tuple(one / other for one, other in zip(ours, theirs, strict=True))).text(2)
