"""Packages by the host's apt, resolved against what the base has, in a directory of our own.

Neither root nor the host's own lists are needed: apt gets the base's status file, its sources,
its keys and its preferences, and fetches into the cache. Signatures and hashes are its work.
"""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from instance_manager.errors import UsageError
from instance_manager.images.debian import bare_package
from instance_manager.images.tools import BuildError, program, run_tool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from instance_manager.images.base import Base
    from instance_manager.supervision.children import Children

_HERE: Final = re.compile(r"^'file:/*(/[^']+)' (\S+) \d+", re.MULTILINE)
_KEYS: Final = re.compile(r"(signed-by\s*[=:]\s*)(/[^\s\]]+)", re.IGNORECASE)


class Apt:
    """Apt with the base's packages as those that are installed.

    Args:
        children: what runs it.
        base: the base.
        cache: the directory that keeps lists and packages.
        options: further ``KEY=VALUE`` of apt.conf(5).
        host_sources: take the host's sources and keys in the place of the base's.
    """

    def __init__(
        self,
        children: Children,
        base: Base,
        cache: Path,
        options: Sequence[str] = (),
        *,
        host_sources: bool = False,
    ) -> None:
        self._children = children
        self._base = base
        self._archives = cache / "packages"
        sources = {} if host_sources else _sources(base)
        text = "\0".join(f"{name}\0{text}" for name, text in sorted(sources.items()))
        # Lists are of one set of sources: another base, or a repository that was added, has
        # others.
        identity = f"{base.architecture}\0{host_sources}\0{text}"
        self._state = cache / "lists" / hashlib.sha256(identity.encode()).hexdigest()[:16]
        self._options = [*self._own_options(host_sources=host_sources), *options]
        try:
            for directory in (self._archives / "partial", self._state / "lists" / "partial"):
                directory.mkdir(parents=True, exist_ok=True)
            self._write_sources(sources)
        except OSError as error:
            # A full disk is nothing that another --cache option was wrong about.
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise
            raise UsageError(
                f"cannot use --cache {str(cache)!r}: {error.strerror}",
                hint="it must be a directory that can be written to",
            ) from error

    def _own_options(self, *, host_sources: bool) -> list[str]:
        root, state = self._base.root, self._state
        own = [
            f"Dir::State={state}",
            f"Dir::State::Lists={state / 'lists'}",
            f"Dir::State::status={self._base.status}",
            f"Dir::State::extended_states={state / 'extended_states'}",
            f"Dir::Cache={state}",
            f"Dir::Cache::archives={self._archives}",
            f"APT::Architecture={self._base.architecture}",
            f"APT::Architectures={self._base.architecture}",
            # As another user apt could not read our directories.
            "APT::Sandbox::User=",
            # The locks are for a system's own directories; ours belong to no system.
            "Debug::NoLocking=1",
            "APT::Get::AllowUnauthenticated=false",
            # Translated descriptions are megabytes that nobody reads here.
            "Acquire::Languages=none",
            "Acquire::Retries=3",
        ]
        if not host_sources:
            own += [
                f"Dir::Etc::sourcelist={state / 'sources' / 'sources.list'}",
                f"Dir::Etc::sourceparts={state / 'sources' / 'sources.list.d'}",
                f"Dir::Etc::trusted={root / 'etc/apt/trusted.gpg'}",
                f"Dir::Etc::trustedparts={root / 'etc/apt/trusted.gpg.d'}",
                f"Dir::Etc::preferences={root / 'etc/apt/preferences'}",
                f"Dir::Etc::preferencesparts={root / 'etc/apt/preferences.d'}",
            ]
        return own

    def _write_sources(self, sources: dict[str, str]) -> None:
        directory = self._state / "sources"
        # What an interrupted build left could be a source that counts no more.
        shutil.rmtree(directory, ignore_errors=True)
        (directory / "sources.list.d").mkdir(parents=True)
        for name, text in sources.items():
            (directory / name).write_text(text, encoding="utf-8")

    async def update(self) -> None:
        """Fetch the lists of what there is.

        Raises:
            BuildError: apt refuses, as where a signature is wrong or a mirror does not answer.
        """
        try:
            await self._run("update", "--error-on=any")
        except BuildError as error:
            raise BuildError(
                error.message,
                # A hint of the program's own, such as that it is missing, says more.
                hint=error.hint
                or "the sources are the base's; --sources host takes this host's,"
                " --apt-option KEY=VALUE sets anything of apt.conf(5), --no-update takes the"
                " lists of the last time",
            ) from error

    async def fetch(self, packages: Sequence[str]) -> tuple[Path, ...]:
        """Return the files of the packages, with all that they need and the base lacks.

        Raises:
            BuildError: apt can't find or fetch them.
            UsageError: the base has one of them.
        """
        command = ("install", "--no-install-recommends", "--no-remove")
        plan = await self._plan(packages)
        for package in packages:
            # apt passes over what is installed already, and ends well.
            if bare_package(package) not in plan:
                raise UsageError(
                    f"cannot build from {package}: base {self._base.name} has it already",
                    hint="a server has what its image has; leave the package out",
                )
        await self._try(packages, *command, "--download-only", *packages)
        files = {self._file(*each) for each in plan.items()}
        if not all(file.exists() for file in files):
            # What is on this host already, apt takes from where it is.
            said = await self._try(packages, *command, "--print-uris", *packages)
            here = {name: Path(unquote(path)) for path, name in _HERE.findall(said)}
            files = {file if file.exists() else here.get(file.name, file) for file in files}
        return tuple(sorted(files))

    async def _plan(self, packages: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Return what would be installed: versions and architectures by name."""
        said = await self._try(
            packages, "install", "--no-install-recommends", "--no-remove", "--simulate", *packages
        )
        found = re.findall(
            r"^Inst (\S+) (?:\[[^]]*\] )?\((\S+) .*?\[(\S+)\]\)", said, re.MULTILINE
        )
        # Packages of another architecture than the base's have it in their names.
        return {name.partition(":")[0]: (version, kind) for name, version, kind in found}

    def _file(self, name: str, what: tuple[str, str]) -> Path:
        version, architecture = what
        # apt escapes the colon of an epoch in names of files.
        return self._archives / f"{name}_{version.replace(':', '%3a')}_{architecture}.deb"

    async def _try(self, packages: Sequence[str], *arguments: str) -> str:
        try:
            return await self._run(*arguments)
        except BuildError as error:
            raise BuildError(
                f"cannot get {', '.join(packages)} for base {self._base.name}: {error.message}",
                hint=error.hint
                or "does the base's distribution have it in this version? A repository of its"
                " own is added to the base, or --sources host takes this host's",
            ) from error

    async def _run(self, *arguments: str) -> str:
        options = [part for each in self._options for part in ("-o", each)]
        apt = program("apt-get", "apt")
        done = await run_tool(
            self._children,
            "apt-get",
            # Without a terminal there is nobody whom apt could ask.
            (apt, "--quiet=2", "--yes", *options, *arguments),
            environment={"DEBIAN_FRONTEND": "noninteractive"},
        )
        return done.output


def _sources(base: Base) -> dict[str, str]:
    """Return the base's lists of sources, whose keys are read where the base has them."""
    directory, found = base.root / "etc/apt", dict[str, str]()
    places = [directory / "sources.list", *sorted((directory / "sources.list.d").glob("*"))]
    for place in places:
        # As sources.list(5): apt reads no other names in sources.list.d.
        if place.is_file() and place.suffix in {".list", ".sources"}:
            text = place.read_text(encoding="utf-8", errors="replace")
            found[str(place.relative_to(directory))] = _KEYS.sub(
                lambda match: match[1] + _key(base, match[2]), text
            )
    if not found:
        raise UsageError(
            f"cannot get packages for base {base.name!r}: it has no sources in /etc/apt",
            hint="--sources host takes this host's",
        )
    return found


def _key(base: Base, path: str) -> str:
    place = base.place(path.lstrip("/"))
    return str(place) if place else path
