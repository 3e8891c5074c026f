"""The one owner of waits, with real children: statuses, orphans, masks, descriptors."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from instance_manager.errors import StartError, UnresponsiveError
from instance_manager.supervision import signals
from instance_manager.supervision.children import Child, Children, ExitStatus, Orphan
from tests.support.figures import Figures

ENVIRONMENT = {"PATH": "/usr/bin:/bin"}
SHELL = "/bin/sh"
DEADLINE = 60.0
DEAF = "trap '' TERM"


def with_children(
    body: Callable[[Children], Coroutine[Any, Any, None]],
    on_orphan: Callable[[Orphan], None] | None = None,
) -> None:
    async def main() -> None:
        with Children(on_orphan) as children:
            async with asyncio.timeout(DEADLINE):
                await body(children)

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def shell(children: Children, script: str, **options: Any) -> Any:
    return children.spawn("shell", [SHELL, "-c", script], environment=ENVIRONMENT, **options)


@pytest.mark.parametrize("code", [0, 1, 2, 127, 255])
def test_an_exit_code_is_reported_as_it_is(code: int) -> None:
    """The status of a child is the code that it ended with."""

    async def body(children: Children) -> None:
        status = await shell(children, f"exit {code}").wait()

        assert status == ExitStatus(code=code)

    with_children(body)


def test_a_signal_is_reported_as_a_signal() -> None:
    """A child that a signal ended has no exit code."""

    async def body(children: Children) -> None:
        child = shell(children, "kill -KILL $$")

        assert await child.wait() == ExitStatus(signal=signal.SIGKILL)
        assert str(child.status) == "signal SIGKILL"

    with_children(body)


def test_no_status_is_lost_or_confused_among_orphans(
    times: Callable[[int, int], int], figures: Figures
) -> None:
    """Hundreds of children at once that each leave an orphan all report their own code."""
    orphans: list[Orphan] = []
    left = ExitStatus(code=3)

    async def body(children: Children) -> None:
        started: list[tuple[int, Child]] = []
        for number in range(600):
            code = number % 7
            started.append((code, shell(children, f"(sleep 0.002; exit 3) & exit {code}")))
            # As in the manager, the loop sees ends between starts.
            await asyncio.sleep(0)
        seen = [(code, (await child.wait()).code) for code, child in started]
        # What another test left behind may come too.
        await until(lambda: len([one for one in orphans if one.status == left]) >= len(started))

        assert [code for code, _ in seen] == [code for _, code in seen]
        assert children.orphans_reaped == len(orphans)
        figures.add("2 exit codes among orphans", number=len(seen))

    for _ in range(times(1, 10)):
        orphans.clear()
        with_children(body, orphans.append)


def test_an_orphan_is_reported_with_its_command() -> None:
    """What we reap without having started it is named, for the log."""
    orphans: list[Orphan] = []

    async def body(children: Children) -> None:
        done = await children.run(
            "shell",
            [SHELL, "-c", "sleep 0.01 > /dev/null 2>&1 & echo $!"],
            environment=ENVIRONMENT,
            deadline_seconds=DEADLINE,
        )
        # What another test left behind may come too.
        await until(lambda: int(done.output) in {one.pid for one in orphans})

        assert {one.command for one in orphans if one.pid == int(done.output)} == {"sleep"}

    with_children(body, orphans.append)


def test_a_child_starts_with_a_clean_signal_mask() -> None:
    """What the manager blocks or ignores, its children do not."""

    async def body(children: Children) -> None:
        done = await children.run(
            "grep",
            ["/bin/grep", "-E", "SigBlk|SigIgn", "/proc/self/status"],
            environment=ENVIRONMENT,
            deadline_seconds=DEADLINE,
        )

        blocked, ignored = (int(line.split()[1], 16) for line in done.output.splitlines())
        assert blocked == 0
        # The C library's posix_spawn ignores its own two internal signals, 32 and 33.
        assert ignored & ~(1 << 31 | 1 << 32) == 0

    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
    handled = {
        number: signal.signal(number, signal.SIG_IGN)
        for number in (signal.SIGUSR1, signal.SIGALRM, signal.SIGRTMIN + 3)
    }
    try:
        with_children(body)
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def test_a_child_gets_only_the_environment_and_descriptors_that_it_is_given() -> None:
    """Nothing of the manager leaks into a child but what is named."""

    async def body(children: Children) -> None:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        kept, other = os.pipe2(os.O_CLOEXEC)
        child = shell(
            children,
            "env; ls /proc/self/fd | tr '\\n' ' '",
            streams=(None, writing, None),
            inherit=(kept,),
        )
        os.close(writing)
        await child.wait()
        text = os.read(reading, 65536).decode()
        for descriptor in (reading, kept, other):
            os.close(descriptor)

        *variables, descriptors = text.splitlines()
        assert {line.split("=")[0] for line in variables} <= {
            "PATH",
            "PWD",
            "_",
            "SHLVL",
            "OLDPWD",
        }
        # 3 is the listing's own.
        assert set(map(int, descriptors.split())) == {0, 1, 2, 3, kept}

    with_children(body)


def test_a_program_that_is_not_there_is_a_start_error_that_names_it() -> None:
    """What can't be executed is an error at once, not an exit status."""

    async def body(children: Children) -> None:
        with pytest.raises(StartError, match=r"cannot start ghost: '/nowhere/ghost'"):
            children.spawn("ghost", ["/nowhere/ghost"], environment={})

    with_children(body)


