"""An extension is added to a primary and its standby, one after the other, under their clients.

Both are containers of their own in one network, which has nothing but loopback; the standby was
made with pg_basebackup. Nobody asks for anything but the volume and a new container.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from tests.support.manager import until

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.container.conftest import Cluster, Images, Operand

READY_SECONDS: Final = 120
PORTS: Final = {"primary": 5432, "standby": 5433}
HEALTH: Final = {"primary": 8080, "standby": 8081}
RULES: Final = (
    "host all postgres 127.0.0.1/32 trust",
    "host replication postgres 127.0.0.1/32 trust",
)
CONNINFO: Final = "host=127.0.0.1 port=5432 user=postgres application_name=standby"
COPY: Final = """
pg_basebackup --host=127.0.0.1 --port=5432 --username=postgres --wal-method=stream \\
    --checkpoint=fast --pgdata=/var/lib/postgresql/data/pgdata
touch /var/lib/postgresql/data/pgdata/standby.signal
"""
CLIENT: Final = """
import signal, sys, time
import psycopg
ended = []
signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
where = f"host=127.0.0.1 port={sys.argv[1]} user=postgres dbname=postgres"
kept, answers = psycopg.connect(where, autocommit=True), 0
while not ended:
    with psycopg.connect(where) as fresh:
        for connection in (kept, fresh):
            (number,) = connection.execute("SELECT count(*) FROM items").fetchone()
            assert number == 100, number
    answers += 1
    print(answers, flush=True)
    time.sleep(0.02)
"""
"""Asks over one connection that stays and a new one each time; ends with 1 at the first error."""


class Pair:
    """A primary and its standby, in the network of a container that does nothing."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._network = cluster.run("--entrypoint=sleep", command=("infinity",))
        self._data = {role: cluster.volume() for role in PORTS}
        self.servers: dict[str, Operand] = {}

    def start(self, role: str, extensions: dict[str, str] | None = None) -> Operand:
        """Start a container of one of them; return when clients may be sent there."""
        prefix = "--env=INSTANCE_MANAGER_"
        parameters = {"primary_conninfo": CONNINFO} if role == "standby" else {}
        operand = self._cluster.run(
            f"--env=PGPORT={PORTS[role]}",
            f"{prefix}HEALTH__LISTEN=*:{HEALTH[role]}",
            f"{prefix}HEALTH__READINESS=streaming",
            f"{prefix}CONTROL__LISTEN=null",
            f"{prefix}POSTGRES__HBA={json.dumps(RULES)}",
            f"{prefix}POSTGRES__PARAMETERS={json.dumps(parameters)}",
            data=self._data[role],
            extensions=extensions,
            beside=self._network,
        )
        operand.get("/readyz", port=HEALTH[role], seconds=READY_SECONDS)
        self.servers[role] = operand
        return operand

    def replace(self, role: str, extensions: dict[str, str]) -> None:
        """Stop one's container, and start another one with volumes on the same data."""
        assert self.servers[role].stop()[0] == 0
        self.start(role, extensions)

    def copy(self) -> None:
        """Make the standby's data of the primary's, as everybody does."""
        copying = self._cluster.run(
            "--entrypoint=sh",
            data=self._data["standby"],
            command=("-euc", COPY),
            beside=self._network,
        )
        assert copying.wait(120) == 0, copying.logs()

    def wait_streaming(self) -> None:
        """Return when the standby has all that the primary wrote so far."""
        end = self.servers["primary"].sql("SELECT pg_current_wal_insert_lsn()")
        replayed = f"SELECT pg_last_wal_replay_lsn() >= '{end}'"
        until(lambda: self.servers["standby"].sql(replayed) == "t", "the standby has it all")

    @contextmanager
    def asking(self, role: str) -> Generator[None]:
        """Require that a client of one gets an answer each time, before, within and after."""
        client = self._cluster.run(
            "--entrypoint=/opt/instance-manager/bin/python",
            command=("-I", "-c", CLIENT, str(PORTS[role])),
            beside=self._network,
        )
        wait_answers(client, 20)
        try:
            yield
            wait_answers(client, answers_of(client) + 20)
        finally:
            code, _ = client.stop()
        assert code == 0, client.logs()


def answers_of(client: Operand) -> int:
    """Return how many times a client was answered."""
    return max((int(line) for line in client.logs().split() if line.isdecimal()), default=0)


def wait_answers(client: Operand, number: int) -> None:
    """Return when a client was answered so many times."""
    until(lambda: answers_of(client) >= number, f"{number} answers")


def test_an_extension_is_added_standby_first_and_no_client_sees_an_error(
    cluster: Cluster, images: Images
) -> None:
    """Who asks the other instance meanwhile always gets an answer; then both have it."""
    volumes = {"pgvector": images.pgvector}
    pair = Pair(cluster)
    pair.start("primary").sql("CREATE TABLE items AS SELECT id FROM generate_series(1, 100) id")
    pair.copy()
    pair.start("standby")
    pair.wait_streaming()

    with pair.asking("primary"):
        pair.replace("standby", volumes)
    pair.wait_streaming()
    with pair.asking("standby"):
        pair.replace("primary", volumes)

    pair.servers["primary"].sql("CREATE EXTENSION vector")
    pair.servers["primary"].sql(
        "CREATE TABLE found AS SELECT id, ARRAY[id, 1]::vector AS at FROM items"
    )
    pair.wait_streaming()
    nearest = "SELECT id FROM found ORDER BY at <-> '[42,1]' LIMIT 1"
    assert {role: one.sql(nearest) for role, one in pair.servers.items()} == {
        "primary": "42",
        "standby": "42",
    }
    assert pair.servers["standby"].sql("SELECT pg_is_in_recovery()") == "t"
