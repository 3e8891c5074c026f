"""When to try again, and the verdict."""

from __future__ import annotations

from instance_manager.databases.desired import Drop
from instance_manager.databases.troubles import Retry, Trouble, judge, retry_after

TROUBLE = Trouble("app", "toy", "it is locked", "55P03")
DROP = Drop("toy", "1.0")


def test_each_failure_is_waited_for_longer_and_never_longer_than_five_minutes() -> None:
    """Twice as long each time."""
    retry: Retry | None = None
    pauses: list[float] = []
    for _ in range(2000):
        retry = retry_after(DROP, TROUBLE, retry, 100.0)
        pauses.append(retry.at - 100.0)

    assert pauses[:7] == [5, 10, 20, 40, 80, 160, 300]
    assert set(pauses[7:]) == {300}


def test_another_action_begins_anew() -> None:
    """What a person has changed is not made to wait for what failed before."""
    before = Retry(DROP, 9, 0.0, TROUBLE)

    assert retry_after(Drop("toy", "1.1"), TROUBLE, before, 0.0).attempts == 1


def test_the_verdict_names_what_is_wrong_and_how_much_more() -> None:
    """Five in words, the others as a number, and no text without an end."""
    many = [Trouble("app", f"toy{number}", "x" * 10_000) for number in range(7)]
    verdict = judge(many, ["app"])

    assert (verdict.holds, verdict.reason) == (False, "NotAsDeclared")
    assert verdict.message.endswith("; and 2 more")
    assert len(verdict.message) < 4000
    assert judge([TROUBLE], ["app"]).message == (
        "extension 'toy' of database 'app': it is locked (55P03)"
    )
    assert judge([], ["app", "shop"]).message == "as declared: app, shop"
