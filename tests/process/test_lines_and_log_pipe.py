"""Lines from real pipes, and PostgreSQL's log through FIFOs with writers that come and go."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from instance_manager.observability.lines import LineReader
from instance_manager.observability.log_pipe import PostgresLog
from instance_manager.postgres.endings import split_severity

DEADLINE = 30.0


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE):
            await body()

    asyncio.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


def lines_of(*parts: bytes, limit: int = 100, ended: bool = True) -> list[bytes]:
    """Return the lines that a reader sees when the parts are written one after the other."""
    seen: list[bytes] = []

    async def body() -> None:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        reader = LineReader(reading, seen.append, limit)
        for part in parts:
            await asyncio.get_running_loop().run_in_executor(None, os.write, writing, part)
            await asyncio.sleep(0.001)
        os.close(writing)
        if ended:
            await asyncio.sleep(0.01)
        reader.close()
        reader.close()

    run(body)
    return seen


@pytest.mark.parametrize("ended", [True, False])
def test_lines_come_without_their_newlines_and_in_order(ended: bool) -> None:
    """Empty ones too; a last one without a newline is a line, whoever closes first."""
    found = lines_of(b"one\n\ntwo\nthr", b"ee\nla", b"st", ended=ended)

    assert found == [b"one", b"", b"two", b"three", b"last"]


def test_a_pipe_that_carries_nothing_has_no_lines() -> None:
    """The end alone is none."""
    assert lines_of() == []
    assert lines_of(b"whole\n") == [b"whole"]


@pytest.mark.parametrize(
    "parts",
    [
        (b"x" * 250 + b"\nnext\n",),
        (b"x" * 90, b"x" * 90, b"x" * 70, b"\nnext\n"),
        (b"x" * 250, b"\n", b"next\n"),
        (b"x" * 99, b"x" * 151 + b"\nne", b"xt\n"),
        (b"x" * 250 + b"\n", b"next"),
    ],
)
def test_a_line_that_passes_the_limit_is_cut_and_the_next_one_is_whole(
    parts: tuple[bytes, ...],
) -> None:
    """However it arrives, it is one line of the limit's length."""
    assert lines_of(*parts) == [b"x" * 100, b"next"]


@pytest.mark.parametrize("length", [99, 100])
def test_a_line_up_to_the_limit_is_whole(length: int) -> None:
    """The limit itself is allowed."""
    assert lines_of(b"x" * length, b"\nnext\n") == [b"x" * length, b"next"]


def test_a_line_without_end_costs_bounded_memory() -> None:
    """Megabytes without a newline are one line, seen when it passes the limit."""
    assert lines_of(*[b"x" * 60_000] * 50) == [b"x" * 100]


