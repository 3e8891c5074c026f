"""What is kept beside the data, written and read."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instance_manager.postgres import instance_state
from instance_manager.postgres.instance_state import InstanceState

STATE = InstanceState("7300000000000000001", "pg-0", made_here=True)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(st.characters(exclude_categories=["Cs"])), made_here=st.booleans())
def test_what_was_written_is_read(tmp_path: Path, name: str, made_here: bool) -> None:
    """Any name survives, and whether the cluster is ours."""
    state = InstanceState("7300000000000000001", name, made_here)
    instance_state.write(tmp_path / "instance.json", state)

    assert instance_state.read(tmp_path / "instance.json") == state


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Nothing of ours inside a data directory is for others."""
    path = tmp_path / "instance.json"
    instance_state.write(path, STATE)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_in_its_place_is_replaced_not_followed(tmp_path: Path) -> None:
    """Nobody makes us write elsewhere."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("theirs")
    path = tmp_path / "instance.json"
    path.symlink_to(elsewhere)
    instance_state.write(path, STATE)

    assert elsewhere.read_text() == "theirs"
    assert not path.is_symlink()


def test_no_file_is_no_state(tmp_path: Path) -> None:
    """A cluster that somebody else made has none."""
    assert instance_state.read(tmp_path / "instance.json") is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"7",
        b"{}",
        b'{"system_identifier": "1", "instance": "a"}',
        b"\xff\xfe\x00",
        pytest.param(b"[" * 100_000, id="nested too deeply"),
        pytest.param(b"9" * 10_000, id="a number that is too long"),
    ],
)
def test_what_can_not_be_understood_is_no_state(tmp_path: Path, content: bytes) -> None:
    """A damaged file costs what it knew, and never the start."""
    path = tmp_path / "instance.json"
    path.write_bytes(content)

    assert instance_state.read(path) is None


@pytest.mark.parametrize("value", ["true", 1, "yes", None, [True]])
def test_only_a_plain_true_says_that_we_made_it(tmp_path: Path, value: object) -> None:
    """Access rules hang on it, so nothing else is taken for it."""
    path = tmp_path / "instance.json"
    path.write_text(json.dumps({"system_identifier": "1", "instance": "a", "made_here": value}))

    assert instance_state.read(path) == InstanceState("1", "a", made_here=False)
