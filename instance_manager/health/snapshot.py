"""What is known of the running server: observed in the background, read from memory by all.

One reserved connection asks for facts, a new startup packet a period asks whether the postmaster
accepts; both have deadlines, so a server that hangs costs its own freshness and nothing else.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from instance_manager.health.verdicts import STALE_AFTER_PERIODS, Lag, Probe, stream_problem
from instance_manager.log import get_logger
from instance_manager.postgres.connection import Answer, ask, connect

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from pathlib import Path

    from psycopg import AsyncConnection

_log: Final = get_logger()
_FACTS_PERIODS: Final = 5
"""Facts are read less often than the probe asks: nothing that must be fast depends on them."""
_DEADLINE_SECONDS: Final = 5.0

_FACTS: Final = """
SELECT current_setting('server_version'),
       current_setting('server_version_num')::int,
       pg_is_in_recovery(),
       pg_postmaster_start_time(),
       (SELECT system_identifier::text FROM pg_control_system()),
       (SELECT timeline_id FROM pg_control_checkpoint()),
       CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_lsn()::text END,
       pg_last_wal_receive_lsn()::text,
       pg_last_wal_replay_lsn()::text,
       CASE WHEN pg_is_in_recovery() THEN coalesce(greatest(0, pg_wal_lsn_diff(
           greatest(pg_last_wal_receive_lsn(), receiver.latest_end_lsn),
           pg_last_wal_replay_lsn())), 0) ELSE 0 END::int8,
       CASE WHEN pg_is_in_recovery() THEN 0 ELSE
           (SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), redo_lsn) FROM pg_control_checkpoint())
       END::int8,
       current_setting('instance_manager.config_sha256', true),
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')::int,
       current_setting('max_connections')::int,
       current_setting('extension_control_path', true),
       current_setting('dynamic_library_path'),
       current_setting('shared_preload_libraries'),
       (SELECT coalesce(array_agg(name ORDER BY name), '{}') FROM pg_settings
         WHERE pending_restart),
       receiver.status,
       extract(epoch FROM clock_timestamp() - receiver.last_msg_receipt_time)::float8,
       (SELECT setting::float8 / 1000 FROM pg_settings WHERE name = 'wal_receiver_timeout')
  FROM (VALUES (1)) AS one LEFT JOIN pg_stat_wal_receiver AS receiver ON true
"""
_PENDING: Final = """
SELECT s.name, current_setting(s.name),
       (SELECT f.setting FROM pg_file_settings f
         WHERE f.name = s.name AND f.error IS DISTINCT FROM 'parse' ORDER BY f.seqno DESC LIMIT 1)
  FROM pg_settings s WHERE s.pending_restart ORDER BY s.name
"""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What the server said of itself; LSNs in its text form, *lag_bytes* 0 for a primary."""

    version: str
    version_number: int
    in_recovery: bool
    started_at: datetime
    system_identifier: str
    timeline: int
    current_lsn: str | None
    received_lsn: str | None
    replayed_lsn: str | None
    lag_bytes: int
    since_checkpoint_bytes: int
    """How much a primary has written since its last checkpoint began; 0 for a standby."""
    configuration_sha256: str | None
    connections: int
    connections_limit: int
    extension_control_path: str | None
    dynamic_library_path: str
    shared_preload_libraries: str
    pending_restart: Sequence[str]
    receiver_status: str | None
    """Of a standby's WAL receiver; None where there is none."""
    receiver_silent_seconds: float | None
    """Since the primary's last message."""
    receiver_timeout_seconds: float
    """``wal_receiver_timeout``."""


@dataclass(frozen=True, slots=True)
class PendingValue:
    """A parameter that waits for a restart: the value in force, and the one in the files."""

    name: str
    running: str | None
    configured: str | None


@dataclass(frozen=True, slots=True)
class Target:
    """Where the server answers, and as whom to ask it."""

    socket_directory: Path
    port: int
    user: str

    @property
    def socket(self) -> Path:
        """The server's socket."""
        return self.socket_directory / f".s.PGSQL.{self.port}"


