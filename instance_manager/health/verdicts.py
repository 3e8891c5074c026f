"""What the probes answer, from facts that were observed before anyone asked.

Pure: facts in, verdicts out; no clock, no I/O. Times are readings of the monotonic clock in
seconds. Every fact carries the moment of its observation, and a fact that is too old counts as
bad news. The rules are those of the Kubernetes probes: liveness kills, readiness only removes
from service, startup holds the other two back.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from instance_manager.supervision.states import Desired, Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HEARTBEAT_LIMIT_SECONDS: Final = 10.0
"""A loop that was silent for this long is stuck; the kubelet asks every ten seconds by default."""

PROGRESS_LIMIT_SECONDS: Final = 30.0
"""PostgreSQL reports recovery every 10 s (log_startup_progress_interval); two may be missed."""

STALE_AFTER_PERIODS: Final = 3
"""An observation that missed three of its turns says nothing about now."""

_SETTLED: Final = frozenset({Phase.RUNNING, Phase.FENCED, Phase.STOPPED, Phase.FAILED})


class CheckName(StrEnum):
    """The checks, by the names that ``?exclude=`` and ``/readyz/CHECK`` use."""

    HEARTBEAT = "heartbeat"
    START = "start"
    POSTGRES = "postgres"
    LAG = "lag"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True)
class Probe:
    """One answer of postgres to the readiness strategy, and when it came."""

    accepting: bool
    reason: str
    """Why it is not accepting; empty when it is."""
    at: float


@dataclass(frozen=True, slots=True)
class Lag:
    """How far replay is behind what was received; a primary has 0 bytes."""

    size_bytes: int
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that the verdicts depend on; times are monotonic seconds, as *now* is."""

    now: float
    heartbeat_at: float
    phase: Phase
    desired: Desired
    first_start_over: bool
    """The first start has ended, for better or worse; never becomes false again."""
    progress_at: float | None = None
    """When the start was last seen to get on (initialisation, recovery, base backup)."""
    probe: Probe | None = None
    """The postmaster's last answer to a new connection."""
    query: Probe | None = None
    """The last answer over the connection that is kept."""
    stream: Probe | None = None
    """Whether a standby receives; a primary has nothing to receive."""
    readiness: str = "accepting"
    """The strategy: accepting, query, or streaming; each asks all that is asked before it."""
    lag: Lag | None = None
    maximum_lag_bytes: int | None = None
    period_seconds: float = 1.0
    """The time between two observations."""
    stopping: bool = False
    """A stop, or the end of the manager, is under way."""


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one check."""

    name: CheckName
    ok: bool
    reason: str
    """Why it failed, for those who may know; empty when it is ok."""
    observed_seconds_ago: float | None
    """The age of the fact behind it; None where nothing was observed yet."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a probe: good only if all its checks are."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return all(check.ok for check in self.checks)


def livez(facts: Facts) -> Verdict:
    """Judge the manager's own heartbeat, and nothing else.

    Whatever postgres does, killing the container would not help it.
    """
    age = facts.now - facts.heartbeat_at
    problem = f"the last was {age:.1f} s ago" if age > HEARTBEAT_LIMIT_SECONDS else ""
    return Verdict((_check(CheckName.HEARTBEAT, problem, age),))


def startupz(facts: Facts) -> Verdict:
    """Judge the first start: over, or getting on.

    A start that ended badly counts as over: people need the container in order to look at it.
    """
    return Verdict(
        (_check(CheckName.START, _start_problem(facts), _age(facts, facts.progress_at)),)
    )


def readyz(facts: Facts) -> Verdict:
    """Judge whether clients should be sent here."""
    return Verdict((_judge_postgres(facts), _judge_lag(facts), _judge_shutdown(facts)))


def _start_problem(facts: Facts) -> str:
    # A failed start is over, too: a probe that failed would have the container killed, and what it
    # shows with it.
    if facts.first_start_over or facts.phase in _SETTLED:
        return ""
    age = _age(facts, facts.progress_at)
    if age is None:
        return f"{facts.phase}, and no progress was seen yet"
    if age > PROGRESS_LIMIT_SECONDS:
        return f"{facts.phase}, and the last progress was seen {age:.1f} s ago"
    return ""


