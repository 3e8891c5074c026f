"""The server's configuration as this instance needs it: assembled, rendered, written.

Files only; whoever calls it runs it in a thread. What the server makes of it is seen elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from instance_manager.configuration import hba, parameters, rendering, writing
from instance_manager.extensions import drift
from instance_manager.log import get_logger
from instance_manager.postgres import control_data, instance_state

if TYPE_CHECKING:
    from pathlib import Path

    from instance_manager.extensions.models import Composed
    from instance_manager.extensions.scan import Examination
    from instance_manager.postgres.account import Account
    from instance_manager.postgres.data_directory import OurFiles
    from instance_manager.settings.models import Settings

_log = get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Whose configuration it is, and where it goes."""

    files: OurFiles
    log_directory: Path
    major: int
    instance: str
    account: Account


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: the hash that the server gives back once it has loaded it."""

    sha256: str
    changed: bool
    system_identifier: str


def render_configuration(settings: Settings, examination: Examination, target: Target) -> str:
    """Return the text of our file of parameters."""
    return rendering.render(_assemble(settings, examination, target))


def write_configuration(
    settings: Settings, examination: Examination, target: Target, library_path: str = ""
) -> Written:
    """Write parameters, access rules and name maps, and make the server read them.

    A server that runs with *library_path* does not lose the directories that databases need.

    Raises:
        DataDirectoryError: the control file can't be read.
        DiskSpaceError: a file can't be written; the one before stays whole.
    """
    files = target.files
    state = _state(target)
    report = drift.with_needed(examination.report, library_path)
    examination = examination._replace(report=report)
    access = rules, maps = _access(settings, target, state)
    text = rendering.render(_assemble(settings, examination, target), access)
    changed = [
        # The parameters come last, since they name the other two: a start amid this finds those.
        writing.write_atomically(files.hba, rules),
        writing.write_atomically(files.ident, maps),
        writing.write_atomically(files.configuration, text),
    ]
    # When our file is there: the line that includes it is of no use before.
    writing.ensure_include(files.data_directory)
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
    for entry in writing.take_out_auto_entries(
        files.data_directory, parameters.TAKEN_FROM_AUTO_CONF, stamp
    ):
        _log.warning(
            "an entry of postgresql.auto.conf was taken out: the manager sets this parameter",
            name=entry.name,
            value=entry.value,
        )
    return Written(_hash_in(text), any(changed), state.system_identifier)


def search_paths(composed: Composed, major: int) -> dict[str, str]:
    """Return what the server of a bootstrap is told of the volumes."""
    names = ["dynamic_library_path", "shared_preload_libraries"]
    if major >= parameters.FIRST_MAJOR_WITH_CONTROL_PATH:
        names.append("extension_control_path")
    return {name: value for name in names if (value := getattr(composed, name))}


def _hash_in(text: str) -> str:
    """Return the hash that the text's last line carries."""
    parsed = rendering.parse_line(text.splitlines()[-1])
    return parsed[1] if parsed else ""


def _assemble(settings: Settings, examination: Examination, target: Target) -> dict[str, str]:
    server = parameters.Server(
        major=target.major,
        hba_file=target.files.hba,
        ident_file=target.files.ident,
        log_directory=target.log_directory,
        instance=target.instance,
    )
    return parameters.assemble(
        settings.postgres, examination.report.composed, examination.parameters, server
    )


def _state(target: Target) -> instance_state.InstanceState:
    """Return what is kept of the instance, made anew where it belongs to another cluster."""
    identifier = str(control_data.read(target.files.data_directory).system_identifier)
    known = instance_state.read(target.files.instance)
    # A restore puts another cluster here, with rules of its own that count.
    made_here = known is not None and known.made_here and known.system_identifier == identifier
    state = instance_state.InstanceState(identifier, target.instance, made_here)
    if state != known:
        instance_state.write(target.files.instance, state)
    return state


def _access(
    settings: Settings, target: Target, state: instance_state.InstanceState
) -> tuple[str, str]:
    postgres, superuser = settings.postgres, settings.bootstrap.superuser
    rules = hba.render_hba(
        superuser=superuser,
        major=target.major,
        lines=postgres.hba,
        inherited=_inherited(target, state, "pg_hba.conf"),
        host_auth_method=postgres.host_auth_method,
    )
    maps = hba.render_ident(
        superuser=superuser,
        system_user=target.account.login,
        major=target.major,
        lines=postgres.ident,
        inherited=_inherited(target, state, "pg_ident.conf"),
    )
    return rules, maps


def _inherited(target: Target, state: instance_state.InstanceState, name: str) -> str:
    """Return what a directory that we did not make says of its own, as lines for our file."""
    if state.made_here:
        return ""
    return writing.inherited_rules(target.files.data_directory / name, target.major)
