"""The image that a volume is made for: a directory, an archive of its files, or podman's image.

Nothing in it is run, and nothing written to it.
"""

from __future__ import annotations

import os
import shutil
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from instance_manager.errors import UsageError
from instance_manager.extensions.objects import ObjectFiles, platform_of
from instance_manager.images import archives
from instance_manager.images.debian import parse_os_release, parse_stanza
from instance_manager.images.tools import run_tool

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from instance_manager.extensions.linking import File, Platform
    from instance_manager.supervision.children import Children

_STATUS: Final = "var/lib/dpkg/status"
_MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True, slots=True)
class Base:
    """The files of an image with a server, whose program is *server*, and its loader.

    *digest* is the image's, empty where it came without one.
    """

    name: str
    digest: str
    root: Path
    files: ObjectFiles
    server: File
    platform: Platform
    major: int
    architecture: str
    system: dict[str, str]
    """What its os-release says."""

    @property
    def machine(self) -> str:
        """The machine's name as ``uname -m`` has it."""
        return _MACHINES.get(self.architecture, self.architecture)

    @property
    def status(self) -> Path:
        """The file that says which packages it has."""
        return self.root / _STATUS

    def place(self, path: str) -> Path | None:
        """Return where a path of the root is, if there is something."""
        place = self.files.place(f"/{path}")
        return place if place is not None and place.exists() else None

    def extensions(self) -> frozenset[str]:
        """Return the names of the extensions that the server has."""
        place = self.place(f"usr/share/postgresql/{self.major}/extension")
        names = os.listdir(place) if place else []  # noqa: PTH208 - names are what is wanted
        return frozenset(
            name.removesuffix(".control") for name in names if name.endswith(".control")
        )

    def modules(self) -> frozenset[str]:
        """Return the names of the files in the server's library directory."""
        place = self.place(f"usr/lib/postgresql/{self.major}/lib")
        return frozenset(os.listdir(place) if place else ())  # noqa: PTH208 - as above


@asynccontextmanager
async def open_base(
    children: Children, name: str, work: Path, major: int | None
) -> AsyncGenerator[Base]:
    """Yield the base of this name: a path, or an image that podman has.

    Raises:
        UsageError: there is none, or no server in it.
    """
    # A path goes before an image of podman's: it needs no program, and is what one sees.
    root = _root_of(name, work)
    if root is not None:
        yield _look(name, "", root, major)
    else:
        async with _image(children, name, work) as (root, digest):
            yield _look(name, digest, root, major)


def _root_of(name: str, work: Path) -> Path | None:
    """Return the files of a base that is named by a path; None where nothing is there."""
    path = Path(name)
    if path.is_dir():
        return path.absolute()
    if not path.is_file():
        return None
    archives.unpack_root(path, work / "base")
    return work / "base"


@asynccontextmanager
async def _image(children: Children, name: str, work: Path) -> AsyncGenerator[tuple[Path, str]]:
    podman = shutil.which("podman")
    if podman is None:
        raise UsageError(
            f"cannot use base {name!r}: no directory or file is there, and no podman",
            hint="name a directory with the files of the server's image, or an archive of them:"
            " docker export CONTAINER > base.tar",
        )
    found = await run_tool(
        children,
        "podman",
        (podman, "image", "inspect", "--format={{.Digest}}", "--", name),
        deadline_seconds=60,
        check=False,
    )
    if not found.status.is_success:
        raise UsageError(
            f"cannot use base {name!r}: no directory or file is there, and no image of podman",
            hint=f"podman pull {name}; podman says: {found.errors.strip()[-300:]}",
        )
    digest = found.output.strip()
    # Podman without root mounts in a user namespace of its own, which this process does not see.
    if os.geteuid() == 0:
        said = await run_tool(children, "podman", (podman, "image", "mount", name))
        try:
            yield Path(said.output.strip()), digest
        finally:
            await run_tool(children, "podman", (podman, "image", "unmount", name), check=False)
        return
    # Without root nothing can be mounted here: the files are copied instead.
    said = await run_tool(children, "podman", (podman, "create", name, "nothing"))
    container, archive = said.output.strip().splitlines()[-1], work / "base.tar"
    try:
        await run_tool(children, "podman", (podman, "export", f"--output={archive}", container))
    finally:
        await run_tool(children, "podman", (podman, "rm", container), check=False)
    archives.unpack_root(archive, work / "base")
    # The archive is as large as the image, and unpacked it is of no more use.
    archive.unlink()
    yield work / "base", digest


def _look(name: str, digest: str, root: Path, wanted: int | None) -> Base:
    # What the base has decides what a volume brings, and only dpkg's list says it.
    if not (root / _STATUS).is_file():
        raise UsageError(
            f"cannot use base {name!r}: it has no {_STATUS}",
            hint="the base is the image that the server runs in, with Debian's packages",
        )
    files = ObjectFiles(str(root))
    majors = sorted(
        int(each.parts[-3])
        for each in root.glob("usr/lib/postgresql/*/bin/postgres")
        if each.parts[-3].isdigit()
    )
    if not majors:
        raise UsageError(
            f"cannot use base {name!r}: there is no PostgreSQL in /usr/lib/postgresql",
            hint="the base is the image that the server runs in",
        )
    if wanted is not None and wanted not in majors:
        raise UsageError(
            f"cannot use base {name!r}: there is no PostgreSQL {wanted} in it, but"
            f" {', '.join(map(str, majors))}",
            hint="the names of packages and --postgres-major say for which server to build",
        )
    major = majors[-1] if wanted is None else wanted
    program = f"/usr/lib/postgresql/{major}/bin/postgres"
    # $ORIGIN of the server counts from where its file is.
    real = files.real(program)
    server = files.at(real) if real else None
    platform = platform_of(files, server.linkable) if server and server.linkable else None
    if server is None or platform is None:
        raise UsageError(
            f"cannot use base {name!r}: the loader of {program} is none that is known",
            hint="known is that of glibc on x86_64 and aarch64",
        )
    return Base(
        name=name,
        digest=digest,
        root=root,
        files=files,
        server=server,
        platform=platform,
        major=major,
        architecture=_architecture(root, name),
        system=parse_os_release(files.read("/etc/os-release").decode("utf-8", "replace")),
    )


def _architecture(root: Path, name: str) -> str:
    """Return the architecture of dpkg itself, which is the base's."""
    text = (root / _STATUS).read_text(encoding="utf-8", errors="replace")
    for stanza in text.split("\n\n"):
        # dpkg is the one package that is surely of the architecture itself, and not of `all`.
        if stanza.startswith("Package: dpkg\n"):
            return parse_stanza(stanza)["Architecture"]
    raise UsageError(f"cannot use base {name!r}: its {_STATUS} does not name dpkg")
