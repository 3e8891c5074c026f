"""Blocking work outside the loop: results, errors, cancellation, and an end without waiting."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading

import pytest

from instance_manager.supervision.threads import in_thread

DEADLINE = 30.0


async def bounded(name: str, function: object, *args: object) -> object:
    assert callable(function)
    async with asyncio.timeout(DEADLINE):
        return await in_thread(name, function, *args)


def test_a_result_comes_back() -> None:
    """Arguments go in, the value comes out."""

    async def body() -> None:
        assert await in_thread("sum", sum, [1, 2, 3], start=4) == 10
        assert await bounded("nothing", lambda: None) is None

    asyncio.run(body())


def test_the_work_is_done_in_a_thread_of_that_name() -> None:
    """People who look at a hung process see what hangs."""

    async def body() -> None:
        thread = await in_thread("statvfs", threading.current_thread)

        assert thread.name == "statvfs"
        assert thread is not threading.current_thread()
        assert thread.daemon

    asyncio.run(body())


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), OSError(5, "I/O error"), TimeoutError(), LookupError(), SystemExit(3)],
)
def test_an_exception_comes_back_as_it_was(error: BaseException) -> None:
    """The very same one, with its traceback."""

    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        asyncio.run(bounded("fail", fail))
    assert caught.value is error


def test_an_iterator_that_ends_is_an_error_too() -> None:
    """A future refuses StopIteration; whoever waits must hear of it all the same."""

    async def body() -> None:
        async with asyncio.timeout(DEADLINE):
            await in_thread("next", next, iter(()))

    with pytest.raises((StopIteration, RuntimeError)):
        asyncio.run(body())


def test_the_loop_goes_on_while_a_thread_is_blocked() -> None:
    """A hung call stops nothing but itself; several may hang at once."""
    release = threading.Event()

    async def body() -> None:
        tasks = [asyncio.create_task(in_thread("hung", release.wait)) for _ in range(50)]
        for _ in range(100):
            await asyncio.sleep(0)
        assert not any(task.done() for task in tasks)
        assert await in_thread("other", lambda: 1) == 1
        release.set()
        assert await asyncio.gather(*tasks) == [True] * 50

    asyncio.run(asyncio.wait_for(body(), DEADLINE))


def test_a_cancellation_returns_at_once_and_the_result_is_dropped() -> None:
    """The thread goes on alone, and what it brings later harms nobody."""
    release, finished = threading.Event(), threading.Event()

    def work() -> None:
        release.wait(2 * DEADLINE)
        finished.set()
        raise ValueError("nobody hears this")

    async def body() -> None:
        complaints: list[object] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        task = asyncio.create_task(in_thread("hung", work))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=DEADLINE)

        assert task.cancelled()
        assert not finished.is_set()
        release.set()
        while not finished.is_set():
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)
        assert complaints == []

    asyncio.run(body())


def test_a_deadline_works_on_a_blocked_thread() -> None:
    """The standard library's own timeout is all that a caller needs."""
    release = threading.Event()

    async def body() -> None:
        async with asyncio.timeout(0.05):
            await in_thread("hung", release.wait)

    with pytest.raises(TimeoutError):
        asyncio.run(body())
    release.set()


def test_a_thread_that_ends_after_its_loop_does_no_harm() -> None:
    """Nobody waits any more, and nothing is printed about it."""
    script = (
        "import asyncio, threading\n"
        "from instance_manager.supervision.threads import in_thread\n"
        "release, done = threading.Event(), threading.Event()\n"
        "def work():\n"
        "    release.wait()\n"
        "async def main():\n"
        "    task = asyncio.create_task(in_thread('late', work))\n"
        "    await asyncio.sleep(0)\n"
        "asyncio.run(main())\n"
        "thread = next(one for one in threading.enumerate() if one.name == 'late')\n"
        "release.set()\n"
        "thread.join()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_blocked_thread_does_not_keep_the_program_from_ending() -> None:
    """A read of a pipe that nobody writes hangs for ever, and the exit code is the program's."""
    script = (
        "import asyncio, os\n"
        "from instance_manager.supervision.threads import in_thread\n"
        "async def main():\n"
        "    task = asyncio.create_task(in_thread('hung', os.read, 0, 1))\n"
        "    await asyncio.sleep(0.05)\n"
        "    task.cancel()\n"
        "asyncio.run(main())\n"
        "raise SystemExit(7)\n"
    )
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        done = subprocess.run(
            [sys.executable, "-c", script],
            stdin=reading,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
    finally:
        os.close(reading)
        os.close(writing)

    assert (done.returncode, done.stderr) == (7, "")
