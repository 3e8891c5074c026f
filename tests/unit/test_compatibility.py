"""The page on compatibility against the rows that its program tries."""

from __future__ import annotations

from tests.support.built_rows import BUILT
from tests.support.built_table import kept_part
from tests.support.package_rows import ROWS
from tests.support.package_table import PAGE


def test_the_page_has_every_row_with_what_was_expected() -> None:
    """Who adds or changes a row writes the page again, with ``make matrix``."""
    text, _, _ = PAGE.read_text(encoding="utf-8").partition("\n## ")
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line[:2] == "| "]
    cells = {line[0]: line for line in lines}

    assert [row.name for row in ROWS if row.name not in cells] == []
    for row in ROWS:
        verdict, truth = cells[row.name][3:5]
        assert verdict.split()[0].rstrip(";") == (row.code or "good")
        assert truth.split(":")[0] == ("fails" if row.fails else "works")


def test_the_page_has_every_package_that_the_builder_is_tried_on() -> None:
    """One that works says so, and one that does not says the reason that is known of it."""
    lines = [line.strip("| ").split(" | ") for line in kept_part().splitlines()]
    cells = {line[0].strip("`"): line for line in lines if line[0].startswith("`postgresql-")}

    assert list(cells) == [row.package for row in BUILT]
    assert len(cells) >= 40
    for row in BUILT:
        assert cells[row.package][7].startswith("yes:") == (not row.reason), row.package
        assert row.reason in " ".join(cells[row.package])
