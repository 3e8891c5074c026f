"""The examples of the help texts, and those of the documentation, are command lines that parse."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from instance_manager import cli

PAGES = Path(__file__).parents[3] / "docs"
HELP = (
    "run",
    "check",
    "compose",
    "extension",
    "extension inspect",
    "extension build",
    "extension dockerfile",
    "extension test",
    "config",
    "config show",
    "config schema",
    "install",
    "openapi",
    "completion",
    "status",
    "events",
    "start",
    "stop",
    "restart",
    "reload",
    "checkpoint",
    "fence",
    "unfence",
)


def called(line: str) -> Iterator[list[str]]:
    """Yield the words after each call of the program in a line of shell."""
    for call in re.findall(
        r"(?:^|[\s(])(?<!--entrypoint )instance-manager((?: [^|<>&;)]+)+)", line
    ):
        yield shlex.split(call.rstrip(' "'))


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return what the parser says against them; a help text is none."""
    try:
        cli._parser(words).parse_args(words)  # noqa: SLF001 - nothing is to be run
    except SystemExit as end:
        if end.code:
            return capsys.readouterr().err
    return ""


@pytest.mark.parametrize("command", HELP)
def test_the_examples_of_the_help_are_command_lines(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is understood, and one at least is of the command itself."""
    assert cli.main([*command.split(), "--help"]) == 0
    examples = capsys.readouterr().out.partition("\nexamples:\n")[2].replace("\\\n", " ")
    calls = [words for line in examples.splitlines() for words in called(line)]

    assert [words for words in calls if " ".join(words).startswith(command) or "--config" in words]
    assert [said for words in calls if (said := refused(words, capsys))] == []


def test_the_commands_of_the_documentation_are_command_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every call in a block of shell, on every page of the documentation."""
    blocks = [
        block
        for page in sorted(PAGES.glob("*.md"))
        for block in re.findall(
            r"^```(?:sh|console)\n(.*?)^```$",
            page.read_text(encoding="utf-8").replace("\\\n", " "),
            re.MULTILINE | re.DOTALL,
        )
    ]
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    calls = [words for line in lines for words in called(line) if "…" not in line]

    assert len(calls) > 10
    assert [said for words in calls if (said := refused(words, capsys))] == []
