"""What people see while a command waits: a real terminal, a real stop that waits for a session."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.manager import Manager, until
from tests.support.screen import begun, on_terminal

DEADLINE = 60.0
SMART = ("stop", "--mode", "smart")
WAITS = "stop: stopping: smart: waiting for 1 session"


class Held:
    """A manager whose smart stops wait, until the one session is let go."""

    def __init__(self, manager: Manager, session: ExitStack) -> None:
        self.manager = manager
        self.let_go = session.close


@pytest.fixture
def held(manager: Manager) -> Iterator[Held]:
    """Yield a running manager with a session that stays."""
    manager.settings["shutdown"] = {"smart_seconds": 3600}
    manager.trust().start().until_ready()
    with ExitStack() as session:
        session.enter_context(manager.sql())
        yield Held(manager, session)


def seconds(lines: list[str]) -> int | None:
    """Return the time that the one line shows."""
    found = re.search(r"\((\d+) s\)$", lines[0]) if len(lines) == 1 else None
    return int(found[1]) if found else None


def test_on_a_terminal_one_line_says_what_is_waited_for_and_how_long_and_is_gone_at_the_end(
    held: Held,
) -> None:
    """It is drawn anew in its place, and nothing but the result is left."""
    with on_terminal(held.manager.command(*SMART)) as terminal:
        lines = terminal.until(lambda lines: seconds(lines) is not None, "the time is shown")
        first = seconds(lines)
        assert first is not None
        terminal.until(
            lambda lines: (seconds(lines) or 0) > first and lines[0].startswith(WAITS),
            "the time goes on, and the reason is told",
        )
        assert terminal.screen.highest == 1
        held.let_go()

        assert terminal.wait() == 0
        assert terminal.screen.lines == ["stop: done"]
        assert "\x1b[2m" in terminal.raw


@pytest.mark.parametrize("columns", [24, 4])
def test_on_a_narrow_terminal_the_line_is_cut_and_the_time_stays(held: Held, columns: int) -> None:
    """A line that went on in the next row could not be erased."""
    with on_terminal(held.manager.command(*SMART), columns=columns) as terminal:
        terminal.until(lambda lines: lines and "s" in lines[0], "something is shown")
        lines = terminal.until(
            lambda lines: lines and re.search(r"[1-9] s\)?$", lines[0]), "the time is shown"
        )
        assert len(lines[0]) < columns
        assert terminal.screen.highest == 1
        held.let_go()

        assert terminal.wait() == 0
        assert "".join(terminal.screen.lines) == "stop: done"


def test_a_window_that_was_made_narrower_keeps_the_line_whole(held: Held) -> None:
    """The width is asked for each time."""
    with on_terminal(held.manager.command(*SMART)) as terminal:
        terminal.until(lambda lines: lines and lines[0].startswith(WAITS), "the line is whole")
        terminal.resize(30)
        lines = terminal.until(lambda lines: lines and len(lines[0]) < 30, "the line is cut")

        assert "… (" in lines[0]


def test_a_terminal_that_does_not_tell_its_width_is_taken_for_the_usual_one(held: Held) -> None:
    """That of an ``exec`` into a container often says 0."""
    with on_terminal(held.manager.command(*SMART), columns=0) as terminal:
        terminal.screen = type(terminal.screen)(80)
        terminal.until(
            lambda lines: seconds(lines) and lines[0].startswith(WAITS), "the reason is told"
        )


def test_no_color_takes_the_colour_and_leaves_the_line(held: Held) -> None:
    """What NO_COLOR speaks of is colour (no-color.org)."""
    with on_terminal(held.manager.command(*SMART), NO_COLOR="1") as terminal:
        terminal.until(seconds, "the time is shown")

        assert not re.search(r"\x1b\[[\d;]*m", terminal.raw)


def test_a_terminal_that_knows_only_ascii_gets_only_that(held: Held) -> None:
    """What it can't show would take another width than was reckoned."""
    command = held.manager.command(*SMART)
    with on_terminal(command, columns=30, PYTHONIOENCODING="ascii") as terminal:
        terminal.until(
            lambda lines: seconds(lines) and "... (" in lines[0], "the line is cut with points"
        )


