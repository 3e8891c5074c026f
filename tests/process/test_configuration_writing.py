"""Writers that are killed, and disks that are full: the file is the old one or the new one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from instance_manager.configuration.writing import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable

KILLS = 25
LONGEST_LIFE_SECONDS = 0.02
CHECKOUT = Path(__file__).parents[2]
ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT)}
# Of different lengths, so that a file with a part of one and a part of the other is neither.
TEXTS = ("a" * 50_000, "b" * 300_000)

WRITER = """
import sys
from pathlib import Path
from instance_manager.configuration.writing import write_atomically
path, texts = Path(sys.argv[1]), ("a" * 50_000, "b" * 300_000)
turn = int(path.read_text()[0] == "a")
print("ready", flush=True)
while True:
    write_atomically(path, texts[turn])
    turn = 1 - turn
"""

FILLER = """
import sys
from pathlib import Path
from instance_manager.configuration.writing import write_atomically
from instance_manager.errors import DiskSpaceError
path = Path(sys.argv[1]) / "a"
write_atomically(path, "old")
try:
    write_atomically(path, "x" * 1_000_000)
except DiskSpaceError as error:
    print(error)
print(path.read_text(), sorted(it.name for it in path.parent.iterdir()))
"""


def kill_a_writer(path: Path, seconds: float) -> None:
    """Start a process that writes again and again, and kill it after some time."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, env=ENVIRONMENT
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(seconds)
        writer.send_signal(signal.SIGKILL)
        assert writer.wait() == -signal.SIGKILL


def test_a_killed_writer_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    """At whatever moment it dies, every byte is of one text."""
    path = tmp_path / "postgresql.conf"
    write_atomically(path, TEXTS[0])

    for turn in range(KILLS):
        kill_a_writer(path, LONGEST_LIFE_SECONDS * turn / KILLS)
        assert path.read_text() in TEXTS

    write_atomically(path, "whole")
    assert [it.name for it in tmp_path.iterdir()] == ["postgresql.conf"]


def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, lacking: Callable[[str, str], NoReturn]
) -> None:
    """The error is that of a full disk, and nothing is left of the new file."""
    unshare = shutil.which("unshare") or lacking("containers", "there is no unshare")
    users = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    script = 'mount -t tmpfs -o size=64k none "$1" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        [
            unshare,
            "--mount",
            *users,
            "sh",
            "-c",
            script,
            "sh",
            str(tmp_path),
            sys.executable,
            FILLER,
        ],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    if "unshare" in done.stderr or "mount" in done.stderr:
        lacking("containers", f"no namespace with a mount of its own: {done.stderr.strip()}")

    assert done.stdout.splitlines() == [
        f"cannot write '{tmp_path}/a': No space left on device",
        "old ['a']",
    ]
