"""From a postmaster's end to its cause: the status, its last words, and the kernel's. Pure.

What is said in every language counts first: the exit status, who spoke (``backend_type``), the
severity and the SQLSTATE. Those are the same whatever ``lc_messages`` says: in ``jsonlog`` always,
and on standard error because the postmaster is told to put them there (:data:`STRUCTURE`). Only
where one SQLSTATE means many things does the English text decide. So in other languages these
become a plain ``error``: a library that can't be loaded, shared memory that can't be had,
parameters that don't go together (``wal_level``), access rules that can't be opened, and a disk
quota. Where the language has a word of its own for FATAL, a failure on standard error keeps its
cause and loses its words.

Sources: errcodes.txt; postmaster.c, elog.c and jsonlog.c under src/backend; ld.so(8).
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from instance_manager.supervision.endings import Cause, Ending

if TYPE_CHECKING:
    from instance_manager.supervision.children import ExitStatus

POSTMASTER: Final = "postmaster"
STARTUP: Final = "startup"
"""The process that replays the WAL: the server ends with it."""
STRUCTURE: Final = "%b %e "
"""The ``log_line_prefix`` of lines that are no ``jsonlog`` yet: who speaks, and the SQLSTATE."""

_PUBLIC: Final = frozenset({"LOG", "FATAL", "PANIC"})
_LAST_WORDS: Final = 3
_LOADER_FAILED: Final = 127
"""What ld.so ends a program with that lacks a library or a symbol."""
_SUCCESS: Final = "00000"
_DISK_FULL: Final = "53100"
_OUT_OF_MEMORY: Final = "53200"
_INVALID_VALUE: Final = "22023"
_CONFIG_FILE_ERROR: Final = "F0000"
_QUOTA: Final = re.compile("Disk quota exceeded")
_LIBRARY: Final = re.compile("could not (access file|load library)|incompatible library")
_MEMORY: Final = re.compile("Cannot allocate memory")
_CONFIGURATION: Final = re.compile("wal_level|must be less than|could not load ")

_STRUCTURED: Final = re.compile(r"postmaster (?P<code>[0-9A-Z]{5}) (?P<severity>[^:]{1,40}):  ")
_SEVERITY: Final = re.compile(
    "(LOG|INFO|NOTICE|WARNING|ERROR|FATAL|PANIC|HINT|DETAIL|STATEMENT|CONTEXT|QUERY|LOCATION):  "
)
_LONGEST_PREFIX: Final = len("2026-01-01 00:00:00.000 UTC [4194304] ")
_OWN_PREFIX: Final = "postgres: "
_LOADER: Final = ("error while loading shared libraries", "symbol lookup error")


@dataclass(frozen=True, slots=True)
class Said:
    """One message of the server."""

    speaker: str
    """The kind of process, as in ``backend_type``."""
    severity: str
    """Empty where the language of a line of text has another word for it."""
    code: str | None
    """The SQLSTATE, None for success."""
    message: str

    @property
    def is_failure(self) -> bool:
        """Whether who said it ended with it, or may have: see *severity*."""
        return self.severity in ("FATAL", "PANIC") or (not self.severity and self.code is not None)

    @property
    def found_no_space(self) -> bool:
        """Whether a disk is full, or a quota used up, which has no SQLSTATE of its own."""
        return self.code == _DISK_FULL or _QUOTA.search(self.message) is not None

    @property
    def is_public(self) -> bool:
        """Whether it may be shown to people who must not see data."""
        return self.speaker == POSTMASTER and self.severity in _PUBLIC


@dataclass(frozen=True, slots=True)
class LastWords:
    """What a server said since its start, as far as it tells why it ended."""

    own: tuple[Said, ...] = ()
    """The postmaster's latest messages."""
    other: Said | None = None
    """The failure of another process with which the server may have ended."""

    @property
    def own_failure(self) -> Said | None:
        """What the postmaster itself failed with."""
        return next((said for said in reversed(self.own) if said.is_failure), None)

    @property
    def reason_before(self) -> Said | None:
        """What the postmaster said just before it failed."""
        before = [number for number, said in enumerate(self.own) if said.is_failure]
        return self.own[before[-1] - 1] if before and before[-1] > 0 else None

    def of_failure(self) -> str:
        """Return the postmaster's last failure in its own words, three messages at most.

        Its reasons come before a FATAL; after one it says only that it shuts down. Empty if it
        said no FATAL: who is killed says nothing.
        """
        public = [said for said in self.own if said.is_public]
        ends = [number for number, said in enumerate(public, 1) if said.is_failure]
        return _joined(public[: ends[-1]]) if ends else ""

    def of_end(self) -> str:
        """Return the same for a postmaster that ended itself: without FATAL, what it said last.

        The very last message, that the system is shut down, says nothing.
        """
        return self.of_failure() or _joined([said for said in self.own if said.is_public][:-1])


