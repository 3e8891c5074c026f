"""Why a postmaster ended, and what follows from it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Cause(StrEnum):
    """Why a postmaster ended on its own."""

    CLEAN = "clean"
    SIGNAL = "signal"
    OUT_OF_MEMORY = "out-of-memory"
    BAD_CONFIGURATION = "bad-configuration"
    MISSING_LIBRARY = "missing-library"
    DISK_FULL = "disk-full"
    PANIC = "panic"
    ERROR = "error"
    NOT_STARTED = "not-started"

    @property
    def is_permanent(self) -> bool:
        """Whether the same start would only fail again."""
        return self in (Cause.BAD_CONFIGURATION, Cause.MISSING_LIBRARY)

    @property
    def waits_for_space(self) -> bool:
        """Whether a start helps as soon as there is space, and no sooner."""
        return self is Cause.DISK_FULL


@dataclass(frozen=True, slots=True)
class Ending:
    """The cause, and the postmaster's own last words; empty where it said none."""

    cause: Cause
    message: str = ""
