"""What changes between two configurations, and what that takes."""

from __future__ import annotations

import pytest

from instance_manager.configuration.plan import Action, Change, Plan, changed_sections, plan
from instance_manager.configuration.rendering import render, without
from instance_manager.configuration.values import Parameter

KNOWN = {
    "work_mem": Parameter("user", "integer", "kB", "4096"),
    "max_connections": Parameter("postmaster", "integer", "", "100"),
    "port": Parameter("postmaster", "integer", "", "5432"),
    "shared_buffers": Parameter("postmaster", "integer", "8kB", "16384"),
}
BEFORE = render({"work_mem": "4MB", "port": "5432"})


def test_each_changed_parameter_is_told_with_what_it_takes() -> None:
    """Set, changed and taken away; the whole takes as much as its worst part."""
    after = render({"work_mem": "8MB", "max_connections": "5"})

    assert plan(BEFORE, after, KNOWN, ()) == Plan(
        (
            Change("max_connections", None, "5", Action.RESTART),
            Change("port", "5432", None, Action.RESTART),
            Change("work_mem", "4MB", "8MB", Action.RELOAD),
        ),
        (),
        Action.RESTART,
    )


def test_the_same_configuration_changes_nothing() -> None:
    """The hash that stands in it is no parameter."""
    assert plan(BEFORE, BEFORE, KNOWN, ()) == Plan()


@pytest.mark.parametrize(("known", "action"), [(KNOWN, Action.RELOAD), (None, "restart")])
def test_rules_are_reloaded_or_wait_for_a_start(
    known: dict[str, Parameter] | None, action: str
) -> None:
    """Without a server that runs, everything is for the next start."""
    assert plan(BEFORE, BEFORE, known, ("hba",)).action == action


@pytest.mark.parametrize("text", ["131072kB", "16384", "0.125 GB"])
def test_what_the_server_runs_with_needs_no_restart(text: str) -> None:
    """However it is written, and whatever the text in force says meanwhile."""
    for before in ("128MB", "1GB"):
        told = plan(
            render({"shared_buffers": before}), render({"shared_buffers": text}), KNOWN, ()
        )

        assert [change.action for change in told.changes] == [Action.RELOAD]


def test_a_parameter_that_nobody_knows_is_reloaded() -> None:
    """A name with a prefix that no library has claimed."""
    assert plan(BEFORE, render({"my.own": "1"}), KNOWN, ()).changes[0].action is Action.RELOAD


def test_the_lists_that_differ_are_named() -> None:
    """In the order of the document."""
    empty: dict[str, list[str]] = {"hba": [], "ident": [], "volumes": [], "databases": []}

    assert changed_sections(empty, {**empty, "databases": ["x"], "hba": ["y"]}) == (
        "hba",
        "databases",
    )


def test_a_text_without_some_parameters_has_all_others() -> None:
    """What can't be read as one stays."""
    lines = without(BEFORE, {"work_mem"}).splitlines()

    assert "work_mem = '4MB'" not in lines
    assert "port = '5432'" in lines
    assert len(lines) == len(BEFORE.splitlines()) - 1


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x1c", "\f"])
def test_a_value_with_what_looks_like_an_end_of_a_line_is_one(separator: str) -> None:
    """The server ends lines at a newline alone, and so does what reads them here."""
    text = render({"cluster_name": f"a{separator}b", "work_mem": "4MB"})

    (change,) = plan(
        BEFORE, render({"cluster_name": f"a{separator}b"}) + BEFORE, KNOWN, ()
    ).changes
    assert (change.name, change.new) == ("cluster_name", f"a{separator}b")
    assert "cluster_name" not in without(text, {"cluster_name"})
    assert without(text, set()) == text
