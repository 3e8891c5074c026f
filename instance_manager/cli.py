"""The command line: parses, loads settings, and hands over to one sub-command.

Only the standard library is imported here: what a sub-command needs, its own module imports.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from instance_manager import __version__
from instance_manager.errors import Exit, InstanceManagerError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    class Commands(Protocol):
        """What argparse adds sub-commands to; its own class has no public name."""

        def add_parser(self, name: str, **options: Any) -> argparse.ArgumentParser:
            """Add one."""
            ...


_EXAMPLES = {
    "run": """examples:
  instance-manager run
  instance-manager --config /etc/instance-manager/config.yaml run --set postgres.port=5433""",
    "check": """examples:
  instance-manager check
  instance-manager check --extensions-root ./volumes --output json""",
    "compose": """examples:
  instance-manager compose --format conf >> postgresql.conf
  eval "$(instance-manager compose --format env)" && exec postgres -D "$PGDATA"
""",
    "extension": """examples:
  instance-manager extension inspect ./pgvector
  instance-manager extension inspect --help""",
    "config": """examples:
  instance-manager config show
  instance-manager config show --output json | jq '.items[] | select(.source != "default")'
  instance-manager config schema > schema.json""",
    "show": """examples:
  instance-manager config show
  instance-manager config show --set postgres.port=5433 | grep ^postgres
  instance-manager config show --output json | jq '.items[] | select(.source != "default")'""",
    "schema": """examples:
  instance-manager config schema > schema.json""",
    "openapi": """examples:
  instance-manager openapi > openapi.json
  instance-manager openapi | jq '.paths | keys'""",
    "install": """examples:
  instance-manager install /manager
  instance-manager install /manager --output json""",
    "completion": """examples:
  source <(instance-manager completion bash)
  instance-manager completion bash > /etc/bash_completion.d/instance-manager
  instance-manager completion zsh > "${fpath[1]}/_instance-manager"
