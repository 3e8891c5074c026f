"""``extension …``; here ``inspect``: what directories hold as volumes, and what is wrong with it.

Needs neither settings nor a data directory nor a running server. Exit code 3 if there is any
finding of severity error, 2 for a path that is no directory, else 0.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from instance_manager.commands import examining, loading, report, terminal
from instance_manager.commands.text import counted, size
from instance_manager.errors import Exit, SettingsError, StartError, UsageError
from instance_manager.extensions import inspection
from instance_manager.extensions.elf import MACHINES
from instance_manager.extensions.models import Preload, Severity
from instance_manager.extensions.volumes import FIRST_MAJOR

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from instance_manager.commands.text import Style
    from instance_manager.extensions.facts import ServerFacts
    from instance_manager.extensions.inspection import (
        InspectedExtension,
        InspectedLibrary,
        InspectedVolume,
        Inspection,
        Judge,
    )

_ARCHITECTURES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
"""Machines by the names that images have for them."""
_MAJORS: Final = range(10, 100)
_MOST_VERSIONS: Final = 6


def run(options: argparse.Namespace) -> int:
    """Do what the group was asked for, and return the verdict."""
    if options.action == "build":
        # Each with its own imports: building needs what inspecting does not.
        from instance_manager.commands import extension_build

        return extension_build.run(options)
    if options.action == "dockerfile":
        from instance_manager.commands import extension_dockerfile

        return extension_dockerfile.run(options)
    if options.action == "catalogue":
        from instance_manager.commands import extension_catalogue

        return extension_catalogue.run(options)
    if options.action == "test":
        from instance_manager.commands import extension_test

        return extension_test.run(options)
    return _inspect(options)


def _inspect(options: argparse.Namespace) -> int:
    """Inspect the paths, print what was found, and return the verdict."""
    directories = [_directory(path) for path in options.paths]
    machine = _machine(options.machine)
    if options.postgres_major is not None and options.postgres_major not in _MAJORS:
        raise UsageError(f"cannot judge for PostgreSQL {options.postgres_major}: no such version")
    server, version = _server(options)
    is_document = options.output == "json"
    inspected = inspection.inspect(
        directories,
        server,
        version,
        major=options.postgres_major,
        machine=machine,
        hash_contents=is_document,
    )
    if is_document:
        print(json.dumps(inspected.model_dump(mode="json"), indent=2))
    else:
        terminal.write(sys.stdout, render(inspected, terminal.style_of(sys.stdout, os.environ)))
    has_error = any(one.severity is Severity.ERROR for one in inspected.all_findings())
    return Exit.PREFLIGHT if has_error else Exit.DONE


def _directory(path: str) -> Path:
    directory = Path(path).absolute()
    try:
        # To be able to list it is what the look needs; to be there is not enough.
        os.scandir(directory).close()
    except OSError as error:
        raise UsageError(
            f"cannot inspect {path!r}: {error.strerror}",
            hint="name a directory that holds share/extension or lib, such as a mounted image",
        ) from error
    if (directory / "oci-layout").is_file():
        raise UsageError(
            f"cannot inspect {path!r}: it is an OCI layout, and no directory of files",
            hint="extension test takes it; extension build --output dir:PATH writes a directory",
        )
    # What is left of the path must name the directory.
    return directory.resolve() if directory.name in {"", ".."} else directory


def _machine(name: str | None) -> str | None:
    machine = _ARCHITECTURES.get(name or "", name)
    if machine is not None and machine not in MACHINES.values():
        known = ", ".join((*MACHINES.values(), *_ARCHITECTURES))
        raise UsageError(f"cannot judge for machine {name!r}", hint=f"known are {known}")
    return machine


def _server(options: argparse.Namespace) -> tuple[ServerFacts | None, str | None]:
    """Return the server that ``run`` would start; None where there is none to be found."""
    settings = loading.load(options)
    try:
        facts, version = examining.find_server(settings)
    except (SettingsError, StartError):
        # A server that was named is meant; one that is only usual may be absent where authors
        # work.
        if settings.postgres.bin_directory is not None:
            raise
        return None, None
    return facts, version.text


def render(inspected: Inspection, style: Style) -> Iterator[str]:
    """Yield the lines that people read."""
    findings = report.Findings(style)
    for volume in inspected.volumes:
        yield from _volume_lines(volume, findings, style)
    if inspected.findings:
        yield from style.lines("all volumes:", "what concerns the set of them", colour="bold")
        yield from findings.lines(inspected.findings)
    yield from style.lines("judged against", _judge(inspected.server))
    errors = report.totals(inspected.all_findings())
    yield f"{counted(len(inspected.volumes), 'volume')}: {errors}"


def _judge(server: Judge) -> str:
    is_old = server.postgres_major < FIRST_MAJOR
    newer = f"; too old for volumes, so as for PostgreSQL {FIRST_MAJOR} too" if is_old else ""
    if server.program is None:
        wanted = f"PostgreSQL {server.postgres_major} on {server.machine}{newer}"
        return f"{wanted}; there is no such server here, so what it brings itself is not known"
    return f"PostgreSQL {server.version} on {server.machine}, {server.program}{newer}"


def _volume_lines(
    volume: InspectedVolume, findings: report.Findings, style: Style
) -> Iterator[str]:
    yield from report.heading(volume.name, volume.state, volume.extensions, style)
    whole = "many files" if volume.size_bytes is None else size(volume.size_bytes)
    yield from style.lines("", f"{volume.path}, {whole}", indent=2, hang=4)
    if volume.extensions:
        yield from style.lines("", "extensions", indent=2)
        rows = [(one.name, _extension(one)) for one in volume.extensions]
        yield from style.table(rows, indent=4)
    if volume.libraries:
        yield from style.lines("", "libraries", indent=2)
        # Links to a library are the same file, and would triple the list.
        files = [one for one in volume.libraries if one.link_to is None]
        yield from style.table([(one.path, _library(one)) for one in files], indent=4)
    yield from findings.lines(volume.findings, volume.name)


def _extension(one: InspectedExtension) -> str:
    parts = [
        one.default_version or "no default version",
        f"installs {_versions(one.versions)}" if one.versions else "can't be installed",
        f"updates from {_versions(one.updatable_from)}" if one.updatable_from else "",
        f"library {one.module}" if one.module else "no library",
        f"requires {', '.join(one.requires)}" if one.requires else "",
        "trusted" if one.trusted else "",
    ]
    return "; ".join(filter(None, parts))


def _versions(versions: Sequence[str]) -> str:
    """Return the versions, the newest of them where there are many."""
    left_out = len(versions) - _MOST_VERSIONS
    newest = ", ".join(versions[-_MOST_VERSIONS:])
    return f"{newest} and {left_out} older" if left_out > 0 else newest


def _library(one: InspectedLibrary) -> str:
    module = f"module {' '.join(filter(None, (one.name, one.version)))}".rstrip()
    major = one.postgres_major or "of unknown version"
    parts = [
        f"{module} for PostgreSQL {major}" if one.module else "",
        one.machine or "unknown machine",
        "" if one.size_bytes is None else size(one.size_bytes),
        f"called {one.soname}" if one.soname else "",
        f"needs {', '.join(one.needed)}" if one.needed else "",
        "to be loaded at the start" if one.preload is not Preload.NO else "",
    ]
    return "; ".join(filter(None, parts))
