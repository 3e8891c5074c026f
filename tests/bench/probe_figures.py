"""The figures of answers to probes, and how they are told. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import quantiles
from typing import Any

from tests.bench.figures import render_table

MILLISECONDS = 1000.0
_AIM_SECONDS = 0.001


@dataclass(frozen=True)
class Answers:
    """How long the answers of one contestant took, in milliseconds."""

    number: int
    failed: int
    median: float
    percentile_99: float

    @classmethod
    def of(cls, seconds: Sequence[float | None]) -> Answers:
        """Return the figures; None is an answer that was bad, or did not come in time."""
        good = [each * MILLISECONDS for each in seconds if each is not None]
        assert len(good) > 1, "there are too few answers"
        cuts = quantiles(good, n=100, method="inclusive")
        return cls(len(seconds), len(seconds) - len(good), cuts[49], cuts[98])


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
                f"{one.median:.2f}",
                f"{one.percentile_99:.2f}",
                f"{one.median / bare.median:.2f}",
                f"{one.percentile_99 / bare.percentile_99:.2f}",
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
