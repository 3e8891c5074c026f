"""The plan for one database: what is done, in which order, and what is told instead."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instance_manager.databases.desired import (
    Action,
    Create,
    Drop,
    Move,
    Plan,
    Update,
    is_settled,
    plan,
)
from instance_manager.databases.holdings import Available, DatabaseFacts, Installed, Version
from instance_manager.settings.models import DatabaseExtensionSettings as Declared


def declare(*extensions: Mapping[str, object]) -> list[Declared]:
    return [Declared.model_validate(each) for each in extensions]


def offer(*versions: str, **one: object) -> Available:
    """Return an extension whose last version is the default one; *one* holds for all of them."""
    found = {name: Version(**one) for name in versions}  # type: ignore[arg-type]
    return Available(versions[-1], found)


def facts(
    installed: Mapping[str, Installed] | None = None,
    available: Mapping[str, Available] | None = None,
    paths: Mapping[str, Mapping[str, tuple[str, ...]]] | None = None,
    schemas: frozenset[str] = frozenset({"public", "other"}),
) -> DatabaseFacts:
    return DatabaseFacts(False, installed or {}, available or {}, paths or {}, schemas)


TOY = Installed("1.0", "public", relocatable=True)
FIXED = Installed("1.0", "public", relocatable=False)
PATHS = {"toy": {"1.1": ("1.0", "1.1"), "1.2": ("1.0", "1.1", "1.2")}}


@pytest.mark.parametrize(
    ("wanted", "action"),
    [
        ({}, Create("toy", "1.2", "public")),
        ({"version": "1.0"}, Create("toy", "1.0", "public")),
        ({"schema": "other"}, Create("toy", "1.2", "other")),
        ({"cascade": True}, Create("toy", "1.2", "public", cascade=True)),
    ],
)
def test_what_is_missing_is_created(wanted: dict[str, object], action: Action) -> None:
    """In the default version and in public, where nothing else is said."""
    available = {"toy": offer("1.0", "1.1", "1.2", relocatable=True)}

    assert plan(declare({"name": "toy", **wanted}), facts({}, available)) == Plan((action,))


@pytest.mark.parametrize(
    ("wanted", "have", "actions"),
    [
        ({}, TOY, ()),
        ({"version": "1.0", "schema": "public"}, TOY, ()),
        ({"version": "1.1"}, TOY, (Update("toy", "1.0", "1.1"),)),
        ({"schema": "other"}, TOY, (Move("toy", "public", "other"),)),
        (
            {"version": "1.2", "schema": "other"},
            TOY,
            (Move("toy", "public", "other"), Update("toy", "1.0", "1.2")),
        ),
        (
            {"version": "1.2", "schema": "other"},
            FIXED,
            (Update("toy", "1.0", "1.2"), Move("toy", "public", "other")),
        ),
        ({"ensure": "absent"}, TOY, (Drop("toy", "1.0"),)),
        ({"ensure": "absent", "cascade": True}, TOY, (Drop("toy", "1.0", cascade=True),)),
        ({"ensure": "absent"}, None, ()),
    ],
)
def test_what_is_there_is_changed_as_declared_and_no_further(
    wanted: dict[str, object], have: Installed | None, actions: tuple[Action, ...]
) -> None:
    """A version that is not declared stays; the schema is changed while the extension allows."""
    available = {"toy": offer("1.0", "1.1", "1.2", relocatable=True)}
    declared = declare({"name": "toy", **wanted})
    known = facts({"toy": have} if have else {}, available, PATHS)

    assert plan(declared, known) == Plan(actions)
    assert is_settled(declared, known) is not bool(actions)


@pytest.mark.parametrize(
    ("wanted", "have", "words"),
    [
        ({"name": "other"}, None, "no volume offers it"),
        ({"version": "7"}, None, "it can't be created in version '7': there are '1.0', '1.1'"),
        ({"schema": "nowhere"}, None, "there is no schema 'nowhere': make it, or declare another"),
        ({"version": "7"}, TOY, "it has no version '7': there are '1.0', '1.1', '1.2', '1.3'"),
        (
            {"version": "1.3"},
            TOY,
            "no update path leads from version '1.0' to '1.3', only to '1.1', '1.2'",
        ),
        ({"version": "0.9", "name": "gone"}, TOY, "no volume offers it any more"),
        ({"schema": "nowhere"}, TOY, "there is no schema 'nowhere'"),
        ({"schema": "other"}, FIXED, "it is not relocatable"),
    ],
)
def test_what_can_not_be_done_is_a_problem_that_names_what_there_is(
    wanted: dict[str, object], have: Installed | None, words: str
) -> None:
    """Nothing is raised, and nothing is planned in its place."""
    available = {"toy": offer("1.0", "1.1", "1.2", "1.3")}
    name = str(wanted.get("name", "toy"))
    known = facts({name: have} if have else {}, available, PATHS)
    planned = plan(declare({"name": "toy", **wanted}), known)

    assert planned.actions == ()
    assert [problem.extension for problem in planned.problems] == [name]
    assert words in planned.problems[0].message


def test_a_control_file_that_fixes_the_schema_is_left_to_do_so() -> None:
    """The server makes that schema itself, unless it is named; another one is a problem."""
    known = facts({}, {"toy": offer("1.0", schema="fixed")})

    assert plan(declare({"name": "toy"}), known).actions == (Create("toy", "1.0", None),)
    same = plan(declare({"name": "toy", "schema": "fixed"}), known)
    assert same.actions == (Create("toy", "1.0", None),)
    other = plan(declare({"name": "toy", "schema": "other"}), known)
    assert "its control file fixes 'fixed'" in other.problems[0].message


def test_a_default_version_without_a_script_is_a_problem() -> None:
    """With the versions that could be declared."""
    known = facts({}, {"toy": Available("2.0", {"1.0": Version()})})

    planned = plan(declare({"name": "toy"}), known)
    assert planned.problems[0].message == ("it can't be created in version '2.0': there are '1.0'")


def test_an_update_that_can_be_done_is_done_beside_a_move_that_can_not() -> None:
    """One part of a declaration does not hold up the other."""
    available = {"toy": offer("1.0", "1.1")}
    declared = declare({"name": "toy", "version": "1.1", "schema": "other"})
    planned = plan(declared, facts({"toy": FIXED}, available, PATHS))

    assert planned.actions == (Update("toy", "1.0", "1.1"),)
    assert "not relocatable" in planned.problems[0].message


def test_what_is_required_comes_first_and_is_waited_for() -> None:
    """Through any number of others, and whatever the order of the settings."""
    available = {
        "top": offer("1", requires=("middle",)),
        "middle": offer("1", requires=("ground",)),
        "ground": offer("1"),
    }
    names = ("top", "middle", "ground")
    planned = plan(declare(*({"name": name} for name in names)), facts({}, available))

    assert [(each.extension, each.needs) for each in planned.actions] == [
        ("ground", ()),
        ("middle", ("ground",)),
        ("top", ("middle",)),
    ]


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ([], "requires 'ground': declare it too, or set cascade"),
        ([{"name": "ground", "ensure": "absent"}], "requires 'ground', which is declared absent"),
        ([{"name": "ground", "version": "9"}], "requires 'ground', which can't be brought about"),
    ],
)
def test_what_is_required_must_be_there_or_declared(
    others: list[dict[str, object]], words: str
) -> None:
    """Nothing is created that nobody declared, unless cascade says so."""
    available = {"top": offer("1", requires=("ground",)), "ground": offer("1")}
    planned = plan(declare({"name": "top"}, *others), facts({}, available))

    assert words in next(one.message for one in planned.problems if one.extension == "top")
    assert [each.extension for each in planned.actions] == []
    if not others:
        cascading = plan(declare({"name": "top", "cascade": True}), facts({}, available))
        assert cascading.actions == (Create("top", "1", "public", cascade=True),)
        del available["ground"]
        gone = plan(declare({"name": "top", "cascade": True}), facts({}, available))
        assert "which no volume offers" in gone.problems[0].message


def test_an_update_brings_what_the_new_version_requires() -> None:
    """The server would refuse the update without it, and has no cascade for that."""
    available = {
        "toy": Available("1.1", {"1.0": Version(), "1.1": Version(requires=("ground",))}),
        "ground": offer("1"),
    }
    known = facts({"toy": TOY}, available, PATHS)
    both = plan(declare({"name": "toy", "version": "1.1"}, {"name": "ground"}), known)
    alone = plan(declare({"name": "toy", "version": "1.1", "cascade": True}), known)

    assert both.actions == (
        Create("ground", "1", "public"),
        Update("toy", "1.0", "1.1", ("ground",)),
    )
    assert alone.actions == ()
    assert "requires 'ground'" in alone.problems[0].message


def test_extensions_that_require_each_other_are_left_to_the_server() -> None:
    """It says so; there is no plan without an end."""
    available = {"a": offer("1", requires=("b",)), "b": offer("1", requires=("a",))}
    planned = plan(declare({"name": "a"}, {"name": "b"}), facts({}, available))

    assert sorted(each.extension for each in planned.actions) == ["a", "b"]


def test_dependents_are_dropped_first_and_what_is_declared_keeps_what_it_needs() -> None:
    """Whatever cascade says: an extension that is declared present never goes with another."""
    installed = {
        "ground": Installed("1", "public", relocatable=True),
        "middle": Installed("1", "public", relocatable=True, requires=("ground",)),
        "top": Installed("1", "public", relocatable=True, requires=("middle",)),
    }
    absent = [{"name": name, "ensure": "absent", "cascade": True} for name in installed]
    all_gone = plan(declare(*absent), facts(installed))
    kept = plan(declare(absent[0], {"name": "top"}), facts(installed))

    assert [each.extension for each in all_gone.actions] == ["top", "middle", "ground"]
    assert kept.actions == ()
    assert kept.problems[0].message == (
        "it can't be dropped: 'top', declared present, requires it"
    )


NAMES = st.sampled_from(["a", "b", "c", "d"])
VERSIONS = st.sampled_from(["1", "2"])
INSTALLED = st.builds(
    Installed,
    VERSIONS,
    st.sampled_from(["public", "other"]),
    st.booleans(),
    st.lists(NAMES, max_size=2).map(tuple),
)
OFFERED = st.builds(
    Available,
    VERSIONS,
    st.dictionaries(
        VERSIONS,
        st.builds(
            Version,
            st.booleans(),
            st.sampled_from([None, "public"]),
            st.lists(NAMES, max_size=2).map(tuple),
        ),
    ),
)
DECLARED = st.lists(
    st.fixed_dictionaries(
        {"name": NAMES},
        optional={
            "version": VERSIONS,
            "schema": st.sampled_from(["public", "other", "nowhere"]),
            "ensure": st.sampled_from(["present", "absent"]),
            "cascade": st.booleans(),
        },
    ),
    unique_by=lambda one: str(one["name"]),
)


@given(
    DECLARED,
    st.dictionaries(NAMES, INSTALLED),
    st.dictionaries(NAMES, OFFERED),
    st.dictionaries(NAMES, st.dictionaries(VERSIONS, st.just(("1", "2")))),
)
def test_whatever_there_is_only_what_is_declared_is_touched(
    wanted: list[dict[str, object]],
    installed: dict[str, Installed],
    available: dict[str, Available],
    paths: dict[str, dict[str, tuple[str, ...]]],
) -> None:
    """No exception, no end without an answer, a drop only where absent is declared."""
    declared = declare(*wanted)
    known = facts(installed, available, paths)
    planned = plan(declared, known)
    named = {one.name: one for one in declared}

    told = {one.extension for one in planned.problems} | {one.extension for one in planned.actions}
    assert told <= set(named)
    for action in planned.actions:
        assert isinstance(action, Drop) is (named[action.extension].ensure == "absent")
    if not told:
        assert is_settled(declared, known)
