"""Put the bundle into a directory that another container will see: whole, or not at all.

``DIR/instance-manager`` is a link to a hidden directory beside it. A new bundle is written beside
the old one, made durable, and takes its place when the link is replaced, which is one step on
every file system. The bundle that was there last stays, for a manager that runs from it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from instance_manager import __version__, bundle
from instance_manager.errors import DiskSpaceError, PermanentError, TransientError, UsageError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

NAME: Final = bundle.PROGRAM
_HIDDEN: Final = f".{NAME}-"
_PARTIAL: Final = f".{NAME}.partial-"
_PROBE: Final = ".owner"
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_OTHERS_SECONDS: Final = 60.0
"""How long another run may take: it copies some 50 MB."""
_POLL_SECONDS: Final = 0.1
_OWN_MODE: Final = 0o700
_PROGRAM_MODE: Final = 0o755
_FILE_MODE: Final = 0o644
_ANYBODY_EXECUTES: Final = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH


@dataclass(frozen=True, slots=True)
class Installed:
    """What came of it; *changed* is False where the same bundle was there."""

    directory: Path
    version: str
    size_bytes: int
    changed: bool


def install(target: Path) -> Installed:
    """Copy this bundle below *target*.

    Raises:
        UsageError: this is no bundle, or something else is where it would go.
        DiskSpaceError: there is no room; nothing is left behind.
        PermanentError: the directory can't be written.
        TransientError: another process keeps it locked.
    """
    source = bundle.directory()
    if source is None:
        raise UsageError(
            "cannot install: this is an installation, which needs its Python where it is",
            hint="use the program in the manager's own image (docs/manager-image.md)",
        )
    return install_from(source, target)


def install_from(source: Path, target: Path) -> Installed:
    """Copy the bundle in *source*; for errors see ``install``."""
    if not target.is_dir():
        raise UsageError(
            f"cannot install into {str(target)!r}: it is no directory",
            hint="mount a volume there, or make it",
        )
    size = sum(path.stat().st_size for path in _files(source))
    try:
        with _locked(target) as is_locked:
            changed = _put(source, target, may_tidy=is_locked)
    except BlockingIOError as error:
        raise TransientError(
            f"cannot install into {str(target)!r}: another process has kept it locked for"
            f" {_OTHERS_SECONDS:g} seconds",
            hint="another run of install that hangs, or whoever else uses flock on the directory",
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            raise DiskSpaceError(
                f"cannot install into {str(target)!r}: {reason}",
                hint=f"{_megabytes(size)} are needed; what was there is as it was",
            ) from error
        raise PermanentError(f"cannot install into {str(target)!r}: {reason}") from error
    return Installed(target / NAME, __version__, size, changed)


def _put(source: Path, target: Path, *, may_tidy: bool) -> bool:
    link = target / NAME
    current = _current(link)
    if may_tidy:
        # First: what killed runs left takes room away from this one.
        _tidy(target, current)
    # By content: a bundle of the same version may be damaged, or of another build.
    if current is not None and fingerprint(current) == fingerprint(source, as_copied=True):
        return False
    partial = target / f"{_PARTIAL}{secrets.token_hex(4)}"
    try:
        _copy(source, partial)
        whole = target / f"{_HIDDEN}{__version__}-{secrets.token_hex(4)}"
        # Named as a bundle only when it is whole: a partial one is anybody's to remove.
        partial.rename(whole)
    except BaseException:
        # Also for Ctrl-C: only a kill leaves something, for the next run.
        shutil.rmtree(partial, ignore_errors=True)
        raise
    try:
        _point(link, whole)
    except BaseException:
        if not _leads_to(link, whole):
            shutil.rmtree(whole, ignore_errors=True)
        raise
    if may_tidy:
        # The bundle before this one stays: a manager may run from it.
        _tidy(target, whole, current)
    return True


def _current(link: Path) -> Path | None:
    """Return the bundle that is in place; None where nothing is.

    Raises:
        UsageError: it is something else.
    """
    try:
        to = link.readlink()
    except FileNotFoundError:
        return None
    except OSError:
        to = Path()
    if len(to.parts) != 1 or not to.name.startswith(_HIDDEN):
        raise UsageError(
            f"cannot install as {str(link)!r}: something else is there",
            hint="choose another directory, or move it out of the way",
        )
    return link.parent / to


def _leads_to(link: Path, whole: Path) -> bool:
    try:
        return link.readlink() == Path(whole.name)
    except OSError:
        return False


def _copy(source: Path, partial: Path) -> None:
    """Copy all; whoever may write to the directory around *partial* may exchange it meanwhile."""
    partial.mkdir(mode=_OWN_MODE)
    descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not _is_own(descriptor):
            raise OSError(errno.EPERM, "a directory that was made there belongs to another user")
        # What is open stays what it is, wherever its name leads by now.
        _fill(source, Path(f"/proc/self/fd/{descriptor}"))
    finally:
        os.close(descriptor)


def _is_own(directory: int) -> bool:
    """Say whether a directory is of whom a new file in it is of: that is not always this user."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    probe = os.open(_PROBE, flags, mode=0o600, dir_fd=directory)
    try:
        return os.fstat(probe).st_uid == os.fstat(directory).st_uid
    finally:
        os.close(probe)
        os.unlink(_PROBE, dir_fd=directory)


