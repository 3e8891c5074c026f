"""A lease on a data directory: who uses it, where the file system can't lock.

The manager that has it writes it anew every two seconds. Who finds one watches it: while it
changes, its manager lives; after three renewals without a change it is taken. It keeps managers
apart, not servers: one that outlived its manager in another container renews nothing.

Written in place, at once and at the same length: over NFS, whoever opens a file that was closed
sees what it holds, while a renamed one may be hidden by cached names.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final

from instance_manager.errors import DataDirectoryError, DataDirectoryInUseError
from instance_manager.log import get_logger
from instance_manager.postgres import processes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FILE_NAME: Final = "lease.json"
RENEWAL_SECONDS: Final = 2.0
_WATCH_SECONDS: Final = 3 * RENEWAL_SECONDS
_POLL_SECONDS: Final = 0.25
_POLLS: Final = int(_WATCH_SECONDS / _POLL_SECONDS)
_LENGTH_BYTES: Final = 1024
_TRUST_SECONDS: Final = 2 * RENEWAL_SECONDS
"""Without a renewal, for so long it is ours: the rest of the watch is for stopping a server."""
_GIVING_BACK_SECONDS: Final = 2.0
_log: Final = get_logger()


@dataclass(frozen=True, slots=True)
class Holder:
    """What a lease says: one run of a manager, and how often it has renewed it."""

    session: str
    host: str
    pid: int
    started_ticks: int
    namespace: str
    boot_id: str
    counter: int = 0

    @classmethod
    def me(cls) -> Holder:
        """Return this process, as the holder of a lease that it has not taken yet."""
        pid = os.getpid()
        process = processes.look(pid)
        return cls(
            # Pid and name of the host come again in containers: they don't tell two runs apart.
            session=os.urandom(16).hex(),
            host=socket.gethostname(),
            pid=pid,
            started_ticks=process.started_ticks if process else 0,
            namespace=processes.namespace(),
            boot_id=processes.boot_id(),
        )

    def shares_processes_with(self, other: Holder) -> bool:
        """Whether both see each other's processes, so that pids mean the same."""
        known = bool(self.boot_id and self.namespace)
        return known and (self.boot_id, self.namespace) == (other.boot_id, other.namespace)


