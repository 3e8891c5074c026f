"""The manager's log: structlog, configured once, and a sink that never blocks its callers.

One JSON object a line, or text for people on a terminal. Lines go to standard output through a
thread, since writing there may block for as long as the reader likes: what does not fit into the
sink's buffer is dropped, counted, and said so. Nothing else in the package writes to that stream.
"""

from __future__ import annotations

import logging
import os
import threading
import traceback
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal

import structlog

if TYPE_CHECKING:
    from collections.abc import Generator

    from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_BUFFER_BYTES: Final = 8 << 20
"""About 30,000 records of PostgreSQL: seconds of a storm, and a bound on memory."""
_BATCH_BYTES: Final = 1 << 16
_CLOSE_SECONDS: Final = 2.0

Level = Literal["debug", "info", "warning", "error", "critical"]
Format = Literal["json", "console", "auto"]


@dataclass(frozen=True, slots=True)
class _Batch:
    """What is written at once: so many lines, and a notice of so many lost before."""

    content: bytes
    lines: int
    reported: int


class Sink:
    """Writes lines to a descriptor from a thread of its own; full, it drops and counts."""

    def __init__(self, descriptor: int, buffer_bytes: int = _BUFFER_BYTES) -> None:
        self.dropped = 0
        self._descriptor = descriptor
        self._capacity = buffer_bytes
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._unreported = 0
        self._closing = False
        self._changed = threading.Condition()
        # A daemon: a reader that takes no line any more must not keep the program from its end.
        self._thread = threading.Thread(target=self._write_all, name="log sink", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Queue one line, its newline included. Never blocks, never raises."""
        with self._changed:
            if self._waiting_bytes + len(line) > self._capacity:
                self.dropped += 1
                self._unreported += 1
                return
            self._waiting.append(line)
            self._waiting_bytes += len(line)
            self._changed.notify()

    def close(self, deadline_seconds: float = _CLOSE_SECONDS) -> None:
        """Write what is queued, as far as the reader takes it within the deadline."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(deadline_seconds)

    def _write_all(self) -> None:
        while batch := self._next_batch():
            view = memoryview(batch.content)
            while view:
                try:
                    view = view[os.write(self._descriptor, view) :]
                except BlockingIOError:
                    # Somebody made the shared description non-blocking; wait for the reader.
                    _wait_until_writable(self._descriptor)
                except OSError:
                    # Nobody reads, or the disk behind it is full: the lines are lost.
                    with self._changed:
                        self.dropped += batch.lines
                        self._unreported += batch.lines + batch.reported
                    break

    def _next_batch(self) -> _Batch | None:
        """Wait for lines and return some of them; None once closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if not self._waiting:
                return None
            parts: list[bytes] = []
            size = 0
            while self._waiting and size < _BATCH_BYTES:
                parts.append(self._waiting.popleft())
                size += len(parts[-1])
            self._waiting_bytes -= size
            lines, reported = len(parts), self._unreported
            if reported:
                parts.append(_dropped_line(reported))
                self._unreported = 0
        return _Batch(b"".join(parts), lines, reported)


def _wait_until_writable(descriptor: int) -> None:
    import select

    select.select([], [descriptor], [])


def _dropped_line(count: int) -> bytes:
    return _render_json(
        None,
        "warning",
        {
            "ts": timestamp(),
            "level": "warning",
            "logger": "instance_manager",
            "message": "log lines were dropped: standard output does not take them fast enough",
            "dropped": count,
        },
    )


def timestamp() -> str:
    """Return the time now in RFC 3339, UTC, with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _order(_: WrappedLogger, level: str, event: EventDict) -> EventDict:
    """Put the fields that every line has first; structlog's ``event`` is our ``message``."""
    message = event.pop("event", "")
    origin = event.pop("origin", "instance_manager")
    logger = event.pop("logger", origin)
    given = event.pop("level", level)
    if error := event.pop("exc_info", None):
        event["traceback"] = "".join(traceback.format_exception(error))
    return {"ts": timestamp(), "level": given, "logger": logger, "message": message, **event}


def _render_json(_: WrappedLogger, __: str, event: EventDict) -> bytes:
    import json

    text = json.dumps(event, ensure_ascii=False, separators=(",", ":"), default=str)
    # Names of files may hold bytes that are no UTF-8: a line with one must not be lost.
    return text.encode("utf-8", "backslashreplace") + b"\n"


_COLOURS: Final = {"debug": 2, "info": 36, "warning": 33, "error": 31, "critical": 31}


def _render_console(_: WrappedLogger, __: str, event: EventDict) -> bytes:
    """Return a line for people: time, level, message, and the rest as ``name=value``."""
    ts, level = str(event.pop("ts")), str(event.pop("level"))
    logger, message = event.pop("logger"), event.pop("message")
    event.pop("record", None)
    rest = "".join(f" \x1b[2m{name}=\x1b[0m{value}" for name, value in event.items())
    origin = "" if logger == "instance_manager" else f"\x1b[2m{logger}:\x1b[0m "
    colour = _COLOURS.get(level, 0)
    text = f"\x1b[2m{ts[11:23]}\x1b[0m \x1b[{colour}m{level:<8}\x1b[0m {origin}{message}{rest}\n"
    return text.encode("utf-8", "backslashreplace")


class _SinkLogger:
    """What structlog writes to: hands each rendered line to the sink."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def msg(self, line: bytes) -> None:
        self._sink.write(line)

    debug = info = warning = error = critical = msg


class _FromLibraries(logging.Handler):
    """Passes on what libraries say through the standard library's logging, as lines of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        grave = record.levelno >= logging.ERROR
        tell = get_logger(record.name).error if grave else get_logger(record.name).warning
        tell(record.getMessage(), **({"exc_info": record.exc_info[1]} if record.exc_info else {}))


def configure(level: Level = "info", style: Format = "auto", descriptor: int = 1) -> Sink:
    """Configure structlog for this process and return the sink; the caller closes it."""
    sink = Sink(descriptor)
    console = style == "console" or (style == "auto" and os.isatty(descriptor))
    structlog.configure(
        processors=[_order, _render_console if console else _render_json],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: _SinkLogger(sink),
        # A logger that is kept would not hear of another level: see set_level().
        cache_logger_on_first_use=False,
    )
    # Else they would write to standard error by themselves, and not as objects.
    root = logging.getLogger()
    root.handlers = [_FromLibraries()]
    root.setLevel(logging.WARNING)
    return sink


@contextmanager
def beside_an_answer() -> Generator[None]:
    """Log warnings to standard error: for a command, whose standard output is its answer."""
    sink = configure("warning", descriptor=2)
    try:
        yield
    finally:
        sink.close()
        structlog.reset_defaults()


def set_level(level: Level) -> None:
    """Let through what is at least as grave as *level*, from now on."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]))


def get_logger(name: str = "instance_manager", **context: Any) -> FilteringBoundLogger:
    """Return a logger whose lines carry *name* and *context*."""
    logger: FilteringBoundLogger = structlog.get_logger(origin=name, **context)
    return logger
