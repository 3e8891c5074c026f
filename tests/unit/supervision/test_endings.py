"""What each cause of an end means for the next try."""

from __future__ import annotations

from instance_manager.supervision.endings import Cause


def test_only_what_somebody_must_change_is_permanent() -> None:
    """A wrong configuration and a missing library end every further try in the same way."""
    permanent = {cause for cause in Cause if cause.is_permanent}

    assert permanent == {Cause.BAD_CONFIGURATION, Cause.MISSING_LIBRARY}


def test_only_a_full_disk_waits_for_space() -> None:
    """Such an end is no crash: the server comes back by itself once there is space."""
    assert {cause for cause in Cause if cause.waits_for_space} == {Cause.DISK_FULL}


def test_the_words_of_the_causes_are_stable() -> None:
    """People and programs read them in the status."""
    assert [str(cause) for cause in Cause] == [
        "clean",
        "signal",
        "out-of-memory",
        "bad-configuration",
        "missing-library",
        "disk-full",
        "panic",
        "error",
        "not-started",
    ]
