from __future__ import annotations

import re

import pytest

from instance_manager.extensions.findings import RULES, Code, finding
from instance_manager.extensions.models import Severity


def test_every_code_has_one_rule() -> None:
    """The table is total, and nothing in it is without a code."""
    assert set(RULES) == set(Code)


@pytest.mark.parametrize("code", Code)
def test_a_rule_says_what_it_means_and_the_way_out(code: Code) -> None:
    """Codes have one form; title and hint are short sentences without a full stop."""
    rule = RULES[code]

    assert re.fullmatch(r"EXT\d{3}", code)
    assert rule.title
    assert not rule.title.endswith(".")
    assert rule.hint
    assert not rule.hint.endswith(".")


def test_a_finding_takes_severity_and_hint_from_the_table() -> None:
    """The caller chooses only the subject and the words."""
    found = finding(Code.WRITABLE, "pgvector", "it is writable")

    assert found.code == "EXT003"
    assert found.severity is Severity.WARNING
    assert (found.subject, found.message) == ("pgvector", "it is writable")
    assert found.hint == RULES[Code.WRITABLE].hint


def test_the_severities_are_the_contracts() -> None:
    """What quarantines a volume is a promise, so it is written down twice."""
    errors = {code for code, rule in RULES.items() if rule.severity is Severity.ERROR}
    information = {code for code, rule in RULES.items() if rule.severity is Severity.INFO}

    assert information == {"EXT018", "EXT046", "EXT071"}
    assert set(Code) - errors - information == {
        *(
            "EXT001",
            "EXT002",
            "EXT003",
            "EXT008",
            "EXT011",
            "EXT013",
            "EXT015",
            "EXT016",
            "EXT017",
        ),
        *(
            "EXT019",
            "EXT020",
            "EXT022",
            "EXT023",
            "EXT027",
            "EXT028",
            "EXT029",
            "EXT035",
            "EXT043",
            "EXT044",
            "EXT047",
        ),
        *(
            "EXT050",
            "EXT052",
            "EXT054",
            "EXT056",
            "EXT057",
            "EXT061",
            "EXT072",
            "EXT073",
            "EXT081",
            "EXT082",
        ),
    }
