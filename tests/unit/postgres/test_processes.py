"""What proc(5) says of processes, on the one process that is surely there."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from instance_manager.postgres import processes


def test_this_process_is_told_by_all_that_it_is() -> None:
    """Parent, group, program, arguments, directory, and when it started."""
    me = processes.look(os.getpid())

    assert me is not None
    assert (me.parent, me.group) == (os.getppid(), os.getpgrp())
    assert me.program == Path(sys.executable).resolve().name
    assert me.arguments[0]
    assert me.directory == processes.identity_of(Path.cwd())
    assert not me.is_uninterruptible
    assert 0 <= time.time() - me.started_at < 24 * 3600


def test_a_process_is_not_taken_for_another_one_with_its_pid() -> None:
    """The start time tells."""
    me = processes.look(os.getpid())

    assert me is not None
    assert processes.is_alive(me.pid, me.started_ticks)
    assert not processes.is_alive(me.pid, me.started_ticks + 1)


def test_this_process_is_none_of_the_others() -> None:
    """Who looks for old processes must not find itself."""
    assert os.getpid() not in {process.pid for process in processes.others_of_mine()}


def test_what_is_not_there_is_none() -> None:
    """A pid that the kernel does not give, a path that nobody made."""
    nobody = 2**22 + 1

    assert processes.look(nobody) is None
    assert processes.identity_of(Path("/proc/nowhere")) is None
