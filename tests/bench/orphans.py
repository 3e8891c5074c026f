"""A storm of orphans, as an exec into a container may leave them, on postgres and on the manager.

Each is PID 1 of a namespace of its own, on the same data directory, one after the other. The
postmaster reaps what it inherits, and takes an exit code other than 0 and 1 for the crash of a
process of its own. Source: src/backend/postmaster/postmaster.c, ``CleanupBackend``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from instance_manager.postgres.embedded import Demonstration
from tests.bench.contestants import identity
from tests.bench.figures import Storm, Storms, crash_restarts_in, reaped_in
from tests.support.manager import until
from tests.support.namespace import NamespacedManager
from tests.support.processes import Process, children_of, look, postmasters

_ORPHANS = 200
_CODES = (0, 1, 2, 139)
_SESSIONS = 4
_PATIENCE_SECONDS = 10.0
"""How long a zombie may wait for PID 1."""


class BarePostgres(NamespacedManager):
    """Postgres as PID 1, with all the parameters that it has under the manager but for its log."""

    def command(self, *arguments: str) -> list[str]:
        """Return the server's command line, whatever is asked of it."""
        account = identity()
        become = (
            ("setpriv", f"--reuid={account['user']}", f"--regid={account['group']}")
            if account
            else ("env",)
        )
        groups = ("--clear-groups",) if account else ()
        log = ("-c", "logging_collector=off", "-c", "log_destination=stderr")
        server = (str(self.server.bin_directory / "postgres"), "-D", str(self.data), *log)
        return self.enclosed(*become, *groups, *server)

    def until_accepts(self) -> None:
        """Wait until a session can be opened."""

        def accepts() -> bool:
            with contextlib.suppress(psycopg.OperationalError), self.sql():
                return True
            return False

        until(accepts, f"postgres accepts connections\n{self.logged()}")


def measure_orphans(directory: Path, server: Demonstration) -> Storms:
    """Make a cluster in *directory*, and leave the same orphans to both."""
    manager = NamespacedManager(directory, server)
    with _cleaned_up(manager):
        manager.trust().start().until_ready()
        before = _reaped(manager)
        managed = _storm(manager)
        until(lambda: _reaped(manager) - before >= _ORPHANS, "the orphans are counted")
        reaped = _reaped(manager) - before
        assert manager.end() == 0, manager.logged()
    bare = BarePostgres(directory, server)
    bare.port, bare.log = manager.port, directory / "postgres.log"
    with _cleaned_up(bare):
        bare.start()
        bare.until_accepts()
        alone = _storm(bare)
    return Storms(bare=Storm(reaped=None, **alone), manager=Storm(reaped=reaped, **managed))


@contextmanager
def _cleaned_up(contestant: NamespacedManager) -> Iterator[None]:
    try:
        yield
    finally:
        contestant.clean_up()


def _reaped(manager: NamespacedManager) -> int:
    return reaped_in(manager.probe("metrics")[1])


def _storm(contestant: NamespacedManager) -> dict[str, Any]:
    """Leave the orphans to PID 1 and return what came of it, once all of them have ended."""
    before = _postmaster(contestant)
    with ExitStack() as ends:
        sessions = [ends.enter_context(contestant.sql()) for _ in range(_SESSIONS)]
        contestant.leave_orphans(_ORPHANS, *_CODES)
        until(lambda: not _orphans(contestant), "all orphans have ended")
        lost = sum(not _lives(session) for session in sessions)
        with contextlib.suppress(AssertionError):
            until(lambda: not contestant.zombies(), "no zombie is left", _PATIENCE_SECONDS)
    return {
        "orphans": _ORPHANS,
        "crash_restarts": crash_restarts_in(contestant.logged()),
        "sessions": _SESSIONS,
        "sessions_lost": lost,
        "postmaster_replaced": _postmaster(contestant) != before,
        "zombies": len(contestant.zombies()),
    }


def _postmaster(contestant: NamespacedManager) -> tuple[int, float]:
    """Return the postmaster's pid and the time of its start."""
    (pid,) = postmasters(contestant.data)
    found = look(pid)
    assert found is not None
    return pid, found.started


def _orphans(contestant: NamespacedManager) -> list[Process]:
    """Return the orphans that still run; zombies have ended."""
    children = children_of(contestant.pid)
    return [one for one in children if one.command.startswith("python") and one.state != "Z"]


def _lives(session: psycopg.Connection[Any]) -> bool:
    try:
        session.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True
