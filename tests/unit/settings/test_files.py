"""Finding and reading files, and what is asked of those with secrets."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from instance_manager.errors import SettingsError
from instance_manager.settings.files import (
    DEFAULT_FILE,
    SETTINGS_LIMIT_BYTES,
    config_path,
    load_settings,
    read_sources,
)
from instance_manager.settings.secrets import read_secret, secret_problems

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def message_of(action: Callable[[], object]) -> str:
    """Return the text of the error that *action* ends with."""
    with pytest.raises(SettingsError) as caught:
        action()
    return str(caught.value)


def secret(directory: Path, content: str | bytes = "hunter2\n", mode: int = 0o400) -> Path:
    """Make a file with a secret."""
    path = directory / "secret"
    path.unlink(missing_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


def test_the_command_line_names_the_file_before_the_environment(tmp_path: Path) -> None:
    """What a person types wins over what a manifest says."""
    environment = {"INSTANCE_MANAGER_CONFIG": "/from/environment"}

    assert str(config_path(environment, tmp_path / "a")) == str(tmp_path / "a")
    assert str(config_path(environment)) == "/from/environment"


@pytest.mark.parametrize("environment", [{}, {"INSTANCE_MANAGER_CONFIG": ""}])
def test_without_a_name_the_default_file_is_taken_if_it_exists(
    environment: dict[str, str],
) -> None:
    """Nobody has to have a file."""
    expected = DEFAULT_FILE if DEFAULT_FILE.exists() else None

    assert config_path(environment) == expected


def test_a_file_is_read_and_named_in_problems(tmp_path: Path) -> None:
    """Problems carry the path that people can open."""
    path = tmp_path / "config.yaml"
    path.write_text("postgres:\n  port: 1\n  prot: 2\n")

    message = message_of(lambda: load_settings({}, config=path))

    assert f"postgres.prot: unknown key; did you mean 'postgres.port'? ({path}, line 3)" == message


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    """Some editors write one."""
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xef\xbb\xbfpostgres: {port: 1}")

    assert load_settings({}, config=path).settings.postgres.port == 1


def test_everything_is_loaded_together(tmp_path: Path) -> None:
    """File, environment, a variable's file and the command line make one result."""
    path = tmp_path / "config.yaml"
    path.write_text("failure: exit")
    user = tmp_path / "user"
    user.write_text("admin\n")

    settings = load_settings(
        {"INSTANCE_MANAGER_CONFIG": str(path), "POSTGRES_USER_FILE": str(user)},
        overrides={"postgres.port": "7"},
    ).settings

    assert settings.failure == "exit"
    assert settings.bootstrap.superuser == "admin"
    assert settings.postgres.port == 7


def test_a_named_file_that_is_missing_is_a_problem(tmp_path: Path) -> None:
    """An explicit name must not be ignored in silence."""
    path = tmp_path / "nowhere.yaml"

    message = message_of(lambda: load_settings({"INSTANCE_MANAGER_CONFIG": str(path)}))

    assert message == f"cannot read settings file {str(path)!r}: No such file or directory"


def test_a_file_that_can_not_be_read_does_not_hide_other_problems(tmp_path: Path) -> None:
    """All sources are judged, whatever became of one."""
    message = message_of(
        lambda: load_settings({"PGPORT": "x", "PGDATA_FILE": "/nowhere"}, config=tmp_path)
    )

    assert f"cannot read settings file {str(tmp_path)!r}: it is a directory" in message
    assert "PGDATA_FILE: cannot read the file '/nowhere': No such file or directory" in message
    assert "postgres.port: must be a whole number" in message


def test_a_settings_file_has_a_limit(tmp_path: Path) -> None:
    """What can't be settings is not read into memory."""
    path = tmp_path / "config.yaml"
    path.write_bytes(b"#" * (SETTINGS_LIMIT_BYTES + 1))

    assert f"more than {SETTINGS_LIMIT_BYTES}" in read_sources({}, config=path).problems[0].message


def test_text_that_is_not_utf_8_is_told(tmp_path: Path) -> None:
    """The byte that is wrong is counted."""
    path = tmp_path / "config.yaml"
    path.write_bytes(b"a: \xff")

    assert "not UTF-8 text (byte 3)" in message_of(lambda: load_settings({}, config=path))


