"""The libraries that a volume must bring: all that its programs need and the base does not have.

What decides in the end is the loader's emulation, the same that judges volumes before a start:
see :mod:`~instance_manager.extensions.linking`. What is nowhere, or too old, is a finding.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Final

from instance_manager.extensions.elf import ElfError
from instance_manager.extensions.files import FileView, open_regular
from instance_manager.extensions.findings import Code, finding
from instance_manager.extensions.linkable import read_linkable, read_symbols
from instance_manager.extensions.linking import Linker
from instance_manager.extensions.run_time_data import opened_by
from instance_manager.images import data, opened
from instance_manager.images.beside import MOUNT, Mounted
from instance_manager.images.models import Added, LeftOut, Role

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from instance_manager.extensions.linking import Linking
    from instance_manager.extensions.models import Finding
    from instance_manager.images.base import Base
    from instance_manager.images.beside import Beside
    from instance_manager.images.models import Package
    from instance_manager.images.packages import Union
    from instance_manager.images.volume import VolumeTree

_GLIBC: Final = (
    *("ld-linux", "libc.so", "libm.so", "libdl.so", "libpthread.so", "librt.so"),
    *("libresolv.so", "libnss_", "libanl.so", "libutil.so", "libmvec.so"),
)
"""A process has one C library, which is the base's: no volume may bring a part of one."""
_MAXIMUM_TEXT: Final = 256 * 1024 * 1024
# The size of Elf64_Ehdr: what is shorter is no object.
_HEADER_BYTES: Final = 64
_SHOWN: Final = 8
_MISSING_HINT: Final = "add the package that has it with --package"
_LOADED_FROM: Final = re.compile(r"usr/lib(?:/[^/]+)?/[^/]+")
"""Where the loader looks by itself: not in the directories of plugins."""


