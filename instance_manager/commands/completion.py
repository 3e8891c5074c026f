"""``completion``: a script for a shell that completes commands, options and their values.

It is made from the parser itself, and runs no program of ours while it completes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast

import shtab

from instance_manager.errors import Exit

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

_KINDS: Final[Mapping[object, Any]] = {
    "FILE": shtab.FILE,
    "DIR": shtab.DIRECTORY,
    "PATH": shtab.DIRECTORY,
    "PATH|IMAGE": shtab.FILE,
}
"""How values are completed, by the names that the help gives to them."""


def run(options: argparse.Namespace) -> int:
    """Print the script."""
    parser: argparse.ArgumentParser = options.whole_parser()
    for action in _actions(parser):
        # The help's own word, so that no option has to say twice what it takes.
        if action.metavar in _KINDS:
            # Where shtab looks for it.
            vars(action)["complete"] = _KINDS[action.metavar]
    print(shtab.complete(parser, shell=options.shell))
    return Exit.DONE


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield what the parser takes, and what those of its sub-commands take."""
    # There is no public list of them.
    own: list[argparse.Action] = vars(parser)["_actions"]
    for action in own:
        yield action
        choices: object = action.choices
        if isinstance(choices, Mapping):
            for one in cast("Mapping[str, argparse.ArgumentParser]", choices).values():
                yield from _actions(one)
