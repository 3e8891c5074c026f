"""What the modules of a volume are for, where that decides whether the server uses them.

Pure: facts in, findings out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from instance_manager.extensions.findings import Code, finding
from instance_manager.extensions.library_search import SUFFIX, split_list
from instance_manager.extensions.signals import JIT_PROVIDER, OUTPUT_PLUGIN

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from instance_manager.extensions.facts import ServerFacts, VolumeFacts
    from instance_manager.extensions.models import Finding

_FIRST_WITH_LIST: Final = 180006
"""The first ``server_version_num`` that has ``output_plugin_libraries``."""
_TRUSTED: Final = "pgoutput, test_decoding"
"""Its default."""


def judge(
    volume: VolumeFacts, server: ServerFacts, parameters: Mapping[str, str]
) -> Iterator[Finding]:
    """Yield what the server will not use of a volume, or not as it lies there.

    Args:
        volume: what was found.
        server: one before 18.6 trusts every output plugin.
        parameters: the user's own, by names in lower case.
    """
    yield from _without_modules(volume)
    for library in volume.searched():
        if JIT_PROVIDER in library.entry_points:
            message = f"{library.path} provides just-in-time compilation, which the server loads"
            message += " only from its own library directory"
            yield finding(Code.JIT, library.path, message)
    if server.number >= _FIRST_WITH_LIST:
        # Given, the parameter replaces the default and does not add to it.
        trusted = parameters.get("output_plugin_libraries", _TRUSTED)
        yield from _untrusted(volume, trusted)


def _without_modules(volume: VolumeFacts) -> Iterator[Finding]:
    for directory in volume.paths.dynamic_library_path:
        # An image of shared libraries may have them in lib: both lists have it by default.
        if directory == "lib" and directory in volume.paths.ld_library_path:
            continue
        libraries = [each for each in volume.libraries if each.directory == directory]
        # A directory whose files can't be read as libraries has been judged for that.
        if any(each.magic for each in libraries) and not any(each.is_module for each in libraries):
            message = f"directory {directory} has no PostgreSQL modules; use ld_library_path for"
            yield finding(Code.NO_MODULES, directory, f"{message} dependencies")


def _untrusted(volume: VolumeFacts, trusted: str) -> Iterator[Finding]:
    names = split_list(trusted) or ()
    for library in volume.searched():
        name = library.name.removesuffix(SUFFIX)
        # The server compares with what the client asked for, letter by letter.
        if OUTPUT_PLUGIN in library.entry_points and name not in names:
            message = f'"{name}" is a logical decoding plugin, which output_plugin_libraries does'
            yield finding(Code.OUTPUT_PLUGIN, library.path, f"{message} not name")