def test_run_returns_what_the_tool_said_on_both_streams() -> None:
    """Output and errors are told apart."""

    async def body(children: Children) -> None:
        done = await children.run(
            "tool",
            [SHELL, "-c", "echo out; echo err >&2; exit 4"],
            environment=ENVIRONMENT,
            deadline_seconds=DEADLINE,
        )

        assert (done.output, done.errors, done.status.code) == ("out\n", "err\n", 4)

    with_children(body)


def test_run_does_not_wait_for_a_grandchild_that_holds_the_pipe() -> None:
    """A daemon that a tool leaves behind does not hang the manager."""

    async def body(children: Children) -> None:
        done = await children.run(
            "tool",
            [SHELL, "-c", "echo said; sleep 600 & echo $! >&2"],
            environment=ENVIRONMENT,
            deadline_seconds=DEADLINE,
        )
        os.kill(int(done.errors), signal.SIGKILL)

        assert done.output == "said\n"

    with_children(body)


def test_a_tool_that_is_too_late_is_ended_with_its_group() -> None:
    """After the deadline nothing of the tool is left."""

    async def body(children: Children) -> None:
        marker = f"60.{os.getpid()}"
        with pytest.raises(UnresponsiveError, match=r"cannot finish slow: no end within 0\.2 s"):
            await children.run(
                "slow",
                [SHELL, "-c", f"sleep {marker} & sleep {marker}; exit 0"],
                environment=ENVIRONMENT,
                deadline_seconds=0.2,
            )
        await until(lambda: marker not in commands())

    with_children(body)


def test_a_cancelled_tool_is_ended_before_the_cancellation_goes_on() -> None:
    """Whoever cancels a tool finds it gone."""

    async def body(children: Children) -> None:
        marker = f"61.{os.getpid()}"
        task = asyncio.create_task(
            children.run(
                "slow",
                ["/bin/sleep", marker],
                environment=ENVIRONMENT,
                deadline_seconds=DEADLINE,
            )
        )
        await until(lambda: sleeps(marker))
        task.cancel()
        await asyncio.wait([task])

        assert task.cancelled()
        assert marker not in commands()

    with_children(body)


def test_a_tool_that_is_cancelled_again_and_again_is_still_ended_first() -> None:
    """Whoever cancels more than once finds it gone too, and no other tool's output is lost."""

    async def body(children: Children) -> None:
        marker = f"62.{os.getpid()}"
        before = descriptors()
        task = asyncio.create_task(
            children.run(
                "deaf",
                [SHELL, "-c", f"{DEAF}; sleep {marker}"],
                environment=ENVIRONMENT,
                deadline_seconds=DEADLINE,
                grace_seconds=3600,
            )
        )
        await until(lambda: sleeps(marker))
        for _ in range(5):
            task.cancel()
            await asyncio.wait([task], timeout=0.02)
            assert not task.done()
            assert marker in commands()
        children.hasten(0)
        await asyncio.wait([task])
        assert task.cancelled()
        assert descriptors() == before
        await until(lambda: marker not in commands())

        done = await children.run(
            "next",
            [SHELL, "-c", "sleep 0.1; echo said"],
            environment=ENVIRONMENT,
            deadline_seconds=DEADLINE,
        )
        assert done.output == "said\n"

    with_children(body)


def test_an_end_that_is_cancelled_again_and_again_is_still_waited_for() -> None:
    """What cleans up behind a server is not given up halfway."""

    async def body(children: Children) -> None:
        marker = f"65.{os.getpid()}"
        child = shell(children, f"{DEAF}; sleep {marker}")
        await until(lambda: sleeps(marker))
        task = asyncio.create_task(children.end(child, grace_seconds=3600))
        for _ in range(5):
            await asyncio.wait([task], timeout=0.02)
            assert not task.done()
            task.cancel()
        children.hasten(0)
        await asyncio.wait([task])

        assert task.cancelled()
        assert child.status == ExitStatus(signal=signal.SIGKILL)

    with_children(body)


