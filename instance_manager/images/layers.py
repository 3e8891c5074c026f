"""The contents of an archive that somebody sent: read in one pass, never more than is bearable.

A layer of a few kilobytes can hold terabytes, or headers that fill the memory; what is unpacked is
counted while it is read, whatever the archive says of its sizes.
"""

from __future__ import annotations

import gzip
import importlib
import os
import shutil
import tarfile
import zlib
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterator
    from pathlib import Path

    from instance_manager.supervision.children import Children

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_MOST_BYTES: Final = 8 << 30
_MOST_ENTRIES: Final = 200_000
_MOST_PARTS: Final = 64
"""Of a path: whatever removes a tree goes down into it."""
_LONGEST_READ: Final = 1 << 20
"""Names and attributes are read at once: no honest one is as long."""


class LayerError(Exception):
    """An archive that can't be unpacked, or is not to be; the hint says what would help."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Readable(Protocol):
    """What bytes come from."""

    def read(self, size: int, /) -> bytes:
        """Return at most as many; none at the end."""
        ...


class Budget:
    """What all layers of an image may hold together."""

    def __init__(self, size: int = _MOST_BYTES, entries: int = _MOST_ENTRIES) -> None:
        self._size, self._entries = size, entries
        self._most = size, entries

    def spend(self, size: int) -> None:
        """Count bytes.

        Raises:
            LayerError: they are too many.
        """
        self._size -= size
        if self._size < 0:
            raise LayerError(f"it holds more than {self._most[0] >> 20} MiB")

    def spend_entry(self, member: tarfile.TarInfo) -> None:
        """Count a file, and what a sparse one grows to.

        Raises:
            LayerError: they are too many, or one is too deep.
        """
        self._entries -= 1
        if self._entries < 0:
            raise LayerError(f"it holds more than {self._most[1]} files")
        if member.name.count("/") >= _MOST_PARTS:
            raise LayerError(f"a path has more than {_MOST_PARTS} parts")
        # Holes are not in the archive's bytes, so that nothing read would count them.
        if member.issparse() or member.size < 0:
            raise LayerError("it holds files with holes, which no image has")
        if member.size > self._size:
            # Before the first byte of it is written.
            self.spend(member.size)


class _Forward:
    """A file for tarfile that only goes forward, by steps of a bearable size."""

    def __init__(self, source: Readable, budget: Budget) -> None:
        self._source, self._budget = source, budget
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        # tarfile reads a long name as one piece of the size that the header tells.
        if not 0 <= size <= _LONGEST_READ:
            raise LayerError("it has a header without end")
        parts = bytearray()
        # A pipe gives less than is asked for, which tarfile takes for an archive that was cut.
        while len(parts) < size and (part := self._source.read(size - len(parts))):
            parts += part
        self._at += len(parts)
        self._budget.spend(len(parts))
        return bytes(parts)

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int) -> int:
        # A negative size could have the same header read for ever.
        if offset < self._at:
            raise LayerError("its sizes lead backwards")
        while self._at < offset and self.read(min(offset - self._at, _LONGEST_READ)):
            pass
        return self._at


@asynccontextmanager
async def opened(
    children: Children, place: Path, budget: Budget
) -> AsyncGenerator[tarfile.TarFile]:
    """Yield an archive that is plain or compressed by gzip or zstd.

    Raises:
        LayerError: it is none, is damaged, or holds too much.
    """
    with place.open("rb") as file:
        start = file.read(len(_ZSTD))
        file.seek(0)
        if start.startswith(_ZSTD):
            async with _zstd(children, place) as source:
                with _read(source, budget) as archive:
                    yield archive
        elif start.startswith(_GZIP):
            with gzip.GzipFile(fileobj=file) as source, _read(source, budget) as archive:
                yield archive
        else:
            with _read(file, budget) as archive:
                yield archive


def entries(archive: tarfile.TarFile, budget: Budget) -> Iterator[tarfile.TarInfo]:
    """Yield what is in an archive, and keep nothing of what was."""
    while (member := _next(archive)) is not None:
        budget.spend_entry(member)
        yield member
        # tarfile keeps each header that it has read: hundreds of thousands take the memory.
        archive.members.clear()  # type: ignore[attr-defined]


def _next(archive: tarfile.TarFile) -> tarfile.TarInfo | None:
    with _headers():
        return archive.next()


def _opened(source: _Forward) -> tarfile.TarFile:
    with _headers():
        return tarfile.open(fileobj=cast("gzip.GzipFile", source), mode="r:")


@contextmanager
def _headers() -> Generator[None]:
    """Tell what tarfile does not of a header: a number that is none, a chain without end."""
    try:
        yield
    except (ValueError, RecursionError) as error:
        raise LayerError("it has a header that can't be read") from error


@contextmanager
def _read(source: Readable, budget: Budget) -> Generator[tarfile.TarFile]:
    forward = _Forward(source, budget)
    try:
        with _opened(forward) as archive:
            yield archive
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise LayerError(str(error) or "it ends too early") from error


@asynccontextmanager
async def _zstd(children: Children, place: Path) -> AsyncGenerator[Readable]:
    """Yield what zstd makes of a file: Python's own module, or the program."""
    try:
        module = importlib.import_module("compression.zstd")
    # Python has it since 3.14.
    except ImportError:
        async with _by_program(children, place) as source:
            yield source
        return
    try:
        with module.open(place, "rb") as source:
            yield cast("Readable", source)
    except module.ZstdError as error:
        raise LayerError(str(error)) from error


@asynccontextmanager
async def _by_program(children: Children, place: Path) -> AsyncGenerator[Readable]:
    program = shutil.which("zstd")
    if program is None:
        raise LayerError(
            "it is compressed by zstd, and neither Python's compression.zstd (3.14) nor the"
            " program zstd is here",
            hint="apt-get install zstd",
        )
    reading, writing = os.pipe2(os.O_CLOEXEC)
    with os.fdopen(reading, "rb", buffering=0) as source:
        try:
            child = children.spawn(
                "zstd",
                (program, "--decompress", "--stdout", "--quiet", "--", str(place)),
                environment={},
                streams=(None, writing, None),
            )
        finally:
            os.close(writing)
        try:
            yield cast("Readable", source)
            # An archive may end before its file does: then zstd is ended by the closed pipe, and
            # no fault of the file's.
            is_at_end = not source.read(1)
            # It ends once nobody reads.
            source.close()
            status = await child.wait()
        finally:
            await children.end(child)
    if is_at_end and not status.is_success:
        raise LayerError(f"zstd can't read it: {status}")
