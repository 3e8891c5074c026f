"""The exposition, read back by the parsers of ``prometheus_client``."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from instance_manager.observability import metrics
from instance_manager.observability.metrics import (
    Durations,
    Measurements,
    MetricFacts,
    PostgresFacts,
)
from instance_manager.supervision.states import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from prometheus_client.core import Metric

parse_openmetrics: Callable[[str], Iterable[Metric]] = openmetrics.text_string_to_metric_families
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
FACTS = MetricFacts(version="0.1.0", phase=Phase.RUNNING, postgres=PostgresFacts(up=True))


def samples(facts: MetricFacts, measurements: Measurements | None = None) -> dict[str, float]:
    """Return the samples of an exposition, by their names and labels as text."""
    body, _ = metrics.render(facts, measurements or Measurements(), "")
    return {
        sample.name + _labels(sample.labels): sample.value
        for family in parse_text(body.decode())
        for sample in family.samples
    }


def _labels(labels: Mapping[str, str]) -> str:
    return json.dumps(labels, sort_keys=True) if labels else ""


@pytest.mark.parametrize("phase", list(Phase))
def test_exactly_the_current_phase_is_one(phase: Phase) -> None:
    """Every phase has its series at all times."""
    found = samples(replace(FACTS, phase=phase))
    values = {one: found[f'instance_manager_phase{{"phase": "{one}"}}'] for one in Phase}

    assert values == {one: float(one is phase) for one in Phase}


def test_counters_and_gauges_carry_what_the_facts_say() -> None:
    """Names are promises."""
    facts = replace(
        FACTS,
        restarts=3,
        orphans_reaped=4,
        log_lines_dropped=5,
        findings={"EXT040": 2},
        volumes={"ready": 6, "quarantined": 1},
    )

    found = samples(facts)

    assert found['instance_manager_build_info{"version": "0.1.0"}'] == 1
    assert found["instance_manager_restarts_total"] == 3
    assert found["instance_manager_orphans_reaped_total"] == 4
    assert found["instance_manager_log_lines_dropped_total"] == 5
    assert found['instance_manager_findings{"code": "EXT040"}'] == 2
    assert found['instance_manager_extension_volumes{"state": "ready"}'] == 6
    assert found['instance_manager_extension_volumes{"state": "quarantined"}'] == 1


def test_what_is_not_known_of_postgres_is_left_out() -> None:
    """A zero that nobody measured would be a lie; what is counted here is known."""
    found = samples(replace(FACTS, postgres=PostgresFacts(up=False)))

    assert {name: value for name, value in found.items() if name.startswith("pg_")} == {
        "pg_up": 0,
        "pg_crashes_total": 0,
    }


def test_what_is_known_of_postgres_is_shown() -> None:
    """Every fact has its series."""
    postgres = PostgresFacts(
        up=True,
        in_recovery=False,
        start_time_seconds=1767225600.5,
        timeline=2,
        connections=7,
        connections_limit=100,
        replay_lag_bytes=0,
        since_checkpoint_bytes=0,
        crashes=3,
    )

    found = samples(replace(FACTS, postgres=postgres))

    assert {name: value for name, value in found.items() if name.startswith("pg_")} == {
        "pg_up": 1,
        "pg_in_recovery": 0,
        "pg_start_time_seconds": 1767225600.5,
        "pg_timeline": 2,
        "pg_connections": 7,
        "pg_connections_limit": 100,
        "pg_replay_lag_bytes": 0,
        "pg_wal_since_checkpoint_bytes": 0,
        "pg_crashes_total": 3,
    }


def test_answers_of_probes_are_counted_by_result() -> None:
    """Success and failure have a series each."""
    measurements = Measurements()
    for ok in (True, True, False):
        measurements.count_probe("readyz", ok)

    found = samples(FACTS, measurements)

    name = "instance_manager_probe_results_total"
    assert found[f'{name}{{"probe": "readyz", "result": "success"}}'] == 2
    assert found[f'{name}{{"probe": "readyz", "result": "failure"}}'] == 1


def test_steps_of_a_start_make_a_histogram() -> None:
    """Each step has cumulative buckets, a count and a sum."""
    measurements = Measurements()
    for seconds in (0.02, 0.3, 3600.0):
        measurements.startup_steps.observe("recovery", seconds)

    found = samples(FACTS, measurements)

    name = "instance_manager_startup_step_seconds"
    assert found[f'{name}_bucket{{"le": "0.025", "step": "recovery"}}'] == 1
    assert found[f'{name}_bucket{{"le": "0.5", "step": "recovery"}}'] == 2
    assert found[f'{name}_bucket{{"le": "600.0", "step": "recovery"}}'] == 2
    assert found[f'{name}_bucket{{"le": "+Inf", "step": "recovery"}}'] == 3
    assert found[f'{name}_count{{"step": "recovery"}}'] == 3
    assert found[f'{name}_sum{{"step": "recovery"}}'] == pytest.approx(3600.32)


@given(st.lists(st.floats(0, 1000), min_size=1))
def test_buckets_count_what_is_not_above_their_bound(seconds: list[float]) -> None:
    """A value on a bound belongs to its bucket, and the last bucket holds all."""
    durations = Durations((0.0, 1.0, 500.0))
    for one in seconds:
        durations.observe("step", one)

    ((label, buckets, total),) = durations.collect()

    assert label == "step"
    assert total == pytest.approx(sum(seconds))
    assert buckets == [
        (str(bound), sum(one <= bound for one in seconds)) for bound in (0.0, 1.0, 500.0)
    ] + [("+Inf", len(seconds))]


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [("", "text/plain"), ("*/*", "text/plain"), (OPENMETRICS, "application/openmetrics-text")],
)
def test_the_form_is_what_the_scraper_accepts(accept: str, content_type: str) -> None:
    """Prometheus text, unless OpenMetrics is asked for."""
    _, found = metrics.render(FACTS, Measurements(), accept)

    assert found.startswith(content_type)


def test_the_openmetrics_form_is_valid() -> None:
    """The strict parser takes it, end mark included."""
    measurements = Measurements()
    measurements.count_probe("livez", True)
    measurements.startup_steps.observe("spawn", 0.01)
    body, _ = metrics.render(FACTS, measurements, OPENMETRICS)

    families = {family.name for family in parse_openmetrics(body.decode())}

    assert body.endswith(b"# EOF\n")
    assert {"instance_manager_phase", "instance_manager_startup_step_seconds", "pg_up"} <= families


def test_every_name_says_whose_it_is() -> None:
    """Nothing of the library's own process registry slips in."""
    body, _ = metrics.render(FACTS, Measurements(), "")
    names = {family.name for family in parse_text(body.decode())}

    assert {name for name in names if not name.startswith(("instance_manager_", "pg_"))} == set()


def test_the_module_does_not_load_the_library() -> None:
    """It is read at the first scrape; until then its memory is not needed."""
    assert not hasattr(metrics, "prometheus_client")
    assert "prometheus_client" not in {
        getattr(value, "__name__", "").partition(".")[0]
        for value in vars(metrics).values()
        if isinstance(value, type(sys))
    }
