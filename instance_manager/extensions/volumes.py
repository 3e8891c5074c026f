"""One volume by itself: can it be used by this server?

Pure: facts in, findings out. What depends on other volumes is judged in ``preflight``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from instance_manager.extensions import environment
from instance_manager.extensions.findings import Code, finding
from instance_manager.extensions.libraries import judge_library
from instance_manager.extensions.paths import display, is_searchable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from instance_manager.extensions.control import ControlFile
    from instance_manager.extensions.facts import ControlFacts, ServerFacts, VolumeFacts
    from instance_manager.extensions.models import Finding
    from instance_manager.settings.models import VolumeSettings

FIRST_MAJOR: Final = 18
"""The first PostgreSQL that has ``extension_control_path``."""


def judge_volume(
    volume: VolumeFacts,
    server: ServerFacts,
    settings: VolumeSettings | None,
    preloaded: Collection[str],
) -> Iterator[Finding]:
    """Yield everything that can be said of a volume without looking at the others.

    Args:
        volume: what was found.
        server: what it must fit.
        settings: the volume's entry in ``extensions.volumes``.
        preloaded: the bare names of the libraries that the user wants loaded at the start.
    """
    # All else would be beside the point.
    if server.major < FIRST_MAJOR:
        message = (
            f'volume "{volume.name}" can\'t be used: PostgreSQL {server.major} has no'
            f" extension_control_path, which came with {FIRST_MAJOR}"
        )
        yield finding(Code.SERVER_TOO_OLD, volume.name, message)
        return
    yield from volume.obstacles
    # What could not be looked into can't be judged either, and would read as empty.
    if volume.is_open:
        yield from _judge_mount(volume)
        for control in volume.controls:
            yield from _judge_control(control)
        yield from _judge_libraries(volume, server)
        yield from _judge_modules(volume, preloaded)
        for problem in environment.of_volume(volume, settings).problems:
            yield finding(Code.ENVIRONMENT, volume.name, f'volume "{volume.name}": {problem}')


def _judge_mount(volume: VolumeFacts) -> Iterator[Finding]:
    name, path = volume.name, display(volume.path)
    if not is_searchable(volume.path):
        message = f"{path} contains a character that cannot be used in a search path"
        yield finding(Code.BAD_PATH, name, message)
    if not volume.is_mount:
        message = f"{path} is not a mount point; the image volume may be missing"
        yield finding(Code.NOT_A_MOUNT, name, f'extension volume "{name}": {message}')
    if is_empty(volume):
        message = f'volume "{name}" contains neither control files nor libraries'
        yield finding(Code.EMPTY, name, f"{message} (expected share/extension and lib)")
    if not volume.read_only:
        message = f'volume "{name}" is mounted read-write; extension volumes should be read-only'
        yield finding(Code.WRITABLE, name, message)
    # Control files and scripts are only read, which noexec does not touch.
    if volume.noexec and volume.libraries:
        message = f'volume "{name}" is mounted noexec; PostgreSQL could not load its libraries'
        yield finding(Code.NOEXEC, name, f'{message} ("failed to map segment from shared object")')


def is_empty(volume: VolumeFacts) -> bool:
    """Say whether a volume has neither control files nor libraries."""
    return not volume.controls and not volume.libraries


def _judge_control(facts: ControlFacts) -> Iterator[Finding]:
    yield from _problems(facts.path, facts.control, "pg_available_extensions")
    for path, control in facts.secondary:
        yield from _problems(path, control, "pg_available_extension_versions")
    name, default = facts.extension, facts.control.default_version
    if facts.versions is None:
        message = f'extension "{name}": script directory {facts.script_directory} does not exist'
        yield finding(Code.SCRIPT_DIRECTORY, facts.path, message)
    # Without default_version, CREATE EXTENSION can still name one.
    elif default is not None and default not in facts.versions:
        message = f"no installation script or update path for default version {default}"
        yield finding(Code.NO_DEFAULT_SCRIPT, facts.path, f'extension "{name}": {message}')
    elif not facts.versions:
        message = f'extension "{name}": no installation script'
        yield finding(Code.NO_DEFAULT_SCRIPT, facts.path, message)
    if facts.control.is_nested:
        message = f'extension "{name}": module_pathname is "{facts.control.module_pathname}";'
        message += " a nested $libdir path is never searched in volumes"
        yield finding(Code.NESTED_LIBDIR, facts.path, message)
    if facts.control.trusted:
        message = f'extension "{name}" is trusted: non-superusers with CREATE may install it'
        yield finding(Code.TRUSTED, facts.path, message)


def _problems(path: str, control: ControlFile, view: str) -> Iterator[Finding]:
    for line, reason in control.problems:
        place = f"{path}:{line}" if line else path
        message = f"{place}: {reason} (the server would fail every query on {view})"
        yield finding(Code.CONTROL_SYNTAX, path, message)


def _judge_libraries(volume: VolumeFacts, server: ServerFacts) -> Iterator[Finding]:
    searched = frozenset(volume.paths.dynamic_library_path)
    for library in volume.libraries:
        is_searched = library.directory in searched
        yield from judge_library(library, server, is_searched=is_searched)
        # The server tries the name without a suffix first, whatever that file is.
        hidden_by = library.name.removesuffix(".so")
        if is_searched and hidden_by in volume.suffixless:
            path = library.path.removesuffix(".so")
            message = f"{path} would be loaded instead of {library.path}"
            yield finding(Code.SUFFIXLESS, path, message)


def _judge_modules(volume: VolumeFacts, preloaded: Collection[str]) -> Iterator[Finding]:
    loaded = {each.control.module for each in volume.controls}
    loaded.update(preloaded, volume.metadata.shared_preload_libraries)
    for library in volume.searched():
        is_loaded = library.name in loaded or library.name.removesuffix(".so") in loaded
        # Libraries without a magic block may lie beside modules, as long as nobody asks the server
        # for them.
        if is_loaded and not library.is_module and not library.problem and library.magic:
            message = f"{library.path} is not a PostgreSQL module (no magic block)"
            yield finding(Code.NO_MAGIC, library.path, message)
