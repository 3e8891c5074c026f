"""What the scripts of extensions ask of the server's own directory, where no volume can be.

Only reads, but tens of megabytes of some volumes, so this is for a background thread and for
``check``, never on the way to the first connection. All that it finds are warnings.
"""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from instance_manager.extensions.facts import join
from instance_manager.extensions.files import open_regular, read_at
from instance_manager.extensions.findings import Code, finding
from instance_manager.extensions.library_search import SUFFIX
from instance_manager.extensions.paths import display

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from instance_manager.extensions.facts import ControlFacts, VolumeFacts
    from instance_manager.extensions.models import ExtensionsReport, Finding

_PIECE_BYTES: Final = 1024 * 1024
_OVERLAP_BYTES: Final = 1024
_MAXIMUM_FILE_BYTES: Final = 64 * 1024 * 1024
# PostGIS, which has many, comes to 39 MB.
_MAXIMUM_BYTES: Final = 512 * 1024 * 1024
_MAXIMUM_MATCHES: Final = 5000
_MAXIMUM_FINDINGS: Final = 20
# Patterns that begin with many fixed bytes are searched for as fast as memory is read.
_MACRO: Final = re.compile(rb"'\$libdir/([^'\n]{1,255})'")
_MODULE: Final = re.compile(rb"'MODULE_PATHNAME'")
# Also as a string in a string: EXECUTE 'LOAD ''x'''.
_LOAD: Final = re.compile(rb"(?i)\bLOAD\s+E?'?\Z")
_LOOK_BACK_BYTES: Final = 200


class Uses(NamedTuple):
    """The libraries that a script loads from ``$libdir``, and those below it that it names.

    *loads_module* says that it loads what stands for ``MODULE_PATHNAME``.
    """

    loaded: frozenset[str] = frozenset()
    nested: frozenset[str] = frozenset()
    loads_module: bool = False

    def joined(self, other: Uses) -> Uses:
        """Return what this one and *other* use."""
        return Uses(
            self.loaded | other.loaded,
            self.nested | other.nested,
            self.loads_module or other.loads_module,
        )


def uses_of(text: bytes) -> Uses:
    """Return what a part of a script uses, a piece of it: so many names are looked at in each."""
    loaded: set[str] = set()
    nested: set[str] = set()
    for match in islice(_MACRO.finditer(text), _MAXIMUM_MATCHES):
        name = display(match[1].decode("utf-8", "surrogateescape"))
        # Such a name is searched in no path, whether the script loads it or makes a function of
        # it.
        if "/" in name:
            nested.add(name)
        # In CREATE FUNCTION the server strips `$libdir/` before it searches; in LOAD it does not.
        elif _is_loaded(text, match.start()):
            loaded.add(name)
    modules = islice(_MODULE.finditer(text), _MAXIMUM_MATCHES)
    loads_module = any(_is_loaded(text, match.start()) for match in modules)
    return Uses(frozenset(loaded), frozenset(nested), loads_module)


def _is_loaded(text: bytes, place: int) -> bool:
    """Say whether what stands at *place* is the operand of ``LOAD``, outside of a comment."""
    before = text[max(place - _LOOK_BACK_BYTES, 0) : place]
    match = _LOAD.search(before)
    return match is not None and b"--" not in before[: match.start()].rpartition(b"\n")[2]


class ScriptReader:
    """Reads the scripts of one volume: each file once, however many names it has."""

    def __init__(self, volume: VolumeFacts) -> None:
        self._volume = Path(volume.path)
        self._read: dict[tuple[int, int], Uses] = {}
        self._left = _MAXIMUM_BYTES

    def uses_of(self, relative: str) -> Uses:
        """Return what a script uses; nothing where it can't be read, which is said elsewhere."""
        try:
            path = self._volume / relative
            status = path.stat()
            key = (status.st_dev, status.st_ino)
            if key not in self._read:
                self._read[key] = self._read_file(path)
            return self._read[key]
        except (OSError, ValueError):
            return Uses()

    def _read_file(self, path: Path) -> Uses:
        uses = Uses()
        with open_regular(path) as (descriptor, size):
            # Bounded for the volume as a whole: many scripts are as long as a large one.
            end = min(size, _MAXIMUM_FILE_BYTES, self._left)
            self._left -= end
            for start in range(0, end, _PIECE_BYTES):
                # A name that a piece cuts is seen whole in the overlap.
                length = min(end - start, _PIECE_BYTES + _OVERLAP_BYTES)
                uses = uses.joined(uses_of(read_at(descriptor, start, length)))
        return uses


def judge(volume: VolumeFacts, own_libraries: Collection[str]) -> tuple[Finding, ...]:
    """Return what the scripts of a volume ask for in vain.

    *own_libraries* are the file names in the server's own directory, where it is found.
    """
    reader = ScriptReader(volume)
    findings: list[Finding] = []
    for control in volume.controls:
        findings += _judge_extension(control, reader, own_libraries)
    return tuple(findings[:_MAXIMUM_FINDINGS])


def _judge_extension(
    control: ControlFacts, reader: ScriptReader, own_libraries: Collection[str]
) -> Iterator[Finding]:
    loading: dict[str, list[str]] = {}
    naming: dict[str, list[str]] = {}
    pathname = control.control.module_pathname or ""
    # MODULE_PATHNAME stands for all of module_pathname; a nested one is a finding already.
    has_macro = pathname.startswith("$libdir/") and not control.control.is_nested
    module = {pathname.removeprefix("$libdir/")} if has_macro else frozenset[str]()
    for script in control.scripts:
        uses = reader.uses_of(join(control.script_directory, script))
        for name in uses.loaded.union(module if uses.loads_module else ()):
            if name not in own_libraries and name + SUFFIX not in own_libraries:
                loading.setdefault(name, []).append(script)
        for name in uses.nested:
            naming.setdefault(name, []).append(script)
    for name, scripts in sorted(loading.items()):
        message = f"uses LOAD '$libdir/{name}', which cannot be resolved from a volume;"
        message += f" {_statement(control, scripts)} will fail"
        yield _found(Code.LOAD_LIBDIR, control, scripts, message)
    for name, scripts in sorted(naming.items()):
        message = f"names '$libdir/{name}': a nested $libdir path is never searched in volumes"
        yield _found(Code.NESTED_LIBDIR, control, scripts, message)


def _statement(control: ControlFacts, scripts: Iterable[str]) -> str:
    """Return what runs these scripts: the one for an update has two versions in its name."""
    # name--1.0--1.1.sql is an update, name--1.0.sql an installation.
    is_update = all("--" in each.removeprefix(f"{control.extension}--") for each in scripts)
    if is_update:
        return f"ALTER EXTENSION {control.extension} UPDATE"
    return f"CREATE EXTENSION {control.extension}"


def _found(code: Code, control: ControlFacts, scripts: list[str], message: str) -> Finding:
    subject = join(control.script_directory, display(scripts[0]))
    others = len(scripts) - 1
    more = f" (and {others} more script{'s' if others > 1 else ''})" if others else ""
    return finding(code, subject, f"{subject}{more} {message}")


def with_script_findings(
    report: ExtensionsReport, volumes: Iterable[VolumeFacts], own_libraries: Collection[str]
) -> ExtensionsReport:
    """Return the report completed by what the scripts of its volumes ask for in vain."""
    found = {volume.name: judge(volume, own_libraries) for volume in volumes}
    described = tuple(
        volume.model_copy(update={"findings": (*volume.findings, *found.get(volume.name, ()))})
        for volume in report.volumes
    )
    return report.model_copy(update={"volumes": described})
