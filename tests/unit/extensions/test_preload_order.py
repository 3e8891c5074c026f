from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from instance_manager.extensions.facts import VolumeFacts
from instance_manager.extensions.metadata import Metadata
from instance_manager.extensions.preload_order import KNOWN, constraints, merge, violations

MakeVolume = Callable[..., VolumeFacts]


@pytest.mark.parametrize(
    ("first", "others", "merged"),
    [
        ([], [], ""),
        ("ab", ["bc"], "abc"),
        ([], ["c", "abc"], "abc"),
        ([], ["ab", "ba"], "ab"),
        ("c", ["abc"], "cab"),
        ([], ["bd", "ab", "ac"], "abdc"),
        ([], ["aa"], "a"),
    ],
)
def test_preload_lists_are_merged_with_their_orders(
    first: str, others: list[str], merged: str
) -> None:
    """The user's order is fixed; each other list's own order is kept where it can be."""
    assert merge(first, others) == list(merged)


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.text("abcde", max_size=4), st.lists(st.text("abcde", max_size=4), max_size=3))
def test_a_merged_list_holds_each_library_once(first: str, others: list[str]) -> None:
    """All that was asked for, and the user's part unchanged at the front."""
    merged = merge(first, others)

    assert sorted(merged) == sorted(set(first).union(*others))
    assert merged[: len(set(first))] == list(dict.fromkeys(first))


def test_a_merged_list_keeps_what_must_stand_before() -> None:
    """Where it is not the user's own order, and where it is no circle."""
    after = {"a": {"b"}, "b": {"c"}, "x": {"y"}, "y": {"x"}}

    assert merge([], ["abc"], after) == ["a", "b", "c"]
    assert merge([], ["a", "b", "c"], after) == ["c", "b", "a"]
    assert merge("a", ["b", "c"], after) == ["a", "c", "b"]
    assert merge([], ["x", "y", "a"], after) == ["a", "x", "y"]


def test_a_volume_speaks_for_its_own_libraries_alone(volume_facts: MakeVolume) -> None:
    """What it says of those of others would let a mount change the order of the server."""
    orders = (("sample", ("before", "sample")), ("other", ("sample",)))
    volume = volume_facts("v", metadata=Metadata(preload_after=orders))

    assert constraints([volume]) == {**KNOWN, "sample": {"before"}}


@pytest.mark.parametrize(
    ("loaded", "found"),
    [
        ("pg_stat_statements,pg_stat_kcache", ""),
        ("pg_stat_kcache,pg_stat_statements", "pg_stat_kcache after pg_stat_statements"),
        ("pg_stat_kcache", "pg_stat_kcache after pg_stat_statements"),
        ("pg_cron,pg_documentdb_core,pg_documentdb", ""),
        ("pg_documentdb_core", ""),
        ("pg_documentdb_core,pg_cron", "pg_documentdb_core after pg_cron"),
        ("pg_documentdb,pg_documentdb_core", "pg_documentdb after pg_documentdb_core"),
        ("a,b,a", ""),
        ("", ""),
    ],
)
def test_what_stands_too_early_is_found(loaded: str, found: str) -> None:
    """Only ``pg_stat_kcache`` does not work without the one that must be before it."""
    pairs = violations(loaded.split(","), KNOWN)

    assert ",".join(f"{name} after {other}" for name, other in pairs) == found
