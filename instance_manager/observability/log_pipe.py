"""PostgreSQL's own log: its ``jsonlog`` records, read from a FIFO and passed on.

The logging collector writes to ``postgres.json`` and, for what is no record, to ``postgres``;
both are FIFOs of ours (``log_destination = jsonlog``, ``log_filename = postgres``). A FIFO is kept
open for writing here too, so that a collector which starts again meets a reader and no end of
file. When this process dies the collector gets EPIPE and goes on: it never hangs on us.
Source: the manual, "Error Reporting and Logging"; src/backend/postmaster/syslogger.c.
"""

from __future__ import annotations

import json
import os
import stat
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Self

from instance_manager.log import get_logger
from instance_manager.observability.lines import LineReader

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path
    from types import TracebackType

_LEVELS: Final = {
    "LOG": "info",
    "INFO": "info",
    "NOTICE": "info",
    "WARNING": "warning",
    "ERROR": "error",
    "FATAL": "critical",
    "PANIC": "critical",
}
"""Severities of PostgreSQL; DEBUG1 to DEBUG5 are our debug."""
_PUBLIC_SEVERITIES: Final = ("LOG", "FATAL", "PANIC")
_SEVERITIES: Final = (*_LEVELS, "HINT", "DETAIL", "STATEMENT", "CONTEXT")
_LONGEST_PREFIX: Final = len("2026-01-01 00:00:00.000 UTC [4194304] ")
_CANNOT_CONNECT_NOW: Final = "57P03"
_REMEMBERED: Final = 20
_LAST_WORDS: Final = 3
_REMEMBERED_CHARACTERS: Final = 1000


class PostgresLog:
    """Passes PostgreSQL's log on and remembers what the postmaster itself said last.

    Only messages of the postmaster's LOG, FATAL and PANIC are remembered, never statements or
    details: they may be shown to people who must not see data.
    """

    def __init__(self, directory: Path) -> None:
        self._last_messages: deque[tuple[str, str]] = deque(maxlen=_REMEMBERED)
        self.records = 0
        self._logger = get_logger("postgres")
        self._directory = directory
        self._readers: list[LineReader] = []
        self._keepers: list[int] = []

    def __enter__(self) -> Self:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        for name, take in (("postgres.json", self.take_record), ("postgres", self.take_text)):
            reading, keeping = _open_fifo(self._directory / name)
            self._keepers.append(keeping)
            self._readers.append(LineReader(reading, take))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for keeper in self._keepers:
            os.close(keeper)
        for reader in self._readers:
            reader.close()

    @contextmanager
    def capturing(self) -> Generator[int]:
        """Yield a descriptor for a postmaster's standard error; what comes is passed on.

        The descriptor is closed with the context; reading goes on for as long as a process of that
        server has it.
        """
        self._last_messages.clear()
        reading, writing = os.pipe2(os.O_CLOEXEC)
        self._readers = [reader for reader in self._readers if reader.is_open]
        self._readers.append(LineReader(reading, self.take_last_words))
        try:
            yield writing
        finally:
            os.close(writing)

    def take_record(self, line: bytes) -> None:
        """Pass on one line of ``jsonlog``; what is none is passed on as text."""
        try:
            record: dict[str, Any] = json.loads(line)
            severity, message = str(record["error_severity"]), str(record["message"])
        except (ValueError, KeyError, TypeError, RecursionError):
            self.take_text(line)
            return
        self.records += 1
        if record.get("backend_type") == "postmaster":
            self._remember(severity, message)
        elif severity == "FATAL":
            # The end of one session is no disaster, and a refusal at the start not even news.
            severity = "DEBUG1" if record.get("state_code") == _CANNOT_CONNECT_NOW else "ERROR"
        self._emit(severity, message, record=record)

    def take_text(self, line: bytes) -> None:
        """Pass on a line of plain text: said before the collector ran, or by another program."""
        text = line.decode("utf-8", "replace").strip()
        if text:
            severity, message = split_severity(text)
            self._emit(severity or "LOG", message)

    def take_last_words(self, line: bytes) -> None:
        """Pass on a line of the postmaster's standard error, and remember it if it is its own.

        What the programs that it runs say there has no severity, and may hold anything.
        """
        severity, message = split_severity(line.decode("utf-8", "replace").strip())
        self._remember(severity, message)
        self.take_text(line)

    def _emit(self, severity: str, message: str, **fields: object) -> None:
        level = _LEVELS.get(severity, "debug" if severity.startswith("DEBUG") else "info")
        getattr(self._logger, level)(message, **fields)

    def _remember(self, severity: str, message: str) -> None:
        if severity in _PUBLIC_SEVERITIES:
            self._last_messages.append((severity, message[:_REMEMBERED_CHARACTERS]))

    def last_failure(self) -> str:
        """Return why the postmaster of the last start ended, in its own words, three at most.

        Its reasons come before a FATAL; after one it says only that it shuts down. Empty if it
        said no FATAL: who is killed says nothing.
        """
        messages = [message for _, message in self._last_messages]
        fatal = [at for at, (severity, _) in enumerate(self._last_messages) if severity != "LOG"]
        if not fatal:
            return ""
        end = fatal[-1] + 1
        return "; ".join(messages[max(0, end - _LAST_WORDS) : end])


def split_severity(text: str) -> tuple[str, str]:
    """Return severity and message of a line such as ``… [42] FATAL:  reason``; else no severity.

    Lines of the loader, which end a server before it can speak, count as fatal.
    """
    marks = {text.find(f"{severity}:  "): severity for severity in _SEVERITIES}
    first = min((at for at in marks if 0 <= at <= _LONGEST_PREFIX), default=None)
    if first is not None:
        return marks[first], text[first + len(marks[first]) + len(":  ") :]
    if "error while loading shared libraries" in text:
        return "FATAL", text
    return "", text


def _open_fifo(path: Path) -> tuple[int, int]:
    """Make *path* a FIFO and return descriptors that read from it, and keep it open."""
    try:
        os.mkfifo(path, 0o600)
    except FileExistsError:
        if not stat.S_ISFIFO(path.lstat().st_mode):
            # A collector that ran before the FIFO was there has made a plain file of it.
            path.unlink()
            os.mkfifo(path, 0o600)
    flags = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
    reading = os.open(path, os.O_RDONLY | flags)
    return reading, os.open(path, os.O_WRONLY | flags)
