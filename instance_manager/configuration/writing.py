"""Files of the configuration: written so that a crash leaves the old one or the new one.

The only module of this room that touches the file system. Everything is done relative to an open
directory and nothing is written through a symbolic link at a file's name. One writer at a time:
the holder of the data directory's lock.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from instance_manager.configuration.hba import FIRST_MAJOR_WITH_INCLUDE, include_line
from instance_manager.configuration.rendering import parse_line, quote
from instance_manager.errors import DataDirectoryError, DiskSpaceError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator
    from pathlib import Path

OUR_DIRECTORY: Final = "instance-manager"
INCLUDED: Final = f"{OUR_DIRECTORY}/postgresql.conf"
INCLUDE_LINE: Final = f"include_if_exists {quote(INCLUDED)}"
_USER_FILE: Final = "postgresql.conf"
_AUTO_FILE: Final = "postgresql.auto.conf"
_PRIVATE: Final = 0o600
_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: to open a FIFO without a writer would wait for one.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# O_EXCL: what is there by this name is not ours, or left by a kill, and is never written into.
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class AutoEntry:
    """A parameter that was taken out of postgresql.auto.conf."""

    name: str
    value: str


def write_atomically(path: Path, text: str, mode: int = _PRIVATE) -> bool:
    """Make *path* a file with this text and mode, durably, all of it or nothing.

    What is there with another text, another mode or as a link is replaced, never written into.

    Returns:
        False if it was so already, and nothing was touched.

    Raises:
        DiskSpaceError: the disk is full.
        DataDirectoryError: it can't be written for another reason.
    """
    content = text.encode(errors="surrogateescape")
    with _explained("write", path), _opened(path.parent, _OPEN_DIRECTORY) as directory:
        # A file that is not touched keeps its time, which tells people when something changed.
        if _is_same(directory, path.name, content, mode):
            return False
        _replace(directory, path.name, content, mode)
    return True


def ensure_include(data_directory: Path) -> bool:
    """Make the last line of the user's postgresql.conf the one that reads ours.

    The rest of the file stays as it is; a missing file is made.

    Returns:
        False if the line was there already, once and last.

    Raises:
        DataDirectoryError: it can't be written. The user may add :data:`INCLUDE_LINE` there.
    """
    hint = f"add this as its last line: {INCLUDE_LINE}"
    return _rewrite(data_directory / _USER_FILE, _with_include, hint)


def remove_include(data_directory: Path) -> bool:
    """Take our line out of the user's postgresql.conf: the file is as it was without us.

    Returns:
        False if it was not there.

    Raises:
        DataDirectoryError: it can't be written.
    """
    hint = f"take this line out of it: {INCLUDE_LINE}"
    return _rewrite(data_directory / _USER_FILE, _without_include, hint)


def take_out_auto_entries(
    data_directory: Path, names: Collection[str], stamp: str
) -> tuple[AutoEntry, ...]:
    """Take the parameters *names* out of postgresql.auto.conf, which would win over our file.

    The file as it was is kept as ``instance-manager/postgresql.auto.conf.removed-<stamp>``, which
    is on the disk before the file is changed.

    Args:
        data_directory: holds the file, or does not.
        names: in lower case.
        stamp: makes the copy's name its own, such as a time.

    Raises:
        DataDirectoryError: it can't be written.
    """
    path = data_directory / _AUTO_FILE
    text = _read_text(path)
    entries, kept = _part(text, names)
    if entries:
        # First the copy: a crash between the two leaves the entries in both files, and not in
        # none.
        copy = data_directory / OUR_DIRECTORY / f"{_AUTO_FILE}.removed-{stamp}"
        with _explained("make", copy.parent):
            copy.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomically(copy, text)
        write_atomically(path, kept, _mode_of(path))
    return entries


def inherited_rules(path: Path, major: int) -> str:
    """Return what makes the rules of the directory's own *path* count within ours.

    Before 16 there is no ``include``, so the text itself is taken; none for a missing file.

    Raises:
        DataDirectoryError: it can't be read.
    """
    return include_line(path) if major >= FIRST_MAJOR_WITH_INCLUDE else _read_text(path)


def _part(text: str, names: Collection[str]) -> tuple[tuple[AutoEntry, ...], str]:
    """Part *text* into the entries of *names* and the lines that stay."""
    entries: list[AutoEntry] = []
    kept: list[str] = []
    # Not splitlines(), which also ends lines at characters that a value may hold.
    for line in text.split("\n"):
        parsed = parse_line(line)
        if parsed and parsed[0].lower() in names:
            entries.append(AutoEntry(parsed[0].lower(), parsed[1]))
        else:
            kept.append(line)
    return tuple(entries), "\n".join(kept)


def _with_include(text: str) -> str:
    """Add our line in the form of the text's end, so that taking it out restores every byte."""
    rest = _without_include(text)
    whole = not rest or rest.endswith("\n")
    return f"{rest}{INCLUDE_LINE}\n" if whole else f"{rest}\n{INCLUDE_LINE}"


