"""``postmaster.pid``, as servers of every state leave it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instance_manager.errors import DataDirectoryError
from instance_manager.postgres import pid_file
from instance_manager.postgres.pid_file import Judgement, PidFile, Verdict, Watched

PID_OF_NOBODY = 2**22 + 1
"""Above what the kernel gives (proc_sys_kernel(5), pid_max)."""
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


@pytest.mark.parametrize(
    "text", ["", "\n", "\n4242\n", "0\n/data\n", "4242x\n", "pid 4242\n", "4_2\n", f"{2**31}\n"]
)
def test_what_names_no_process_is_no_pid_file(text: str) -> None:
    """An empty or torn file is none, and 0 is no process."""
    assert pid_file.parse(text) is None


@settings(max_examples=50)
@given(st.text())
def test_no_text_at_all_is_too_strange(text: str) -> None:
    """Whatever stands there, the answer is a positive pid or nothing."""
    found = pid_file.parse(text)

    assert found is None or found.pid > 0


def test_a_missing_file_is_no_server(tmp_path: Path) -> None:
    """So is a missing data directory."""
    assert pid_file.judge(tmp_path) == Judgement(Verdict.ABSENT)
    assert pid_file.judge(tmp_path / "missing") == Judgement(Verdict.ABSENT)


@pytest.mark.parametrize("pid", [PID_OF_NOBODY, os.getpid(), 1])
def test_a_process_that_is_no_server_makes_the_file_stale(tmp_path: Path, pid: int) -> None:
    """Whether it lives or not: pids repeat."""
    (tmp_path / "postmaster.pid").write_text(WHOLE.replace("4242", str(pid), 1))

    assert pid_file.judge(tmp_path) == Judgement(Verdict.STALE, pid)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff\xfe\x00\x01" * 100_000])
def test_bytes_that_name_no_process_are_stale_and_removed(tmp_path: Path, content: bytes) -> None:
    """Postgres would not start with them."""
    path = tmp_path / "postmaster.pid"
    path.write_bytes(content)

    assert pid_file.judge(tmp_path) == Judgement(Verdict.STALE, None)
    pid_file.remove_damaged(tmp_path)
    assert not path.exists()


def test_a_file_that_names_a_process_is_not_removed(tmp_path: Path) -> None:
    """Postgres finds the shared memory of the server before in it."""
    path = tmp_path / "postmaster.pid"
    path.write_text(WHOLE)
    pid_file.remove_damaged(tmp_path)

    assert path.read_text() == WHOLE


@pytest.mark.parametrize("kind", ["directory", "link", "fifo"])
def test_what_is_no_file_is_an_error_that_names_it(tmp_path: Path, kind: str) -> None:
    """It is neither followed nor waited for."""
    make_other(tmp_path / "postmaster.pid", kind)

    with pytest.raises(DataDirectoryError, match=r"cannot read '.*postmaster\.pid'"):
        pid_file.judge(tmp_path)
    assert pid_file.watch(tmp_path, WHOLE.encode()) is Watched.UNREADABLE


def make_other(path: Path, kind: str) -> None:
    if kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("elsewhere")
    else:
        os.mkfifo(path)


@pytest.mark.parametrize(
    ("now", "seen"),
    [
        (WHOLE, Watched.SAME),
        (WHOLE.replace("ready", "stopping"), Watched.SAME),
        (WHOLE.replace("4242", "4243"), Watched.OTHER),
        (WHOLE.replace("1767225600", "1767225601"), Watched.OTHER),
        ("4242\n", Watched.OTHER),
        ("", Watched.UNREADABLE),
        ("garbage\n", Watched.UNREADABLE),
        (None, Watched.MISSING),
    ],
)
def test_what_has_become_of_the_file_is_told(
    tmp_path: Path, now: str | None, seen: Watched
) -> None:
    """Pid and start time make the server; the later lines may change while it runs."""
    if now is not None:
        (tmp_path / "postmaster.pid").write_text(now)

    assert pid_file.watch(tmp_path, WHOLE.encode()) is seen


def test_a_missing_file_is_put_back_whole_and_closed_to_others(tmp_path: Path) -> None:
    """As the server made it, whatever the umask is."""
    before = os.umask(0o777)
    try:
        assert pid_file.restore(tmp_path, WHOLE.encode())
    finally:
        os.umask(before)

    path = tmp_path / "postmaster.pid"
    assert path.read_text() == WHOLE
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_there_is_not_written_over(tmp_path: Path, kind: str) -> None:
    """A new server may have begun meanwhile."""
    path = tmp_path / "postmaster.pid"
    path.write_text("4243\n") if kind == "file" else path.symlink_to("elsewhere")

    assert not pid_file.restore(tmp_path, WHOLE.encode())
    assert not (tmp_path / "elsewhere").exists()
    if kind == "file":
        assert path.read_text() == "4243\n"