def _fill(source: Path, partial: Path) -> None:
    for entry in _entries(source):
        place = partial / entry.relative_to(source)
        if entry.is_symlink():
            place.symlink_to(entry.readlink())
        elif entry.is_dir():
            place.mkdir(mode=_OWN_MODE)
        else:
            with entry.open("rb") as content, place.open("xb") as copy:
                shutil.copyfileobj(content, copy, 1 << 20)
                copy.flush()
                # By the descriptor, whatever the umask was when it was made.
                os.fchmod(copy.fileno(), _mode(entry, as_copied=True))
                os.fsync(copy.fileno())
    below = [path for path in partial.rglob("*") if _is_directory(path)]
    # The one around all others is opened to others last.
    for directory in (*below, partial):
        # Whatever the umask is: any user id may be who runs it.
        directory.chmod(_PROGRAM_MODE)
        _flush(directory)


def _point(link: Path, whole: Path) -> None:
    """Have *link* lead to the new bundle, in one step."""
    # The directory's name must be durable before the link that leads to it.
    _flush(whole.parent)
    beside = whole.with_name(f"{_PARTIAL}{secrets.token_hex(4)}")
    beside.symlink_to(whole.name)
    try:
        beside.rename(link)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _flush(link.parent)


def _tidy(target: Path, *kept: Path | None) -> None:
    """Remove what earlier runs left: parts of copies, and bundles of which none is kept."""
    for path in target.iterdir():
        if path in kept or not path.name.startswith((_HIDDEN, _PARTIAL)):
            continue
        if path.is_symlink():
            path.unlink(missing_ok=True)
        # Bundles only when a new one is in place: until then the old one is all there is.
        elif path.name.startswith(_PARTIAL) or len(kept) > 1:
            shutil.rmtree(path, ignore_errors=True)


def fingerprint(root: Path, *, as_copied: bool = False) -> str:
    """Return what tells a bundle from every other: names, contents, links and modes.

    Its own modes, or those that a copy has.
    """
    whole = hashlib.sha256()
    # Where nothing is, nothing is alike.
    with suppress(FileNotFoundError, NotADirectoryError):
        for entry in _entries(root):
            name = os.fsencode(entry.relative_to(root))
            if entry.is_symlink():
                said = b"link " + os.fsencode(entry.readlink())
            elif entry.is_dir():
                said = b"directory %o" % _mode(entry, as_copied=as_copied)
            elif not entry.is_file():
                said = b"something else"
            else:
                with entry.open("rb") as content:
                    digest = hashlib.file_digest(content, "sha256").hexdigest()
                said = b"file %o %s" % (_mode(entry, as_copied=as_copied), digest.encode())
            whole.update(b"%d %s%s\n" % (len(name), name, said))
    return whole.hexdigest()


def _entries(root: Path) -> Iterator[Path]:
    """Yield all that is below a directory, each directory before what it holds."""
    for name in sorted(os.listdir(root)):  # noqa: PTH208 - names sort as bytes do, on every host
        path = root / name
        yield path
        if _is_directory(path):
            yield from _entries(path)


def _files(root: Path) -> Iterator[Path]:
    return (each for each in _entries(root) if not each.is_symlink() and each.is_file())


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _mode(path: Path, *, as_copied: bool) -> int:
    mode = stat.S_IMODE(path.stat().st_mode)
    if not as_copied:
        return mode
    return _PROGRAM_MODE if mode & _ANYBODY_EXECUTES else _FILE_MODE


def _flush(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(directory: Path) -> Generator[bool]:
    """Keep other runs out; yield False where the file system knows no locks.

    Raises:
        BlockingIOError: somebody else keeps the lock.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield _lock(descriptor, time.monotonic() + _OTHERS_SECONDS)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, deadline: float) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Anybody who may read the directory can lock it, and would hold a pod up for good.
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_SECONDS)
        except OSError:
            return False
        else:
            return True


def _megabytes(size: int) -> str:
    return f"{-(-size // 1_000_000)} MB"
