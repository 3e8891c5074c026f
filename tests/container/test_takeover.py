"""A data directory of the official image is served unchanged, and given back as it was.

What that image does at its first start is done here by hand: initdb, the rule for everybody else,
a temporary server that makes the database. See docker-entrypoint.sh of docker-library/postgres.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.figures import Figures

if TYPE_CHECKING:
    from tests.container.conftest import Cluster, Operand, Result

Times = Callable[[int, int], int]

AT = "/var/lib/postgresql"
PGDATA = f"{AT}/18/docker"
PASSWORD = "pass-1729"
OURS = "instance-manager"

# Its user postgres has this id, and owns what was made.
OFFICIAL_USER = "--user=999:999"
OFFICIAL_VARIABLES = (
    "--env=POSTGRES_USER=app",
    f"--env=POSTGRES_PASSWORD={PASSWORD}",
    "--env=POSTGRES_DB=shop",
)
OFFICIAL_PGDATA = f"--env=PGDATA={PGDATA}"
OFFICIAL = (
    OFFICIAL_USER,
    "--tmpfs=/run/postgresql",
    OFFICIAL_PGDATA,
    "--env=LANG=en_US.utf8",
    "--env=PGUSER=app",
    *OFFICIAL_VARIABLES,
)

# Its sample of postgresql.conf listens everywhere; initdb copies it.
MAKE = r"""
mkdir --parents "$PGDATA"
chmod 700 "$PGDATA"
printf '%s\n' "$POSTGRES_PASSWORD" > /tmp/password
initdb --username="$POSTGRES_USER" --pwfile=/tmp/password
sed --in-place --regexp-extended "s/^#listen_addresses = 'localhost'/listen_addresses = '*'/" \
    "$PGDATA/postgresql.conf"
printf '\nhost all all all %s\n' "$(postgres -C password_encryption)" >> "$PGDATA/pg_hba.conf"
pg_ctl --options="-c listen_addresses=''" --wait start
psql --dbname=postgres --command='CREATE DATABASE shop'
psql --dbname=shop --command='CREATE TABLE kept AS SELECT 42 AS answer'
pg_ctl --mode=fast --wait stop
"""

# What a person does who leaves us.
GIVE_BACK = f"""
sed --in-place "/^include_if_exists '{OURS}\\/postgresql.conf'$/d" "$PGDATA/postgresql.conf"
rm --recursive "$PGDATA/{OURS}"
"""

SERVE_PLAINLY = """
postgres -D "$PGDATA" > /tmp/log 2>&1 &
until pg_isready --quiet; do kill -0 $! || { cat /tmp/log >&2; exit 1; }; done
psql --dbname=shop --no-align --tuples-only --command="SELECT answer FROM kept" \
    --command="SELECT count(*) FROM pg_settings WHERE sourcefile NOT LIKE '$PGDATA/postgresql%'" \
    --command="SHOW hba_file" --command="SHOW listen_addresses"
kill -INT $!
wait
"""

INVENTORY = """
import hashlib, json, os
from pathlib import Path
root = Path(os.environ["PGDATA"])
def facts(path):
    status = path.lstat()
    is_text = path.parent == root and (path.suffix == ".conf" or path.name == "PG_VERSION")
    content = hashlib.sha256(path.read_bytes()).hexdigest() if is_text else ""
    return [oct(status.st_mode), status.st_uid, status.st_gid, content]
print(json.dumps({str(path.relative_to(root)): facts(path) for path in [root, *root.rglob("*")]}))
"""

# The rules of that image trust 127.0.0.1; psql can't choose another address of its own.
FROM_ELSEWHERE = """
import asyncio, subprocess, sys
async def copy(reader, writer):
    while part := await reader.read(65536):
        writer.write(part)
    writer.close()
async def relay(reader, writer):
    there = await asyncio.open_connection("127.0.0.1", 5432, local_addr=("127.0.0.9", 0))
    await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))
async def main():
    async with await asyncio.start_server(relay, "127.0.0.1", 6543):
        address = f"host=127.0.0.1 port=6543 user=app dbname=shop password={sys.argv[1]}"
        command = ["psql", "-XqAt", "--command=SELECT answer FROM kept", address]
        return await asyncio.to_thread(subprocess.call, command)
