"""The completion scripts in the shells that they are made for."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.screen import on_terminal

DEADLINE = 60.0
PROMPT = "ready> "
PROGRAM = [sys.executable, "-m", "instance_manager"]


def script(shell: str) -> str:
    """Return what the command prints."""
    done = subprocess.run(
        [*PROGRAM, "completion", shell],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the script for bash, as a file."""
    path = tmp_path_factory.mktemp("bash") / "completion"
    path.write_text(script("bash"))
    return path


@pytest.fixture
def zsh(tmp_path: Path, lacking: Callable[[str, str], NoReturn]) -> Path:
    """Return the script for zsh, as a file."""
    if shutil.which("zsh") is None:
        lacking("zsh", "zsh is not installed")
    path = tmp_path / "_instance-manager"
    path.write_text(script("zsh"))
    return path


def completed(path: Path, line: str, directory: Path | None = None) -> list[str]:
    """Return what bash offers for the last word of the line; a blank begins a new one."""
    words = line.split(" ")
    # The program itself must not be needed, so none is on the PATH.
    lines = (
        f"source {shlex.quote(str(path))}",
        "registered=$(complete -p instance-manager)",
        "function=${registered##*-F }; function=${function%% *}",
        f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}",
        'set +e; "$function" instance-manager; set -e',
        'if [[ ${#COMPREPLY[@]} -gt 0 ]]; then printf "%s\\n" "${COMPREPLY[@]}"; fi',
    )
    told = subprocess.run(
        ["bash", "--norc", "-euc", "\n".join(lines)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
        cwd=directory,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert told.stderr == ""
    return told.stdout.splitlines()


def test_bash_offers_every_command_that_the_help_lists(bash: Path) -> None:
    """Also those that the program itself looks at only where they are asked for."""
    overview = subprocess.run([*PROGRAM, "--help"], capture_output=True, text=True, check=True)
    commands = re.findall(r"^    (\w+)\s", overview.stdout, re.MULTILINE)

    assert sorted(completed(bash, "instance-manager ")) == sorted(commands)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("sta", ["status", "start"]),
        ("unheard", []),
        ("--log-level ", ["debug", "info", "warning", "error"]),
        ("--log-level info st", ["status", "start", "stop"]),
        ("stop --mode ", ["smart", "fast", "immediate"]),
        ("stop --mo", ["--mode"]),
        ("start --ig", ["--ignore-inventory"]),
        ("start --mo", []),
        ("restart --mode fast --output ", ["text", "json"]),
        ("events --f", ["--follow"]),
        ("config ", ["show", "schema"]),
        ("config show --out", ["--output"]),
        ("extension ", ["inspect", "build", "dockerfile", "test", "catalogue"]),
        ("extension build --apt", ["--apt-option"]),
        ("compose --format ", ["conf", "env", "json"]),
        ("completion ", ["bash", "zsh"]),
    ],
)
def test_bash_offers_what_may_come_next(bash: Path, line: str, offered: list[str]) -> None:
    """Commands, options and the words that they take."""
    assert completed(bash, f"instance-manager {line}") == offered


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("--config ", ["config.yaml", "volumes"]),
        ("status --config con", ["config.yaml"]),
        ("check --extensions-root ", ["volumes"]),
        ("extension inspect vol", ["volumes"]),
        ("extension build --from-directory ", ["volumes"]),
    ],
)
def test_bash_offers_files_where_files_are_named(
    bash: Path, tmp_path: Path, line: str, offered: list[str]
) -> None:
    """And directories alone where only those will do."""
    (tmp_path / "config.yaml").touch()
    (tmp_path / "volumes").mkdir()

    assert sorted(completed(bash, f"instance-manager {line}", tmp_path)) == offered


def _is_prompted(lines: list[str]) -> bool:
    """Whether the shell reads keys: before, the terminal would take them in its own way."""
    return bool(lines) and lines[-1].strip() == PROMPT.strip()


def test_the_tab_key_completes_in_bash(bash: Path, tmp_path: Path) -> None:
    """The key itself, in a shell on a terminal."""
    command = ["bash", "--norc", "--noprofile", "-i"]
    with on_terminal(command, TERM="dumb", PS1=PROMPT, HOME=str(tmp_path)) as terminal:
        terminal.until(_is_prompted, "the shell is there")
        terminal.type(f"source {shlex.quote(str(bash))}; echo sour''ced\n".encode())
        terminal.until(
            lambda lines: "sourced" in lines and _is_prompted(lines), "the script is read"
        )
        terminal.type(b"echo instance-manager; instance-manager unf\t")
        terminal.until(lambda lines: lines[-1].endswith("instance-manager unfence"), "completed")


def test_zsh_reads_its_script(zsh: Path) -> None:
    """It is of that shell's grammar, and registers itself where it is evaluated."""
    registered = (
        'autoload -Uz compinit && compinit -D && eval "$(<$1)"'
        " && print -r -- $_comps[instance-manager]"
    )
    for arguments, printed in (
        (["-n", str(zsh)], ""),
        (["-fc", registered, "zsh", str(zsh)], "_shtab_instance_manager\n"),
    ):
        done = subprocess.run(
            ["zsh", *arguments],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
            env={"PATH": os.environ["PATH"]},
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, printed, "")


def test_the_tab_key_completes_in_zsh(zsh: Path, tmp_path: Path) -> None:
    """As a file on the path of functions, in a shell on a terminal."""
    command = ["zsh", "-f", "-i"]
    with on_terminal(command, TERM="dumb", PS1=PROMPT, HOME=str(tmp_path)) as terminal:
        terminal.until(_is_prompted, "the shell is there")
        terminal.type(
            f"fpath=({shlex.quote(str(zsh.parent))} $fpath); autoload -Uz compinit;"
            " compinit -u -D; echo rea''d\n".encode()
        )
        terminal.until(
            lambda lines: "read" in lines and _is_prompted(lines), "the script is found"
        )
        terminal.type(b"instance-manager stop --mode imm\t")
        terminal.until(lambda lines: "--mode immediate" in lines[-1], "completed")


@pytest.mark.parametrize("arguments", [("completion",), ("completion", "tcsh")])
def test_a_shell_that_is_not_served_is_wrong_usage(arguments: tuple[str, ...]) -> None:
    """The help says which are."""
    done = subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (2, "")
    assert "bash" in done.stderr or "shell" in done.stderr


def test_no_other_command_loads_what_makes_the_scripts() -> None:
    """The time that it takes is spent by nobody else, PID 1 least of all."""
    program = (
        "import sys; from instance_manager import cli; cli.main(['status', '--help']);"
        " sys.exit('shtab' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)

    assert done.returncode == 0, done.stderr
