"""The events of a real manager, from a shell."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

from tests.support.manager import Manager, UnixConnection, until


def test_events_are_shown_and_followed_over_a_new_start_of_the_manager(
    manager: Manager, workspace: Path
) -> None:
    """One object a line as it happens; a gap is told, and Ctrl-C ends it."""
    manager.start().until_ready()
    listed = manager.run("events")
    assert listed.returncode == 0
    assert "Normal  StateChanged: the state is running" in listed.stdout.splitlines()[-1]

    with (workspace / "followed").open("w") as out, (workspace / "said").open("w") as err:
        follower = subprocess.Popen(
            manager.command("events", "--follow", "--output", "json"), stdout=out, stderr=err
        )
        try:
            until(lambda: "the state is running" in read(workspace), "the old ones are there")
            before = len(lines(workspace))
            assert manager.end() == 0
            manager.start().until_ready()
            until(lambda: len(lines(workspace)) > before + 2, "it has come back")
            until(lambda: lines(workspace)[-1].endswith("}"), "the line is whole")
            follower.send_signal(signal.SIGINT)
            assert follower.wait(60) == 128 + signal.SIGINT
        finally:
            follower.kill()
            follower.wait()

    ids = [json.loads(line)["id"] for line in lines(workspace)]
    assert len(set(ids)) == len(ids)
    assert len({each.partition("-")[0] for each in ids}) == 2
    assert "earlier events are forgotten" in (workspace / "said").read_text()


def read(workspace: Path) -> str:
    return (workspace / "followed").read_text()


def lines(workspace: Path) -> list[str]:
    return read(workspace).splitlines()


def test_a_reader_of_the_stream_does_not_delay_the_end_of_the_manager(manager: Manager) -> None:
    """It is told of the stop, and then of the end."""
    manager.start().until_ready()
    connection = UnixConnection(manager.socket)
    connection.request("GET", "/v1/events?follow")
    response = connection.getresponse()
    assert response.readline().startswith(b"retry: ")
    assert manager.end() == 0
    text = response.read().decode()
    connection.close()

    assert "the state is gone" in text
    assert text.rstrip().endswith('data: {"reason":"the manager ends"}')
