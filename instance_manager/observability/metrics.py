"""Metrics: plain facts in, exposition text out.

The facts were gathered before: a scrape asks nobody. ``prometheus_client`` costs memory, so it is
imported at the first scrape; its process-wide registry and its server are not used. Names follow
the Prometheus conventions: base units, ``_total`` for counters, ``instance_manager_`` for the
manager and ``pg_`` for postgres.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from instance_manager.supervision.states import Phase

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.core import Metric

BUCKET_BOUNDS_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600)
"""From an import to an hour of recovery: the steps of a start differ by five orders."""

HANDLER_BOUNDS_SECONDS: Final = (
    *(0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001),
    *(0.0025, 0.005, 0.01, 0.05, 0.25, 1),
)
"""A probe is answered from memory: what is seen above a millisecond is a busy host."""

_NOTHING: Final[Mapping[str, int]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresFacts:
    """What the last observation of postgres said; None is *not known*, and is left out."""

    up: bool
    """Whether it accepted a connection at the last observation."""
    in_recovery: bool | None = None
    start_time_seconds: float | None = None
    """Unix time at which the postmaster started."""
    timeline: int | None = None
    connections: int | None = None
    """Client connections, without background processes."""
    connections_limit: int | None = None
    """``max_connections``."""
    replay_lag_bytes: int | None = None
    since_checkpoint_bytes: int | None = None
    crashes: int = 0
    """Since the manager started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricFacts:
    """Everything that is not counted here: what the rooms know about themselves."""

    version: str
    """Of the manager."""
    phase: Phase
    postgres: PostgresFacts
    restarts: int = 0
    """Restarts of postgres that nobody asked for, since the manager started."""
    inventory_age_seconds: float | None = None
    """Since the databases were read last."""
    orphans_reaped: int = 0
    log_lines_dropped: int = 0
    findings: Mapping[str, int] = field(default_factory=lambda: _NOTHING)
    """How many findings each code has now."""
    volumes: Mapping[str, int] = field(default_factory=lambda: _NOTHING)
    """How many volumes are in each state now."""


class Durations:
    """A histogram of seconds for each label value, in cumulative buckets."""

    def __init__(self, bounds: tuple[float, ...] = BUCKET_BOUNDS_SECONDS) -> None:
        self._bounds = bounds
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def observe(self, label: str, seconds: float) -> None:
        """Count one duration; a bound belongs to its bucket."""
        counts = self._counts.setdefault(label, [0] * (len(self._bounds) + 1))
        # To the left: a bucket of Prometheus holds what is less than its bound or equal to it.
        counts[bisect_left(self._bounds, seconds)] += 1
        self._sums[label] = self._sums.get(label, 0.0) + seconds

    def collect(self) -> Iterator[tuple[str, list[tuple[str, float]], float]]:
        """Yield each label with its cumulative buckets, ``+Inf`` last, and its sum."""
        names = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        for label, counts in self._counts.items():
            total = 0
            buckets: list[tuple[str, float]] = []
            for name, count in zip(names, counts, strict=True):
                total += count
                buckets.append((name, total))
            yield label, buckets, self._sums[label]


class Measurements:
    """What is counted while things happen. For the loop's thread only."""

    def __init__(self) -> None:
        self.startup_steps = Durations()
        self.probe_handlers = Durations(HANDLER_BOUNDS_SECONDS)
        self._probes: Counter[tuple[str, str]] = Counter()

    def count_probe(self, probe: str, ok: bool) -> None:
        """Count an answer of a probe."""
        self._probes[probe, "success" if ok else "failure"] += 1

    def probe_results(self) -> Mapping[tuple[str, str], int]:
        """Return the answers so far, by probe and result."""
        return MappingProxyType(self._probes)


