"""How long a look at the volumes takes, and the emulated loader beside the real one.

``python -m tests.bench.preflights EXTENSIONS POSTGRES`` measures any directory of volumes with any
server, in a process of its own: the first look, the second one, and the memory of both. The time
of the processor stands beside that on the clock: on a busy host it says more.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from instance_manager.extensions.facts import ServerFacts
from instance_manager.extensions.objects import ObjectFiles, ObjectStore, prepare
from instance_manager.extensions.scan import examine
from instance_manager.postgres.embedded import Demonstration
from instance_manager.settings.models import Settings
from tests.bench.figures import Figure, Series

_MILLISECONDS = 1000.0
_LOOKS = 3


def main(arguments: list[str]) -> int:
    """Look at the volumes several times and print what each look took."""
    root, program = Path(arguments[0]), Path(arguments[1])
    libraries = next(
        (
            path
            for path in (program.parents[1] / "lib", *program.parents[1].glob("lib/*"))
            if (path / "plpgsql.so").exists()
        ),
        None,
    )
    server = ServerFacts(
        18,
        os.uname().machine,
        libraries=frozenset(path.name for path in libraries.iterdir()) if libraries else None,
        program=str(program),
        library_directory=str(libraries or ""),
    )
    settings = Settings.model_validate({})
    # As on the way to postgres.
    gc.disable()
    before = _peak_megabytes()
    times: list[float] = []
    worked: list[float] = []
    volumes = 0
    for _ in range(_LOOKS):
        began, work = time.perf_counter(), time.process_time()
        report = examine(
            settings, server, base_path="", base_ld_library_path=None, root=root
        ).report
        times.append((time.perf_counter() - began) * _MILLISECONDS)
        worked.append((time.process_time() - work) * _MILLISECONDS)
        volumes = len(report.volumes)
    memory = _peak_megabytes() - before
    document = {"volumes": volumes, "ms": times, "processor_ms": worked, "megabytes": memory}
    sys.stdout.write(json.dumps(document) + "\n")
    return 0


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def measure_preflights(server: Demonstration, rounds: int) -> list[Figure]:
    """Measure a look at pgvector, and the linking of all of the server's own modules."""
    program = server.bin_directory / "postgres"
    looks = [_look(server.extensions, program) for _ in range(rounds)]
    modules = sorted((server.bin_directory.parent / "lib").glob("*.so"))
    pairs = [(_emulated(program, modules), _real(program, modules)) for _ in range(rounds)]
    return [
        Figure(
            name="preflight of pgvector, fresh process",
            unit="ms",
            digits=1,
            manager=_of_look(looks, "ms", 0),
            aim="≤ 15",
        ),
        Figure(
            name="the same, time of the processor",
            unit="ms",
            digits=1,
            manager=_of_look(looks, "processor_ms", 0),
        ),
        Figure(
            name="preflight of pgvector, second look",
            unit="ms",
            digits=1,
            manager=_of_look(looks, "ms", 1),
        ),
        Figure(
            name=f"linking of {len(modules)} modules, emulated beside ld.so",
            unit="ms",
            digits=1,
            manager=Series(tuple(emulated for emulated, _ in pairs)),
            bare=Series(tuple(real for _, real in pairs)),
        ),
    ]


def _look(root: Path, program: Path) -> dict[str, list[float]]:
    """Return what a process of its own says of its looks."""
    command = [sys.executable, "-m", "tests.bench.preflights", str(root), str(program)]
    done = subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[2])
    document = json.loads(done.stdout)
    return {kind: document[kind] for kind in ("ms", "processor_ms")}


def _of_look(looks: list[dict[str, list[float]]], kind: str, number: int) -> Series:
    return Series(tuple(look[kind][number] for look in looks))


def _emulated(program: Path, modules: list[Path]) -> float:
    """Return how long it takes to link each module, with nothing read before."""
    began = time.perf_counter()
    made = prepare(str(program), ObjectFiles("/", ObjectStore()))
    assert made is not None
    linkings = made.linker("").link(map(str, modules))
    taken = (time.perf_counter() - began) * _MILLISECONDS
    assert len(linkings) == len(modules)
    return taken


def _real(program: Path, modules: list[Path]) -> float:
    """Return how long the loader takes to trace the server with each of them."""
    environment = {"LD_TRACE_LOADED_OBJECTS": "1", "LD_WARN": "yes", "LD_BIND_NOW": "1"}
    began = time.perf_counter()
    for module in modules:
        subprocess.run(
            [str(program)],
            env={**environment, "LD_PRELOAD": str(module)},
            capture_output=True,
            check=False,
        )
    return (time.perf_counter() - began) * _MILLISECONDS


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
