"""Asks the dynamic loader about one module, as a start does, in a process of its own.

Arguments: the server's program, the module, the library path, and whether it is urgent or may wait
for ever. Prints the answers as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from instance_manager.postgres.tracing import Question, Scene, Tracer
from instance_manager.supervision.children import Children


async def main(program: str, module: str, library_path: str, urgency: str) -> None:
    with Children() as children:
        tracer = Tracer(children, Path(program), time.monotonic)
        scene = Scene(library_path, 0)
        question = Question(module, is_urgent=urgency == "urgent")
        answers = await tracer.ask([question], scene, 0)
    sys.stdout.write(json.dumps(answers))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