sys.exit(asyncio.run(main()))
"""


def login(operand: Operand, password: str) -> Result:
    """Read the table from an address for which a password is asked."""
    return operand.exec("python3", "-I", "-c", FROM_ELSEWHERE, password)


def inventory(cluster: Cluster, data: str) -> dict[str, list[Any]]:
    """Return mode, owner and, of configuration, the content of all that a directory holds."""
    found = cluster.tool(data, f"python3 -I - <<'END'\n{INVENTORY}\nEND", *OFFICIAL, at=AT)
    facts: dict[str, list[Any]] = json.loads(found)
    return facts


def official_data(cluster: Cluster) -> str:
    """Return a volume as the official image leaves it after its first start."""
    data = cluster.volume()
    cluster.tool(data, MAKE, *OFFICIAL, at=AT)
    return data


def require_given_back(cluster: Cluster, data: str, before: dict[str, list[Any]]) -> None:
    """Leave us, and require what was there before, and a plain server that serves it."""
    cluster.tool(data, GIVE_BACK, *OFFICIAL, at=AT)
    given_back = inventory(cluster, data)
    served = cluster.tool(data, SERVE_PLAINLY, *OFFICIAL, at=AT).splitlines()
    after = inventory(cluster, data)
    both = before.keys() & given_back.keys()
    files = {name for name, facts in before.items() if facts[-1]}

    assert {name: given_back[name] for name in both} == {name: before[name] for name in both}
    assert files >= {"postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf"}
    assert served == ["42", "0", f"{PGDATA}/pg_hba.conf", "*"]
    # A running server's own file, and the one that each start of postgres clears away.
    assert top_of(before) - {"postmaster.pid"} == top_of(given_back) - {"current_logfiles"}
    assert top_of(after) == top_of(given_back) - {"current_logfiles"}


def top_of(facts: dict[str, list[Any]]) -> set[str]:
    """Return the names directly in the directory."""
    return {name for name in facts if "/" not in name}


@pytest.mark.parametrize("options", [(), (OFFICIAL_PGDATA,)], ids=["found", "PGDATA"])
def test_a_directory_of_the_official_image_is_served_and_given_back(
    cluster: Cluster, times: Times, figures: Figures, options: tuple[str, ...]
) -> None:
    """Only the official variables are set; without us it is as it was, byte for byte."""
    for _ in range(times(1, 5)):
        data = official_data(cluster)
        before = inventory(cluster, data)

        began = time.monotonic()
        operand = cluster.run(OFFICIAL_USER, *OFFICIAL_VARIABLES, *options, data=data, at=AT)
        operand.wait_ready()
        seconds = time.monotonic() - began

        assert operand.status()["postgres"]["data_directory"] == PGDATA
        assert login(operand, PASSWORD).checked().out == "42\n"
        assert "password authentication failed" in login(operand, "wrong").error
        assert operand.stop()[0] == 0
        require_given_back(cluster, data, before)
        figures.add("official directory taken over, given back", ready_seconds=seconds)
        cluster.remove()


def test_a_killed_server_of_the_official_image_is_recovered_and_given_back(
    cluster: Cluster, times: Times, figures: Figures
) -> None:
    """It was PID 1, as its successor's manager is: the pid in its file means nobody."""
    for _ in range(times(1, 5)):
        data = official_data(cluster)
        server = f'--entrypoint=["postgres", "-D", "{PGDATA}"]'
        official = cluster.run(server, *OFFICIAL, data=data, at=AT)
        official.wait_log("ready to accept connections")
        official.exec("psql", "--dbname=shop", "--command=UPDATE kept SET answer = 42").checked()
        official.signal("KILL")
        assert official.wait(60) == 137
        before = inventory(cluster, data)

        began = time.monotonic()
        operand = cluster.run(OFFICIAL_USER, *OFFICIAL_VARIABLES, data=data, at=AT).wait_ready()
        seconds = time.monotonic() - began

        assert "postmaster.pid" in before
        assert login(operand, PASSWORD).checked().out == "42\n"
        assert operand.stop()[0] == 0
        require_given_back(cluster, data, before)
        figures.add("killed official server taken over, given back", ready_seconds=seconds)
        cluster.remove()
