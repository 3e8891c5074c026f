"""The texts and documents of the probes."""

from __future__ import annotations

import pytest

from instance_manager.api.probes import accepts_json, describe, report
from instance_manager.health.verdicts import Check, CheckName, Verdict

GOOD = Verdict(
    (
        Check(CheckName.POSTGRES, True, "", 0.25),
        Check(CheckName.LAG, True, "", None),
        Check(CheckName.SHUTDOWN, True, "", 0.0),
    )
)
BAD = Verdict(
    (
        Check(CheckName.POSTGRES, False, "postgres is stopped", 0.25),
        Check(CheckName.LAG, True, "", None),
        Check(CheckName.SHUTDOWN, False, "a stop is under way", 0.0),
    )
)


def test_a_good_verdict_in_words() -> None:
    """A line for each check, then the outcome."""
    assert describe("readyz", GOOD, (), withhold=True) == (
        "[+]postgres ok\n[+]lag ok\n[+]shutdown ok\nreadyz check passed\n"
    )


def test_a_bad_verdict_withholds_its_reasons() -> None:
    """Those who have proven nothing learn which check failed, not why."""
    assert describe("readyz", BAD, (), withhold=True) == (
        "[-]postgres failed: reason withheld\n"
        "[+]lag ok\n"
        "[-]shutdown failed: reason withheld\n"
        "readyz check failed\n"
    )


def test_a_bad_verdict_tells_its_reasons_to_those_who_may_know() -> None:
    """The control listeners tell all."""
    text = describe("readyz", BAD, (), withhold=False)

    assert "[-]postgres failed: postgres is stopped\n" in text


def test_an_excluded_check_counts_as_passed() -> None:
    """It is shown, as excluded."""
    text = describe("readyz", BAD, {"postgres", "shutdown"}, withhold=True)

    assert text == (
        "[+]postgres excluded: ok\n[+]lag ok\n[+]shutdown excluded: ok\nreadyz check passed\n"
    )


def test_excluding_what_does_not_exist_is_said() -> None:
    """A slip in a manifest must not stay hidden."""
    text = describe("readyz", GOOD, {"shutdwon", "etcd"}, withhold=True)

    assert (
        'warn: some health checks cannot be excluded: no matches for "etcd", "shutdwon"\n' in text
    )
    assert text.endswith("readyz check passed\n")


def test_the_document_says_the_same() -> None:
    """Names, states, ages, and the reason where it may be told."""
    document = report(BAD, {"shutdown"}, withhold=False)

    assert document.status == "failed"
    assert [(one.name, one.status, one.message) for one in document.checks] == [
        ("postgres", "failed", "postgres is stopped"),
        ("lag", "ok", None),
        ("shutdown", "excluded", "a stop is under way"),
    ]
    assert [one.observed_seconds_ago for one in document.checks] == [0.25, None, 0.0]


def test_the_document_withholds_reasons_too() -> None:
    """Another form is no other right."""
    document = report(BAD, (), withhold=True)

    assert document.status == "failed"
    assert all(one.message is None for one in document.checks)


@pytest.mark.parametrize(
    ("header", "json"),
    [
        ("application/json", True),
        ("text/html, Application/JSON;q=0.9", True),
        ("*/*", False),
        ("", False),
        ("application/json-seq", False),
        ("text/plain", False),
    ],
)
def test_json_is_given_to_those_who_name_it(header: str, json: bool) -> None:
    """The kubelet and curl accept anything and get text."""
    assert accepts_json(header) is json
