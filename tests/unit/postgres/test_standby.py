"""What a standby must not have less of than its primary."""

from __future__ import annotations

import pytest

from instance_manager.configuration.rendering import render
from instance_manager.postgres.standby import DEFAULTS, problems, required

CONTROL_DATA = """\
pg_control version number:            1800
max_connections setting:              120
max_worker_processes setting:         8
max_wal_senders setting:              10
max_prepared_xacts setting:           0
max_locks_per_xact setting:           64
track_commit_timestamp setting:       off
"""


def test_the_primarys_values_are_read_from_the_control_data() -> None:
    """All five, and nothing else."""
    assert required(CONTROL_DATA) == {**DEFAULTS, "max_connections": 120}


@pytest.mark.parametrize("value", ["119", "0x10", "1e1", "0157", "10.2", " 5 "])
def test_less_is_told_however_it_is_written(value: str) -> None:
    """The server reads all of these as numbers."""
    after = render({"max_connections": value})

    (problem,) = problems("", after, {"max_connections": 120})

    assert problem.path == "parameters.max_connections"


@pytest.mark.parametrize("value", ["120", "0x78", "1.2e2", "0170", "119.6", "many", ""])
def test_as_much_is_fine_and_nonsense_is_told_by_others(value: str) -> None:
    """The server itself refuses what is no number."""
    assert not list(problems("", render({"max_connections": value}), {"max_connections": 120}))


def test_what_is_taken_away_falls_back_to_the_default() -> None:
    """Where we had set it; else the directory's own files have a say."""
    least = {"max_connections": 120}

    assert list(problems(render({"max_connections": "150"}), render({}), least))
    assert not list(problems(render({}), render({}), least))