class Lease:
    """The lease of one run of the manager, which takes it where a lock can't be had.

    *me* is who takes it; *wait* takes seconds; *clock* tells them, from any beginning.
    """

    def __init__(
        self,
        directory: Path,
        me: Holder | None = None,
        *,
        wait: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_held = False
        self._clock = clock
        self._renewed_at = clock()
        self._giving_back: threading.Thread | None = None
        self._path = directory / FILE_NAME
        self._me = me or Holder.me()
        self._wait = wait

    def take(self) -> None:
        """Take the lease, after watching one that was not given back. Blocks for seconds.

        Raises:
            DataDirectoryInUseError: another manager has it, or this one gives it back still.
            DataDirectoryError: it can't be written.
        """
        if not self.finish():
            raise DataDirectoryInUseError(
                f"cannot take lease {str(self._path)!r}: it is still being given back",
                hint="the storage does not answer: see its state; then this goes on by itself",
            )
        try:
            if not self._create():
                self._take_over()
        except OSError as error:
            raise DataDirectoryError(
                f"cannot take lease {str(self._path)!r}: {error.strerror}",
                hint="the data directory must be writable for the user that runs postgres",
            ) from error
        self.is_held = True

    @property
    def is_due(self) -> bool:
        """Whether it is held, and to be renewed now."""
        return self.is_held and self._clock() - self._renewed_at >= RENEWAL_SECONDS

    @property
    def trusted_seconds(self) -> float:
        """How long the data directory is surely ours if nothing is renewed: 0 if no longer."""
        return max(0.0, self._renewed_at + _TRUST_SECONDS - self._clock())

    def loss(self) -> DataDirectoryInUseError:
        """Return what to say when it could not be renewed for as long as it is ours."""
        return DataDirectoryInUseError(
            f"cannot keep data directory {self._directory!r}: its lease could not be renewed for"
            f" {_TRUST_SECONDS:g} s, so another manager may take it",
            hint="see the state of the storage; then this goes on by itself",
        )

    def renew(self) -> None:
        """Say that this manager lives, every ``RENEWAL_SECONDS``; in vain if it isn't held.

        Raises:
            DataDirectoryInUseError: another manager has taken it, or may do so by now: the data
                directory is lost.
            OSError: it can't be read or written; another manager may take it soon.
        """
        content = self._read()
        # Looked at after the read, which may have hung until the lease was given back.
        if not self.is_held:
            return
        if content is None:
            _log.warning("the lease is gone, and is made again", path=str(self._path))
            # Somebody may have been faster.
            if self._create():
                self._remove_if_late()
                return
            content = self._read() or b""
        holder = _parse(content)
        if holder is not None and holder.session != self._me.session:
            raise DataDirectoryInUseError(
                f"cannot keep data directory {self._directory!r}: the manager of session"
                f" {holder.session} on host {holder.host!r} has taken its lease",
                hint="this manager did not renew it in time; only one of them may go on",
            )
        if not self.trusted_seconds:
            # Somebody may have watched it long enough, and be about to take it.
            raise self.loss()
        # Still within the time of trust, so nobody has watched it long enough to take it.
        self._write()
        self._remove_if_late()

    def give_back(self) -> None:
        """Begin to remove the lease, if it is ours still: the next manager need not watch it.

        In the background, and at once: the event loop does not wait for storage that hangs.
        """
        self.is_held = False
        self._giving_back = threading.Thread(
            target=self._remove, name="give back lease", daemon=True
        )
        self._giving_back.start()

    def finish(self) -> bool:
        """Wait until it has been given back, and return whether it has. Blocks for seconds.

        Not for very long: storage that hangs must not keep the manager from ending.
        """
        thread = self._giving_back
        if thread is not None:
            thread.join(_GIVING_BACK_SECONDS)
        return thread is None or not thread.is_alive()

    def _remove_if_late(self) -> None:
        """Undo a renewal that hung in the storage until the lease had been given back."""
        if not self.is_held:
            self._remove()

    @property
    def _directory(self) -> str:
        return str(self._path.parents[1])

    def _take_over(self) -> None:
        seen = self._read()
        holder = _parse(seen or b"")
        if seen is not None and not self._is_dead(holder):
            self._watch(seen, holder)
        if seen is None or self._read() is None:
            # Given back while we looked: whoever makes the new one has it.
            if self._create():
                return
            raise self._in_use(_parse(self._read() or b""))
        self._write()
        # Another one may have done the same at the same time: the last word counts, and it was
        # spoken before this wait is over.
        self._wait(RENEWAL_SECONDS)
        holder = _parse(self._read() or b"")
        if holder is None or holder.session != self._me.session:
            raise self._in_use(holder)
        self._write()
        _log.warning("took over a lease that was not given back", path=str(self._path))

    def _is_dead(self, holder: Holder | None) -> bool:
        """Whether the holder is known to be dead; False where that can't be told.

        Raises:
            DataDirectoryInUseError: it is known to live.
        """
        if holder is None:
            return False
        if holder.session == self._me.session:
            # It could not be removed when it was given back.
            return True
        if not self._me.shares_processes_with(holder):
            return False
        if processes.is_alive(holder.pid, holder.started_ticks):
            raise self._in_use(holder)
        return True

    def _watch(self, seen: bytes, holder: Holder | None) -> None:
        _log.warning(
            "watching a lease that was not given back",
            path=str(self._path),
            host=holder.host if holder else None,
            seconds=_WATCH_SECONDS,
        )
        # Polled: of what another host changes, no kernel tells.
        for _ in range(_POLLS):
            self._wait(_POLL_SECONDS)
            now = self._read()
            if now is None:
                return
            if now != seen:
                raise self._in_use(_parse(now))

    def _in_use(self, holder: Holder | None) -> DataDirectoryInUseError:
        who = f" on host {holder.host!r}, process {holder.pid} there" if holder else ""
        return DataDirectoryInUseError(
            f"cannot use data directory {self._directory!r}: it is in use by another manager{who}",
            hint="stop the other one",
        )

    def _read(self) -> bytes | None:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            return os.read(descriptor, _LENGTH_BYTES)
        finally:
            os.close(descriptor)

    def _create(self) -> bool:
        """Make the lease where there is none; return whether this was the one who did."""
        try:
            # Of several who try at the same time one succeeds, over NFS too (open(2)).
            self._store(os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            return False
        return True

    def _write(self) -> None:
        self._store(0)

    def _store(self, more_flags: int) -> None:
        # A link in its place would have another file written over.
        flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | more_flags
        self._me = replace(self._me, counter=self._me.counter + 1)
        # Of one length: in place, a shorter text would leave the end of a longer one behind it.
        text = json.dumps(asdict(self._me), indent=1).ljust(_LENGTH_BYTES - 1) + "\n"
        # Others may see it from now on, however long it takes.
        began = self._clock()
        descriptor = os.open(self._path, flags, 0o600)
        try:
            os.pwrite(descriptor, text.encode(), 0)
            # Others read it from the storage, and not from this host's cache.
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        # One that hung for long may come after newer ones.
        self._renewed_at = max(self._renewed_at, began)

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            holder = _parse(self._read() or b"")
            # Ours only: another manager may have taken it since.
            if holder is not None and holder.session == self._me.session:
                self._path.unlink()


def _parse(content: bytes) -> Holder | None:
    """Return what a lease says; None if it says nothing that can be understood."""
    try:
        raw = json.loads(content)
        return Holder(
            session=str(raw["session"]),
            host=str(raw["host"]),
            pid=int(raw["pid"]),
            started_ticks=int(raw["started_ticks"]),
            namespace=str(raw["namespace"]),
            boot_id=str(raw["boot_id"]),
            counter=int(raw["counter"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
