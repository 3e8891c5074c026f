"""The measurements: each takes its contestants and gives figures."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.contestants import DATABASE, OWNER, Site
from tests.bench.figures import Figure, Series
from tests.bench.questions import until_alive, until_select

_MILLISECONDS = 1000.0
_PROBE_PERIOD_SECONDS = 10.0
"""The kubelet's default."""
_STEP = re.compile(r'instance_manager_startup_step_seconds_sum\{step="([^"]+)"\} (\S+)')


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured."""

    starts: int
    settle_seconds: float
    idle_seconds: float
    rounds: int
    """Of pgbench; each runs both kinds on both contestants."""
    load_seconds: int
    scale: int
    probe_rounds: int
    """Each asks all contestants for *probe_seconds*."""
    probe_seconds: float


FULL = Plan(
    starts=12,
    settle_seconds=10,
    idle_seconds=60,
    rounds=10,
    load_seconds=1,
    scale=10,
    probe_rounds=9,
    probe_seconds=2,
)
QUICK = Plan(
    starts=2,
    settle_seconds=1,
    idle_seconds=2,
    rounds=1,
    load_seconds=1,
    scale=1,
    probe_rounds=1,
    probe_seconds=1,
)


def measure_starts(
    volumes: Site, plain: Site, starts: int
) -> tuple[list[Figure], dict[str, Series]]:
    """Start both, by turns, until a client is served; with one volume and with none."""
    times: dict[str, list[float]] = defaultdict(list)
    steps: dict[str, list[float]] = defaultdict(list)
    for turn in range(starts):
        for name, site in (("one volume", volumes), ("no volume", plain)):
            for contestant in _by_turns(turn, "bare", "managed"):
                if contestant == "bare":
                    with site.bare() as began:
                        at = until_select(site, OWNER, DATABASE)
                        times[f"bare, {name}"].append((at - began) * _MILLISECONDS)
                else:
                    at, alive, worked = _start_managed(site, steps if site is volumes else None)
                    times[f"manager, {name}"].append(at)
                    times[f"livez, {name}"].append(alive)
                    times[f"processor, {name}"].append(worked)
    figures = [
        Figure(
            name=f"first connection, {name}",
            unit="ms",
            manager=_series(times[f"manager, {name}"]),
            bare=_series(times[f"bare, {name}"]),
            aim=aim,
        )
        for name, aim in (("one volume", "≤ +250, excellent ≤ +150"), ("no volume", ""))
    ]
    figures += [
        Figure(
            name=f"the manager's time of the processor until then, {name}",
            unit="ms",
            manager=_series(times[f"processor, {name}"]),
        )
        for name in ("one volume", "no volume")
    ]
    figures.append(
        Figure(
            name="first answer of /livez, one volume",
            unit="ms",
            manager=_series(times["livez, one volume"]),
        )
    )
    return figures, {name: _series(values) for name, values in steps.items()}


def _start_managed(site: Site, steps: dict[str, list[float]] | None) -> tuple[float, float, float]:
    """Return the milliseconds to the first connection, to the first answer of /livez, and of work.

    The last are those that the manager had used by the first connection.
    """

    def serve() -> tuple[float, float]:
        return until_select(site, OWNER, DATABASE), _worked_seconds(site.pid)

    with site.managed() as began, ThreadPoolExecutor(2) as clients:
        served = clients.submit(serve)
        alive = clients.submit(until_alive, site)
        at, worked = served.result()
        alive_at = alive.result()
        site.until_ready()
        if steps is not None:
            for step, seconds in _STEP.findall(site.probe("metrics")[1]):
                steps[step].append(float(seconds) * _MILLISECONDS)
    return (
        (at - began) * _MILLISECONDS,
        (alive_at - began) * _MILLISECONDS,
        worked * _MILLISECONDS,
    )


def _worked_seconds(pid: int) -> float:
    """Return the time that the threads of a process have used: the first field of schedstat.

    In nanoseconds, where that of proc_stat(5) comes in ticks of 10 ms.
    """
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(each.read_text(encoding="ascii").split()[0]) for each in threads) / 1e9


def measure_idle(volumes: Site, plain: Site, plan: Plan) -> list[Figure]:
    """Let the manager idle: its memory alone on the host, its time with probes and without."""
    with volumes.managed():
        _use(volumes)
        time.sleep(plan.settle_seconds)
        memory = _memory(volumes.pid)
        with plain.managed():
            _use(plain)
            time.sleep(plan.settle_seconds)
            probed, alone = _idle_load(volumes, plain, plan.idle_seconds)
    resident, proportional, own = memory
    load = f"CPU when idle over {plan.idle_seconds:g} s"
    return [
        Figure(
            name="RSS when idle", unit="MB", digits=1, manager=resident, aim="≤ 75, excellent ≤ 60"
        ),
        Figure(name="PSS when idle", unit="MB", digits=1, manager=proportional),
        Figure(name="memory of its own", unit="MB", digits=1, manager=own),
        Figure(
            name=f"{load}, probed every 10 s",
            unit="% of a core",
            digits=2,
            manager=probed,
            aim="≤ 0.5",
        ),
        Figure(name=f"{load}, not probed", unit="% of a core", digits=2, manager=alone),
    ]


def _use(site: Site) -> None:
    """Ask what is imported at the first question: a manager that was never asked is no measure."""
    site.until_ready()
    for path in ("livez", "readyz", "startupz", "metrics"):
        assert site.probe(path)[0] == 200, path
    status = site.status()
    assert status is not None
    assert status["extensions"]["volumes"] == status["extensions"]["ready"], status


def _memory(pid: int) -> tuple[Series, Series, Series]:
    """Return resident, proportional and private memory in megabytes (10⁶ bytes)."""
    sizes: dict[str, float] = defaultdict(float)
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]:
        name, size = line.split()[:2]
        sizes[name.rstrip(":")] += int(size) * 1024 / 1e6
    own = sizes["Private_Clean"] + sizes["Private_Dirty"]
    return _series([sizes["Rss"]]), _series([sizes["Pss"]]), _series([own])


def _idle_load(probed: Site, alone: Site, seconds: float) -> tuple[Series, Series]:
    """Probe one as the kubelet does and leave the other alone; both are idle, so they share."""
    began, before = time.perf_counter(), [_cpu_seconds(site.pid) for site in (probed, alone)]
    while (left := began + seconds - time.perf_counter()) > 0:
        for path in ("livez", "readyz"):
            assert probed.probe(path)[0] == 200, path
        time.sleep(min(left, _PROBE_PERIOD_SECONDS))
    took = time.perf_counter() - began
    after = [_cpu_seconds(site.pid) for site in (probed, alone)]
    loads = [(end - start) / took * 100 for start, end in zip(before, after, strict=True)]
    return _series(loads[:1]), _series(loads[1:])


def _cpu_seconds(pid: int) -> float:
    """Return the time that a process has used, in and for it: utime and stime of proc_stat(5)."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure_load(site: Site, plan: Plan) -> list[Figure]:
    """Run pgbench on both, by turns: reading only, and its TPC-B-like default."""
    with site.bare():
        until_select(site, OWNER, DATABASE)
        _pgbench(site, "-i", "-q", "-s", str(plan.scale))
    os.sync()  # else the first contestant pays for what the initialisation left behind
    rates: dict[str, list[float]] = defaultdict(list)
    kinds = {"read only": ("-S",), "TPC-B-like": ()}
    for turn in range(plan.rounds):
        for contestant in _by_turns(turn, "bare", "managed"):
            running: AbstractContextManager[float] = getattr(site, contestant)()
            with running:
                until_select(site, OWNER, DATABASE)
                # Caches get warm, and what a manager imports after its start is another figure.
                _pgbench(site, "-S", *_CLIENTS, "-T", "2")
                for kind, options in kinds.items():
                    said = _pgbench(site, *options, *_CLIENTS, "-T", str(plan.load_seconds))
                    rates[f"{contestant}, {kind}"].append(_rate_in(said))
    return [
        Figure(
            name=f"pgbench, {kind}",
            unit="transactions/s",
            manager=_series(rates[f"managed, {kind}"]),
            bare=_series(rates[f"bare, {kind}"]),
            aim="ratio ≥ 0.99",
        )
        for kind in kinds
    ]


_CLIENTS = ("-n", "-c", "4", "-j", "2")


def _pgbench(site: Site, *options: str) -> str:
    program = site.server.bin_directory / "pgbench"
    address = ("-h", str(site.postgres_socket.parent), "-p", str(site.port), "-U", OWNER)
    command = [str(program), *options, *address, DATABASE]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _rate_in(said: str) -> float:
    found = re.search(r"^tps = ([0-9.]+)", said, re.MULTILINE)
    assert found is not None, said
    return float(found[1])


def _by_turns(turn: int, first: str, second: str) -> Sequence[str]:
    """Return who goes first this time: the host's drift then favours neither."""
    return (first, second) if turn % 2 == 0 else (second, first)


def _series(values: Iterable[float]) -> Series:
    return Series(tuple(values))