""",
    "inspect": """examples:
  instance-manager extension inspect /extensions/*
  instance-manager extension inspect ./build/pgvector --postgres-major 18 --machine arm64
  instance-manager extension inspect ./pgvector --output json | jq '.volumes[].findings'""",
    "build": """examples:
  instance-manager extension build --package postgresql-18-pgvector \\
    --base ghcr.io/example/postgresql:18 --output pgvector
  instance-manager extension build --package postgresql-18-postgis-3 --name postgis \\
    --base ./rootfs --output oci-archive:postgis.tar --format json
  instance-manager extension build --from-directory ./installed --name mine \\
    --base ghcr.io/example/postgresql:18 --output dir:mine
  podman pull oci:pgvector""",
    "dockerfile": """examples:
  instance-manager extension dockerfile --package postgresql-18-pgvector \\
    --base ghcr.io/example/postgresql:18 > Dockerfile
  instance-manager extension dockerfile --package postgresql-18-cron --preload pg_cron \\
    --base ghcr.io/example/postgresql:18 | docker build --tag pg_cron:18 -""",
    "test": """examples:
  instance-manager extension test ./pgvector
  instance-manager extension test --sql "SELECT '[1]'::vector" localhost/pgvector:18
  instance-manager extension test ./pgrouting --with ./postgis --output json""",
    "status": """examples:
  instance-manager status
  instance-manager status --output json | jq .phase""",
    "events": """examples:
  instance-manager events
  instance-manager events --follow
  instance-manager events --follow --output json | jq 'select(.type == "Warning")'""",
    "start": """examples:
  instance-manager start
  instance-manager start --timeout 600
  instance-manager start --ignore-inventory""",
    "restart": """examples:
  instance-manager restart
  instance-manager restart --mode fast --output json""",
    "reload": """examples:
  instance-manager reload
  instance-manager --config /etc/instance-manager/config.yaml reload""",
    "checkpoint": """examples:
  instance-manager checkpoint
  instance-manager checkpoint --timeout 3600""",
    "fence": """examples:
  instance-manager fence
  instance-manager fence --mode immediate""",
    "unfence": """examples:
  instance-manager unfence
  instance-manager unfence --timeout 600""",
    "stop": """examples:
  instance-manager stop
  instance-manager stop --mode immediate --timeout 10""",
}

_LIFECYCLE = {
    "start": "start postgres and wait until it accepts connections",
    "stop": "stop postgres and keep it stopped",
    "restart": "stop postgres and start it again",
    "reload": "apply what needs no restart",
    "checkpoint": "write to disk what a crash recovery would have to repeat",
    "fence": "stop postgres and keep it stopped, over restarts of the container too",
    "unfence": "take the fence away and start postgres",
}
"""The commands that ask for an operation, and what they do."""
_UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""How a write fails where the output is a file, or a terminal that is gone."""
_CLIENTS = frozenset({*_LIFECYCLE, "status", "events", "config", "install"})
"""What answers programs with a document in every case, an error included."""


_GLOBAL = ("--config", "--log-level", "--version", "--help")
"""The options that may stand before the command too."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command and return its exit code."""
    if arguments is None:
        arguments = sys.argv[1:]
    try:
        code = _run(arguments)
        # Here, where it can still be caught that nobody reads any more.
        sys.stdout.flush()
    except SettingsError as error:
        _report_settings(error)
        return error.exit_code
    except InstanceManagerError as error:
        hint = f"\n  {error.hint}" if error.hint else ""
        _say(f"instance-manager: {error.message}{hint}")
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output has seen enough; nothing more can be said to them.
        _let_go_of_output()
        return Exit.FAILED
    except OSError as error:
        # The error of a write names no file. What ``run`` writes is more than its output.
        if error.errno not in _UNWRITABLE or error.filename is not None or "run" in arguments:
            raise
        print(f"instance-manager: cannot write the output: {error.strerror}", file=sys.stderr)
        _let_go_of_output()
        return Exit.FAILED
    except KeyboardInterrupt:
        # As a shell tells an end by that signal.
        return 128 + signal.SIGINT
    return code


def _let_go_of_output() -> None:
    """Have what is still to be written go nowhere, so that the interpreter's end says nothing."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: Sequence[str]) -> int:
    try:
        options = _parser(arguments).parse_args(arguments)
    except SystemExit as end:
        # After a help text, or a usage error that was told.
        if end.code and (misplaced := _misplaced(arguments)):
            # Else argparse takes the option's value for a command, and says only that.
            _say(f"  {misplaced} stands before the command: options of a command stand after it")
        return int(end.code or 0)
    if options.command != "run":
        # The front door blocked the signals for PID 1; a client wants Ctrl-C to work.
        signal.pthread_sigmask(
            signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP}
        )
    try:
        return _dispatch(options)
    except InstanceManagerError as error:
        if options.command in _CLIENTS and getattr(options, "output", "") == "json":
            from instance_manager.commands import failures

            print(failures.document_of(error), flush=True)
        raise


def _misplaced(arguments: Sequence[str]) -> str | None:
    """Return the first option before the command that only a command could have."""
    words = iter(arguments)
    for word in words:
        name, equals, _ = word.partition("=")
        if not name.strip("-") or not name.startswith("-"):
            return None
        # argparse takes the beginning of an option's name for all of it.
        if not any(each.startswith(name) for each in _GLOBAL):
            return name
        if not equals:
            next(words, None)
    return None


def _report_settings(error: SettingsError) -> None:
    problems = "".join(f"\n  {each}" for each in error.problems)
    hint = f"\n  {error.hint}" if error.hint else ""
    _say(f"instance-manager: the settings can't be used:{problems}{hint}")


def _say(text: str) -> None:
    """Tell people; what is in files and images of others must not move the cursor."""
    from instance_manager.commands.text import printable

    print("\n".join(map(printable, text.split("\n"))), file=sys.stderr)


def _dispatch(options: argparse.Namespace) -> int:
    name = "lifecycle" if options.command in _LIFECYCLE else options.command
    # Each command's module has its name, and is imported when it is asked for.
    module = importlib.import_module(f"instance_manager.commands.{name}")
    code: int = module.run(options)
    return code


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser; what has commands of its own is whole only where it is asked for."""
    parser = argparse.ArgumentParser(
        prog="instance-manager",
        description="PID 1 of an immutable PostgreSQL container, and the tools around it.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    _add_global(parser, None)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands)
    _add_check(commands)
    _add_compose(commands)
    _add_extension(commands, is_whole="extension" in arguments)
    _add_status(commands)
    _add_events(commands)
    _add_lifecycle(commands)
    _add_config(commands, is_whole="config" in arguments)
    _add(commands, "openapi", "print the description of the API, an OpenAPI document")
    _add_install(commands)
    _add_completion(commands)
    return parser


def _whole_parser() -> argparse.ArgumentParser:
    """Return the parser with every command of every group."""
    return _parser(("extension", "config"))


def _add_global(parser: argparse.ArgumentParser, default: str | None) -> None:
    """Add what may stand before the sub-command and after it; the later one counts."""
    levels = ("debug", "info", "warning", "error")
    parser.add_argument("--config", metavar="FILE", default=default, help="settings file (YAML)")
    parser.add_argument("--log-level", choices=levels, default=default, help="overrides log.level")


def _add(commands: Commands, name: str, summary: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=_EXAMPLES.get(name, ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # Without a default, which would overwrite what was given before the sub-command.
    _add_global(command, argparse.SUPPRESS)
    command.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override one setting, such as postgres.port=5433; may be repeated",
    )
    return command


def _add_run(commands: Commands) -> None:
    _add(commands, "run", "prove the volumes, start postgres, supervise it and serve the API")


def _add_check(commands: Commands) -> None:
    command = _add(commands, "check", "prove all that can be proven without starting postgres")
    command.add_argument("--output", choices=("text", "json"), default="text")
    command.add_argument("--extensions-root", metavar="DIR", help="look at other volumes")


def _add_compose(commands: Commands) -> None:
    command = _add(commands, "compose", "print what run would set, for others who start postgres")
    command.add_argument("--format", choices=("conf", "env", "json"), default="conf")


def _add_extension(commands: Commands, *, is_whole: bool) -> None:
    summary = "look into extension volumes, wherever they lie, and make them"
    group: argparse.ArgumentParser = commands.add_parser(
        "extension",
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=_EXAMPLES["extension"],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if is_whole:
        # Its own commands cost time that run need not spend.
        from instance_manager.commands import extension_arguments

        extension_arguments.add_to(group, _add)


def _add_status(commands: Commands) -> None:
    command = _add(commands, "status", "show the running instance")
    command.add_argument("--output", choices=("text", "json"), default="text")


def _add_events(commands: Commands) -> None:
    command = _add(commands, "events", "show what happened to the instance, newest last")
    command.add_argument("--output", choices=("text", "json"), default="text")
    command.add_argument("--follow", action="store_true", help="go on with what happens")


def _add_config(commands: Commands, *, is_whole: bool) -> None:
    summary = "show the settings in force, or their schema"
    group: argparse.ArgumentParser = commands.add_parser(
        "config",
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=_EXAMPLES["config"],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if is_whole:
        # The settings file has the name that the group would else have.
        inner: Commands = group.add_subparsers(
            dest="config_command", required=True, metavar="COMMAND"
        )
        show = _add(inner, "show", "print each setting in force, and where it comes from")
        show.add_argument("--output", choices=("text", "json"), default="text")
        _add(inner, "schema", "print the JSON Schema of the settings file")


def _add_install(commands: Commands) -> None:
    command = _add(commands, "install", "copy this program to a volume, for a foreign image")
    command.add_argument("directory", metavar="DIR", help="where the volume is mounted")
    command.add_argument("--output", choices=("text", "json"), default="text")


def _add_completion(commands: Commands) -> None:
    command = _add(commands, "completion", "print a script that completes this program's words")
    command.add_argument("shell", choices=("bash", "zsh"), help="the shell that reads it")
    # Its module lies below this one and can't ask for it.
    command.set_defaults(whole_parser=_whole_parser)


def _seconds(text: str) -> float:
    """Return a time to wait; argparse tells people what it could not be made of."""
    seconds = float(text)
    if not seconds >= 0:
        # Not a number is neither, and would never be reached.
        raise ValueError(text)
    return seconds


_seconds.__name__ = "number of seconds"
"""As argparse calls it in its message."""


def _add_lifecycle(commands: Commands) -> None:
    for name, summary in _LIFECYCLE.items():
        command = _add(commands, name, summary)
        command.add_argument("--output", choices=("text", "json"), default="text")
        command.add_argument(
            "--timeout", type=_seconds, default=300.0, metavar="SECONDS", help="how long to wait"
        )
        if name == "start":
            command.add_argument(
                "--ignore-inventory",
                action="store_true",
                help="this once, whatever databases need by the last inventory",
            )
        if name in {"stop", "restart", "fence"}:
            command.add_argument("--mode", choices=("smart", "fast", "immediate"))
