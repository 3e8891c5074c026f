"""What the run is made on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

from instance_manager import __version__
from tests.bench.figures import Host


def describe(postgres: Path, data: Path) -> Host:
    """Return the host and the versions; *data* lies on the file system that is measured on."""
    said = subprocess.run([postgres, "--version"], capture_output=True, text=True, check=True)
    return Host(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        kernel=platform.release(),
        python=platform.python_version(),
        postgres=said.stdout.split()[-1],
        manager=__version__,
        file_system=_file_system(data),
        load_before=os.getloadavg()[0],
    )


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    found = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


def _file_system(place: Path) -> str:
    """Return the type of the mount that holds *place*: the longest one that leads there."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    holding = [fields for fields in mounts if place.is_relative_to(fields[1])]
    return max(holding, key=lambda fields: len(fields[1]))[2]