# Equal to itself alone: the registry keeps it as a key, and its mappings can't be hashed.
@dataclass(frozen=True, slots=True, eq=False)
class _Collector:
    """What ``prometheus_client`` asks at each scrape."""

    facts: MetricFacts
    measurements: Measurements

    def collect(self) -> Iterator[Metric]:
        yield from _manager_metrics(self.facts)
        yield from _volume_metrics(self.facts)
        yield from _measured_metrics(self.measurements)
        yield from _postgres_metrics(self.facts.postgres)


def render(facts: MetricFacts, measurements: Measurements, accept: str) -> tuple[bytes, str]:
    """Return the exposition and its content type, in the form that *accept* prefers.

    Prometheus text, unless the ``Accept`` header asks for OpenMetrics. The first call imports
    ``prometheus_client``.
    """
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder

    # A new one for each scrape: the process-wide one is shared with whatever imports the library.
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(facts, measurements))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def _manager_metrics(facts: MetricFacts) -> Iterator[Metric]:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        InfoMetricFamily,
    )

    yield InfoMetricFamily(
        "instance_manager_build", "The manager that answers.", {"version": facts.version}
    )
    phases = GaugeMetricFamily(
        "instance_manager_phase", "1 for the phase of the instance, else 0.", labels=["phase"]
    )
    for phase in Phase:
        phases.add_metric([phase], phase is facts.phase)
    yield phases
    for name, text, value in (
        ("restarts", "Restarts of postgres that nobody asked for.", facts.restarts),
        ("orphans_reaped", "Ended processes that nobody else waited for.", facts.orphans_reaped),
        ("log_lines_dropped", "Lines that standard output did not take.", facts.log_lines_dropped),
    ):
        yield CounterMetricFamily(f"instance_manager_{name}", text, value)


def _volume_metrics(facts: MetricFacts) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    for name, label, text, values in (
        ("findings", "code", "Findings about the extension volumes now.", facts.findings),
        ("extension_volumes", "state", "Extension volumes by their state.", facts.volumes),
    ):
        family = GaugeMetricFamily(f"instance_manager_{name}", text, labels=[label])
        for key, value in sorted(values.items()):
            family.add_metric([key], value)
        yield family
    if facts.inventory_age_seconds is not None:
        yield GaugeMetricFamily(
            "instance_manager_inventory_age_seconds",
            "Since what the databases use was read last.",
            facts.inventory_age_seconds,
        )


def _measured_metrics(measurements: Measurements) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    probes = CounterMetricFamily(
        "instance_manager_probe_results", "Answers of the probes.", labels=["probe", "result"]
    )
    for (probe, result), count in sorted(measurements.probe_results().items()):
        probes.add_metric([probe, result], count)
    yield probes
    for name, label, text, durations in (
        ("startup_step", "step", "Time of each step of a start.", measurements.startup_steps),
        ("probe_handler", "probe", "Time to answer a probe.", measurements.probe_handlers),
    ):
        family = HistogramMetricFamily(f"instance_manager_{name}_seconds", text, labels=[label])
        for value, buckets, total in durations.collect():
            family.add_metric([value], buckets, total)
        yield family


def _postgres_metrics(facts: PostgresFacts) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    for name, text, value in (
        ("up", "1 if postgres accepted a connection when last asked.", facts.up),
        ("in_recovery", "1 in recovery: a standby, or replay.", facts.in_recovery),
        ("start_time_seconds", "Unix time of the postmaster's start.", facts.start_time_seconds),
        ("timeline", "The timeline.", facts.timeline),
        ("connections", "Client connections.", facts.connections),
        ("connections_limit", "max_connections.", facts.connections_limit),
        ("replay_lag_bytes", "Received and not yet replayed.", facts.replay_lag_bytes),
        (
            "wal_since_checkpoint_bytes",
            "Written since the last checkpoint began: what a crash recovery would repeat.",
            facts.since_checkpoint_bytes,
        ),
    ):
        # Left out and not zero: a zero would be a fact, and an alarm for some.
        if value is not None:
            yield GaugeMetricFamily(f"pg_{name}", text, value)
    yield CounterMetricFamily(
        "pg_crashes", "Crashes that the server recovered from by itself.", facts.crashes
    )
