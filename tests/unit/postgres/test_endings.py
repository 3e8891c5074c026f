"""From an end to its cause, on lines that real servers said: PostgreSQL 18.6, and 15.18."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from instance_manager.postgres.endings import (
    LastWords,
    Said,
    classify,
    may_have_last_words,
    said_on_stderr,
)
from instance_manager.supervision.children import ExitStatus
from instance_manager.supervision.endings import Cause, Ending

FAILED = ExitStatus(code=1)
ABORTED = ExitStatus(signal=signal.SIGABRT)
KILLED = ExitStatus(signal=signal.SIGKILL)
SHUT_DOWN = "postmaster 00000 LOG:  database system is shut down"


def own(message: str, severity: str = "LOG", code: str | None = None) -> Said:
    return Said("postmaster", severity, code, message)


def ending(
    status: ExitStatus,
    *stderr: str,
    records: tuple[Said, ...] = (),
    other: Said | None = None,
    memory_ran_out: bool = False,
) -> Ending:
    """Return the ending of a server that said lines, and then records."""
    lines = tuple(said for line in stderr if (said := said_on_stderr(line)))
    return classify(status, LastWords(lines + records, other), memory_ran_out=memory_ran_out)


@pytest.mark.parametrize(
    "case", yaml.safe_load(Path(__file__).with_name("endings_on_stderr.yaml").read_text())
)
def test_a_failure_before_the_log_works_is_told_by_standard_error(
    case: dict[str, Any],
) -> None:
    """Parameters, libraries, memory, the lock file: the words are the postmaster's."""
    assert ending(FAILED, *case["said"]) == Ending(Cause(case["cause"]), case["message"])


LISTENING = own('listening on IPv4 address "127.0.0.1", port 15999')
SOCKET = own('listening on Unix socket "/run/.s.PGSQL.15999"')
END = own("database system is shut down")


def after(process: str) -> tuple[Said, ...]:
    """Return what the postmaster says when *process* has ended the server with it."""
    return (
        LISTENING,
        own(process),
        own("terminating any other active server processes"),
        own("shutting down due to startup process failure"),
        END,
    )


@pytest.mark.parametrize(
    ("told", "failure"),
    [
        (
            own('invalid connection type "nonsense"', code="F0000"),
            own("could not load /data/pg_hba.conf", "FATAL", "XX000"),
        ),
        (
            own('configuration file "/data/pg_hba.conf" contains no entries', code="F0000"),
            own("could not load /data/pg_hba.conf", "FATAL", "XX000"),
        ),
        (
            own('could not open file "/data/pg_hba.conf": No such file', code="58P01"),
            own("could not load /data/pg_hba.conf", "FATAL", "XX000"),
        ),
        (
            own("ungültiger Verbindungstyp »nonsense«", code="F0000"),
            own("konnte pg_hba.conf nicht laden", "FATAL", "XX000"),
        ),
    ],
)
def test_access_rules_that_are_wrong_are_a_bad_configuration(told: Said, failure: Said) -> None:
    """A wrong line is told by its code, in every language, just before an internal error."""
    found = ending(FAILED, records=(LISTENING, SOCKET, told, failure, END))

    assert found == Ending(
        Cause.BAD_CONFIGURATION, f"{SOCKET.message}; {told.message}; {failure.message}"
    )


def test_name_maps_that_are_wrong_do_not_explain_a_later_end() -> None:
    """The server starts with them, so a failure that comes later has another reason."""
    told = own("missing entry at end of line", code="F0000")
    failure = own("could not create any TCP/IP sockets", "FATAL", "XX000")

    assert ending(FAILED, records=(told, LISTENING, failure)).cause is Cause.ERROR


@pytest.mark.parametrize(
    ("told", "failure"),
    [
        (
            own('could not bind IPv4 address "127.0.0.1": Address already in use', code="XX000"),
            own("could not create any TCP/IP sockets", "FATAL", "XX000"),
        ),
        (
            LISTENING,
            own('lock file "/run/.s.PGSQL.15999.lock" already exists', "FATAL", "F0001"),
        ),
        (
            LISTENING,
            own('could not create lock file "/nosuch/.s.PGSQL.15999.lock"', "FATAL", "58P01"),
        ),
    ],
)
def test_a_port_or_socket_in_use_may_be_free_at_the_next_try(told: Said, failure: Said) -> None:
    """It is an error like any other: another try may succeed."""
    found = ending(FAILED, records=(told, failure, END))

    assert found == Ending(Cause.ERROR, f"{told.message}; {failure.message}")


