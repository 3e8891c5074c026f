"""The file in which Kubernetes looks for the cause of an end."""

from __future__ import annotations

from pathlib import Path

import pytest

from instance_manager import termination_log
from instance_manager.errors import InstanceManagerError


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file that takes the place of the kubelet's."""
    path = tmp_path / "termination-log"
    path.touch()
    monkeypatch.setattr("instance_manager.termination_log._PATH", str(path))
    return path


def test_half_a_surrogate_pair_costs_a_character_and_not_the_end(path: Path) -> None:
    """Neither in the cause nor in what the postmaster said."""
    error = InstanceManagerError("cannot start \ud800", hint="look at \udfff")
    termination_log.write(error, ("FATAL: no \ud800",))

    assert path.read_text("utf-8").endswith("cannot start ?\nlook at ?\nFATAL: no ?\n")


def test_a_termination_log_that_is_not_there_is_not_made(path: Path) -> None:
    """Where nobody looks, nothing is written."""
    path.unlink()
    termination_log.write(InstanceManagerError("cannot start", hint="look"))

    assert not path.exists()
