"""Who clears up behind ``extension test``: how it begins."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, sys, threading
def fork():
    print(threading.active_count(), flush=True)
    os._exit(0)
os.fork = fork
from instance_manager.cli import main
main(["extension", "test", "nothing"])
"""


def test_it_is_forked_while_there_is_one_thread() -> None:
    """What other threads hold at that moment would be held in it for ever."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=60
    )

    assert (done.stdout, done.stderr) == ("1\n", "")
