"""``compose`` for others: postgres as it comes, started by a shell or a script and not by us."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from instance_manager.postgres import account
from tests.support.manager import ACCOUNT, Manager, until

DISTANCE = "SELECT '[1,2,3]'::vector <-> '[3,2,1]'"
CONSUMER = """
import json, os, sys
composed = json.load(sys.stdin)
named = ("extension_control_path", "dynamic_library_path", "shared_preload_libraries")
parameters = [f"--{name}={composed[name]}" for name in named if composed[name]]
environment = {**os.environ, **composed["env"], "PATH": composed["path"]}
if composed["ld_library_path"]:
    environment["LD_LIBRARY_PATH"] = composed["ld_library_path"]
os.execve(sys.argv[1], [*sys.argv[1:], *parameters], environment)
"""


def as_account() -> Mapping[str, Any]:
    """Return what makes a child the account of postgres: root can't start a server."""
    if os.geteuid() != 0:
        return {}
    owner = account.find(ACCOUNT)
    return {"user": owner.uid, "group": owner.gid, "extra_groups": []}


class Stock:
    """A cluster that initdb made, and a server that a command line starts; no manager runs."""

    def __init__(self, manager: Manager) -> None:
        self.manager = manager
        self.data = manager.data
        programs = manager.server.bin_directory
        self.compose = shlex.join(manager.command("compose"))
        self.postgres = [str(programs / "postgres"), "-D", str(self.data)]
        self.postgres += ["-k", str(manager.directory), "-c", "listen_addresses="]
        initdb = [str(programs / "initdb"), "-D", str(self.data), "-U", "postgres", "-A", "trust"]
        options = ["--no-sync", "-E", "UTF8", "--locale=C"]
        subprocess.run([*initdb, *options], check=True, capture_output=True, **as_account())

    @contextmanager
    def started(self, script: str) -> Iterator[psycopg.Connection[Any]]:
        """Yield a session in the server that a shell script becomes."""
        log = self.manager.directory / "stock.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["/bin/sh", "-euc", script],
                stdout=output,
                stderr=output,
                env={"PATH": os.environ["PATH"], "PGDATA": str(self.data)},
                **as_account(),
            )
        try:
            session = until(lambda: self._connected(process, log), "the server answers")
            assert session is not None
            with session:
                yield session
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)

    def _connected(
        self, process: subprocess.Popen[bytes], log: Path
    ) -> psycopg.Connection[Any] | None:
        assert process.poll() is None, log.read_text()
        place = f"host={self.manager.directory} user=postgres dbname=postgres"
        try:
            return psycopg.connect(place, autocommit=True)
        except psycopg.OperationalError:
            return None

    def environment(self) -> dict[str, str]:
        """Return the environment of the postmaster."""
        pid = (self.data / "postmaster.pid").read_text().split()[0]
        entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
        return dict(entry.split("=", 1) for entry in entries if entry)


def ask(session: psycopg.Connection[Any], statement: str) -> Any:
    row = session.execute(statement.encode()).fetchone()
    assert row is not None
    return row[0]


@pytest.fixture
def stock(manager: Manager) -> Stock:
    """Return a stock server, and settings with pgvector as a volume that asks for something."""
    root = manager.directory / "it's volumes"
    volume = root / "pgvector"
    shutil.copytree(manager.server.extensions / "pgvector", volume)
    (volume / "bin").mkdir()
    metadata = volume / "share" / "instance-manager" / "extension.json"
    metadata.parent.mkdir()
    asked = {
        "shared_preload_libraries": ["vector"],
        "env": [{"name": "VECTOR_HOME", "value": "${image_root}/share"}],
    }
    metadata.write_text(json.dumps(asked))
    manager.settings["extensions"] = {"root": str(root), "volumes": [{"name": "pgvector"}]}
    manager.settings["postgres"]["shared_preload_libraries"] = ["pg_stat_statements"]
    manager.write_settings()
    return Stock(manager)


def require_as_composed(stock: Stock, session: psycopg.Connection[Any]) -> None:
    """Require that the server has what was composed, and that the extension works in it."""
    composed = json.loads(stock.manager.run("compose", "--format", "json").stdout)
    session.execute("CREATE EXTENSION vector")
    assert ask(session, DISTANCE) == pytest.approx(8**0.5)
    for name in ("extension_control_path", "dynamic_library_path", "shared_preload_libraries"):
        assert ask(session, f"SHOW {name}").replace(" ", "") == composed[name].replace(" ", "")
    environment = stock.environment()
    assert environment["VECTOR_HOME"].endswith("/it's volumes/pgvector/share")
    assert environment["PATH"] == composed["path"]
    assert environment["PATH"].endswith("/it's volumes/pgvector/bin")


def test_without_what_is_composed_a_stock_server_knows_nothing_of_a_volume(stock: Stock) -> None:
    """So that the tests below prove something."""
    with (
        stock.started(f"exec {shlex.join(stock.postgres)}") as session,
        pytest.raises(psycopg.errors.FeatureNotSupported, match="is not available"),
    ):
        session.execute("CREATE EXTENSION vector")


def test_a_stock_server_takes_the_lines_and_the_environment_from_a_shell(stock: Stock) -> None:
    """As the documentation says it: include, evaluate, start."""
    script = f"""
echo "include 'volumes.conf'" >> "$PGDATA/postgresql.conf"
{stock.compose} --format conf > "$PGDATA/volumes.conf"
composed=$({stock.compose} --format env) && eval "$composed"
exec {shlex.join(stock.postgres)}
"""
    with stock.started(script) as session:
        require_as_composed(stock, session)


def test_a_small_script_takes_the_document(stock: Stock) -> None:
    """Another manager needs no shell, and no file of the server's own."""
    consumer = shlex.join([sys.executable, "-I", "-c", CONSUMER, *stock.postgres])
    script = f"""
composed=$({stock.compose} --format json)
exec {consumer} <<END
$composed
END
"""
    with stock.started(script) as session:
        require_as_composed(stock, session)


def test_a_volume_that_can_not_work_keeps_nobody_from_starting(stock: Stock) -> None:
    """What is composed leaves it out, and the exit code of check is there to ask before.

    Lines and variables are taken as the help text of compose says it: append and evaluate.
    """
    library = stock.manager.directory / "it's volumes" / "pgvector" / "lib" / "vector.so"
    library.write_bytes(library.read_bytes()[:5000])
    script = f"""
{stock.compose} >> "$PGDATA/postgresql.conf"
eval "$({stock.compose} --format env)"
exec {shlex.join(stock.postgres)}
"""
    with stock.started(script) as session:
        assert ask(session, "SHOW shared_preload_libraries") == "pg_stat_statements"
    assert stock.manager.run("check").returncode == 3
