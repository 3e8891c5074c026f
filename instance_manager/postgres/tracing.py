"""Asking the dynamic loader what it makes of modules, with this server around them.

The server's program is started in the loader's trace mode, so that nothing of it runs, nor of the
module: see :mod:`~instance_manager.extensions.loader_trace`. Answers are remembered for as long
as the files stay what they are.
"""

from __future__ import annotations

import asyncio
import math
import os
from typing import TYPE_CHECKING, Final, NamedTuple

from instance_manager.errors import InstanceManagerError
from instance_manager.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence
    from pathlib import Path

    from instance_manager.extensions.loader_trace import Trace
    from instance_manager.supervision.children import Children

_log: Final = get_logger()
_AT_A_TIME: Final = 4
_DEADLINE_SECONDS: Final = 10.0
_OVERTIME_SECONDS: Final = 0.2
"""What has begun in time may take so much longer: no file can hold up a start for more."""
_REMEMBERED: Final = 10_000


class Question(NamedTuple):
    """A module, by its absolute path; *is_urgent* where the answer can't wait."""

    module: str
    is_urgent: bool = False


class Scene(NamedTuple):
    """What surrounds the modules.

    *library_path* is the server's LD_LIBRARY_PATH. *state* changes whenever a file may have
    changed that the loader could take.
    """

    library_path: str
    state: Hashable


class Tracer:
    """Asks the loader of one server's program."""

    def __init__(self, children: Children, program: Path, clock: Callable[[], float]) -> None:
        self._children = children
        self._program = program
        self._clock = clock
        self._known: dict[tuple[str, Scene], Trace | None] = {}
        # Root's loader would read and map whatever a volume holds.
        self._can_ask = os.geteuid() != 0

    async def ask(
        self, questions: Sequence[Question], scene: Scene, until: float
    ) -> dict[str, Trace]:
        """Return the answers by the modules' paths, those of the urgent ones in any case.

        Where a library path is set, the server by itself comes first, under its program's path:
        if it could not start, the modules are not asked about.

        Args:
            questions: each module once.
            scene: what surrounds them.
            until: no question that can wait is begun after this moment of the clock.
        """
        answers: dict[str, Trace] = {}
        # The urgent ones last, since the work is taken from the end.
        waiting = sorted(questions, key=lambda question: not question.is_urgent, reverse=True)
        if scene.library_path:
            program = str(self._program)
            alone = await self._answer(program, scene, _DEADLINE_SECONDS)
            answers.update({program: alone} if alone else {})
            if alone is None or not alone.is_clean:
                return answers
        async with asyncio.TaskGroup() as group:
            for _ in range(min(_AT_A_TIME, len(waiting))):
                group.create_task(self._work(waiting, answers, scene, until))
        return answers

    async def _work(
        self, waiting: list[Question], answers: dict[str, Trace], scene: Scene, until: float
    ) -> None:
        """Ask from the end of what is *waiting*, beside others who do so too."""
        while waiting:
            module, is_urgent = waiting.pop()
            rest = math.inf if is_urgent else until - self._clock()
            if rest > 0 or (module, scene) in self._known:
                deadline = min(_DEADLINE_SECONDS, rest + _OVERTIME_SECONDS)
                trace = await self._answer(module, scene, deadline)
                if trace is not None:
                    answers[module] = trace

    async def _answer(self, module: str, scene: Scene, deadline_seconds: float) -> Trace | None:
        key = (module, scene)
        if key in self._known or not self._can_ask:
            return self._known.get(key)
        trace = await self._run(module, scene.library_path, deadline_seconds)
        # What had all the time will not answer the next time either.
        if trace is not None or deadline_seconds == _DEADLINE_SECONDS:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[key] = trace
        return trace

    async def _run(self, module: str, library_path: str, deadline_seconds: float) -> Trace | None:
        """Return what the loader says, or None where it can't be asked."""
        # Here, since a start without volumes asks nothing.
        from instance_manager.extensions.loader_trace import parse, trace_variables

        preloaded = "" if module == str(self._program) else module
        try:
            done = await self._children.run(
                "the dynamic loader",
                # A loader without a trace mode would run the program: so it is told to do nothing.
                [self._program, "--version"],
                environment={"LC_ALL": "C"} | trace_variables(preloaded, library_path),
                deadline_seconds=deadline_seconds,
            )
        except InstanceManagerError as error:
            _log.debug("a module was not traced", module=module, reason=error.message)
            return None
        ending = "" if done.status.is_success else str(done.status)
        trace = parse(preloaded, done.output, done.errors, ending)
        # A loader that knows no trace mode would not know it the next time, either.
        self._can_ask = trace is not None
        if trace is None or not preloaded:
            return trace
        # What the server itself wants in vain is nothing that the module could bring.
        own = tuple(each for each in trace.undefined if each.by != str(self._program))
        return trace._replace(undefined=own)
