"""PostgreSQL's own log: its ``jsonlog`` records, read from a FIFO and passed on.

The logging collector writes to ``postgres.json`` and, for what is no record, to ``postgres``;
both are FIFOs of ours (``log_destination = jsonlog``, ``log_filename = postgres``). A FIFO is kept
open for writing here too, so that a collector which starts again meets a reader and no end of
file. When this process dies the collector gets EPIPE and goes on: it never hangs on us.
Source: the manual, "Error Reporting and Logging"; src/backend/postmaster/syslogger.c.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Self

from instance_manager.log import get_logger
from instance_manager.observability.heard import Heard
from instance_manager.observability.lines import LineReader
from instance_manager.postgres.endings import (
    POSTMASTER,
    LastWords,
    Said,
    said_on_stderr,
    split_severity,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
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
_CANNOT_CONNECT_NOW: Final = "57P03"
_REMEMBERED_CHARACTERS: Final = 1000
_ESCAPED_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")


class PostgresLog:
    """Passes PostgreSQL's log on and remembers what the postmaster itself said last.

    *on_crash* is called once for each crash that the server recovers from by itself, with the
    postmaster's sentence, such as ``client backend (PID 42) was terminated by signal 9: Killed``,
    in the server's language; empty where it said none. It must not raise. How a crash is told:
    see :mod:`instance_manager.observability.heard`.
    """

    def __init__(self, directory: Path, on_crash: Callable[[str], None] | None = None) -> None:
        self.on_crash = on_crash
        self.crashes = 0
        """Since the manager's start."""
        self.records = 0
        self._heard = Heard(self._take_crash)
        self._capture: LineReader | None = None
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
            # The keepers first: while we hold a writing end ourselves, no end of file comes.
            os.close(keeper)
        for reader in self._readers:
            reader.close()

    @contextmanager
    def capturing(self) -> Generator[int]:
        """Yield a descriptor for a postmaster's standard error; what comes is passed on.

        The descriptor is closed with the context; reading goes on for as long as a process of that
        server has it. What was said before belongs to the server before, and is forgotten.
        """
        # What the server before has said is still its own, and must not be taken for the new
        # one's.
        self._drain()
        self._heard = Heard(self._take_crash)
        reading, writing = os.pipe2(os.O_CLOEXEC)
        # One pipe for each start: those that have ended would add up over the restarts.
        self._readers = [reader for reader in self._readers if reader.is_open]
        self._capture = LineReader(reading, self.take_last_words)
        self._readers.append(self._capture)
        try:
            yield writing
        finally:
            # While this is open, the pipe would not end with the last process of the server.
            os.close(writing)

    async def until_silent(self, seconds: float) -> None:
        """Wait until no process of the last server can say more, and take what is there.

        After *seconds* at the latest: what it ran, or a backend that hangs, may outlive it.
        """
        if self._capture is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._capture.ended.wait()
        self._drain()

    def _drain(self) -> None:
        for reader in self._readers:
            reader.drain()

    def take_record(self, line: bytes) -> None:
        """Pass on one line of ``jsonlog``; what is none is passed on as text."""
        try:
            record = _parsed(line)
            severity, message = str(record["error_severity"]), str(record["message"])
        except (ValueError, KeyError, TypeError, RecursionError):
            # Lost would be worse: other programs may write into the FIFO, and a line may be cut.
            self.take_text(line)
            return
        self.records += 1
        speaker, code = str(record.get("backend_type")), record.get("state_code")
        if speaker == POSTMASTER and 'parameter "' in message:
            # At a reload it tells the new value of each, passwords of connection strings too.
            # Imported here: its patterns cost a start two milliseconds.
            from instance_manager.configuration.masking import mask_text

            record["message"] = message = mask_text(message)
        said = Said(speaker, severity, str(code) if code else None, _bounded(message))
        self._heard.hear(said, record.get("pid"))
        if severity == "FATAL" and speaker != POSTMASTER:
            # The end of one session is no disaster, and a refusal at the start not even news.
            severity = "DEBUG1" if code == _CANNOT_CONNECT_NOW else "ERROR"
        self._emit(severity, message, record=record)

    def take_text(self, line: bytes) -> None:
        """Pass on a line of plain text: said before the collector ran, or by another program."""
        text = line.decode("utf-8", "replace").strip()
        if text:
            severity, message = split_severity(text)
            self._emit(severity or "LOG", message)

    def take_last_words(self, line: bytes) -> None:
        """Pass on a line of the postmaster's standard error, and remember it if it is its own."""
        said = said_on_stderr(_bounded(line.decode("utf-8", "replace").strip()))
        if said is not None:
            self._heard.hear(said)
        self.take_text(line)

    def _emit(self, severity: str, message: str, **fields: object) -> None:
        level = _LEVELS.get(severity, "debug" if severity.startswith("DEBUG") else "info")
        getattr(self._logger, level)(message, **fields)

    def _take_crash(self, sentence: str) -> None:
        self.crashes += 1
        if self.on_crash is not None:
            self.on_crash(sentence)

    @property
    def last_words(self) -> LastWords:
        """What the last server said that tells why it ended."""
        return self._heard.words

    @property
    def kills_survived(self) -> int:
        """The crashes of the last server that a signal 9 began, and that did not end it."""
        return self._heard.kills_survived

    def last_failure(self) -> str:
        """Return why the postmaster of the last start ended, in its own words, three at most."""
        return self.last_words.of_failure()

    def tail(self) -> tuple[str, ...]:
        """Return what the postmaster itself said of late, since its start.

        At most 50 lines of 200 characters, LOG, FATAL and PANIC only.
        """
        return self._heard.tail()


def _parsed(line: bytes) -> Any:
    """Return the value of a line of JSON, with a question mark for what no UTF-8 can carry.

    JSON may escape half of a surrogate pair. PostgreSQL does not, but others may write here.

    Raises:
        ValueError: it is no JSON, or no UTF-8.
    """
    # Decoded here, because json.loads() lets surrogates through that are written out.
    text = line.decode()
    value = json.loads(text)
    if _ESCAPED_SURROGATE.search(text):
        return json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
    return value


def _bounded(text: str) -> str:
    """Return as much as is remembered; half a word is not, for it may be half a secret."""
    if len(text) <= _REMEMBERED_CHARACTERS:
        return text
    return text[:_REMEMBERED_CHARACTERS].rpartition(" ")[0] or text[:_REMEMBERED_CHARACTERS]


def _open_fifo(path: Path) -> tuple[int, int]:
    """Make *path* a FIFO and return descriptors that read from it, and keep it open."""
    try:
        os.mkfifo(path, 0o600)
    except FileExistsError:
        if not stat.S_ISFIFO(path.lstat().st_mode):
            # A collector that ran before the FIFO was there has made a plain file of it.
            path.unlink()
            os.mkfifo(path, 0o600)
    # Non-blocking: to open a FIFO for reading waits for somebody who writes.
    flags = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
    # The reading end first: without a reader, a FIFO can't be opened for writing so (ENXIO,
    # fifo(7)).
    reading = os.open(path, os.O_RDONLY | flags)
    return reading, os.open(path, os.O_WRONLY | flags)
