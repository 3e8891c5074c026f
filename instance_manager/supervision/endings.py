"""Why a postmaster ended, as far as that decides what happens next. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Cause(StrEnum):
    """What ended a postmaster; who asked for the end, if anybody did, is known elsewhere."""

    CLEAN = "clean"
    """It ended itself with code 0: fast, smart or immediate, which the code doesn't tell."""
    SIGNAL = "signal"
    """A signal ended it: somebody's kill, or a fault of the program."""
    OUT_OF_MEMORY = "out-of-memory"
    """The kernel killed it, or a process that it can't do without, or gave it no memory."""
    BAD_CONFIGURATION = "bad-configuration"
    """A parameter, or the access rules, are not what this server takes."""
    MISSING_LIBRARY = "missing-library"
    """A library that it must load is absent, unreadable or made for another server."""
    DISK_FULL = "disk-full"
    """It could not write what it must write: no space is left, or a quota is used up."""
    PANIC = "panic"
    """It gave up to protect the data, for another reason than a full disk."""
    ERROR = "error"
    """It ended itself with a failure that is none of these."""
    NOT_STARTED = "not-started"
    """The program could not be executed."""

    @property
    def is_permanent(self) -> bool:
        """Whether another try ends in the same way until somebody changes something."""
        return self in (Cause.BAD_CONFIGURATION, Cause.MISSING_LIBRARY)

    @property
    def waits_for_space(self) -> bool:
        """Whether another try makes sense only with more space, and is no crash."""
        return self is Cause.DISK_FULL


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a postmaster ended: the cause, and its own words, which may be none."""

    cause: Cause
    message: str
    """Of the postmaster itself: no statement, no detail, no word of another program."""