class Closure:
    """Adds to *volume* what its programs need."""

    def __init__(
        self,
        volume: VolumeTree,
        union: Union,
        packages: Sequence[Package],
        base: Base,
        beside: Beside,
    ) -> None:
        self._volume = volume
        self._beside = beside
        self._union = union
        self._base = base
        self._candidates = union.libraries()
        self._others = {each.name for each in packages if each.role is Role.OTHER_EXTENSION}
        self._decided: set[str] = set()
        self.lent: dict[str, str] = {}
        """Names of modules of other extensions, and the packages that have them."""
        self._opened_elsewhere: set[str] = set()

    def add_all(self, roots: Sequence[str]) -> None:
        """Follow what the files at *roots* need, paths of the volume, and add it."""
        queue = list(roots)
        for path in queue:  # grows meanwhile
            queue += self._follow(path)
        # No error: what a library opens by name, it mostly does without.
        names = sorted(self._opened_elsewhere)
        if names:
            shown = ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")
            self._volume.ledger.notes.append(
                f"opened by name if they are there, and in no package that was fetched: {shown}"
            )

    def add_asked(self, packages: Sequence[Package]) -> list[str]:
        """Add all libraries of packages that were asked for by themselves; return their paths."""
        added: list[str] = []
        for name, path in sorted(self._candidates.items()):
            found = self._union.find(path)
            if (
                found is None
                or found.package is None
                or found.package not in packages
                or not _LOADED_FROM.fullmatch(path)
            ):
                continue
            # The names without a version are for builds only.
            if not name.endswith(".so") and not self._base_has(name):
                added += self._add(name, f"--package {found.package.name}", is_opened=False)
        return added

    def _follow(self, path: str) -> Iterator[str]:
        place = self._volume.root / path
        try:
            with open_regular(place) as (descriptor, size):
                view = FileView(descriptor, size)
                if size < _HEADER_BYTES or view[0:4] != b"\x7fELF":
                    return
                linkable = read_linkable(view)
                # Names of libraries stand in many texts; only who calls dlopen can open one.
                calls_dlopen = b"dlopen" in read_symbols(view).undefined
        except (OSError, ElfError):
            return  # what is wrong with it is preflight's to say
        for name in linkable.needed:
            yield from self._want(name, path, is_opened=False)
        names = set(opened_by(posixpath.basename(path)))
        if calls_dlopen and size <= _MAXIMUM_TEXT:
            content = place.read_bytes()
            names |= opened.names_in(content) | opened.names_in_notes(content)
        for name in sorted(names - {linkable.soname}):
            yield from self._want(name, path, is_opened=True)

    def _want(self, name: str, by: str, *, is_opened: bool) -> Iterator[str]:
        # A path is loaded from where it points, and no search finds it in a volume.
        if name in self._decided or "/" in name or name.startswith(_GLIBC):
            return
        if self._volume.has(f"lib/{name}") or self._volume.has(f"system/{name}"):
            return
        # A second copy would stand before the base's own (LD_LIBRARY_PATH), for the server itself
        # as well.
        if self._base_has(name):
            return
        holder = self._beside.holder(name)
        if holder is not None:
            self._volume.ledger.requires.add(holder)
        elif name in self._candidates:
            self._decided.add(name)
            yield from self._add(name, by, is_opened=is_opened)
        elif is_opened:
            self._opened_elsewhere.add(name)

    def _add(self, name: str, by: str, *, is_opened: bool) -> Iterator[str]:
        found = self._union.find(self._candidates[name])
        if found is None:
            return
        # Two copies of a module in one server have two states: the other extension's volume brings
        # it.
        if found.package is not None and found.package.name in self._others:
            self.lent[name] = found.package.name
            return
        file = posixpath.basename(found.path)
        path = f"system/{file}"
        if not self._volume.has(path):
            self._volume.put(path, found)
            package = found.package.name if found.package else ""
            size = found.place.stat().st_size
            added = Added(
                name=name, package=package, needed_by=by, opened=is_opened, size_bytes=size
            )
            self._volume.ledger.libraries.append(added)
            yield path
        # The loader asks for the SONAME, and the file has the whole version in its name.
        if file != name:
            self._volume.link(f"system/{name}", path)

    def _base_has(self, name: str) -> bool:
        """Say whether the base's loader finds a library by itself."""
        platform = self._base.platform
        return platform.cached(name) is not None or any(
            self._base.files.find(directory, name) for directory in platform.directories
        )

    def judge(self) -> Iterator[Finding]:
        """Yield what the loader would still lack in a server of the base."""
        mount = f"{MOUNT}{self._volume.name}"
        files = Mounted(self._base.files, {mount: self._volume.root, **self._beside.roots()})
        own = [f"{mount}/{each}" for each in ("lib", "system")]
        library_path = ":".join([*own, *self._beside.directories()])
        linker = Linker(files, self._base.platform, self._base.server, library_path)
        modules = [
            path
            for path in self._volume.files()
            if path.startswith("lib/") and path.endswith(".so") and path.count("/") == 1
        ]
        opened = [f"system/{each.name}" for each in self._volume.ledger.libraries if each.opened]
        paths = [f"{mount}/{path}" for path in (*modules, *opened)]
        seen: set[str] = set()
        for linking in linker.link(paths):
            for each in self._wrong(linking, f"{mount}/"):
                if each.message not in seen:
                    seen.add(each.message)
                    yield each

    def _wrong(self, linking: Linking, mount: str) -> Iterator[Finding]:
        module, who = linking.path.removeprefix(mount), mount
        # What is undefined may be defined by what another volume will bring.
        is_lent = any(each.name in self.lent for each in linking.missing)
        for each in linking.missing:
            if each.name not in self.lent:
                message = (
                    f"{each.needed_by.removeprefix(who)} needs {each.name}, which neither base"
                    f" {self._base.name} nor a package that was fetched has"
                )
                yield finding(Code.MISSING_LIBRARY, module, message, _MISSING_HINT)
        for one in linking.unloadable:
            message = f"{one.path.removeprefix(who)} is not loadable ({one.problem})"
            yield finding(Code.BAD_LIBRARY, module, message)
        for version in linking.versions:
            message = (
                f"{version.needed_by.removeprefix(who)} needs {version.file}({version.version}),"
                f" but {version.provider.removeprefix(who)} of base {self._base.name} does not"
                " provide it: the base is older than the package"
            )
            yield finding(Code.SYMBOL_VERSION, module, message)
        for symbol in () if is_lent else linking.symbols:
            name = symbol.name.decode("ascii", "backslashreplace")
            message = f"{symbol.needed_by.removeprefix(who)}: undefined symbol {name}"
            yield finding(Code.UNDEFINED_SYMBOL, module, message)


def add_data(volume: VolumeTree, union: Union, base: Base) -> list[str]:
    """Add the data that the volume's libraries look for when they run; return its programs.

    What the base has in its own place is found there.
    """
    names = [posixpath.basename(path) for path in volume.files() if ".so" in path]
    programs: list[str] = []
    for each in data.data_for(names):
        if base.place(f"{each.source}/{each.proof}") is not None:
            continue
        for path in union.below(each.source):
            place = f"{each.place}{path[len(each.source) :]}"
            found = union.find(path)
            # Nothing needs these when the library runs.
            if found is not None and not path.endswith((".pyc", ".a", ".h")):
                volume.put(place, found)
                programs += [place] if ".so" in posixpath.basename(path) else []
        if volume.has(f"{each.place}/{each.proof}"):
            volume.ledger.environment[each.variable] = each.value
    return programs


def note_others(volume: VolumeTree, packages: Sequence[Package], closure: Closure) -> None:
    """Note which packages were left to the volumes of other extensions."""
    for package in packages:
        if package.role is Role.OTHER_EXTENSION:
            reason = "another extension: mount its volume, or --bundle it"
            if package.name in closure.lent.values():
                reason = f"{reason}; modules of this volume load its libraries"
            volume.ledger.left_out.append(LeftOut(what=package.name, reason=reason))
