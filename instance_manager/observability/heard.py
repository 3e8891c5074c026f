"""What one server said since its start: bounded, and with its crashes counted. Pure.

A crash is told by structure, in every language: a postmaster that recovers from the crash of one
of its processes starts a second startup process, which speaks at once. The sentence is the
postmaster's latest one that names a process (``(PID 42)``, in every translation). With
``log_min_messages`` of ``fatal`` or ``panic`` the server says neither, and no crash is seen.
Source: PostmasterStateMachine() and LogChildExit() in src/backend/postmaster/postmaster.c.

What is remembered is shown to people who must not see secrets, and a message may hold one: at a
reload the postmaster tells each changed parameter with its value, which may be a connection string
or a command. So an ellipsis takes the place of

- all that follows the first quoted string in a message without severity FATAL or PANIC and without
  SQLSTATE: so a changed parameter is told, in every language;
- a quoted string that is neither a name of at most 64 letters, digits and ``_./:-``, nor an
  absolute path without spaces, nor punctuation, nor a process that is named with its pid; and all
  up to the last quote of the message, because quotes within quotes are not escaped;
- what follows ``password=`` and its like, and the password in a URI.

The server's own log is passed on as it is. Source: set_config_with_handle() and
ProcessConfigFileInternal() in src/backend/utils/misc.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from instance_manager.postgres.endings import POSTMASTER, STARTUP, LastWords, Said

if TYPE_CHECKING:
    from collections.abc import Callable

_REMEMBERED: Final = 50
_LINE_LIMIT_CHARACTERS: Final = 200
_ELLIPSIS: Final = "…"
_QUOTED: Final = re.compile(
    r'"(?P<a>[^"]*)(?:"|\Z)'
    r"|«(?P<b>[^»]*)(?:»|\Z)"
    r"|»(?P<c>[^«]*)(?:«|\Z)"
    r"|[„“](?P<d>[^“”]*)(?:[“”]|\Z)"
    r"|「(?P<e>[^」]*)(?:」|\Z)"
)
"""A string in the quotes of any language of the server; a message that was cut may end in one."""
_CLOSING: Final = {'"': '"', "«": "»", "»": "«", "„": "“", "“": "”", "「": "」"}
_NAME: Final = re.compile(r"[\w./:-]{1,64}|[/$][\w./+~-]*|[^\w\s]{0,3}")
_PROCESS: Final = re.compile(r"[\w ./:-]{1,96}")
_HAS_PID: Final = re.compile(r"\s?\(PID \d+\)")
_PASSWORD: Final = re.compile(
    r"(?P<key>\w{0,32}passw(?:or)?d\w*\s*=\s*)(?:'(?:\\.|[^'\\])*'?|(?:\\.|[^\s\\])+)",
    re.IGNORECASE,
)
_URI: Final = re.compile(r"(?P<user>\b\w[\w+.-]*://[^\s:@/]*:)\S*@")
_CRASH: Final = re.compile(r"\(PID \d+\)(?P<by_kill>\D*9(?!\d))?")


class Heard:
    """Remembers the messages of one server; *on_crash* is told of each crash that it survives.

    Only messages of the postmaster's LOG, FATAL and PANIC are shown, without secrets, and never
    statements or details: they may be shown to people who must not see data.
    """

    def __init__(self, on_crash: Callable[[str], None]) -> None:
        self._on_crash = on_crash
        # Bounded: a server may live for years, and say more than memory holds.
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
                self._own.append(_without_secrets(said))
        elif said.severity == "PANIC" or (said.severity == "FATAL" and said.speaker == STARTUP):
            self._other = _without_secrets(said)

    def _hear_startup(self, pid: object) -> None:
        # It speaks more than once in each recovery: only another pid is another one.
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
        # Counted, so that a kill for want of memory which the server survived does not count as
        # the cause of a later end.
        self.kills_survived += bool(found and found["by_kill"])
        self._on_crash(sentence)

    def tail(self) -> tuple[str, ...]:
        """Return the postmaster's latest messages, a line each: at most 50 of 200 characters."""
        return tuple(
            " ".join(f"{said.severity}: {said.message}".split())[:_LINE_LIMIT_CHARACTERS]
            for said in self._own
            if said.is_public
        )


def _without_secrets(said: Said) -> Said:
    """Return the message with an ellipsis for each secret that it may hold."""
    # Before it is remembered: what is kept nowhere can't be shown by mistake.
    text = _PASSWORD.sub(rf"\g<key>{_ELLIPSIS}", _without_values(said))
    return replace(said, message=_URI.sub(rf"\g<user>{_ELLIPSIS}@", text))


def _without_values(said: Said) -> str:
    text = said.message
    quoted = list(_QUOTED.finditer(text))
    # By structure, since the sentence is in the server's language.
    tells_a_change = said.code is None and not said.is_failure
    for number, found in enumerate(quoted):
        if tells_a_change and number:
            return _hidden(text, found, len(text))
        if not _is_harmless(found):
            # To the last quote of all: quotes within a value are not escaped.
            return _hidden(text, found, quoted[-1].end())
    return text


def _hidden(text: str, quoted: re.Match[str], end: int) -> str:
    opening = quoted[0][0]
    before = text[: quoted.start()]
    return f"{before}{opening}{_ELLIPSIS}{_CLOSING[opening]}{text[end:]}"


def _is_harmless(quoted: re.Match[str]) -> bool:
    """Whether the string is a name of something, and no value."""
    content = quoted[quoted.lastgroup or 0]
    if quoted[0][0] == "«":
        # French has spaces within its quotes.
        content = content.strip()
    if _NAME.fullmatch(content):
        return True
    has_pid = _HAS_PID.match(quoted.string, quoted.end())
    return has_pid is not None and _PROCESS.fullmatch(content) is not None
