"""``make bench``: the manager beside bare postgres, on this host, in one run.

Prepares the contestants, measures, and tells.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from instance_manager.postgres.embedded import Demonstration, lay_out
from tests.bench import host, program
from tests.bench.contestants import Site, identity
from tests.bench.crowd import measure_crowd
from tests.bench.figures import Report, Section, Storms
from tests.bench.measures import FULL, QUICK, Plan, measure_idle, measure_load, measure_starts
from tests.bench.orphans import measure_orphans
from tests.bench.preflights import measure_preflights
from tests.bench.probe_figures import Crowding, Probing
from tests.bench.probing import measure_probing

_TABLES: Final = {
    "orphans": "the storm of orphans",
    "probes": "the answers to probes",
    "crowd": "the answers beside a crowd",
}


def main() -> int:
    """Measure as the command line says and print the report."""
    options = _options()
    # As an exception, so that whatever runs by then is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    plan = QUICK if options.quick else FULL
    report: Section = measure(plan) if options.only is None else _ALONE[options.only](plan)
    if options.output == "json":
        sys.stdout.write(json.dumps(report.document(), indent=2) + "\n")
    else:
        sys.stdout.write(report.text() + "\n")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the manager beside bare postgres.")
    parser.add_argument("--quick", action="store_true", help="a short run: no figures to quote")
    only = parser.add_mutually_exclusive_group()
    for name, what in _TABLES.items():
        only.add_argument(
            f"--{name}", action="store_const", dest="only", const=name, help=f"only {what}"
        )
    parser.add_argument("--output", choices=("text", "json"), default="text")
    return parser.parse_args()


def measure(plan: Plan) -> Report:
    """Make one whole run."""
    command = program.install()
    with _workspace() as directory:
        server = lay_out(directory / "server")
        volumes = _site(directory / "volumes", server, command)
        plain = _site(directory / "plain", server, command)
        (directory / "none").mkdir()
        plain.settings["extensions"]["root"] = str(directory / "none")
        machine = host.describe(server.bin_directory / "postgres", volumes.directory)
        for site in (volumes, plain):
            site.initialize()
        figures, steps = measure_starts(volumes, plain, plan.starts)
        figures += measure_idle(volumes, plain, plan)
        figures += measure_load(volumes, plan)
        figures += measure_preflights(server, plan.starts)
        probes = _probing(volumes, directory, plan)
        crowd = measure_crowd(plain, plan.probe_rounds, plan.probe_seconds)
        storms = measure_orphans(_owned(directory / "orphans"), server)
    now = replace(machine, load_after=os.getloadavg()[0])
    return Report(now, tuple(figures), steps, storms, probes, crowd)


def orphans(plan: Plan) -> Storms:
    """Make the storm of orphans alone."""
    del plan
    with _workspace() as directory:
        server = lay_out(directory / "server")
        return measure_orphans(_owned(directory / "orphans"), server)


def probing(plan: Plan) -> Probing:
    """Measure the answers to probes alone."""
    command = program.install()
    with _workspace() as directory:
        site = _site(directory / "site", lay_out(directory / "server"), command)
        site.initialize()
        return _probing(site, directory, plan)


def crowding(plan: Plan) -> Crowding:
    """Measure the answers beside a crowd alone."""
    command = program.install()
    with _workspace() as directory:
        site = _site(directory / "site", lay_out(directory / "server"), command)
        site.initialize()
        return measure_crowd(site, plan.probe_rounds, plan.probe_seconds)


_ALONE: Final[dict[str, Callable[[Plan], Section]]] = {
    "orphans": orphans,
    "probes": probing,
    "crowd": crowding,
}


def _probing(site: Site, directory: Path, plan: Plan) -> Probing:
    elsewhere = _owned(directory / "patroni")
    return measure_probing(site, elsewhere, plan.probe_rounds, plan.probe_seconds)


@contextmanager
def _workspace() -> Iterator[Path]:
    """Yield a directory that every account can reach; a socket's path must be short."""
    directory = Path(tempfile.mkdtemp(prefix="im-bench-", dir="/tmp"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def _site(directory: Path, server: Demonstration, command: Path) -> Site:
    return Site(_owned(directory), server, command)


def _owned(directory: Path) -> Path:
    """Make a directory that belongs to the account of postgres."""
    directory.mkdir()
    if os.geteuid() == 0:
        os.chown(directory, identity()["user"], identity()["group"])
    return directory


if __name__ == "__main__":
    raise SystemExit(main())
