"""``postmaster.pid``, as servers of every state leave it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instance_manager.postgres import pid_file
from instance_manager.postgres.pid_file import PidFile

WHOLE = """\
4242
/var/lib/postgresql/data
1767225600
5432
/run/postgresql
*
  5432001    196610
ready
"""


def test_a_whole_file_is_read_line_by_line() -> None:
    """Each line has its meaning; the padding of the status is no part of it."""
    assert pid_file.parse(WHOLE) == PidFile(
        pid=4242,
        data_directory="/var/lib/postgresql/data",
        started_at=1767225600,
        port=5432,
        socket_directory="/run/postgresql",
        status="ready",
    )


@pytest.mark.parametrize("status", ["starting", "standby ", "stopping", "ready   "])
def test_the_padding_of_the_status_is_dropped(status: str) -> None:
    """The server pads the status to eight characters."""
    found = pid_file.parse(WHOLE.replace("ready", status))

    assert found is not None
    assert found.status == status.strip()


@pytest.mark.parametrize("count", range(1, 8))
def test_a_file_that_is_still_being_written_says_what_it_says(count: int) -> None:
    """The server writes the later lines when it has got that far."""
    found = pid_file.parse("".join(WHOLE.splitlines(keepends=True)[:count]))

    assert found is not None
    assert found.pid == 4242
    assert found.status is None
    assert (found.port is None) is (count < 4)


def test_a_single_user_server_has_a_pid_too() -> None:
    """It writes its pid negated."""
    found = pid_file.parse("-17\n/data\n1767225600\n")

    assert found is not None
    assert found.pid == 17


def test_a_server_without_unix_sockets_has_no_socket_directory() -> None:
    """An empty line is a value that is absent."""
    found = pid_file.parse(WHOLE.replace("/run/postgresql", ""))

    assert found is not None
    assert found.socket_directory is None
    assert found.port == 5432


@pytest.mark.parametrize("text", ["", "\n", "\n4242\n", "0\n/data\n", "4242x\n", "pid 4242\n"])
def test_what_names_no_process_is_no_pid_file(text: str) -> None:
    """An empty or torn file is none, and 0 is no process."""
    assert pid_file.parse(text) is None


@settings(max_examples=50)
@given(st.text())
def test_no_text_at_all_is_too_strange(text: str) -> None:
    """Whatever stands there, the answer is a positive pid or nothing."""
    found = pid_file.parse(text)

    assert found is None or found.pid > 0


def test_a_file_is_found_in_its_data_directory(tmp_path: Path) -> None:
    """The name is the server's."""
    (tmp_path / "postmaster.pid").write_text(WHOLE)
    found = pid_file.read(tmp_path)

    assert found is not None
    assert found.pid == 4242


def test_no_file_is_no_server(tmp_path: Path) -> None:
    """Neither a missing file nor a directory in its place is an error."""
    assert pid_file.read(tmp_path) is None
    assert pid_file.read(tmp_path / "missing") is None

    (tmp_path / "postmaster.pid").mkdir()
    assert pid_file.read(tmp_path) is None


def test_bytes_that_are_no_text_do_no_harm(tmp_path: Path) -> None:
    """A damaged file costs an answer, not an exception."""
    (tmp_path / "postmaster.pid").write_bytes(b"\xff\xfe\x00\x01" * 100_000)

    assert pid_file.read(tmp_path) is None