EXITED = "startup process (PID 28174) exited with exit code 1"
ABORTED_STARTUP = "startup process (PID 28627) was terminated by signal 6: Aborted"


@pytest.mark.parametrize(
    ("cause", "sentence", "other"),
    [
        (
            Cause.DISK_FULL,
            EXITED,
            Said("startup", "FATAL", "53100", 'could not write to file "pg_wal/xlogtemp.28174"'),
        ),
        (
            Cause.DISK_FULL,
            ABORTED_STARTUP,
            Said("startup", "PANIC", "53100", "could not write to file"),
        ),
        (
            Cause.DISK_FULL,
            ABORTED_STARTUP,
            Said("startup", "PANIC", "XX000", "could not fsync file: Disk quota exceeded"),
        ),
        (
            Cause.PANIC,
            ABORTED_STARTUP,
            Said("startup", "PANIC", "XX000", "could not locate a valid checkpoint record at 0/1"),
        ),
        (
            Cause.ERROR,
            EXITED,
            Said("startup", "FATAL", "F0000", "recovery ended before configured recovery target"),
        ),
        (
            Cause.BAD_CONFIGURATION,
            EXITED,
            Said("startup", "FATAL", "22023", 'must specify "restore_command" when standby mode'),
        ),
        (Cause.ERROR, EXITED, None),
    ],
)
def test_the_failure_of_the_startup_process_is_the_servers(
    cause: Cause, sentence: str, other: Said | None
) -> None:
    """Its code counts, and not a word of it is shown."""
    found = ending(FAILED, records=after(sentence), other=other)

    assert found.cause is cause
    assert found.message == (
        f"{sentence}; terminating any other active server processes; shutting down due to startup"
        " process failure"
    )


def test_a_panic_that_the_server_is_not_to_survive_is_its_end() -> None:
    """With restart_after_crash off, the crash of a backend ends the server."""
    records = (
        own("client backend (PID 28803) was terminated by signal 6: Aborted"),
        own("terminating any other active server processes"),
        own('shutting down because "restart_after_crash" is off'),
        END,
    )
    panic = Said("client backend", "PANIC", "53100", "could not write to file: a secret")

    assert ending(FAILED, records=records).cause is Cause.ERROR
    assert ending(FAILED, records=records, memory_ran_out=True).cause is Cause.OUT_OF_MEMORY
    found = ending(FAILED, records=records, other=panic)
    assert found.cause is Cause.DISK_FULL
    assert "secret" not in found.message


def test_a_panic_of_the_postmaster_is_told_from_an_abort_from_outside() -> None:
    """Both end it with the same signal; only the panic has words."""
    line = 'PANIC:  could not read file "global/pg_control": read 0 of 296'

    assert ending(ABORTED, f"postmaster XX000 {line}") == Ending(
        Cause.PANIC, line.removeprefix("PANIC:  ")
    )
    assert ending(ABORTED) == Ending(Cause.SIGNAL, "")
    assert ending(ABORTED, "postmaster 53100 PANIC:  no space").cause is Cause.DISK_FULL
    assert ending(ABORTED, "postmaster XX000 比致命错误还过分的错误:  无").cause is Cause.PANIC
    assert ending(ABORTED, "postmaster 53100 FATAL:  no space").cause is Cause.SIGNAL


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT])
def test_who_is_killed_ended_by_a_signal_whatever_was_said_before(number: signal.Signals) -> None:
    """A backend's full disk of yesterday does not explain a kill of today."""
    panic = Said("client backend", "PANIC", "53100", "could not write to file")
    found = ending(ExitStatus(signal=number), records=(LISTENING, SOCKET), other=panic)

    assert found == Ending(Cause.SIGNAL, "")


def test_only_a_kill_is_the_kernels_for_want_of_memory() -> None:
    """It kills with signal 9, and with no other one."""
    segmentation_fault = ExitStatus(signal=signal.SIGSEGV)

    assert ending(KILLED, memory_ran_out=True).cause is Cause.OUT_OF_MEMORY
    assert ending(segmentation_fault, memory_ran_out=True).cause is Cause.SIGNAL


