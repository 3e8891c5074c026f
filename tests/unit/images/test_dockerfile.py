"""The Dockerfile of an extension's image."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from instance_manager import cli
from instance_manager.commands import extension_dockerfile
from instance_manager.errors import UsageError

EXAMPLE = Path(__file__).parents[3] / "docker/extension/ci/Dockerfile"
BASE = "--base=ghcr.io/example/postgresql:18"


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    words = ["extension", "dockerfile", BASE, *arguments]
    options = cli._parser(words).parse_args(words)  # noqa: SLF001 - as main does
    assert extension_dockerfile.run(options) == 0
    return capsys.readouterr().out


def test_the_example_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever changes one changes the other."""
    text = printed(
        capsys, "--package=postgresql-18-pgvector", "--smoke-test=SELECT '[1,2]'::vector"
    )

    assert text == EXAMPLE.read_text()


def test_the_shell_gets_each_word_as_it_was_given(capsys: pytest.CaptureFixture[str]) -> None:
    """Blanks, quotes and dollars mean nothing to it."""
    odd = """SELECT 'it''s', "$HOME", `id`; -- \\"""
    text = printed(
        capsys, "--package=postgresql-18-cron=1.6", f"--smoke-test={odd}", "--exclude=a b*"
    )

    command = text.partition("RUN ")[2].partition("\n\n")[0].replace("\\\n", " ")
    words = shlex.split(command)
    assert f"--smoke-test={odd}" in words
    assert "--exclude=a b*" in words
    assert "--package=postgresql-18-cron=1.6" in words
    assert "ARG VERSION=1.6\n" in text


def test_labels_are_text_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """A variable of the Dockerfile's is not put in; the labels of the user win."""
    text = printed(
        capsys, "--package=postgresql-plpython3-17", '--label=a.b=say "$BASE" \\', "--label=c=d"
    )

    assert r'a.b="say \"\$BASE\" \\"' in text
    assert 'io.instance-manager.postgres.major="17"' in text


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--package=-o",),
        ("--package=p", "--base=a b"),
        ("--package=p", "--name=../x"),
        ("--package=p", "--name=a\nRUN x"),
        ("--package=p", "--version-label=$(x)"),
        ("--package=p", "--label=a=x\nRUN y"),
        ("--package=p", "--exclude=x\nRUN y"),
        ("--package=p", "--smoke-test=x\nRUN y"),
    ],
)
def test_what_would_break_out_of_its_line_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    """Or is no name of what it should be one of."""
    with pytest.raises(UsageError):
        printed(capsys, *arguments)
