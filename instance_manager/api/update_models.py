"""The documents of extension updates: what is asked for, and what a rehearsal has shown.

Annotations are read at run time, so they are not postponed here.
"""

from typing import Annotated, Literal

from pydantic import Field, StrictBool

from instance_manager.api.models import Document, Request

_LONGEST_SECONDS = 3600.0
Seconds = Annotated[float, Field(gt=0, le=_LONGEST_SECONDS, allow_inf_nan=False)]


class UpdateRequest(Request):
    """The body of an update; everything may be left out."""

    version: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    """Default: the declared version, else the default version of the control file."""
    dry_run: StrictBool = False
    lock_timeout_seconds: Seconds = 5.0
    """How long it may wait for each lock."""
    timeout_seconds: Seconds | None = None
    """How long a statement may last; default: 60 for a rehearsal, else 600."""


class SqlFailure(Document):
    """What the server said; *script* and *line* where it names them."""

    sqlstate: str
    message: str
    detail: str = ""
    hint: str = ""
    context: str = ""
    script: str = ""
    line: int | None = None


class RehearsedStep(Document):
    """One script of the path; *seconds* is null where it did not come to its end."""

    from_version: str
    to_version: str
    outcome: Literal["succeeded", "failed", "not-reached", "unknown"]
    seconds: float | None = None


class RehearsedLock(Document):
    """A lock that the update takes on something that was there before."""

    mode: str
    object: str


class RehearsedNotice(Document):
    """What a script said."""

    severity: str
    sqlstate: str
    message: str


class Rehearsal(Document):
    """An update that was run and rolled back."""

    database: str
    extension: str
    from_version: str
    to_version: str
    path: tuple[str, ...]
    """The versions on the way, both ends too."""
    outcome: Literal["succeeded", "failed"]
    steps: tuple[RehearsedStep, ...]
    failure: SqlFailure | None
    locks: tuple[RehearsedLock, ...] | None
    """The strongest first; null where it failed, since they are gone then."""
    locks_left_out: int
    notices: tuple[RehearsedNotice, ...]
    notices_left_out: int
    duration_seconds: float
    rolled_back: bool
    """What a look at the catalog said afterwards."""
    remarks: tuple[str, ...]
