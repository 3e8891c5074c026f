"""Other volumes that will be mounted beside the one that is built: what they offer is not brought.

That they are there is recorded: a server without them is told what it lacks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from instance_manager.errors import UsageError
from instance_manager.extensions.exploration import look_into
from instance_manager.extensions.facts import join
from instance_manager.extensions.objects import ObjectFiles
from instance_manager.extensions.paths import is_volume_name
from instance_manager.images.taking import take

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from instance_manager.extensions.facts import VolumeFacts
    from instance_manager.extensions.linkable import Symbols
    from instance_manager.extensions.linking import File
    from instance_manager.supervision.children import Children


MOUNT: Final = "/extensions/"


class Neighbour(NamedTuple):
    """A volume that is there too; *libraries* are the names that the loader finds in it."""

    name: str
    root: Path
    directories: tuple[str, ...]
    libraries: frozenset[str]
    extensions: frozenset[str]


class Beside:
    """All of them, in their order."""

    def __init__(self, neighbours: Sequence[Neighbour] = ()) -> None:
        self.neighbours = tuple(neighbours)

    def holder(self, library: str) -> str | None:
        """Return the name of the volume that has a library; None where none has."""
        holders = (each.name for each in self.neighbours if library in each.libraries)
        return next(holders, None)

    def extensions(self) -> frozenset[str]:
        """Return the names of the extensions that they have."""
        return frozenset(name for each in self.neighbours for name in each.extensions)

    def roots(self) -> dict[str, Path]:
        """Return where they are, by where a server has them."""
        return {f"{MOUNT}{each.name}": each.root for each in self.neighbours}

    def directories(self) -> list[str]:
        """Return where the server's loader would search in them."""
        return [
            join(f"{MOUNT}{each.name}", directory)
            for each in self.neighbours
            for directory in each.directories
        ]


async def take_all(
    children: Children, sources: Sequence[str], work: Path, own_name: str
) -> Beside:
    """Return the volumes of these names: directories, layouts, archives, images of podman.

    Raises:
        UsageError: there is nothing of one of the names, it is no image, or two have one name,
            or one has a name that no volume can have.
    """
    found: dict[str, Neighbour] = {}
    for number, source in enumerate(sources):
        root, name = await take(children, source, work / f"beside-{number}")
        neighbour = _neighbour(look_into(root, name), root)
        if not is_volume_name(neighbour.name):
            raise UsageError(
                f"cannot build with {source!r}: {neighbour.name!r} is no name of a volume",
                hint="lower-case letters, digits, - and _, at most 59: no server could mount it",
            )
        # Two directories of one name can't be mounted below one root.
        if neighbour.name in {own_name, *found}:
            raise UsageError(
                f"cannot build with {source!r}: another volume is called {neighbour.name!r} too",
                hint="--name NAME gives the one that is built another name",
            )
        found[neighbour.name] = neighbour
    return Beside(list(found.values()))


def _neighbour(facts: VolumeFacts, root: Path) -> Neighbour:
    searched = facts.paths.ld_library_path
    return Neighbour(
        # As it was built: a directory may be called anything.
        name=dict(facts.metadata.provenance).get("name", facts.name),
        root=root,
        directories=searched,
        libraries=frozenset(
            each.name
            for each in facts.libraries
            # A damaged library is none that could be relied on.
            if each.directory in searched and not each.problem
        ),
        extensions=frozenset(each.extension for each in facts.controls),
    )


class Mounted:
    """The base's files with volumes mounted in them, below ``/extensions``."""

    def __init__(self, base: ObjectFiles, volumes: Mapping[str, Path]) -> None:
        self._base = base
        self._volumes = {mount: ObjectFiles(str(root)) for mount, root in volumes.items()}

    def at(self, path: str) -> File | None:
        """Return the file at a path."""
        files, inner = self._inner(path)
        file = files.at(inner)
        # In messages, a file is where the server will have it.
        return None if file is None else file._replace(path=path)

    def find(self, directory: str, name: str) -> File | None:
        """Return the file of this name in a directory."""
        return self.at(f"{directory.rstrip('/')}/{name}")

    def has_directory(self, path: str) -> bool:
        """Say whether there is such a directory."""
        files, inner = self._inner(path)
        return files.has_directory(inner)

    def symbols(self, path: str) -> Symbols:
        """Return the symbols of the file at a path."""
        files, inner = self._inner(path)
        return files.symbols(inner)

    def _inner(self, path: str) -> tuple[ObjectFiles, str]:
        for mount, files in self._volumes.items():
            if path == mount or path.startswith(f"{mount}/"):
                return files, path[len(mount) :] or "/"
        return self._base, path
