"""The answers of ``/readyz`` on a busy host, beside a bare loop, Patroni, and pg_isready."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench import patroni
from tests.bench.contestants import DATABASE, OWNER, Site
from tests.bench.probe_figures import Answers, Handler, Probing
from tests.bench.questions import until_select
from tests.support.manager import free_port, until

RATE = 500.0
_FORK_RATE = 20.0
"""A fork takes too long for more."""
_CLIENTS = ("-S", "-n", "-c", "8", "-j", "2", "-T", "3600")
_HERE = Path(__file__).parent
_HANDLER = re.compile(
    r'^instance_manager_probe_handler_seconds_(bucket|sum|count)\{(?:le="([^"]+)",)?probe="readyz"'
    r"(?:,le=\"([^\"]+)\")?\} (\S+)$",
    re.MULTILINE,
)


def measure_probing(
    site: Site, elsewhere: Path, rounds: int, seconds: float, *, rate: float = RATE
) -> Probing:
    """Ask all by turns, while pgbench keeps the site's server, and so the host, busy."""
    took: dict[str, list[list[float | None]]] = defaultdict(list)
    with ExitStack() as stack:
        stack.enter_context(site.managed())
        until_select(site, OWNER, DATABASE)
        site.until_ready()
        ports = {
            "manager": (site.health_port, "/readyz"),
            "bare loop": (stack.enter_context(bare_loop()), "/"),
        }
        if (python := patroni.install()) is not None:
            port = stack.enter_context(patroni.running(python, elsewhere, site.server))
            ports["Patroni"] = (port, "/readiness")
        _prepare(site)
        stack.enter_context(_load(site))
        before = _handler(site)
        for turn in range(rounds):
            for name in rotated(list(ports), turn):
                took[name].append(ask(*ports[name], rate, seconds))
            with _asked(*ports["manager"], rate):
                # So that it is forked on a host that is as busy.
                took["pg_isready"].append(_fork(site, seconds))
        handler = _handler(site).since(before)
    return Probing(rate, {name: Answers.of(values) for name, values in took.items()}, handler)


def rotated(names: list[str], turn: int) -> list[str]:
    """Return the names, another one first in each turn."""
    start = turn % len(names)
    return names[start:] + names[:start]


def ask(port: int, path: str, rate: float, seconds: float) -> list[float | None]:
    """Return how long each answer took, in seconds; None for a bad one."""
    command = [sys.executable, str(_HERE / "prober.py"), str(port), path, str(rate), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    values: list[float | None] = json.loads(done.stdout)
    return values


@contextmanager
def _asked(port: int, path: str, rate: float) -> Iterator[None]:
    with _ended([sys.executable, str(_HERE / "prober.py"), str(port), path, str(rate), "3600"]):
        time.sleep(0.5)  # its own start
        yield


def _fork(site: Site, seconds: float) -> list[float | None]:
    program = str(site.server.bin_directory / "pg_isready")
    command = [program, "-q", "-h", str(site.postgres_socket.parent), "-p", str(site.port)]
    took: list[float | None] = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        code = subprocess.run(command, check=False).returncode
        took.append(time.perf_counter() - began if code == 0 else None)
        time.sleep(max(0.0, began + 1 / _FORK_RATE - time.perf_counter()))
    return took


def _prepare(site: Site) -> None:
    subprocess.run(
        [str(site.server.bin_directory / "pgbench"), "-i", "-q", "-s", "1", *_address(site)],
        capture_output=True,
        check=True,
    )


def _address(site: Site) -> list[str]:
    where = str(site.postgres_socket.parent)
    return ["-h", where, "-p", str(site.port), "-U", OWNER, DATABASE]


@contextmanager
def _load(site: Site) -> Iterator[None]:
    command = [str(site.server.bin_directory / "pgbench"), *_CLIENTS, *_address(site)]
    with _ended(command):
        time.sleep(1)  # its connections and caches
        yield


@contextmanager
def bare_loop() -> Iterator[int]:
    """Run the bare loop; yield its port."""
    port = free_port()
    with _ended([sys.executable, str(_HERE / "loop.py"), str(port)]):
        until(lambda: all(ask(port, "/", 1, 1)), "the bare loop answers")
        yield port


@contextmanager
def _ended(command: list[str]) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
        assert process.poll() is None, f"{command[0]} ended with {process.poll()}"
    finally:
        process.kill()
        process.wait()


def _handler(site: Site) -> Handler:
    text = site.probe("metrics")[1]
    buckets: dict[float, float] = {}
    sums = {"sum": 0.0, "count": 0.0}
    convert: Callable[[str], float] = float
    for kind, first, second, value in _HANDLER.findall(text):
        if kind == "bucket":
            buckets[convert(first or second)] = convert(value)
        else:
            sums[kind] = convert(value)
    return Handler(buckets, sums["sum"], round(sums["count"]))
