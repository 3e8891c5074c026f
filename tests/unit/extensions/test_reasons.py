from __future__ import annotations

from instance_manager.extensions.findings import RULES, Code
from instance_manager.extensions.reasons import WHY, title_of, why


def test_every_finding_says_why_it_matters() -> None:
    """Who reads it at night should not have to look it up."""
    assert set(WHY) == set(Code)
    assert all(WHY.values())


def test_an_unknown_code_is_no_fault() -> None:
    """A report of a newer manager is shown as far as it is known."""
    assert (why("EXT999"), title_of("EXT999")) == ("", "")
    assert title_of("EXT031") == RULES[Code.MACHINE].title
