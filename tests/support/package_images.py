"""Images of extension volumes, made of real packages, as they are or damaged on purpose."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.support import package_volumes
from tests.support.package_volumes import Link, Tree, hurt, lay_out, libraries, write
from tests.support.packages import Archive, Wanted, package_name

if TYPE_CHECKING:
    from tests.container.conftest import Podman


@dataclass(frozen=True)
class Recipe:
    """What a volume is made of.

    *own* are the beginnings of the names of the extension's own packages, by default those that
    are wanted. The libraries of *added* go to ``system``, whatever the server's image has.
    *damage* says what is done to which files: ``remove``, ``truncate``, or ``alternative`` for a
    link to where update-alternatives keeps its choice.
    """

    wanted: Wanted
    own: tuple[str, ...] = ()
    added: Wanted | None = None
    damage: tuple[tuple[str, str], ...] = ()


class Contents(NamedTuple):
    """What a volume is made of."""

    version: str
    megabytes: float
    libraries: int
    """How many third-party libraries are in ``system``."""


class PackageImages:
    """Makes images of recipes, once for each set of packages."""

    def __init__(self, podman: Podman, operand: str, prefix: str, scratch: Path) -> None:
        self._podman = podman
        self._archive = Archive(podman, operand)
        self._prefix = prefix
        self._scratch = scratch

    def image(self, name: str, recipe: Recipe) -> str:
        """Return the image of a recipe; it is made where there is none of these packages."""
        packages = self._archive.fetch(recipe.wanted)
        added = self._archive.fetch(recipe.added) if recipe.added else ()
        repository = f"{self._prefix}/packages/{name}"
        image = f"{repository}:{self._identity(recipe, (*packages, *added))}"
        if self._podman("image", "exists", image).code != 0:
            for old in self._podman("images", "--quiet", repository).checked().out.split():
                self._podman("rmi", "--force", old)
            tree = self._tree(recipe, packages, added)
            libraries = sum(
                not isinstance(tree[path], Link) for path in tree if path.startswith("system/")
            )
            self._make(
                image, tree, {"version": _version(recipe, packages), "libraries": str(libraries)}
            )
        return image

    def contents(self, image: str) -> Contents:
        """Return what is told of an image's volume."""
        form = "--format={{.Labels.version}} {{.Size}} {{.Labels.libraries}}"
        version, size, number = self._podman("image", "inspect", form, image).checked().out.split()
        return Contents(version, int(size) / 1e6, int(number))

    def _tree(self, recipe: Recipe, packages: tuple[Path, ...], added: tuple[Path, ...]) -> Tree:
        own = recipe.own or recipe.wanted.packages
        tree = lay_out(packages, own, self._archive.base_libraries)
        for package in added:
            tree.update(libraries(package))
        for kind, pattern in recipe.damage:
            hurt(tree, kind, pattern)
        return tree

    def _make(self, image: str, tree: Tree, labels: dict[str, str]) -> None:
        file = self._scratch / "volume.tar"
        write(tree, file)
        changes = [f"--change=LABEL={name}={value}" for name, value in labels.items()]
        self._podman("import", "--quiet", *changes, str(file), image, seconds=300).checked()
        file.unlink()

    def _identity(self, recipe: Recipe, packages: tuple[Path, ...]) -> str:
        """Return a name for all that an image is made of, and how."""
        files = (file.name for file in packages)
        code = Path(package_volumes.__file__).read_text()
        parts = (*files, repr(recipe), *sorted(self._archive.base_libraries), code)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _version(recipe: Recipe, packages: tuple[Path, ...]) -> str:
    """Return the version of the first package that is wanted; nothing where none is named."""
    name = recipe.wanted.packages[0].partition("/")[0].partition(":")[0]
    # A colon can't stand in a file's name.
    versions = (
        file.name.split("_")[1].replace("%3a", ":")
        for file in packages
        if package_name(file) == name
    )
    return next(versions, "-")
