"""Programs that a build runs: found on PATH, run by the one spawner, told of where they fail."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Final

from instance_manager.errors import DiskSpaceError, PermanentError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from instance_manager.supervision.children import Children, Completed

_DEADLINE_SECONDS: Final = 1800.0
_SHOWN: Final = 2000
_HOST: Final = (
    "on Debian and Ubuntu: apt-get install {}; elsewhere build in a container, by the Dockerfile"
    " that instance-manager extension dockerfile prints"
)


class BuildError(PermanentError):
    """A volume could not be made."""


def program(name: str, package: str) -> str:
    """Return the path of a program of this host.

    Raises:
        BuildError: there is none.
    """
    path = shutil.which(name)
    if path is None:
        raise BuildError(f"cannot find {name} on this host", hint=_HOST.format(package))
    return path


async def run_tool(
    children: Children,
    name: str,
    arguments: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    deadline_seconds: float = _DEADLINE_SECONDS,
    check: bool = True,
) -> Completed:
    """Run a program to its end, with this process's environment and *environment*.

    Raises:
        BuildError: it failed, and *check* is set; with its last words.
        DiskSpaceError: it failed for lack of space.
    """
    done = await children.run(
        name,
        arguments,
        # Their words are searched here, and should be the same in each locale.
        environment={**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})},
        deadline_seconds=deadline_seconds,
    )
    if check and not done.status.is_success:
        # The exit code of none of them tells it from another failure.
        if "No space left on device" in done.errors:
            raise DiskSpaceError(f"cannot finish {name}: no space left: {arguments[-1]}")
        # Some tools complain on their standard output.
        words = (done.errors.strip() or done.output.strip())[-_SHOWN:]
        raise BuildError(f"cannot finish {name}: {done.status}: {words}")
    return done