def test_a_pipe_without_a_writer_holds_nobody_up(tmp_path: Path) -> None:
    """A FIFO is refused, not waited for."""
    path = tmp_path / "pipe"
    os.mkfifo(path)

    assert "it is not a regular file" in message_of(lambda: load_settings({}, config=path))


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o440, 0o640])
def test_a_secret_may_be_read_by_owner_and_group(tmp_path: Path, mode: int) -> None:
    """Kubernetes gives secret files to the group of the pod."""
    assert read_secret(secret(tmp_path, mode=mode)).get_secret_value() == "hunter2"


@pytest.mark.parametrize("mode", [0o444, 0o604, 0o644, 0o402])
def test_a_secret_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    """The mode is shown, and the one to set."""
    path = secret(tmp_path, mode=mode)

    message = message_of(lambda: read_secret(path, "control.token_file"))

    assert message.startswith(f"control.token_file: cannot read secret file {str(path)!r}: others")
    assert f"(mode {mode:04o}): set mode 0400" in message


def test_a_link_counts_by_what_it_leads_to(tmp_path: Path) -> None:
    """Kubernetes mounts secrets as links, whose own mode says nothing."""
    link = tmp_path / "link"
    link.symlink_to(secret(tmp_path))

    assert read_secret(link).get_secret_value() == "hunter2"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("a", "a"),
        ("a\n", "a"),
        ("a\r\n", "a"),
        (" a \n\n", " a "),
        ("ä\n", "ä"),
        ("#'\"\\", "#'\"\\"),
    ],
)
def test_a_secret_is_a_line_without_its_end(tmp_path: Path, content: str, line: str) -> None:
    """Blanks belong to it, line ends do not."""
    assert read_secret(secret(tmp_path, content)).get_secret_value() == line


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "it is empty"),
        ("\n", "it is empty"),
        ("a\nb\n", "it must hold one line"),
        ("a\0b", "it must hold one line"),
        (b"\xff\xfe", "not UTF-8"),
        ("x" * 65537, "more than 65536"),
    ],
)
def test_what_is_no_secret_is_refused(tmp_path: Path, content: str | bytes, reason: str) -> None:
    """An empty password would be none, and a second line would be lost."""
    path = secret(tmp_path, content)

    assert reason in message_of(lambda: read_secret(path))


def test_a_secret_shows_in_no_text(tmp_path: Path) -> None:
    """Neither its value nor that of a refused file is ever in a message."""
    path = secret(tmp_path, "hunter2\nhunter3\n")

    assert "hunter" not in message_of(lambda: read_secret(path))
    assert "hunter" not in repr(read_secret(secret(tmp_path / ".", "hunter2")))


def test_all_secret_files_are_checked(tmp_path: Path) -> None:
    """Each file that settings name is told with its key."""
    path = secret(tmp_path, mode=0o644)
    empty = tmp_path / "empty"
    empty.touch(mode=0o600)
    keys = ["bootstrap.superuser_password_file", "control.token_file", "control.tls.key_file"]
    settings = load_settings(
        {},
        overrides={
            **dict.fromkeys(keys, str(path)),
            "bootstrap.owner": "app",
            "bootstrap.owner_password_file": str(empty),
            "control.tls.certificate_file": str(tmp_path / "anything"),
        },
    ).settings

    problems = secret_problems(settings)

    assert [problem.path for problem in problems] == [
        "bootstrap.superuser_password_file",
        "bootstrap.owner_password_file",
        "control.token_file",
        "control.tls.key_file",
    ]
    assert "it is empty" in problems[1].message


def test_a_private_key_may_have_lines(tmp_path: Path) -> None:
    """A key in PEM is a secret of many lines."""
    path = secret(tmp_path, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    overrides = {
        "control.tls.key_file": str(path),
        "control.tls.certificate_file": str(tmp_path / "anything"),
    }

    assert secret_problems(load_settings({}, overrides=overrides).settings) == ()
    path.chmod(0o600)
    path.write_text("\n")
    assert len(secret_problems(load_settings({}, overrides=overrides).settings)) == 1


def test_settings_without_secrets_have_no_such_problems() -> None:
    """Nothing is read where nothing is named."""
    assert secret_problems(load_settings({}, overrides={}).settings) == ()
