"""Secrets in files: read when they are needed, never kept in the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import SecretStr

from instance_manager.errors import Problem, SettingsError
from instance_manager.settings.reading import read_text

if TYPE_CHECKING:
    from pathlib import Path

    from instance_manager.settings.models import Settings

SECRET_LIMIT_BYTES = 1 << 16


def read_secret(path: Path, key: str = "") -> SecretStr:
    """Read a password or token: one line, whose end is left out.

    Kubernetes gives secret files to a group (``fsGroup``), so the group may read; others may not.

    Args:
        path: of the file.
        key: the setting that names it, for the message.

    Raises:
        SettingsError: the file can't be read, others can read it, or it is empty or no line.
    """
    text = read_text(path, SECRET_LIMIT_BYTES, f"secret file {str(path)!r}", key, secret=True)
    # Editors and echo(1) end a file with one.
    line = text.rstrip("\r\n")
    if fault := _line_fault(line):
        raise SettingsError([Problem(key, f"cannot use secret file {str(path)!r}: {fault}")])
    return SecretStr(line)


def _line_fault(line: str) -> str:
    if not line:
        return "it is empty"
    return "it must hold one line" if not {"\n", "\r", "\0"}.isdisjoint(line) else ""


def secret_problems(settings: Settings) -> tuple[Problem, ...]:
    """Find what is wrong with the secret files that *settings* name, without keeping any."""
    bootstrap, control = settings.bootstrap, settings.control
    lines = {
        "bootstrap.superuser_password_file": bootstrap.superuser_password_file,
        "bootstrap.owner_password_file": bootstrap.owner_password_file,
        "control.token_file": control.token_file,
    }
    problems: list[Problem] = []
    for key, path in lines.items():
        try:
            if path is not None:
                # Read and dropped: this is asked only to tell the problem before anything starts.
                read_secret(path, key)
        except SettingsError as err:
            problems.extend(err.problems)
    return (*problems, *_key_file_problems(control.tls.key_file))


def _key_file_problems(path: Path | None) -> tuple[Problem, ...]:
    if path is None:
        return ()
    key = "control.tls.key_file"
    try:
        text = read_text(path, SECRET_LIMIT_BYTES, f"secret file {str(path)!r}", key, secret=True)
    except SettingsError as err:
        return err.problems
    empty = f"cannot use secret file {str(path)!r}: it is empty"
    # Whether it is a key, and of that certificate, the TLS library says when it loads it.
    return () if text.strip() else (Problem(key, empty),)
