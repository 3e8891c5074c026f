"""The command line of ``extension …``: built only where it is asked for, not on the way to run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    Add = Callable[[Any, str, str], argparse.ArgumentParser]


def add_to(group: argparse.ArgumentParser, add: Add) -> None:
    """Add the commands of the group.

    Args:
        group: the parser of ``extension``.
        add: makes one command, with the options that all commands have.
    """
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_inspect(add(actions, "inspect", "show what volumes hold, and what is wrong with it"))


def _add_inspect(command: argparse.ArgumentParser) -> None:
    command.add_argument("paths", metavar="PATH", nargs="+", help="a directory that is a volume")
    command.add_argument("--output", choices=("text", "json"), default="text")
    command.add_argument(
        "--postgres-major", type=int, metavar="N", help="judge for this major version"
    )
    command.add_argument(
        "--machine", metavar="NAME", help="judge for this machine, such as x86_64 or aarch64"
    )