class Observer:
    """Observes one server; :meth:`run` for ever, everything else reads what it saw.

    What it saw is kept with the moment of it, and judged by others: a question that is not
    answered changes nothing, and what was seen before gets old.
    """

    def __init__(
        self,
        target: Target,
        *,
        clock: Callable[[], float],
        period_seconds: float,
        needs_query: bool = False,
    ) -> None:
        self.probe: Probe | None = None
        self.query: Probe | None = None
        self.stream: Probe | None = None
        self.facts: ServerFacts | None = None
        self.lag: Lag | None = None
        self.pending: tuple[PendingValue, ...] = ()
        self.target = target
        self._clock = clock
        self._period = period_seconds
        self.needs_query = needs_query
        self._server = 0
        """Counts the servers that were forgotten: an answer may come after its server's end."""
        self._connection: AsyncConnection[tuple[Any, ...]] | None = None
        # One for each of the two loops: whoever clears a shared one would hide it from the other.
        self._due_to_ask, self._due_to_read = asyncio.Event(), asyncio.Event()
        # One owner at a time: a connection that is closed while another task waits on it would
        # take its number out of the loop after somebody else got that number.
        self._using = asyncio.Lock()

    async def ask(self) -> Answer:
        """Ask the postmaster once and remember its answer."""
        answer = await ask(
            self.target.socket,
            deadline_seconds=max(self._period, 1.0),
            user=self.target.user,
        )
        self.probe = self._seen("" if answer is Answer.ACCEPTS else f"the postmaster is {answer}")
        return answer

    async def run(self, is_alive: Callable[[], bool], on_answer: Callable[[Answer], None]) -> None:
        """Observe once a period while *is_alive*; tell each answer to *on_answer*.

        Both questions are asked side by side: neither has to wait for an answer to the other.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ask_on(is_alive, on_answer), name="observer: asking")
            group.create_task(self._read_on(is_alive), name="observer: reading")

    async def _ask_on(
        self, is_alive: Callable[[], bool], on_answer: Callable[[Answer], None]
    ) -> None:
        while True:
            if is_alive():
                # A new connection each time: one that is held goes on answering while the
                # postmaster lets nobody in.
                on_answer(await self.ask())
            await self._is_hurried(self._due_to_ask)

    async def _read_on(self, is_alive: Callable[[], bool]) -> None:
        turn = 0
        while True:
            if not is_alive():
                # Postgres waits for each of its sessions in a smart stop, and so it would for this
                # one.
                await self._disconnect()
                turn = 0
            else:
                if turn % _FACTS_PERIODS == 0 or self.needs_query:
                    await self.read_facts()
                turn += 1
            # Who hurries wants the facts, too, and not only in some periods.
            if await self._is_hurried(self._due_to_read):
                turn = 0

    def hurry(self) -> None:
        """Have the next observation made at once."""
        self._due_to_ask.set()
        self._due_to_read.set()

    async def _is_hurried(self, due: asyncio.Event) -> bool:
        """Wait for the next turn; return whether somebody could not wait for it."""
        try:
            async with asyncio.timeout(self._period):
                await due.wait()
        except TimeoutError:
            return False
        due.clear()
        return True

    async def read_facts(self) -> None:
        """Read the facts over the reserved connection; what can't be read stays as it was."""
        async with self._using:
            await self._read_facts()

    async def _read_facts(self) -> None:
        import psycopg

        server = self._server
        try:
            async with asyncio.timeout(_DEADLINE_SECONDS):
                connection = await self._connected()
                row = await (await connection.execute(_FACTS)).fetchone()
                if row is None:
                    return
                facts, pending = ServerFacts(*row), list[tuple[Any, ...]]()
                if facts.pending_restart:
                    pending = await (await connection.execute(_PENDING)).fetchall()
        except (psycopg.Error, OSError, TimeoutError) as error:
            _log.debug("postgres can't be observed", error=str(error) or type(error).__name__)
            # The answer of a server that has ended says nothing about the next one.
            if server == self._server:
                self.query = self._seen("a query failed")
            # After a deadline, a late answer may still come: the connection is of no use any more.
            await self._drop()
            return
        if server == self._server:
            self._remember(facts, pending)

    def _remember(self, facts: ServerFacts, pending: Sequence[tuple[Any, ...]]) -> None:
        self.facts = facts
        self.pending = tuple(PendingValue(*row) for row in pending)
        self.lag = Lag(facts.lag_bytes, self._clock())
        self.query = self._seen("")
        self.stream = self._seen(
            stream_problem(
                facts.receiver_status,
                facts.receiver_silent_seconds,
                facts.receiver_timeout_seconds,
                STALE_AFTER_PERIODS * self._period,
            )
            if facts.in_recovery
            else ""
        )

    async def has_loaded(self, configuration_sha256: str) -> bool:
        """Read the facts and return whether the server has loaded that configuration."""
        await self.read_facts()
        return self.facts is not None and self.facts.configuration_sha256 == configuration_sha256

    def forget(self) -> None:
        """Forget a server that has ended: nothing that it said holds for the next one."""
        # A query that is under way finds by it that its answer is too late.
        self._server += 1
        self.probe = self.query = self.stream = self.facts = self.lag = None
        self.pending = ()

    def _seen(self, problem: str) -> Probe:
        return Probe(not problem, problem, self._clock())

    async def _connected(self) -> AsyncConnection[tuple[Any, ...]]:
        if self._connection is None or self._connection.closed:
            self._connection = await connect(
                self.target.socket_directory,
                self.target.port,
                self.target.user,
                deadline_seconds=_DEADLINE_SECONDS,
            )
        return self._connection

    async def _disconnect(self) -> None:
        async with self._using:
            await self._drop()

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
