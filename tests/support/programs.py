"""Programs that the tests of containers run inside them, or beside all of them."""

from __future__ import annotations

from typing import Final

GET: Final = """
import sys, time, urllib.error, urllib.request
deadline = time.monotonic() + float(sys.argv[2])
while True:
    try:
        answer = urllib.request.urlopen(sys.argv[1], timeout=5)
        sys.exit(print(answer.read().decode()))
    except urllib.error.HTTPError as error:
        last = f"{error.code} {error.read().decode()}"
    except OSError as error:
        last = str(error)
    if time.monotonic() > deadline:
        sys.exit(last)
    time.sleep(0.05)
"""
"""Waits for an answer of 200, or says the last one. Python, as the image has no HTTP client."""

PROBES: Final = """
import json, sys, time, urllib.error, urllib.request
def ask(path):
    try:
        return urllib.request.urlopen("http://127.0.0.1:8080" + path, timeout=1).status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
began, live, ready = time.monotonic(), set(), None
while ready != int(sys.argv[1]) and time.monotonic() - began < float(sys.argv[2]):
    ready = ask("/readyz")
    seconds = time.monotonic() - began
    live.add(ask("/livez"))
    time.sleep(0.05)
print(json.dumps({"ready": ready, "live": sorted(live), "seconds": seconds}))
"""
"""Notes what both probes answer until readiness answers what is wanted.

0 stands for no answer within the second that a kubelet waits.
"""

KILL: Final = """
set -- {them}
[ $# -gt 0 ] || exit 1
for pid; do kill -{name} $pid || ! [ -e /proc/$pid ] || exit 1; done
"""
"""Signals processes, of which there must be one; some may have ended since they were listed."""

INSERTS: Final = (
    "seq 1 100000000 | sed 's/.*/INSERT INTO inserted VALUES (&);\\n\\\\warn &/'"
    " | psql --no-psqlrc --quiet --username=postgres --dbname=postgres --set=ON_ERROR_STOP=1"
)
"""One INSERT after the other, each said on standard error once the server has confirmed it."""

COUNT_POSTMASTERS: Final = """
import json, os, select, sys
FORKED_WITHOUT_EXEC = 0x40
def is_postmaster(pid, place):
    with open(f"/proc/{pid}/stat") as file:
        head, _, tail = file.read().rpartition(")")
    if head.partition("(")[2] != "postgres" or int(tail.split()[6]) & FORKED_WITHOUT_EXEC:
        return False
    return os.path.samestat(os.stat(f"/proc/{pid}/cwd"), place)
def postmasters(place):
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if is_postmaster(int(name), place):
                yield int(name)
        except OSError:
            continue
seen = {}
while not select.select([sys.stdin], [], [], 0.01)[0]:
    try:
        found = list(postmasters(os.stat(sys.argv[1])))
    except FileNotFoundError:
        continue
    seen[len(found)] = found
print(json.dumps(seen))
"""
"""Counts the postmasters of a data directory, in whatever container, until its input ends.

Their children are forked and never executed, which the kernel knows (include/linux/sched.h). Says
which there were, by their number.
"""

SIGNAL_AFTER_EXEC: Final = """
import json, os, signal, sys, time
pid, delay = int(sys.argv[1]), float(sys.argv[2])
def program():
    return os.readlink(f"/proc/{pid}/exe").rpartition("/")[2]
def blocks_term():
    with open(f"/proc/{pid}/status") as file:
        mask = next(line for line in file if line.startswith("SigBlk:"))
    return bool(int(mask.split()[1], 16) & 1 << signal.SIGTERM - 1)
def wait_for(condition):
    end = time.monotonic() + 120
    while not condition():
        if time.monotonic() > end:
            sys.exit("too late")
runtime = program()
print("waiting", flush=True)
wait_for(lambda: program() != runtime)
began = time.monotonic()
if delay >= 0:
    wait_for(lambda: program().startswith("python") or blocks_term())
protected = blocks_term()
masked = time.monotonic()
wait_for(lambda: time.monotonic() - masked >= delay)
os.kill(pid, signal.SIGTERM)
print(json.dumps({"protected": protected, "mask_milliseconds": 1000 * (masked - began)}))
"""
"""Sends TERM so many seconds after the entrypoint of a prepared container has blocked it.

Says whether it was blocked before Python began, and after how long. With a negative number it is
sent as soon as the entrypoint is executed, blocked or not.
"""

PLAIN_SERVER: Final = """
initdb --no-sync --username=postgres --auth=trust /tmp/data > /tmp/initdb || exit 70
printf '%s' "$CONFIGURATION" >> /tmp/data/postgresql.conf
env LD_LIBRARY_PATH="$LOADER_PATH" \
    postgres -D /tmp/data -k /tmp -c listen_addresses= > /tmp/log 2>&1 &
server=$!
until pg_isready --quiet --host=/tmp; do
    kill -0 $server 2> /tmp/gone || { cat /tmp/log; exit 71; }
    sleep 0.05
done
for statement in "$@"; do
    psql --no-psqlrc --quiet --host=/tmp --username=postgres --dbname=postgres \
        --set=ON_ERROR_STOP=1 --command "$statement" || { cat /tmp/log; exit 72; }
done
kill -INT $server
wait $server
"""
"""Runs statements on a new server with the lines in $CONFIGURATION, its libraries in $LOADER_PATH.

The exit code is that of the server's fast stop, or says where it ended: 71 before the first
connection, 72 in a statement. Then the server's log is printed.
"""

LOADERS: Final = """
import json, shutil, sys
from pathlib import Path
sys.path.insert(0, "/checkout")
from tests.support.loader_oracle import disagreements
server = str(Path(shutil.which("postgres")).resolve())
modules = sorted(map(str, Path("/extensions").glob("*/lib/*.so")))
found = {path: disagreements(server, modules, path) for path in sys.argv[1:]}
packages = {place.name for place in Path("/extensions").glob("*/licenses/postgresql-*")}
print(json.dumps({"modules": len(modules), "packages": len(packages), **found}))
"""
"""Compares the real loader with its emulation for all modules.

Prints the disagreements for each LD_LIBRARY_PATH that is given.
"""