def test_a_startup_process_killed_for_want_of_memory_takes_the_server_with_it() -> None:
    """Recovery that needs too much memory ends the postmaster with code 1."""
    records = after("startup process (PID 28174) was terminated by signal 9: Killed")

    assert ending(FAILED, records=records, memory_ran_out=True).cause is Cause.OUT_OF_MEMORY
    assert ending(FAILED, records=records).cause is Cause.ERROR


def test_a_known_failure_is_stronger_than_a_kill_of_somebody_else() -> None:
    """An archive command that the kernel killed does not explain a wrong parameter."""
    line = 'postmaster F0000 FATAL:  configuration file "postgresql.conf" contains errors'

    assert ending(FAILED, line, memory_ran_out=True).cause is Cause.BAD_CONFIGURATION


@pytest.mark.parametrize(
    "line",
    [
        "/bin/postgres: error while loading shared libraries: libz.so.1: not found",
        "/bin/postgres: symbol lookup error: /bin/postgres: undefined symbol: PQexec",
    ],
)
def test_a_program_that_can_not_be_loaded_lacks_a_library(line: str) -> None:
    """The loader ends it with 127, and its words are shown."""
    assert ending(ExitStatus(code=127), line) == Ending(Cause.MISSING_LIBRARY, line)


def test_code_0_is_clean_and_has_no_words() -> None:
    """Whoever asked for it: the code is the same after an immediate shutdown."""
    records = (own("received immediate shutdown request"), END)

    assert ending(ExitStatus(code=0), records=records) == Ending(Cause.CLEAN, "")


def test_a_server_that_said_nothing_has_an_end_all_the_same() -> None:
    """Nothing to go by is an error without words."""
    assert ending(FAILED) == Ending(Cause.ERROR, "")
    assert ending(FAILED, SHUT_DOWN) == Ending(Cause.ERROR, "")


@pytest.mark.parametrize(
    ("cause", "message", "lines"),
    [
        (
            Cause.BAD_CONFIGURATION,
            "unbekannter Konfigurationsparameter »nosuch«; Konfigurationsdatei enthält Fehler",
            [
                "postmaster 42704 LOG:  unbekannter Konfigurationsparameter »nosuch«",
                "postmaster F0000 FATAL:  Konfigurationsdatei enthält Fehler",
            ],
        ),
        (
            Cause.BAD_CONFIGURATION,
            "",
            [
                'postmaster 42704 СООБЩЕНИЕ:  нераспознанный параметр конфигурации "nosuch"',
                "postmaster F0000 ВАЖНО:  файл конфигурации содержит ошибки",
            ],
        ),
        (
            Cause.BAD_CONFIGURATION,
            "",
            [
                'postmaster 42704 日志:  unrecognized configuration parameter "nosuch"',
                "postmaster F0000 致命错误:  配置文件 有错",
            ],
        ),
        (Cause.DISK_FULL, "", ["postmaster 53100 致命错误:  无法写入锁文件"]),
        (
            Cause.ERROR,
            "",
            [
                'postmaster 58P01 致命错误:  无法访问文件 "nosuch"',
                "postmaster 00000 日志:  已关闭",
            ],
        ),
    ],
)
def test_the_codes_count_in_other_languages_too(
    cause: Cause, message: str, lines: list[str]
) -> None:
    """What only the English text could tell is an error; foreign words may be a hint: no words."""
    assert ending(FAILED, *lines) == Ending(cause, message)


@pytest.mark.parametrize(
    "line",
    [
        "a row of a table",
        "archive: postgres: FATAL",
        f"{'x' * 60} FATAL:  quoted",
        "postmaster F0001 HINT:  a secret",
        "postmaster 22023 DETAIL:  a secret",
        "postmaster XX000 STATEMENT:  a secret",
        "postmaster 00000 提示:  a secret",
        "",
    ],
)
def test_what_is_no_message_of_the_postmaster_says_nothing(line: str) -> None:
    """Additions, and the words of programs that it runs, may hold anything."""
    assert said_on_stderr(line) is None


def test_only_who_ended_by_itself_may_have_last_words() -> None:
    """A panic ends in an abort of its own; every other signal comes from outside."""
    assert may_have_last_words(FAILED)
    assert may_have_last_words(ABORTED)
    assert not may_have_last_words(KILLED)
    assert not may_have_last_words(ExitStatus(code=0))
