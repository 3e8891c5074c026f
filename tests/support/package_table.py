"""The page on compatibility, which the matrix of real packages writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support.package_recipes import RECIPES
from tests.support.package_rows import ROWS, Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.support.package_images import Contents

PAGE: Final = Path(__file__).parents[2] / "docs" / "compatibility.md"

_HEAD: Final = """\
# Compatibility

Written by `make matrix`, which tries real Debian packages as extension volumes: each row is a
container of the operand image with the volumes mounted read-only. *Verdict* is what the preflight
says before postgres starts. *Truth* is what came of it: on the managed server where the verdict
is good, else on a postgres without the manager that was made to try. The two agree in every row,
or `make matrix` fails.

"""
_ROWS: Final = "| use | volumes | preloaded | verdict | truth |\n|---|---|---|---|---|\n"
_COMPANY: Final = """
The {volumes} volumes of the good rows, those of one volume each, also work in one server at once.
"""
_PACKAGES: Final = """
## Volumes

| volume | Debian package | version | MB | libraries in `system` |
|---|---|---|---|---|
"""
_LOADER: Final = """
## The dynamic loader

{modules} modules of {packages} packages were shown to the loader of the image and to its
emulation: with the libraries that they need, without them, and with older ones in their place. In
each case both found the same files and missed the same libraries and versions, and in the first
two the same symbols.
"""


class Table:
    """Gathers what was seen, and writes the page once every row was."""

    def __init__(self) -> None:
        self._verdicts: dict[str, str] = {}
        self._volumes: dict[str, Contents] = {}
        self._company = ""
        self._loader = ""

    def add(self, row: Row, findings: Sequence[Mapping[str, str]]) -> None:
        """Note a row whose verdict and truth agree, with all that was found."""
        shown = row.main_finding(findings)
        good = f"good; of other uses: {', '.join(row.beside)}" if row.beside else "good"
        self._verdicts[row.name] = f"{shown['code']} {shown['message']}" if shown else good

    def add_volumes(self, volumes: Mapping[str, Contents]) -> None:
        """Note what volumes are made of."""
        self._volumes.update(volumes)

    def add_company(self, volumes: int) -> None:
        """Note that so many volumes work in one server."""
        self._company = _COMPANY.format(volumes=volumes)

    def add_loader(self, packages: int, modules: int) -> None:
        """Note that the loader and its emulation agree."""
        self._loader = _LOADER.format(packages=packages, modules=modules)

    @property
    def is_whole(self) -> bool:
        """Whether everything that the page tells was seen."""
        is_through = all(row.name in self._verdicts for row in ROWS)
        return bool(is_through and self._company and self._loader)

    def text(self) -> str:
        """Return the page."""
        rows = (_cells(*line_of(row, self._verdicts[row.name])) for row in ROWS)
        volumes = (
            _cells(
                name,
                " ".join(f"`{package}`" for package in RECIPES[name].wanted.packages),
                each.version,
                f"{each.megabytes:.1f}",
                str(each.libraries),
            )
            for name, each in self._volumes.items()
            if any(name in row.volumes for row in ROWS)
        )
        tried = f"{_ROWS}{_lines(rows)}{self._company}"
        return f"{_HEAD}{tried}{_PACKAGES}{_lines(volumes)}{self._loader}"


def line_of(row: Row, verdict: str) -> tuple[str, ...]:
    """Return the cells of a row."""
    truth = f"fails: `{row.shows}`" if row.fails else f"works: `{row.shows}`"
    return (row.name, ", ".join(row.volumes), ", ".join(row.preload) or "-", verdict, truth)


def _cells(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _lines(rows: Iterable[str]) -> str:
    return "".join(f"{row}\n" for row in rows)
