"""A client that remembers what it was promised: every acknowledged row must be there for ever.

It inserts increasing keys over several connections, and writes each key that was acknowledged to
a file that it syncs itself. A key whose fate is unknown, since its connection broke, is given up:
it may be there or not. Run as a program it is that client; :class:`Ledger` starts it and judges.

    python -m tests.support.ledger DIRECTORY CONNECTIONS CONNINFO
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psycopg

from tests.support.manager import Manager, until

CONNECTIONS: Final = 4
_ATTEMPTED: Final = "attempted"
_ACKNOWLEDGED: Final = "acknowledged"
_RETRY_SECONDS: Final = 0.02
_APPEND: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Balance:
    """What a comparison of the table with the client's own files gave."""

    acknowledged: int
    lost: frozenset[int]
    """Acknowledged, and not there."""
    invented: frozenset[int]
    """There, and never attempted."""
    duplicates: int
    """Rows more than keys, by a scan of the table itself."""

    def verify(self) -> None:
        """Fail if anything was lost, invented or doubled, or nothing was promised at all."""
        assert self.acknowledged, "nothing was acknowledged"
        assert not self.lost, f"acknowledged rows are lost: {sorted(self.lost)[:10]}"
        assert not self.invented, f"rows that nobody inserted: {sorted(self.invented)[:10]}"
        assert not self.duplicates, f"{self.duplicates} rows are there twice"


@dataclass
class Ledger:
    """The client as a process of its own, for as long as the context lasts."""

    manager: Manager
    directory: Path = field(init=False)

    def __post_init__(self) -> None:
        self.directory = self.manager.directory / "ledger"
        self.directory.mkdir(exist_ok=True)

    def __enter__(self) -> Self:
        self.manager.query("CREATE TABLE IF NOT EXISTS ledger (key bigint PRIMARY KEY)")
        conninfo = f"host=127.0.0.1 port={self.manager.port} user=postgres dbname=postgres"
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, self.directory, str(CONNECTIONS), conninfo],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.DEVNULL,
        )
        try:
            self.until_more()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()

    def acknowledged(self) -> frozenset[int]:
        """Return the keys that were promised so far."""
        return _keys(self.directory / _ACKNOWLEDGED)

    def until_more(self, number: int = 2 * CONNECTIONS) -> None:
        """Wait until *number* more keys were acknowledged: the client is at work."""
        path = self.directory / _ACKNOWLEDGED
        wanted = _lines(path) + number

        def written() -> bool:
            assert self._process.poll() is None, "the client has ended"
            return _lines(path) >= wanted

        until(written, f"{number} more rows are acknowledged")

    def balance(self) -> Balance:
        """Compare the table with the files; the client may go on meanwhile."""
        promised = self.acknowledged()
        with self.manager.sql() as connection:
            # The table itself is asked: a damaged index could hide what is there twice.
            connection.execute("SET enable_indexscan = off")
            connection.execute("SET enable_indexonlyscan = off")
            connection.execute("SET enable_bitmapscan = off")
            rows = [key for (key,) in connection.execute("SELECT key FROM ledger").fetchall()]
        present = frozenset(rows)
        return Balance(
            acknowledged=len(promised),
            lost=promised - present,
            invented=present - _keys(self.directory / _ATTEMPTED),
            duplicates=len(rows) - len(present),
        )


def _keys(path: Path) -> frozenset[int]:
    """Return the keys of a file; a last line that is still being written counts as none."""
    return frozenset(map(int, path.read_text(encoding="ascii").rpartition("\n")[0].split()))


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@dataclass(frozen=True, slots=True)
class _Book:
    """The two files: descriptors that each write appends to."""

    attempted: int
    acknowledged: int

    def attempt(self, key: int) -> None:
        os.write(self.attempted, b"%d\n" % key)

    def acknowledge(self, key: int) -> None:
        os.write(self.acknowledged, b"%d\n" % key)
        os.fsync(self.acknowledged)


def _insert_for_ever(conninfo: str, book: _Book, key: int, step: int) -> None:
    """Insert key after key, over a new connection where one broke."""
    pause = threading.Event()
    while True:
        try:
            with psycopg.connect(conninfo, autocommit=True, connect_timeout=5) as connection:
                while True:
                    key += step
                    book.attempt(key)
                    connection.execute("INSERT INTO ledger VALUES (%s)", (key,))
                    book.acknowledge(key)
        except psycopg.Error:
            pause.wait(_RETRY_SECONDS)


def main(directory: Path, connections: int, conninfo: str) -> None:
    """Insert over *connections* at once until this process is killed; go on above the last key."""
    first = (
        max(_keys(directory / _ATTEMPTED), default=0) if (directory / _ATTEMPTED).exists() else 0
    )
    book = _Book(*(os.open(directory / name, _APPEND) for name in (_ATTEMPTED, _ACKNOWLEDGED)))
    threads = [
        threading.Thread(
            target=_insert_for_ever, args=(conninfo, book, first + number, connections)
        )
        for number in range(connections)
    ]
    for thread in threads:
        thread.start()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