def test_a_terminal_that_can_not_erase_gets_whole_lines(held: Held) -> None:
    """No order for the cursor goes to it."""
    with on_terminal(held.manager.command(*SMART), TERM="dumb") as terminal:
        terminal.until(lambda lines: WAITS in lines, "the reason is told")
        held.let_go()

        assert terminal.wait() == 0
        # On a busy host it may also wait for what comes after the session.
        *waits, last = terminal.screen.lines
        assert last == "stop: done"
        assert all(line.startswith("stop: ") for line in waits[waits.index(WAITS) :])
        assert "\x1b" not in terminal.raw
        assert terminal.raw.replace("\r\n", "").isprintable()


def test_without_a_terminal_each_change_is_a_line_and_no_control_character_is_sent(
    held: Held,
) -> None:
    """As logs and pipes want it."""
    with begun(held.manager.command(*SMART), TERM="xterm") as client:
        assert client.stderr is not None
        told: list[str] = []
        while not told or told[-1] != f"{WAITS}\n":
            told.append(client.stderr.readline())
            assert told[-1], "it has ended"
        held.let_go()
        output, errors = client.communicate(timeout=DEADLINE)

    assert (client.returncode, output) == (0, "stop: done\n")
    told += errors.splitlines(keepends=True)
    assert all(line.removesuffix("\n").isprintable() for line in told)
    assert len(set(told)) == len(told)


def test_the_document_is_alone_on_standard_output_beside_the_line(held: Held) -> None:
    """The line is on standard error, so that a pipe gets JSON and people see that it waits."""
    reading, writing = os.pipe()
    with open(reading) as answer:  # noqa: PTH123 - it is a descriptor
        command = held.manager.command(*SMART, "--output", "json")
        with on_terminal(command, stdout=writing) as terminal:
            os.close(writing)
            terminal.until(seconds, "the time is shown")
            held.let_go()
            document = json.load(answer)

            assert terminal.wait() == 0
            assert (document["kind"], document["state"]) == ("stop", "succeeded")
            assert terminal.screen.lines == []


def test_what_is_done_at_once_leaves_the_result_alone(manager: Manager) -> None:
    """That it shows no line is proven where time does not count."""
    manager.trust().start().until_ready()
    assert manager.run("stop").returncode == 0
    with on_terminal(manager.command("stop")) as terminal:
        assert terminal.wait() == 0
        assert terminal.screen.lines == ["stop: done"]
        assert terminal.screen.highest <= 2


def test_a_manager_that_does_not_answer_is_told_as_what_is_waited_for(held: Held) -> None:
    """The time goes on though nothing comes, and Ctrl-C says what is not known."""
    process = held.manager.process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    try:
        with on_terminal(held.manager.command("stop")) as terminal:
            terminal.until(
                lambda lines: seconds(lines) and lines[0].startswith("stop: waiting for the ma"),
                "the silence is told",
            )
            terminal.type(b"\x03")

            assert terminal.wait() == 130
            first, unknown, look = "".join(terminal.raw.rpartition("\x1b[K")[2]).splitlines()
            assert first == "stop: no longer waited for; the manager has not answered yet"
            assert unknown.startswith("  whether the stop has begun is not known")
            assert look.endswith(" http://localhost/v1/operations")
    finally:
        process.send_signal(signal.SIGCONT)


def test_ctrl_c_before_any_answer_leaves_programs_a_document(held: Held) -> None:
    """That it is not known whether the operation has begun has a code of its own."""
    process = held.manager.process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    reading, writing = os.pipe()
    try:
        with open(reading) as answer:  # noqa: PTH123 - it is a descriptor
            command = held.manager.command("stop", "--output", "json")
            with on_terminal(command, stdout=writing) as terminal:
                os.close(writing)
                terminal.until(lambda lines: lines, "it waits")
                terminal.type(b"\x03")

                assert json.load(answer)["error"]["code"] == "interrupted"
                assert terminal.wait() == 130
    finally:
        process.send_signal(signal.SIGCONT)


def test_ctrl_c_on_the_terminal_takes_the_line_away_and_says_how_it_goes_on(held: Held) -> None:
    """The key itself, as the terminal makes a signal of it."""
    with on_terminal(held.manager.command(*SMART), columns=1000) as terminal:
        terminal.until(seconds, "the time is shown")
        terminal.type(b"\x03")

        assert terminal.wait() == 130
        assert terminal.screen.lines[0] == "stop: no longer waited for"
        assert "goes on in the manager, as operation " in terminal.screen.lines[1]
        assert "Traceback" not in terminal.raw
    until(lambda: held.manager.until_phase("stopping"), "the stop goes on")
