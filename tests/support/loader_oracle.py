"""The real dynamic loader as the judge of its emulation.

`disagreements` compares them for a list of modules, on this host or, for root, below another
directory that is a whole root (with its loader, libc, and ``/etc/ld.so.cache`` if it has one).
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from instance_manager.extensions.linking import Linker, Linking
from instance_manager.extensions.objects import ObjectFiles, platform_of, prepare

_LOADED = re.compile(r"^\t(\S+) => (/.*) \(0x[0-9a-f]+\)$")
_DIRECT = re.compile(r"^\t(/\S.*) \(0x[0-9a-f]+\)$")
_MISSING = re.compile(r"^\t(\S+) => not found$")
_SYMBOL = re.compile(r"undefined symbol: ([^\s,]+).*\s\((\S+)\)")
_VERSION = re.compile(r"(?<!weak )version `([^']+)' not found \(required by ([^)]+)\)")
_ABORT = re.compile(r"error while loading shared libraries: (\S+): (.*)")


class Answer(NamedTuple):
    """What a loader says; paths are real ones, so that links don't matter.

    *aborted* says that it stopped at a file: then the rest is not known.
    """

    loaded: frozenset[str]
    missing: frozenset[str]
    versions: frozenset[tuple[str, str]]
    symbols: frozenset[tuple[str, str]]
    aborted: str = ""


def disagreements(
    server: Path | str, modules: Iterable[Path | str], library_path: str = "", root: str = "/"
) -> list[str]:
    """Return where the emulation and the real loader differ, one line each; hopefully none.

    For each module two questions are asked of both: what ``ld.so`` would load from where and not
    find for it alone, and what the server's process would lack if it loaded the module
    (``LD_PRELOAD=MODULE LD_TRACE_LOADED_OBJECTS=1 LD_WARN=yes LD_BIND_NOW=1 postgres``):
    libraries, versions and symbols. Neither runs any code of the module.

    Args:
        server: the absolute path of ``postgres``, in the root.
        modules: absolute paths in the root.
        library_path: LD_LIBRARY_PATH for both.
        root: ``/``, or a directory to change the root to, which takes root's rights.
    """
    judge = RealLoader(str(server), library_path, root)
    found: list[str] = []
    for module in map(str, modules):
        found += differences(
            f"{module} by itself", judge.list(module), judge.emulated_list(module)
        )
        traced, emulated = judge.trace(module), judge.emulated_trace(module)
        found += differences(f"{module} in the server", traced, emulated)
    return found


def differences(subject: str, real: Answer, emulated: Answer) -> list[str]:
    """Return in what two answers on one subject differ, one line each.

    Of an object that lacks a version, symbols are not compared: those of that version are missing
    too, which the loader says of each that it comes upon, and the emulation of the version.
    """
    if real.aborted != emulated.aborted:
        stops = f"the loader stopped at {real.aborted!r}, the emulation at {emulated.aborted!r}"
        return [f"{subject}: {stops}"]
    compared: list[tuple[str, frozenset[Any], frozenset[Any]]] = [
        ("loaded", real.loaded, emulated.loaded),
        ("missing", real.missing, emulated.missing),
        ("versions", real.versions, emulated.versions),
        (
            "symbols",
            _unspoilt(real.symbols, real.versions),
            _unspoilt(emulated.symbols, real.versions),
        ),
    ]
    return [
        f"{subject}: {field}: only the loader has {_some(theirs - ours)},"
        f" only the emulation {_some(ours - theirs)}"
        for field, theirs, ours in compared
        if theirs != ours
    ]


def _unspoilt(
    symbols: frozenset[tuple[str, str]], versions: frozenset[tuple[str, str]]
) -> frozenset[tuple[str, str]]:
    places = {place for _, place in versions}
    return frozenset((name, place) for name, place in symbols if place not in places)


def _some(values: Collection[object]) -> str:
    found = sorted(map(str, values))
    return ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "") or "-"


class RealLoader:
    """Both loaders for one server and library path."""

    def __init__(self, server: str, library_path: str, root: str = "/") -> None:
        self.server, self.library_path, self.root = server, library_path, root
        self.files = ObjectFiles(root)
        made = prepare(server, self.files)
        assert made is not None, f"no known loader for {server}"
        self._linker = made.linker(library_path)
        program = self.files.at(server)
        assert program is not None
        assert program.linkable is not None
        platform = platform_of(self.files, program.linkable)
        assert platform is not None
        self.platform = platform

    def list(self, module: str) -> Answer:
        """Return what ``LD_TRACE_LOADED_OBJECTS=1 ld.so MODULE`` says."""
        # Unlike --list this goes on where something is missing.
        environment = {"LD_TRACE_LOADED_OBJECTS": "1"}
        return self._ask([self.platform.loader, module], environment, module)

    def trace(self, module: str) -> Answer:
        """Return what the server's process would lack, by the loader itself."""
        environment = {
            "LD_PRELOAD": module,
            "LD_TRACE_LOADED_OBJECTS": "1",
            "LD_WARN": "yes",
            "LD_BIND_NOW": "1",
        }
        return self._ask([self.server], environment, self.server)

    def emulated_list(self, module: str) -> Answer:
        """Return what the emulation says of the module as a program of its own."""
        file = self.files.at(module)
        if file is None or file.linkable is None:
            return _ABORTED._replace(aborted=file.problem if file else "not there")
        linker = Linker(self.files, self.platform, file, self.library_path)
        return self._answer(linker.server)._replace(symbols=frozenset())

    def emulated_trace(self, module: str) -> Answer:
        """Return what the emulation says of the module in the server."""
        (linking,) = self._linker.link([module])
        server = self._linker.server_with_symbols()
        return self._answer(
            server._replace(
                loaded=(*server.loaded, *linking.loaded),
                missing=(*server.missing, *linking.missing),
                unloadable=(*server.unloadable, *linking.unloadable),
                versions=(*server.versions, *linking.versions),
                symbols=(*server.symbols, *linking.symbols),
            )
        )

    def _answer(self, linking: Linking) -> Answer:
        if linking.unloadable:
            return _ABORTED._replace(aborted=linking.unloadable[0].problem)
        return Answer(
            self._without(linking.path, (each.path for each in linking.loaded)),
            frozenset(each.name for each in linking.missing),
            frozenset((each.version, self._real(each.needed_by)) for each in linking.versions),
            frozenset(
                (each.name.decode("utf-8", "replace"), self._real(each.needed_by))
                for each in linking.symbols
            ),
        )

    def _without(self, program: str, paths: Iterable[str]) -> frozenset[str]:
        """Return paths without the program and the loader, which is named only where needed."""
        ignored = {self._real(program), self._real(self.platform.loader)}
        return frozenset(map(self._real, paths)) - ignored

    def _real(self, path: str) -> str:
        return self.files.real(path) or path

    def _ask(self, command: Sequence[str], more: Mapping[str, str], program: str) -> Answer:
        environment = {"LC_ALL": "C", "LD_LIBRARY_PATH": self.library_path, **more}
        enter = None if self.root == "/" else partial(os.chroot, self.root)
        done = subprocess.run(
            command,
            env={name: value for name, value in environment.items() if value},
            capture_output=True,
            check=False,
            # The loader's variables must not reach a program that changes the root for us.
            preexec_fn=enter,
        )
        return self._read((done.stdout + done.stderr).decode("utf-8", "replace"), program)

    def _read(self, text: str, program: str) -> Answer:
        loaded: set[str] = set()
        missing: set[str] = set()
        versions: set[tuple[str, str]] = set()
        symbols: set[tuple[str, str]] = set()
        for line in text.splitlines():
            if match := _ABORT.search(line):
                return _ABORTED._replace(aborted=match[2])
            if match := _MISSING.match(line):
                missing.add(match[1])
            elif match := _LOADED.match(line):
                loaded.add(match[2])
            elif match := _DIRECT.match(line):
                loaded.add(match[1])
            elif match := _VERSION.search(line):
                versions.add((match[1], self._real(match[2])))
            elif match := _SYMBOL.search(line):
                symbols.add((match[1], self._real(match[2])))
        return Answer(
            self._without(program, loaded),
            frozenset(missing),
            frozenset(versions),
            frozenset(symbols),
        )


_ABORTED = Answer(frozenset(), frozenset(), frozenset(), frozenset())
