"""The rules of the probes, on facts that are made up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from instance_manager.health import verdicts
from instance_manager.health.verdicts import Check, CheckName, Facts, Lag, Probe
from instance_manager.supervision.states import Desired, Phase

NOW = 1000.0
HEALTHY = Facts(
    now=NOW,
    heartbeat_at=NOW - 0.5,
    phase=Phase.RUNNING,
    desired=Desired.RUNNING,
    first_start_over=True,
    probe=Probe(accepting=True, reason="", at=NOW - 0.5),
    lag=Lag(size_bytes=0, at=NOW - 0.5),
)


def ready_check(facts: Facts, name: CheckName) -> Check:
    """Return one check of readiness."""
    return next(check for check in verdicts.readyz(facts).checks if check.name is name)


def test_a_healthy_instance_passes_every_probe() -> None:
    """With fresh facts and a running server, nothing fails and nothing has a reason."""
    for judge in verdicts.PROBES.values():
        verdict = judge(HEALTHY)

        assert verdict.ok
        assert all(check.reason == "" for check in verdict.checks)


def test_each_probe_has_the_checks_that_its_users_know() -> None:
    """The names of the checks are promises."""
    names = {
        name: [check.name for check in judge(HEALTHY).checks]
        for name, judge in verdicts.PROBES.items()
    }

    assert names == {
        "livez": ["heartbeat"],
        "startupz": ["start"],
        "readyz": ["postgres", "lag", "shutdown"],
    }


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("desired", list(Desired))
def test_nothing_but_the_heartbeat_decides_liveness(phase: Phase, desired: Desired) -> None:
    """Whatever postgres does or did, a manager whose loop turns is alive."""
    worst = replace(
        HEALTHY,
        phase=phase,
        desired=desired,
        probe=Probe(accepting=False, reason="silent", at=0),
        lag=None,
        maximum_lag_bytes=0,
        stopping=True,
        first_start_over=False,
    )

    assert verdicts.livez(worst).ok
    assert not verdicts.livez(replace(worst, heartbeat_at=NOW - 11)).ok


def test_a_late_heartbeat_tells_its_age() -> None:
    """The reason and the age say how long the loop was silent."""
    (check,) = verdicts.livez(replace(HEALTHY, heartbeat_at=NOW - 12.34)).checks

    assert check.reason == "the last was 12.3 s ago"
    assert check.observed_seconds_ago == pytest.approx(12.34)


@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.FENCED, Phase.STOPPED, Phase.FAILED])
def test_a_settled_phase_counts_as_started(phase: Phase) -> None:
    """Better or worse: the kubelet must not kill what people need to look at."""
    assert verdicts.startupz(replace(HEALTHY, phase=phase, first_start_over=False)).ok


@pytest.mark.parametrize("phase", list(Phase))
def test_a_first_start_that_is_over_stays_over(phase: Phase) -> None:
    """A later restart does not bring the startup probe back."""
    assert verdicts.startupz(replace(HEALTHY, phase=phase, first_start_over=True)).ok


UNSETTLED = [Phase.INITIALIZING, Phase.STARTING, Phase.RECOVERING, Phase.RESTARTING]


@pytest.mark.parametrize("phase", UNSETTLED)
@pytest.mark.parametrize(("seen_seconds_ago", "ok"), [(None, False), (29, True), (31, False)])
def test_a_start_passes_only_while_it_gets_on(
    phase: Phase, seen_seconds_ago: float | None, ok: bool
) -> None:
    """Progress, seen lately, is what the first start is judged by."""
    at = None if seen_seconds_ago is None else NOW - seen_seconds_ago
    facts = replace(HEALTHY, phase=phase, first_start_over=False, progress_at=at)

    (check,) = verdicts.startupz(facts).checks

    assert check.ok is ok
    assert check.observed_seconds_ago == seen_seconds_ago


def test_a_server_that_does_not_accept_is_not_ready_for_its_own_reason() -> None:
    """The reason of the last answer is the reason of the check."""
    probe = Probe(accepting=False, reason="the database system is starting up", at=NOW)

    check = ready_check(replace(HEALTHY, probe=probe), CheckName.POSTGRES)

    assert (check.ok, check.reason) == (False, "the database system is starting up")


def test_a_failed_answer_without_words_still_has_a_reason() -> None:
    """No failed check is without a reason."""
    check = ready_check(replace(HEALTHY, probe=Probe(False, "", NOW)), CheckName.POSTGRES)

    assert check.reason == "postgres does not accept"


def test_before_the_first_answer_nothing_is_ready() -> None:
    """What was never asked is not good."""
    check = ready_check(replace(HEALTHY, probe=None), CheckName.POSTGRES)

    assert check.reason == "postgres was not asked yet"
    assert check.observed_seconds_ago is None


@pytest.mark.parametrize(("periods", "ok"), [(2.9, True), (3.0, True), (3.1, False)])
@pytest.mark.parametrize("period_seconds", [0.5, 1.0, 10.0])
def test_an_answer_older_than_three_periods_is_a_failure(
    periods: float, period_seconds: float, ok: bool
) -> None:
    """The last good answer of a server that hangs must not be believed for ever."""
    probe = Probe(accepting=True, reason="", at=NOW - periods * period_seconds)
    facts = replace(HEALTHY, probe=probe, period_seconds=period_seconds)

    assert ready_check(facts, CheckName.POSTGRES).ok is ok


@pytest.mark.parametrize("phase", sorted(set(Phase) - {Phase.RUNNING}))
def test_a_good_answer_does_not_outlive_its_server(phase: Phase) -> None:
    """A phase other than running wins over an answer that came just before."""
    check = ready_check(replace(HEALTHY, phase=phase), CheckName.POSTGRES)

    assert (check.ok, check.reason) == (False, f"postgres is {phase}")


@pytest.mark.parametrize(
    ("lag", "limit", "reason"),
    [
        (None, None, ""),
        (Lag(10**12, NOW - 3600), None, ""),
        (Lag(100, NOW), 100, ""),
        (Lag(101, NOW), 100, "101 bytes behind, allowed 100"),
        (Lag(0, NOW), 0, ""),
        (Lag(0, NOW - 4), 100, "the lag was seen 4.0 s ago"),
        (None, 100, "the lag is not known yet"),
    ],
)
def test_lag_counts_only_against_a_limit(lag: Lag | None, limit: int | None, reason: str) -> None:
    """Without a limit any lag is good; with one, an unknown or old lag is not."""
    check = ready_check(replace(HEALTHY, lag=lag, maximum_lag_bytes=limit), CheckName.LAG)

    assert (check.ok, check.reason) == (not reason, reason)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"stopping": True}, "a stop is under way"),
        ({"phase": Phase.STOPPING}, "a stop is under way"),
        ({"desired": Desired.STOPPED}, "to be stopped"),
        ({"desired": Desired.FENCED}, "to be fenced"),
    ],
)
def test_a_stop_takes_the_instance_out_of_service_at_once(
    changes: dict[str, bool], reason: str
) -> None:
    """Readiness fails from the request on, not only when postgres refuses."""
    facts = replace(HEALTHY, **changes)  # type: ignore[arg-type]

    assert ready_check(facts, CheckName.SHUTDOWN).reason == reason
    assert not verdicts.readyz(facts).ok


def test_a_verdict_fails_with_any_of_its_checks() -> None:
    """All checks are judged, the failed and the others."""
    verdict = verdicts.readyz(replace(HEALTHY, stopping=True))

    assert not verdict.ok
    assert [check.ok for check in verdict.checks] == [True, True, False]


QUERIED = replace(
    HEALTHY,
    readiness="query",
    query=Probe(accepting=True, reason="", at=NOW - 1),
    stream=Probe(accepting=True, reason="", at=NOW - 2),
)


@pytest.mark.parametrize("readiness", ["accepting", "query", "streaming"])
@pytest.mark.parametrize("field", ["probe", "query", "stream"])
@pytest.mark.parametrize(
    "bad",
    [None, Probe(accepting=False, reason="x", at=NOW), Probe(accepting=True, reason="", at=0)],
)
def test_each_strategy_counts_what_it_asks_and_no_more(
    readiness: str, field: str, bad: Probe | None
) -> None:
    """What is missing, bad or too old is bad news, but only where it was asked for."""
    asks = {"accepting": 1, "query": 2, "streaming": 3}[readiness]
    counts = field in ("probe", "query", "stream")[:asks]
    change: dict[str, Any] = {"readiness": readiness, field: bad}
    facts = replace(QUERIED, **change)

    assert ready_check(facts, CheckName.POSTGRES).ok is not counts


def test_a_verdict_is_as_old_as_the_oldest_fact_behind_it() -> None:
    """With each strategy it is another one."""
    ages = {
        readiness: ready_check(
            replace(QUERIED, readiness=readiness), CheckName.POSTGRES
        ).observed_seconds_ago
        for readiness in ("accepting", "query", "streaming")
    }

    assert ages == {"accepting": 0.5, "query": 1.0, "streaming": 2.0}


@pytest.mark.parametrize(
    ("status", "silent", "timeout", "problem"),
    [
        ("streaming", 0.1, 60, ""),
        ("streaming", 32.9, 60, ""),
        ("streaming", 33.1, 60, "the primary has been silent for 33.1 s"),
        ("streaming", 3.6, 1, "the primary has been silent for 3.6 s"),
        ("streaming", 1e6, 0, ""),
        ("streaming", None, 60, ""),
        ("waiting", 0.1, 60, "the WAL receiver is waiting"),
        (None, None, 60, "there is no WAL receiver"),
    ],
)
def test_a_standby_receives_while_its_primary_answers(
    status: str | None, silent: float | None, timeout: float, problem: str
) -> None:
    """An idle primary may be silent for half of wal_receiver_timeout."""
    assert verdicts.stream_problem(status, silent, timeout, patience=3) == problem
