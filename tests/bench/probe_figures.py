"""The figures of answers to probes, and how they are told. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any

from tests.bench.figures import Series, render_table

MILLISECONDS = 1000.0
_AIM_SECONDS = 0.001


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
        rows = [
            [
                name,
                f"{one.number} ({one.failed} failed)" if one.failed else str(one.number),
                Series(one.medians).text(2),
                Series(one.percentiles_99).text(1),
                _ratio(one.medians, bare.medians),
                _ratio(one.percentiles_99, bare.percentiles_99),
            ]
            for name, one in self.answers.items()
        ]
        headings = (
            f"answers to a probe, {self.rate:g}/s, pgbench on all cores",
            "number",
            "median, ms",
            "p99, ms",
            "median / bare loop",
            "p99 / bare loop",
        )
        missing = "" if "Patroni" in self.answers else " Patroni could not be installed."
        return (
            f"{render_table(headings, rows)}\n\nThe manager's handler took"
            f" {self.handler.mean_ms:.3f} ms in the mean, and at most 1 ms in"
            f" {self.handler.share_in_time:.2%} of {self.handler.number} answers.{missing}"
        )


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Return the median of the rounds' ratios: a round that was disturbed must not count."""
    return f"{median(one / other for one, other in zip(ours, theirs, strict=True)):.2f}"
