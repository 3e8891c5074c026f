"""``status``: the running instance, for people or programs.

Exit code 0 where postgres is ready, 1 where it isn't, or where nobody answers.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from instance_manager.client import Client
from instance_manager.commands import loading
from instance_manager.commands.going_on import doing
from instance_manager.commands.text import duration, printable, size, table
from instance_manager.errors import Exit
from instance_manager.extensions.models import Severity

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from instance_manager.api.models import Status
    from instance_manager.extensions.models import ExtensionsReport, Finding


def run(options: argparse.Namespace) -> int:
    """Ask the manager on this machine and print its answer."""
    socket = loading.control_socket(options)
    status, extensions = asyncio.run(_ask(socket))
    if options.output == "json":
        print(status.model_dump_json(indent=2))
    else:
        for text in render(status, extensions):
            # Much of it is the word of others: of volumes, and of what postgres logged.
            print(*map(printable, text.splitlines()), sep="\n")
    return Exit.DONE if is_ready(status) else Exit.FAILED


async def _ask(socket: Path) -> tuple[Status, ExtensionsReport]:
    async with Client.unix(socket) as client:
        return await client.status(), await client.extensions()


def is_ready(status: Status) -> bool:
    """Whether the condition ``Ready`` holds."""
    # The same condition as the probe's, so that scripts and load balancers agree.
    return any(one.type == "Ready" and one.status == "True" for one in status.conditions)


def render(status: Status, extensions: ExtensionsReport) -> Iterator[str]:
    """Yield the lines that people read."""
    postgres = status.postgres
    wanted = "" if status.desired.value == status.phase.value else f" (to be {status.desired})"
    yield f"{status.instance.name}: {status.phase}{wanted}"
    if status.failure is not None:
        yield f"  {status.failure.message}"
        yield f"  {status.failure.hint}"
    yield from table(
        [
            ("postgres", _postgres(status)),
            ("data directory", postgres.data_directory),
            ("system identifier", postgres.system_identifier or "unknown"),
            ("WAL position", postgres.lsn.current or postgres.lsn.replayed or "unknown"),
            ("restarts", _restarts(status)),
            ("configuration", "loaded" if status.configuration.loaded else "not loaded"),
            *(
                (f"{one.purpose} volume", _space(one.free_bytes, one.size_bytes))
                for one in status.storage
            ),
        ]
    )
    for pending in status.configuration.pending_restart:
        yield (
            f"  waits for a restart: {pending.name} is {pending.running},"
            f" to be {pending.configured}"
        )
    for wrong in status.configuration.errors:
        where = f"{wrong.path}: " if wrong.path else ""
        yield f"  configuration refused: {where}{wrong.message}"
    yield from _extensions(extensions)
    for one in status.conditions:
        if one.type == "DatabasesReconciled" and one.status == "False":
            yield f"not as declared: {one.message}"
    if status.operation is not None:
        operation = status.operation
        yield f"operation: {operation.kind} {operation.id}, {doing(operation)}"


def _postgres(status: Status) -> str:
    postgres = status.postgres
    parts = [postgres.version or "unknown version"]
    if postgres.role:
        parts.append(postgres.role)
    if postgres.timeline:
        parts.append(f"timeline {postgres.timeline}")
    if postgres.pid:
        parts.append(f"pid {postgres.pid}")
    if postgres.started_at:
        parts.append(f"since {postgres.started_at:%Y-%m-%d %H:%M:%S}Z")
    return ", ".join([*parts, f"port {postgres.port}"])


def _restarts(status: Status) -> str:
    last = status.postgres.last_exit
    if last is None or last.expected:
        return str(status.postgres.restarts)
    how = last.signal or f"exit code {last.exit_code}"
    return f"{status.postgres.restarts}; last end at {last.at:%H:%M:%S}Z: {how} {last.message}"


def _space(free: int, whole: int) -> str:
    return f"{size(free)} free of {size(whole)}"


def _extensions(report: ExtensionsReport) -> Iterator[str]:
    if report.volumes:
        seconds = duration(report.scan_seconds)
        yield f"extension volumes under {report.root} (looked at in {seconds})"
    else:
        yield f"extension volumes: none under {report.root}"
    for volume in report.volumes:
        offers = ", ".join(f"{one.name} {one.default_version}" for one in volume.extensions)
        yield f"  {volume.name}: {volume.state}{f' ({offers})' if offers else ''}"
        for finding in _errors_first(volume.findings):
            yield f"    {finding.code} {finding.severity}: {finding.message}"
    for finding in _errors_first(report.findings):
        yield f"  {finding.code} {finding.severity}: {finding.message}"


def _errors_first(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda one: one.severity is not Severity.ERROR)
