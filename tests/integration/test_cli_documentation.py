"""What docs/commands.md shows is what is printed, but for numbers, names and paths of the day."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.support.manager import Manager

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"
_PROMPT = "$ instance-manager "


def shown(beginning: str) -> list[tuple[str, list[str]]]:
    """Return the commands of the block that begins so, each with the lines that it prints."""
    blocks = re.findall(r"^```console\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    [block] = [block for block in blocks if block.startswith(_PROMPT + beginning)]
    found: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if line.startswith(_PROMPT):
            found.append((line.removeprefix(_PROMPT), []))
        else:
            found[-1][1].append(line)
    return found


def form(lines: list[str]) -> list[str]:
    """Return the lines without what differs from day to day and from host to host."""
    text = "\n".join(lines)
    for pattern in (r"/[\w./-]+", r"\b[0-9a-f]{32}\b", r"\d[\d.:/A-F-]*", r"\b[KMGT]?i?B\b"):
        text = re.sub(pattern, "-", text)
    return [re.sub(r" +", " ", line) for line in text.splitlines()]


def test_the_operations_print_what_is_shown(manager: Manager) -> None:
    """One after the other, in the order of the page."""
    manager.trust().start().until_ready()
    examples = shown("start\nstart: done")

    assert len(examples) == 7
    for command, lines in examples:
        verb, *_ = words = shlex.split(command)
        done = manager.run(*words)
        # What takes longer than a second is told while it is waited for.
        said = [line for line in done.stderr.splitlines() if not line.startswith(f"{verb}: ")]
        assert (done.returncode, done.stdout.splitlines(), said) == (0, lines, [])


def test_the_status_prints_what_is_shown(manager: Manager) -> None:
    """Line by line, where the volumes are mounted as they are there."""
    manager.trust().start().until_ready()
    [(command, lines)] = shown("status\npg-0: running")
    printed = manager.run(*shlex.split(command)).stdout.splitlines()
    # What is no mount, as here, is found fault with.
    printed = [line for line in printed if " EXT00" not in line]

    assert form([lines[0].replace("pg-0", "test"), *lines[1:]]) == form(printed)


def test_what_is_fenced_is_told_as_is_shown(manager: Manager) -> None:
    """With the way out."""
    manager.trust().start().until_ready()
    assert manager.run("fence").returncode == 0
    (command, lines), _ = shown("start\nstart: failed")
    done = manager.run(*shlex.split(command))

    assert (done.returncode, done.stderr.splitlines()) == (9, lines)


def test_a_document_of_an_operation_is_as_is_shown(manager: Manager) -> None:
    """Every member, in its place."""
    manager.trust().start().until_ready()
    [(command, lines)] = shown("reload --output json")

    assert form(manager.run(*shlex.split(command)).stdout.splitlines()) == form(lines)


def test_a_wait_that_was_too_short_is_told_as_is_shown(manager: Manager) -> None:
    """With every line that is offered."""
    manager.settings["shutdown"] = {"smart_seconds": 600}
    manager.trust().start().until_ready()
    [(command, lines)] = shown("stop --mode smart --timeout 3")
    with manager.sql():
        done = manager.run(*shlex.split(command))

    assert done.returncode == 1
    told = done.stderr.replace(f"--config {manager.config} ", "")
    assert form(told.splitlines())[-5:] == form(lines)[-5:]


@pytest.mark.parametrize("command", ["config schema", "openapi", "completion"])
def test_every_command_has_its_words_on_the_page(command: str) -> None:
    """Also those that need no manager."""
    assert f"instance-manager {command}" in PAGE.read_text()