def test_what_a_tool_has_started_does_not_outlive_its_end() -> None:
    """A command that ignores TERM goes with the shell that doesn't."""

    async def body(children: Children) -> None:
        marker = f"63.{os.getpid()}"
        child = shell(children, f"({DEAF}; exec sleep {marker}) & wait")
        await until(lambda: sleeps(marker))
        await children.end(child)

        await until(lambda: marker not in commands())

    with_children(body)


@pytest.mark.parametrize("hastened_first", [False, True])
def test_what_is_being_ended_is_killed_when_the_time_is_over(hastened_first: bool) -> None:
    """However long its grace: whether it began to be ended before the time was set, or after."""

    async def body(children: Children) -> None:
        marker = f"64.{os.getpid()}"
        child = shell(children, f"{DEAF}; sleep {marker}")
        await until(lambda: sleeps(marker))
        if hastened_first:
            children.hasten(0.05)
        ending = asyncio.create_task(children.end(child, grace_seconds=3600))
        await asyncio.sleep(0)
        if not hastened_first:
            children.hasten(0.05)

        assert await ending == ExitStatus(signal=signal.SIGKILL)

    with_children(body)


def test_a_child_that_ignores_term_is_killed_after_the_grace() -> None:
    """End escalates, and says how it ended."""

    async def body(children: Children) -> None:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        child = shell(
            children,
            "trap '' TERM; echo ready; while :; do sleep 0.05; done",
            streams=(None, writing, None),
        )
        os.close(writing)
        await asyncio.get_running_loop().run_in_executor(None, os.read, reading, 16)
        os.close(reading)

        assert await children.end(child, grace_seconds=0.2) == ExitStatus(signal=signal.SIGKILL)

    with_children(body)


def test_a_tool_without_a_grace_is_killed_at_once() -> None:
    """One that owns nothing, and may not obey."""

    async def body() -> None:
        marker = f"66.{os.getpid()}"
        with Children(grace_seconds=3600) as children:
            running = children.run(
                "a tool",
                [SHELL, "-c", f"{DEAF}; sleep {marker}"],
                environment=ENVIRONMENT,
                deadline_seconds=3600,
                grace_seconds=0,
            )
            task = asyncio.create_task(running)
            async with asyncio.timeout(DEADLINE):
                await until(lambda: sleeps(marker))
                task.cancel()
                await asyncio.wait([task])
                await until(lambda: marker not in commands())

    asyncio.run(body())


def test_output_without_end_is_cut_at_the_limit() -> None:
    """A tool that floods its output costs bounded memory."""

    async def body(children: Children) -> None:
        done = await children.run(
            "flood",
            [sys.executable, "-c", "print('x' * (3 << 20))"],
            environment=ENVIRONMENT,
            deadline_seconds=DEADLINE,
        )

        assert len(done.output) == 1 << 20

    with_children(body)


def descriptors() -> set[str]:
    """Return this process's own descriptors, but for the one of the listing."""
    return {path.name for path in Path("/proc/self/fd").iterdir() if path.exists()}


def commands() -> str:
    """Return the command lines of all processes that aren't zombies, as one text."""
    texts: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            texts.append(path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
        except OSError:
            continue
    return "\n".join(texts)


def sleeps(marker: str) -> bool:
    """Say if the sleep itself runs, so that its shell has passed what stands before it."""
    return any(
        line.split() in (["sleep", marker], ["/bin/sleep", marker])
        for line in commands().splitlines()
    )


def test_a_signal_that_comes_amid_a_storm_of_ends_is_not_lost() -> None:
    """The way through asyncio has room for a few hundred, and 600 children end first."""
    asked = asyncio.Event()

    async def body(children: Children) -> None:
        signals.catch(signal.SIGTERM, asked.set)
        try:
            ends = [children.spawn("true", ["/bin/true"], environment={}) for _ in range(600)]
            pids = {child.pid for child in ends}
            # Not asynchronously: the loop must not get to its signals meanwhile.
            end = time.monotonic() + DEADLINE
            while not all(is_zombie(pid) for pid in pids):
                assert time.monotonic() < end
            os.kill(os.getpid(), signal.SIGTERM)
            async with asyncio.timeout(DEADLINE):
                await asked.wait()
                for child in ends:
                    assert (await child.wait()).is_success
        finally:
            signals.release(signal.SIGTERM)

    with_children(body)


def is_zombie(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] == "Z"
