"""The sink with real pipes and devices: it never blocks, and it says what it lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from instance_manager.log import Sink

LINE = b'{"message":"' + b"x" * 100 + b'"}\n'
DEADLINE = 30.0
SHORT = 0.2


class Pipe:
    """A pipe whose ends are closed once, and whose reader is a thread."""

    def __init__(self) -> None:
        self._reading, self.writing = os.pipe2(os.O_CLOEXEC)
        self._open = {self._reading, self.writing}
        self._parts: list[bytes] = []
        self._thread = threading.Thread(target=self._read, daemon=True)

    def read(self) -> None:
        """Begin to read."""
        self._thread.start()

    def _read(self) -> None:
        while part := os.read(self._reading, 1 << 16):
            self._parts.append(part)

    def so_far(self) -> bytes:
        return b"".join(self._parts)

    def whole(self) -> bytes:
        """Close the writing end and return all that came through the pipe."""
        self._close(self.writing)
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()
        return self.so_far()

    def close_reader(self) -> None:
        """Leave the writer alone."""
        self._close(self._reading)

    def close(self) -> None:
        """Close both ends; a reader comes to its end first."""
        self._close(self.writing)
        if self._thread.ident is not None:
            self._thread.join(DEADLINE)
        self._close(self._reading)

    def _close(self, descriptor: int) -> None:
        if descriptor in self._open:
            self._open.remove(descriptor)
            os.close(descriptor)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def notices(content: bytes) -> list[dict[str, Any]]:
    """Return the lines in which the sink speaks of itself; every line must be whole."""
    lines = [json.loads(line) for line in content.decode().splitlines()]
    return [line for line in lines if "dropped" in line]


def test_lines_arrive_whole_and_in_order(pipe: Pipe) -> None:
    """However many there are, none is lost while somebody reads."""
    pipe.read()
    sink = Sink(pipe.writing)
    for number in range(20_000):
        sink.write(b"%d\n" % number)
    sink.close(DEADLINE)

    assert [int(line) for line in pipe.whole().splitlines()] == list(range(20_000))
    assert sink.dropped == 0


def test_threads_may_write_at_the_same_time(pipe: Pipe) -> None:
    """Lines of several threads are never mixed, and each thread's own stay in order."""
    pipe.read()
    sink = Sink(pipe.writing)

    def write(name: int) -> None:
        for number in range(2_000):
            sink.write(b"%d %d\n" % (name, number))

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sink.close(DEADLINE)
    pairs = [tuple(map(int, line.split())) for line in pipe.whole().splitlines()]

    for name in range(4):
        assert [number for who, number in pairs if who == name] == list(range(2_000))


def test_a_pipe_that_nobody_reads_never_blocks_a_writer(pipe: Pipe) -> None:
    """A megabyte into a full pipe takes no time, and memory is bounded."""
    sink = Sink(pipe.writing, buffer_bytes=1 << 16)
    begun = time.monotonic()
    for _ in range(10_000):
        sink.write(LINE)

    assert time.monotonic() - begun < DEADLINE
    assert sink.dropped > 5_000
    pipe.read()
    sink.close(DEADLINE)


def test_what_was_dropped_is_counted_and_said_when_somebody_reads(pipe: Pipe) -> None:
    """Lines that arrived and lines that are said to be lost add up to those written."""
    sink = Sink(pipe.writing, buffer_bytes=1 << 16)
    for _ in range(10_000):
        sink.write(LINE)
    pipe.read()
    sink.close(DEADLINE)
    content = pipe.whole()
    said = notices(content)

    assert content.count(LINE) + sink.dropped == 10_000
    assert sum(line["dropped"] for line in said) == sink.dropped
    assert said[0]["level"] == "warning"
    assert list(said[0])[:4] == ["ts", "level", "logger", "message"]


def test_after_a_loss_the_log_goes_on(pipe: Pipe) -> None:
    """When the reader is back, lines arrive again."""
    sink = Sink(pipe.writing, buffer_bytes=1 << 16)
    for _ in range(5_000):
        sink.write(LINE)
    pipe.read()
    until(lambda: b"dropped" in pipe.so_far())
    dropped = sink.dropped
    sink.write(b'{"message":"again"}\n')
    sink.close(DEADLINE)

    assert pipe.whole().endswith(b'{"message":"again"}\n')
    assert sink.dropped == dropped


def test_a_line_that_is_larger_than_the_buffer_is_said_to_be_lost(pipe: Pipe) -> None:
    """It can never be kept; the next line carries the news."""
    pipe.read()
    sink = Sink(pipe.writing, buffer_bytes=1000)
    sink.write(b"x" * 2000 + b"\n")
    sink.write(b'{"message":"next"}\n')
    sink.close(DEADLINE)

    assert sink.dropped == 1
    assert [line["dropped"] for line in notices(pipe.whole())] == [1]


def test_closing_waits_no_longer_than_it_is_told(pipe: Pipe) -> None:
    """A reader that hangs does not keep the program from ending."""
    sink = Sink(pipe.writing)
    for _ in range(10_000):
        sink.write(LINE)
    begun = time.monotonic()
    sink.close(SHORT)

    assert SHORT * 0.9 <= time.monotonic() - begun < DEADLINE
    pipe.read()
    sink.close(DEADLINE)


def test_a_reader_that_has_gone_costs_lines_and_nothing_else(pipe: Pipe) -> None:
    """No exception, no signal, no wait: all is counted."""
    pipe.close_reader()
    sink = Sink(pipe.writing)
    for _ in range(1_000):
        sink.write(LINE)
    sink.close(DEADLINE)

    assert sink.dropped == 1_000


def test_a_full_disk_costs_lines_and_nothing_else() -> None:
    """The kernel's own full device stands for it."""
    descriptor = os.open("/dev/full", os.O_WRONLY | os.O_CLOEXEC)
    sink = Sink(descriptor)
    for _ in range(1_000):
        sink.write(LINE)
    sink.close(DEADLINE)
    os.close(descriptor)

    assert sink.dropped == 1_000


def test_what_a_broken_stream_lost_is_said_when_it_is_whole_again(tmp_path: Path) -> None:
    """A disk that was full for a while is told of, as a slow reader is."""
    descriptor = os.open("/dev/full", os.O_WRONLY | os.O_CLOEXEC)
    sink = Sink(descriptor)
    sink.write(LINE)
    until(lambda: sink.dropped == 1)
    mended = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
    os.dup2(mended, descriptor, inheritable=False)
    sink.write(LINE)
    sink.close(DEADLINE)
    for each in (descriptor, mended):
        os.close(each)

    content = (tmp_path / "log").read_bytes()
    assert LINE in content
    assert [line["dropped"] for line in notices(content)] == [1]


def test_a_stream_that_somebody_made_non_blocking_loses_nothing(pipe: Pipe) -> None:
    """Whoever shares the terminal may do that; the sink waits as if it blocked."""
    os.set_blocking(pipe.writing, False)
    sink = Sink(pipe.writing)
    for _ in range(5_000):
        sink.write(LINE)
    pipe.read()
    sink.close(DEADLINE)

    assert pipe.whole() == LINE * 5_000
    assert sink.dropped == 0


def test_a_program_whose_output_nobody_reads_ends_all_the_same(pipe: Pipe) -> None:
    """The thread that is stuck in a write does not hold the interpreter."""
    script = (
        "from instance_manager.log import Sink\n"
        "sink = Sink(1)\n"
        "for _ in range(10_000): sink.write(b'x' * 100 + b'\\n')\n"
        "sink.close(0.1)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=pipe.writing)

    assert child.wait(DEADLINE) == 0