def flood(descriptor: int) -> subprocess.Popen[bytes]:
    """Start what writes lines for as long as somebody reads them."""
    return subprocess.Popen(
        ["yes", "x" * 4000], stdout=descriptor, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_closing_does_not_wait_for_a_writer_that_never_stops() -> None:
    """An orphan that floods the pipe must not keep the manager from ending."""
    lines = 0

    def count(_: bytes) -> None:
        nonlocal lines
        lines += 1

    async def body() -> None:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        reader = LineReader(reading, count)
        child = flood(writing)
        os.close(writing)
        await until(lambda: lines > 0)
        # The reader would go on for as long as the writer does: ten seconds, if it must.
        was_late = threading.Event()

        def end() -> None:
            was_late.set()
            child.kill()

        late = threading.Timer(10, end)
        late.start()
        reader.close()
        late.cancel()
        child.kill()
        child.wait()
        assert not was_late.is_set()

    run(body)


def record(message: str, severity: str = "LOG", **fields: object) -> dict[str, object]:
    return {
        "timestamp": "2026-01-01 00:00:00.000 UTC",
        "pid": 42,
        "error_severity": severity,
        "message": message,
        "backend_type": "postmaster",
        **fields,
    }


def taken(directory: Path, *lines: bytes | dict[str, object]) -> tuple[list[Any], PostgresLog]:
    """Return what is logged of records or lines that are taken, and who took them."""
    log = PostgresLog(directory)
    with capture_logs() as logged:
        for line in lines:
            log.take_record(line if isinstance(line, bytes) else json.dumps(line).encode())
    return logged, log


@pytest.mark.parametrize("half", [b"\\ud800", b"\\uDFFF", b"\\\\\\ud83d", b"\xed\xa0\x80"])
def test_half_a_surrogate_pair_is_replaced_wherever_a_record_has_it(
    tmp_path: Path, half: bytes
) -> None:
    """What is remembered, and what is logged, can be written as UTF-8."""
    line = json.dumps(record("could not open HALF \U0001f600", "FATAL", detail=["HALF"])).encode()
    logged, log = taken(tmp_path, line.replace(b"HALF", half))

    assert json.dumps(logged, ensure_ascii=False).encode()
    assert "".join(log.tail()).isprintable()
    assert ("\U0001f600" in log.last_failure()) is (b"\xed" not in half)


def test_half_a_uri_at_the_end_of_a_long_message_is_not_remembered(tmp_path: Path) -> None:
    """Where the message is cut, what makes it a secret may be missing."""
    said = f"{'x ' * 480}postgresql://user:{'hunter2' * 10}@primary/db"
    _, log = taken(tmp_path, json.dumps(record(said, "FATAL")).encode())

    assert log.last_failure() == ("x " * 480).strip()


def test_a_whole_surrogate_pair_and_an_escaped_backslash_stay(tmp_path: Path) -> None:
    """Only halves are replaced."""
    said = "half \U0001f600 \\ud800"
    _, log = taken(tmp_path, json.dumps(record(said, "FATAL")).encode())

    assert log.last_failure() == said


@pytest.mark.parametrize(
    ("severity", "level"),
    [
        ("DEBUG5", "debug"),
        ("DEBUG1", "debug"),
        ("LOG", "info"),
        ("INFO", "info"),
        ("NOTICE", "info"),
        ("WARNING", "warning"),
        ("ERROR", "error"),
        ("FATAL", "critical"),
        ("PANIC", "critical"),
        ("UNHEARD", "info"),
    ],
)
def test_a_severity_becomes_a_level(tmp_path: Path, severity: str, level: str) -> None:
    """The postmaster's own words count as they are."""
    logged, log = taken(tmp_path, record("words", severity))

    assert [line["log_level"] for line in logged] == [level]
    assert log.records == 1


def test_a_record_is_passed_on_whole(tmp_path: Path) -> None:
    """Numbers stay numbers, and what we do not know stays too."""
    given = record("100% of %s", line_num=7, detail="the key", unheard={"of": [1, 2.5, None]})
    logged, _ = taken(tmp_path, given)

    assert logged[0]["event"] == "100% of %s"
    assert logged[0]["record"] == given
    assert logged[0]["origin"] == "postgres"


def test_the_end_of_one_session_is_an_error_and_a_refusal_at_the_start_is_not(
    tmp_path: Path,
) -> None:
    """Only the postmaster's FATAL is a disaster."""
    session = {"backend_type": "client backend"}
    logged, log = taken(
        tmp_path,
        record("terminating connection", "FATAL", **session),
        record("the database system is starting up", "FATAL", state_code="57P03", **session),
        record("corrupted page", "PANIC", **session),
    )

    assert [line["log_level"] for line in logged] == ["error", "debug", "critical"]
    assert log.last_failure() == ""


@pytest.mark.parametrize(
    "line",
    [
        b"plain text",
        b"{",
        b"[]",
        b'"text"',
        b"7",
        b"null",
        b"{}",
        b'{"message": "x"}',
        b'{"error_severity": "LOG"}',
        pytest.param(b"9" * 10_000, id="a number that is too long"),
        pytest.param(b"[" * 100_000, id="nested too deeply"),
    ],
)
def test_what_is_no_record_is_passed_on_as_text(tmp_path: Path, line: bytes) -> None:
    """Nothing that is said gets lost, and nothing that is said does harm."""
    logged, log = taken(tmp_path, line)

    assert [each["event"] for each in logged] == [line.decode()]
    assert log.records == 0


@pytest.mark.parametrize("line", [b"", b"   ", b"\t\r"])
def test_an_empty_line_is_nothing(tmp_path: Path, line: bytes) -> None:
    """No empty messages in the log."""
    assert taken(tmp_path, line)[0] == []


def test_bytes_that_are_no_text_are_shown_as_well_as_can_be(tmp_path: Path) -> None:
    """A server in another encoding is heard too."""
    assert taken(tmp_path, b"\xff caf\xe9")[0][0]["event"] == "\ufffd caf\ufffd"


PREFIX = "2026-01-01 00:00:00.000 UTC [42] "


@pytest.mark.parametrize(
    ("text", "severity", "message"),
    [
        (f"{PREFIX}FATAL:  could not create lock file", "FATAL", "could not create lock file"),
        ("LOG:  starting", "LOG", "starting"),
        (f"{PREFIX}HINT:  look there", "HINT", "look there"),
        ("LOG:  said ERROR:  no", "LOG", "said ERROR:  no"),
        ("archive: no", "", "archive: no"),
        (f"{'x' * 60} FATAL:  quoted", "", f"{'x' * 60} FATAL:  quoted"),
    ],
)
def test_the_severity_of_plain_text_is_the_first_one(
    text: str, severity: str, message: str
) -> None:
    """What a message quotes is a part of the message."""
    assert split_severity(text) == (severity, message)


def failure(directory: Path, *lines: dict[str, object]) -> str:
    return taken(directory, *lines)[1].last_failure()


def test_the_last_failure_is_what_came_before_the_last_fatal(tmp_path: Path) -> None:
    """Reasons first; that it shuts down afterwards is no reason."""
    said = failure(
        tmp_path,
        record("starting"),
        record("listening"),
        record("could not bind: Address already in use"),
        record("could not create any TCP/IP sockets", "FATAL"),
        record("database system is shut down"),
    )

    assert said == (
        "listening; could not bind: Address already in use; could not create any TCP/IP sockets"
    )


def test_without_a_fatal_there_are_no_last_words(tmp_path: Path) -> None:
    """Who is killed says nothing, and what was said before is no reason."""
    assert failure(tmp_path, *[record(str(number)) for number in range(30)]) == ""
    assert failure(tmp_path) == ""


def test_statements_and_details_are_never_in_the_last_failure(tmp_path: Path) -> None:
    """They may hold data, and the status is for people who must not see any."""
    secret = {"statement": "secret", "detail": "secret", "hint": "secret", "query": "secret"}
    said = failure(
        tmp_path,
        record("terminating any other active server processes", **secret),
        record("secret", "WARNING"),
        record("secret", "LOG", backend_type="client backend"),
        record("secret", "ERROR", backend_type="walsender"),
        record("giving up", "FATAL", **secret),
    )

    assert said == "terminating any other active server processes; giving up"


@pytest.mark.parametrize("word", ["STATEMENT", "CONTEXT", "DETAIL", "HINT", "QUERY", "LOCATION"])
def test_the_additions_to_a_message_in_plain_text_are_not_remembered(
    tmp_path: Path, word: str
) -> None:
    """Before its collector runs, the postmaster says them on lines of their own."""
    log = PostgresLog(tmp_path)
    log.take_last_words(f"{PREFIX}FATAL:  no".encode())
    log.take_last_words(f"{PREFIX}{word}:  secret".encode())
    log.take_last_words(b"\tsecret, continued")
    log.take_last_words(f"{PREFIX}FATAL:  again".encode())

    assert log.last_failure() == "no; again"


def follow(
    directory: Path, body: Callable[[PostgresLog, list[Any]], Coroutine[Any, Any, None]]
) -> None:
    """Open the log of a directory and run *body* with it and with what is logged."""

    async def main() -> None:
        with capture_logs() as logged, PostgresLog(directory) as log:
            await body(log, logged)

    run(main)


def write(path: Path, *messages: str) -> None:
    """Write records as a process of their own: open, write, and go."""
    text = "".join(json.dumps(record(message)) + "\n" for message in messages)
    subprocess.run(["/bin/sh", "-c", f"cat > '{path}'"], input=text.encode(), check=True)


def test_writers_come_and_go_and_every_record_arrives(tmp_path: Path) -> None:
    """A collector that starts again meets a reader, and the reader sees no end."""
    names = [str(number) for number in range(20)]

    async def body(_: PostgresLog, logged: list[Any]) -> None:
        for name in names:
            await asyncio.to_thread(write, tmp_path / "log" / "postgres.json", name)
        await until(lambda: len(logged) == len(names))
        assert [line["event"] for line in logged] == names

    follow(tmp_path / "log", body)


def test_both_fifos_are_for_their_owner_alone(tmp_path: Path) -> None:
    """What the server says is nobody else's business."""

    async def body(_: PostgresLog, __: list[Any]) -> None:
        for name in ("postgres.json", "postgres"):
            status = (tmp_path / "log" / name).lstat()
            assert stat.S_ISFIFO(status.st_mode)
            assert stat.S_IMODE(status.st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o700

    follow(tmp_path / "log", body)


@pytest.mark.parametrize("kind", ["file", "link", "fifo"])
def test_what_lies_in_the_place_of_a_fifo_is_replaced(tmp_path: Path, kind: str) -> None:
    """A file that a collector made goes, a link is not followed, a FIFO is taken over."""
    path, elsewhere = tmp_path / "log" / "postgres.json", tmp_path / "elsewhere"
    path.parent.mkdir()
    elsewhere.write_text("theirs")
    match kind:
        case "file":
            path.write_text("old\n")
        case "link":
            path.symlink_to(elsewhere)
        case _:
            os.mkfifo(path)

    async def body(_: PostgresLog, logged: list[Any]) -> None:
        await asyncio.to_thread(write, path, "new")
        await until(lambda: bool(logged))
        assert [line["event"] for line in logged] == ["new"]

    follow(path.parent, body)
    assert elsewhere.read_text() == "theirs"


def test_what_is_still_in_the_pipe_is_taken_at_the_end(tmp_path: Path) -> None:
    """The last words matter most."""

    async def main() -> None:
        with capture_logs() as logged:
            with PostgresLog(tmp_path / "log") as log:
                write(tmp_path / "log" / "postgres.json", "one", "two")
                with log.capturing() as writing:
                    os.write(writing, b"FATAL:  three")
            assert {line["event"] for line in logged} == {"one", "two", "three"}

    run(main)


def test_a_writer_that_outlives_the_reader_gets_an_error_and_does_not_hang(
    tmp_path: Path,
) -> None:
    """A manager that dies must not leave its server hanging on a pipe."""

    async def main() -> None:
        with PostgresLog(tmp_path / "log"):
            writing = os.open(tmp_path / "log" / "postgres.json", os.O_WRONLY | os.O_CLOEXEC)
        try:
            with pytest.raises(BrokenPipeError):
                os.write(writing, b"x" * 100_000)
        finally:
            os.close(writing)

    run(main)


def test_the_words_of_one_start_are_forgotten_at_the_next(tmp_path: Path) -> None:
    """The failure of a start is told in the words of that start."""

    async def body(log: PostgresLog, logged: list[Any]) -> None:
        with log.capturing() as writing:
            os.write(writing, b"FATAL:  old\n")
        await until(lambda: len(logged) == 1)
        assert log.last_failure() == "old"
        with log.capturing() as writing:
            os.write(writing, b"FATAL:  new\n")
        await until(lambda: len(logged) == 2)
        assert log.last_failure() == "new"

    follow(tmp_path / "log", body)


def test_what_programs_of_the_server_print_is_logged_and_not_shown_to_everybody(
    tmp_path: Path,
) -> None:
    """An archive command may print data: those are no words of the postmaster."""

    async def body(log: PostgresLog, logged: list[Any]) -> None:
        path = tmp_path / "log" / "postgres"
        script = f"echo a row of a table > '{path}'"
        await asyncio.to_thread(subprocess.run, ["/bin/sh", "-c", script], check=True)
        await until(lambda: bool(logged))
        log.take_record(json.dumps(record("giving up", "FATAL")).encode())

        assert logged[0]["event"] == "a row of a table"
        assert log.last_failure() == "giving up"

    follow(tmp_path / "log", body)


def test_a_hundred_starts_leave_no_descriptor_open(tmp_path: Path) -> None:
    """Each start gets a pipe of its own, which ends with its server."""

    async def body(log: PostgresLog, _: list[Any]) -> None:
        before = descriptors()
        for _number in range(100):
            with log.capturing() as writing:
                os.write(writing, b"LOG:  starting\n")
        await until(lambda: descriptors() <= before)

    follow(tmp_path / "log", body)


def test_a_crash_is_counted_and_told_once(tmp_path: Path) -> None:
    """A second startup process of one server is a crash that it survives; a new server is none."""
    told: list[str] = []
    sentence = "io worker (PID 7) was terminated by signal 9: Killed"

    async def body(log: PostgresLog, _: list[Any]) -> None:
        def say(message: str, **fields: object) -> None:
            log.take_record(json.dumps(record(message, "LOG", **fields)).encode())

        log.on_crash = told.append
        for start in (10, 20):
            with log.capturing():
                pass
            say("starting", backend_type="startup", pid=start)
            say("redo is not required", backend_type="startup", pid=start)
            say(sentence)
            assert log.kills_survived == 0
            say("interrupted", backend_type="startup", pid=start + 1)
            say("redo done", backend_type="startup", pid=start + 1)
            assert log.kills_survived == 1

        assert (log.crashes, told) == (2, [sentence] * 2)

    follow(tmp_path / "log", body)


def test_a_crash_that_nobody_asked_for_is_counted(tmp_path: Path) -> None:
    """The counter needs no callback."""
    lines = [record("redo", backend_type="startup", pid=pid) for pid in (1, 2)]
    _, log = taken(tmp_path, *lines)

    assert log.crashes == 1


def test_the_words_that_are_still_in_the_pipe_are_the_last_servers(tmp_path: Path) -> None:
    """Whatever is read late, the next server has not said it."""

    async def body(log: PostgresLog, logged: list[Any]) -> None:
        with log.capturing() as writing:
            os.write(writing, b"FATAL:  old\n")
        write(tmp_path / "log" / "postgres.json", "older")
        with log.capturing():
            assert {line["event"] for line in logged} == {"old", "older"}
            assert log.tail() == ()
            assert log.last_failure() == ""

    follow(tmp_path / "log", body)


def outliving(writing: int, *command: str) -> subprocess.Popen[bytes]:
    """Start a process that outlives its postmaster and holds its standard error."""
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=writing)


def test_last_words_are_awaited_until_the_server_is_gone(tmp_path: Path) -> None:
    """The collector writes them after the postmaster has ended, and ends last."""
    path = tmp_path / "log" / "postgres.json"

    async def body(log: PostgresLog, _: list[Any]) -> None:
        with log.capturing() as writing:
            collector = outliving(writing, "/bin/sh", "-c", f"cat > '{path}'")

        async def all_that_is_said() -> tuple[str, ...]:
            await log.until_silent(DEADLINE)
            return log.tail()

        said = asyncio.create_task(all_that_is_said())
        await asyncio.sleep(0)
        words = json.dumps(record("the reason", "FATAL")).encode() + b"\n"
        await asyncio.to_thread(collector.communicate, words)
        assert await said == ("FATAL: the reason",)

    follow(tmp_path / "log", body)


def test_last_words_are_not_awaited_for_ever(tmp_path: Path) -> None:
    """A program that outlives its server holds the pipe; what came until then counts."""

    async def body(log: PostgresLog, _: list[Any]) -> None:
        with log.capturing() as writing:
            program = outliving(writing, "cat")
            os.write(writing, b"LOG:  the reason\n")
        await log.until_silent(0.05)
        assert program.poll() is None
        program.communicate()

        assert log.tail() == ("LOG: the reason",)

    follow(tmp_path / "log", body)
