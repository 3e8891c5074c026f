"""Server-sent events: the text that goes over the wire, written and read.

Pure, and shared by the server and the client. Source: the HTML standard, "Server-sent events".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTENT_TYPE: Final = "text/event-stream"

MESSAGE: Final = "message"
"""The type of a message that carries an event of the instance: what browsers take as well."""
MISSED: Final = "missed"
"""Tells that events before the next ones are not remembered any more."""
END: Final = "end"
"""The last word of a stream; its reader may come back."""

HEARTBEAT: Final = b":\n\n"
"""A comment: readers ignore it, and see that the connection lives."""

_LONGEST_LINE: Final = 1 << 20
_LONGEST_MESSAGE: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a stream."""

    type: str
    data: str
    last_event_id: str
    """Of this message, or of the last one before it that had an id."""


class StreamError(ValueError):
    """What came is too large to be a stream of events."""


def render(kind: str, data: str, event_id: str = "") -> bytes:
    """Return one message; *data* is one line, as a document in JSON is."""
    identifier = f"id: {event_id}\n" if event_id else ""
    return f"{identifier}event: {kind}\ndata: {data}\n\n".encode()


def render_retry(seconds: float) -> bytes:
    """Return the line that says after how long a reader should come back."""
    return f"retry: {round(seconds * 1000)}\n\n".encode()


class Parser:
    """Reads a stream piece by piece, wherever the pieces were cut."""

    def __init__(self, last_event_id: str = "") -> None:
        self._rest = b""
        self._is_first = True
        self._type = ""
        self._data: list[str] = []
        self._size = 0
        self._last_event_id = last_event_id

    def feed(self, piece: bytes) -> Iterator[Message]:
        """Yield the messages that *piece* completes.

        Raises:
            StreamError: a line or a message is longer than any of ours.
        """
        # An ending CR may be half of a line's end: it waits for what follows.
        text = self._rest + piece
        held = b"\r" if text.endswith(b"\r") else b""
        text = text[: len(text) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, last = text.split(b"\n")
        self._rest = last + held
        if len(self._rest) > _LONGEST_LINE:
            raise StreamError(f"a line of more than {_LONGEST_LINE} bytes")
        for raw in lines:
            line = raw.decode("utf-8", "replace")
            # The standard lets a stream begin with a byte order mark.
            if self._is_first:
                self._is_first = False
                line = line.removeprefix("\ufeff")
            if line:
                self._take(line)
            elif (message := self._dispatch()) is not None:
                yield message

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._size += len(value)
            if self._size > _LONGEST_MESSAGE:
                raise StreamError(f"a message of more than {_LONGEST_MESSAGE} characters")
            self._data.append(value)
        elif name == "event":
            self._type = value
        # The standard ignores such an id, which no header could carry back.
        elif name == "id" and "\0" not in value:
            self._last_event_id = value

    def _dispatch(self) -> Message | None:
        """End a message; without data it is none."""
        data, kind = self._data, self._type
        self._data, self._type, self._size = [], "", 0
        # The standard drops a message without data; its id counts all the same.
        if not data:
            return None
        return Message(kind or MESSAGE, "\n".join(data), self._last_event_id)