def _joined(said: list[Said]) -> str:
    return "; ".join(each.message for each in said[-_LAST_WORDS:])


def classify(status: ExitStatus, words: LastWords, *, memory_ran_out: bool) -> Ending:
    """Say why a postmaster ended.

    *memory_ran_out*: the kernel killed a process for want of memory, and no crash that the server
    survived accounts for it.
    """
    message = words.of_failure() if status.code is None else words.of_end()
    return Ending(
        _cause(status, words, memory_ran_out=memory_ran_out),
        "" if status.is_success else message,
    )


def may_have_last_words(status: ExitStatus) -> bool:
    """Whether it said why it ended; who is killed from outside did not."""
    # A PANIC ends in abort(3), after its words.
    return not status.is_success and status.signal in (None, signal.SIGABRT)


def _cause(status: ExitStatus, words: LastWords, *, memory_ran_out: bool) -> Cause:
    if status.is_success:
        return Cause.CLEAN
    if status.signal is not None:
        return _cause_of_signal(status.signal, words.own_failure, memory_ran_out=memory_ran_out)
    if status.code == _LOADER_FAILED:
        return Cause.MISSING_LIBRARY
    failure = words.own_failure or words.other
    if failure is not None:
        return _cause_of(failure, words)
    return Cause.OUT_OF_MEMORY if memory_ran_out else Cause.ERROR


def _cause_of_signal(number: int, failure: Said | None, *, memory_ran_out: bool) -> Cause:
    if number == signal.SIGABRT and failure is not None and failure.severity != "FATAL":
        # Not from outside: this is how a panic ends.
        return Cause.DISK_FULL if failure.found_no_space else Cause.PANIC
    # A KILL may be anybody's: that the kernel counted one for want of memory decides.
    killed = number == signal.SIGKILL
    return Cause.OUT_OF_MEMORY if killed and memory_ran_out else Cause.SIGNAL


def _cause_of(failure: Said, words: LastWords) -> Cause:
    if failure.found_no_space:
        return Cause.DISK_FULL
    if failure.severity == "PANIC":
        return Cause.PANIC
    if failure.code == _OUT_OF_MEMORY:
        return Cause.OUT_OF_MEMORY
    if failure.speaker == POSTMASTER:
        return _cause_at_start(failure, words.reason_before)
    # Of the startup process, a wrong configuration file means a target that recovery missed.
    return Cause.BAD_CONFIGURATION if failure.code == _INVALID_VALUE else Cause.ERROR


def _cause_at_start(failure: Said, reason: Said | None) -> Cause:
    """Of what the postmaster itself fails with, which it does only before it serves."""
    if failure.code in (_CONFIG_FILE_ERROR, _INVALID_VALUE):
        return Cause.BAD_CONFIGURATION
    if reason is not None and reason.code == _CONFIG_FILE_ERROR:
        # It tells a wrong line of the access rules before it fails with an internal error.
        return Cause.BAD_CONFIGURATION
    for pattern, cause in (
        (_LIBRARY, Cause.MISSING_LIBRARY),
        (_MEMORY, Cause.OUT_OF_MEMORY),
        (_CONFIGURATION, Cause.BAD_CONFIGURATION),
    ):
        if pattern.search(failure.message):
            return cause
    return Cause.ERROR


def said_on_stderr(text: str) -> Said | None:
    """Return what a line of the postmaster's standard error says; None for an addition to it.

    What the programs that it runs say there has no severity, and may hold anything.
    """
    structured = _STRUCTURED.match(text)
    severity, message = split_severity(text)
    if not severity and text.startswith(_OWN_PREFIX):
        # A combination of parameters is refused without any severity, by write_stderr().
        return Said(POSTMASTER, "FATAL", None, text.removeprefix(_OWN_PREFIX))
    code = structured["code"] if structured else _SUCCESS
    said = Said(POSTMASTER, severity, None if code == _SUCCESS else code, message)
    if severity:
        return said if said.is_public else None
    # The words of another language may be a hint or a detail: they are not kept.
    return Said(POSTMASTER, "", said.code, "") if said.code else None


def split_severity(text: str) -> tuple[str, str]:
    """Return severity and message of a line such as ``… [42] FATAL:  reason``; else no severity.

    Lines of the loader, which end a server before it can speak, count as fatal.
    """
    first = _SEVERITY.search(text)
    if first is not None and first.start() <= _LONGEST_PREFIX:
        return first[1], text[first.end() :]
    if any(words in text for words in _LOADER):
        return "FATAL", text
    return "", text
