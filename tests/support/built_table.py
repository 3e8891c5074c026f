"""What came of the packages that the builder was tried on, and its part of the page.

Each outcome is kept in the checkout, in ``.cache/built``: where one row had to be tried again, the
page can be written without the others.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.support.built_rows import BUILT
from tests.support.package_table import PAGE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.built_rows import BuiltRow

KEPT: Final = Path(__file__).parents[2] / ".cache" / "built"
TITLE: Final = "\n## Images that `extension build` makes\n"
_NOTHING: Final = "-"
_TEXT: Final = """
{title}

Written by `make matrix` too: `instance-manager extension build` made an image of each package, for
the operand image, told nothing but what is to be preloaded. `instance-manager extension
test` then mounted it alone, or with those that it requires, in a server: *preflight* is what was
found before the start, and what came of *created and used* is for all its extensions: created,
each function of C looked up, each view read, dropped, updated from the oldest version that there
is; and the statements of `tests/support/built_rows.py`. A row that does not work says why.

{works} of {all} packages work.

| package | version | MB | compressed | libraries added | built | preflight | created and used |
|---|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Outcome:
    """What came of one package; sizes in bytes, 0 where nothing was built."""

    package: str
    version: str = _NOTHING
    size: int = 0
    compressed: int = 0
    libraries: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    built: str = _NOTHING
    preflight: str = _NOTHING
    used: str = _NOTHING
    works: bool = False

    @property
    def said(self) -> str:
        """All that was said of it."""
        return f"{self.built}\n{self.preflight}\n{self.used}"


def keep(outcome: Outcome) -> None:
    """Note what came of a row."""
    KEPT.mkdir(parents=True, exist_ok=True)
    _file(outcome.package).write_text(json.dumps(asdict(outcome), indent=1))


def forget(row: BuiltRow) -> None:
    """Forget what came of a row the last time."""
    _file(row.package).unlink(missing_ok=True)


def write_page() -> bool:
    """Write the part of the page, if there is an outcome of each row; return whether."""
    if not all(_file(row.package).exists() for row in BUILT):
        return False
    text = text_of({row: _read(row) for row in BUILT})
    before, _, _ = PAGE.read_text(encoding="utf-8").partition(TITLE)
    PAGE.write_text(f"{before.rstrip()}\n{text}", encoding="utf-8")
    return True


def kept_part() -> str:
    """Return the part of the page as it is."""
    _, title, rest = PAGE.read_text(encoding="utf-8").partition(TITLE)
    return f"{title}{rest}"


def text_of(outcomes: Mapping[BuiltRow, Outcome]) -> str:
    """Return the part of the page."""
    works = sum(one.works for one in outcomes.values())
    head = _TEXT.format(title=TITLE.strip("\n"), works=works, all=len(outcomes))
    return head + "".join(f"{_line(row, one)}\n" for row, one in outcomes.items())


def _line(row: BuiltRow, one: Outcome) -> str:
    needs = [f"preloaded: {', '.join(one.preload)}"] if one.preload else []
    needs += [f"beside {', '.join(one.beside)}"] if one.beside else []
    needs += [row.why] if row.why else []
    used = "; ".join((one.used, *needs))
    cells = (
        f"`{one.package}`",
        one.version,
        _megabytes(one.size),
        _megabytes(one.compressed),
        str(len(one.libraries)),
        one.built,
        one.preflight,
        used,
    )
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "&#124;")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f}" if size else _NOTHING


def _file(package: str) -> Path:
    return KEPT / f"{package}.json"


def _read(row: BuiltRow) -> Outcome:
    known: dict[str, Any] = json.loads(_file(row.package).read_text())
    for name in ("libraries", "beside", "preload"):
        known[name] = tuple(known[name])
    return Outcome(**known)
