"""What the log says of orphans, with real ones."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import structlog

from instance_manager import log
from instance_manager.supervision.children import Children, ExitStatus, Orphan
from instance_manager.supervision.orphans import OrphanLog
from tests.support.manager import Manager, until

DEADLINE = 60.0
ENVIRONMENT = {"PATH": "/usr/bin:/bin"}
LEFT = ExitStatus(code=3)
"""How the orphans end that are left here: other tests may have left some, too."""


def told_of(lines: list[dict[str, Any]]) -> int:
    """Return of how many orphans the lines tell."""
    return sum(line.get("orphans", 1) for line in lines)


def leave_orphans(number: int, path: Path, told: OrphanLog) -> list[dict[str, Any]]:
    """Leave orphans to a log of their own and return its lines, once it has told of all."""
    reaped = 0

    def tell(orphan: Orphan) -> None:
        nonlocal reaped
        if orphan.status == LEFT:
            reaped += 1
            told(orphan)

    def written() -> list[dict[str, Any]]:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        # The last one may be being written.
        return [json.loads(line) for line in lines if line.endswith("\n")]

    async def main() -> list[dict[str, Any]]:
        with Children(tell) as children:
            script = f"i=0; while [ $i -lt {number} ]; do ( (exit 3) & ); i=$((i+1)); done"
            # Whoever started one ends at once and waits for nothing.
            child = children.spawn("shell", ["/bin/sh", "-c", script], environment=ENVIRONMENT)
            async with asyncio.timeout(DEADLINE):
                await child.wait()
                while told_of(written()) < number:
                    await asyncio.sleep(0.01)
            assert reaped == number
        return written()

    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
    sink = log.configure("info", "json", descriptor)
    try:
        return asyncio.run(main())
    finally:
        sink.close()
        os.close(descriptor)
        structlog.reset_defaults()


def test_each_of_a_few_orphans_is_logged_once(tmp_path: Path) -> None:
    """With its pid, its name and how it ended, at the level that is on by default."""
    lines = leave_orphans(5, tmp_path / "log", OrphanLog())

    assert {line["message"] for line in lines} == {"reaped an orphan"}
    assert len({line["pid"] for line in lines}) == 5
    assert {(line["level"], line["command"], line["status"]) for line in lines} == {
        ("info", "sh", "exit code 3")
    }


def test_a_storm_of_orphans_is_told_in_a_few_lines(tmp_path: Path) -> None:
    """The first ones each, then their number: none is left out."""
    lines = leave_orphans(200, tmp_path / "log", OrphanLog(limit=5, window_seconds=0.5))

    assert [line["message"] for line in lines[:5]] == ["reaped an orphan"] * 5
    assert "reaped more orphans" in {line["message"] for line in lines}
    assert told_of(lines) == 200
    assert len(lines) < 100


def test_the_arguments_of_an_orphan_are_in_no_log(manager: Manager) -> None:
    """They may hold secrets: its name is all that is told."""
    manager.trust().start().until_ready()
    manager.query("COPY (SELECT 1) TO PROGRAM 'cat > /dev/null; (exec sleep 0.0123) & exit 0'")

    def orphans() -> list[dict[str, Any]]:
        return [one for one in manager.records() if one["message"] == "reaped an orphan"]

    (line,) = until(orphans, "the orphan is logged")
    assert (line["command"], line["status"]) == ("sleep", "exit code 0")
    assert "0.0123" not in manager.logged()