def _judge_postgres(facts: Facts) -> Check:
    """Ask the phase before the last answers: they may be older than the end of the server."""
    asked = _asked(facts)
    ages = [_age(facts, probe.at) if probe else None for probe in asked.values()]
    # The verdict is as old as the oldest of what it is made of.
    known = [age for age in ages if age is not None]
    age = max(known) if len(known) == len(ages) else None
    # The last answer may have come just before the server's end: the phase knows better.
    if facts.phase is not Phase.RUNNING:
        return _check(CheckName.POSTGRES, f"postgres is {facts.phase}", age)
    problems = (_probe_problem(facts, what, probe) for what, probe in asked.items())
    return _check(CheckName.POSTGRES, next(filter(None, problems), ""), age)


def _asked(facts: Facts) -> Mapping[str, Probe | None]:
    """Return what counts by the strategy, and how it is called."""
    asked = {"answer": facts.probe}
    if facts.readiness != "accepting":
        asked["answer to a query"] = facts.query
    if facts.readiness == "streaming":
        asked["look at the WAL receiver"] = facts.stream
    return asked


def _probe_problem(facts: Facts, what: str, probe: Probe | None) -> str:
    age = _age(facts, probe.at) if probe else None
    if probe is None or age is None:
        return "postgres was not asked yet" if what == "answer" else f"there is no {what} yet"
    if _is_stale(facts, age):
        return f"the last {what} is {age:.1f} s old"
    return "" if probe.accepting else probe.reason or "postgres does not accept"


def stream_problem(
    status: str | None, silent_seconds: float | None, timeout_seconds: float, patience: float
) -> str:
    """Return why a standby does not receive; empty where it does.

    An idle primary may say nothing for long. A WAL receiver asks it for an answer after half of
    ``wal_receiver_timeout``: a silence that is longer by *patience* is a primary that hangs.

    Args:
        status: of ``pg_stat_wal_receiver``; None where there is no WAL receiver.
        silent_seconds: since its last message.
        timeout_seconds: ``wal_receiver_timeout``; 0 for none: then no silence is too long.
        patience: how late an answer may be.
    """
    if status is None:
        return "there is no WAL receiver"
    if status != "streaming":
        return f"the WAL receiver is {status}"
    # WalReceiverMain() asks for a reply after half of it, and the primary answers at once.
    limit = timeout_seconds / 2 + patience
    if silent_seconds is not None and timeout_seconds > 0 and silent_seconds > limit:
        return f"the primary has been silent for {silent_seconds:.1f} s"
    return ""


def _judge_lag(facts: Facts) -> Check:
    """Judge the lag against its limit; without a limit, any lag is good."""
    age = _age(facts, facts.lag.at) if facts.lag else None
    # Before the age is looked at: what nobody limits may be as old as it likes.
    if facts.maximum_lag_bytes is None:
        problem = ""
    elif facts.lag is None or age is None:
        problem = "the lag is not known yet"
    elif _is_stale(facts, age):
        problem = f"the lag was seen {age:.1f} s ago"
    elif facts.lag.size_bytes > facts.maximum_lag_bytes:
        problem = f"{facts.lag.size_bytes} bytes behind, allowed {facts.maximum_lag_bytes}"
    else:
        problem = ""
    return _check(CheckName.LAG, problem, age)


def _judge_shutdown(facts: Facts) -> Check:
    if facts.stopping or facts.phase is Phase.STOPPING:
        return _check(CheckName.SHUTDOWN, "a stop is under way", 0.0)
    if facts.desired is not Desired.RUNNING:
        return _check(CheckName.SHUTDOWN, f"to be {facts.desired}", 0.0)
    return _check(CheckName.SHUTDOWN, "", 0.0)


def _check(name: CheckName, problem: str, age: float | None) -> Check:
    return Check(name, not problem, problem, age)


def _age(facts: Facts, at: float | None) -> float | None:
    return None if at is None else facts.now - at


def _is_stale(facts: Facts, age: float) -> bool:
    return age > STALE_AFTER_PERIODS * facts.period_seconds


PROBES: Final[Mapping[str, Callable[[Facts], Verdict]]] = {
    "livez": livez,
    "startupz": startupz,
    "readyz": readyz,
}
"""The probes by the names of their paths."""