def _without_include(text: str) -> str:
    return "\n".join(line for line in text.split("\n") if not _is_include(line))


def _is_include(line: str) -> bool:
    parsed = parse_line(line)
    return parsed is not None and (parsed[0].lower(), parsed[1]) == ("include_if_exists", INCLUDED)


def _rewrite(path: Path, change: Callable[[str], str], hint: str) -> bool:
    # The server reads through the link as well; only writing would replace it.
    text = _read_text(path, follow=True)
    changed = change(text)
    if changed == text:
        return False
    if path.is_symlink():
        message = f"cannot write {str(path)!r}: it is a symbolic link, and not ours to replace"
        raise DataDirectoryError(message, hint=hint)
    return write_atomically(path, changed, _mode_of(path))


def _read_text(path: Path, *, follow: bool = False) -> str:
    """Return the text of a file, byte for byte; empty for a missing one."""
    with _explained("read", path), suppress(FileNotFoundError):
        flags = _READ & ~os.O_NOFOLLOW if follow else _READ
        with _opened(path, flags) as descriptor:
            return _read(descriptor).decode(errors="surrogateescape")
    return ""


def _mode_of(path: Path) -> int:
    """Return the permissions of a file; private ones for a missing one."""
    try:
        return stat.S_IMODE(path.lstat().st_mode)
    except FileNotFoundError:
        return _PRIVATE


@contextmanager
def _opened(name: Path | str, flags: int, directory: int | None = None) -> Generator[int]:
    descriptor = os.open(name, flags, _PRIVATE, dir_fd=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> bytes:
    # Given away, the descriptor of a directory would stay open: fdopen() refuses it.
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        return file.read()


def _write(descriptor: int, content: bytes) -> None:
    with os.fdopen(descriptor, "wb", closefd=False) as file:
        file.write(content)


def _is_same(directory: int, name: str, content: bytes, mode: int) -> bool:
    try:
        with _opened(name, _READ, directory) as descriptor:
            # The mode too: a file that others may read can hold a connection string with a
            # password.
            facts = os.fstat(descriptor)
            same = stat.S_ISREG(facts.st_mode) and stat.S_IMODE(facts.st_mode) == mode
            return same and facts.st_size == len(content) and _read(descriptor) == content
    except OSError:
        return False


def _replace(directory: int, name: str, content: bytes, mode: int) -> None:
    """Write a new file beside the old one, and put it in its place when it is on the disk."""
    # One name, and not a random one: what a kill leaves behind, the next write clears away.
    new = f".{name}.new"
    with suppress(FileNotFoundError):
        os.unlink(new, dir_fd=directory)
    try:
        with _opened(new, _CREATE, directory) as descriptor:
            # umask cuts the mode of open(2).
            os.fchmod(descriptor, mode)
            _write(descriptor, content)
            # Before the rename: else a crash may leave the new name with nothing in it.
            os.fsync(descriptor)
        os.rename(new, name, src_dir_fd=directory, dst_dir_fd=directory)
    finally:
        # Gone already if all went well: it is the file now.
        with suppress(OSError):
            os.unlink(new, dir_fd=directory)
    # The rename itself is on the disk only then.
    os.fsync(directory)


@contextmanager
def _explained(verb: str, path: Path) -> Generator[None]:
    """Say what could not be done to which file, and whose fault it is."""
    try:
        yield
    except OSError as err:
        message = f"cannot {verb} {str(path)!r}: {err.strerror or err}"
        if err.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskSpaceError(
                message, hint="free space on that volume, or make it larger"
            ) from err
        raise DataDirectoryError(message, hint="look at its owner and permissions") from err
