"""What one server said since its start: bounded, and with its crashes counted. Pure.

A crash is told by structure, in every language: a postmaster that recovers from the crash of one
of its processes starts a second startup process, which speaks at once. The sentence is the
postmaster's latest one that names a process (``(PID 42)``, in every translation). With
``log_min_messages`` of ``fatal`` or ``panic`` the server says neither, and no crash is seen.
Source: PostmasterStateMachine() and LogChildExit() in src/backend/postmaster/postmaster.c.
"""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Final

from instance_manager.postgres.endings import POSTMASTER, STARTUP, LastWords, Said

if TYPE_CHECKING:
    from collections.abc import Callable

_REMEMBERED: Final = 50
_LINE_LIMIT_CHARACTERS: Final = 200
_CRASH: Final = re.compile(r"\(PID \d+\)(?P<by_kill>\D*9(?!\d))?")


class Heard:
    """Remembers the messages of one server; *on_crash* is told of each crash that it survives.

    Only messages of the postmaster's LOG, FATAL and PANIC are shown, never statements or details:
    they may be shown to people who must not see data.
    """

    def __init__(self, on_crash: Callable[[str], None]) -> None:
        self._on_crash = on_crash
        self._own: deque[Said] = deque(maxlen=_REMEMBERED)
        self._other: Said | None = None
        self._startup_pid: object = None
        self.kills_survived = 0
        """Crashes that began with a signal 9, from whomever."""

    @property
    def words(self) -> LastWords:
        """What tells why the server ended, if it has."""
        return LastWords(tuple(self._own), self._other)

    def hear(self, said: Said, pid: object = None) -> None:
        """Take a message of process *pid*; only the startup process needs one."""
        if said.speaker == STARTUP:
            self._hear_startup(pid)
        if said.speaker == POSTMASTER:
            if said.is_public or said.is_failure:
                self._own.append(said)
        elif said.severity == "PANIC" or (said.severity == "FATAL" and said.speaker == STARTUP):
            self._other = said

    def _hear_startup(self, pid: object) -> None:
        if pid == self._startup_pid:
            return
        if self._startup_pid is not None:
            self._tell_crash()
        self._startup_pid = pid
        # Whatever failed before did not end the server.
        self._other = None

    def _tell_crash(self) -> None:
        sentences = (said.message for said in reversed(self._own) if said.is_public)
        sentence = next((text for text in sentences if _CRASH.search(text)), "")
        found = _CRASH.search(sentence)
        self.kills_survived += bool(found and found["by_kill"])
        self._on_crash(sentence)

    def tail(self) -> tuple[str, ...]:
        """Return the postmaster's latest messages, a line each: at most 50 of 200 characters."""
        return tuple(
            " ".join(f"{said.severity}: {said.message}".split())[:_LINE_LIMIT_CHARACTERS]
            for said in self._own
            if said.is_public
        )
