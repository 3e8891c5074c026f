"""A command that goes on, on pipes or on a terminal of its own, and what a person sees there."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Callable, Iterator, Mapping, Sequence

from tests.support.manager import DEADLINE_SECONDS, until

_PIECE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|(.)", re.DOTALL)
_BEGUN = re.compile(r"\x1b(\[[?0-9;]*)?$")
"""An order whose rest has not come yet."""


class Screen:
    """What is left on a terminal of so many columns, without scrolling."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._rows: list[list[str]] = [[]]
        self._row = self._column = 0
        self._begun = ""
        self.highest = 1
        """How many rows were ever written to."""

    def feed(self, text: str) -> None:
        """Do what the text asks for; an order that is not known here is a fault."""
        text = self._begun + text
        begun = _BEGUN.search(text)
        self._begun = begun[0] if begun else ""
        for parameters, order, char in _PIECE.findall(text.removesuffix(self._begun)):
            if order == "K" and not parameters:
                del self._rows[self._row][self._column :]
            elif order:
                # Colours, and modes of shells such as that of pasting.
                assert order in "mhl", f"unexpected order {order!r}"
            elif char == "\r":
                self._column = 0
            elif char == "\b":
                self._column -= 1
            elif char in {"\a", "\0"}:
                continue
            elif char == "\n":
                self._down()
            else:
                assert char.isprintable(), f"unexpected {char!r}"
                self._put(char)

    def _down(self) -> None:
        self._row += 1
        if self._row == len(self._rows):
            self._rows.append([])
        self.highest = max(self.highest, len(self._rows))

    def _put(self, char: str) -> None:
        if self._column == self._columns:
            self._down()
            self._column = 0
        row = self._rows[self._row]
        row.extend(" " * (self._column + 1 - len(row)))
        row[self._column] = char
        self._column += 1

    @property
    def lines(self) -> list[str]:
        """What stands there, without empty rows."""
        return [text for row in self._rows if (text := "".join(row).rstrip())]


class OnTerminal:
    """A command whose standard streams are a terminal, which it is controlled by."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        columns: int,
        stdout: int | None,
    ) -> None:
        self._ours, theirs = os.openpty()
        self.resize(columns)
        self.raw = ""
        self.screen = Screen(columns)
        # What is read may end in the middle of a character.
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            self.process = subprocess.Popen(
                # Becomes the command itself, with the terminal as the one that controls it.
                ["setsid", "--ctty", *command],
                stdin=theirs,
                stdout=theirs if stdout is None else stdout,
                stderr=theirs,
                env=environment,
            )
        finally:
            os.close(theirs)

    def resize(self, columns: int) -> None:
        """Make the window so wide; 0 is that of a terminal that doesn't tell."""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        """Press keys; Ctrl-C is the character 3."""
        os.write(self._ours, keys)

    def look(self) -> list[str]:
        """Return the lines that stand there now."""
        while select.select([self._ours], [], [], 0)[0]:
            try:
                read = os.read(self._ours, 65536)
            except OSError:
                break  # nobody holds the other end any more
            text = self._decoder.decode(read)
            self.raw += text
            self.screen.feed(text)
        return self.screen.lines

    def until(self, condition: Callable[[list[str]], object], what: str) -> list[str]:
        """Wait until the lines are as wanted, and return them."""

        def seen() -> list[str]:
            lines = self.look()
            return lines if condition(lines) else []

        try:
            return until(seen, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; it showed {self.raw!r}") from error

    def wait(self) -> int:
        """Wait for the end of the command and return its exit code."""
        until(lambda: (self.look(), self.process.poll() is not None)[1], "the command has ended")
        self.look()
        return self.process.wait(DEADLINE_SECONDS)

    def close(self) -> None:
        """End what is left of it."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self._ours)


@contextlib.contextmanager
def on_terminal(
    command: Sequence[str], *, columns: int = 100, stdout: int | None = None, **environment: str
) -> Iterator[OnTerminal]:
    """Yield the command on a terminal; *stdout* replaces that one stream."""
    given = {"PATH": os.environ["PATH"], "TERM": "xterm", "LC_ALL": "C.UTF-8"} | environment
    terminal = OnTerminal(command, given, columns, stdout)
    try:
        yield terminal
    finally:
        terminal.close()


@contextlib.contextmanager
def begun(command: Sequence[str], **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Yield the command, begun, with pipes for its output; it is ended afterwards."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"]} | environment,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()
