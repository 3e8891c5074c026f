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
    """Where to, 1 to 255 characters; default: the declared version, else the control file's."""
    dry_run: StrictBool = False
    """Only rehearse it: run it, look, and roll it back."""
    lock_timeout_seconds: Seconds = 5.0
    """Seconds that it may wait for each lock: more than 0, at most 3600."""
    timeout_seconds: Seconds | None = None
    """Seconds that a statement may last: more than 0, at most 3600; default: 600, and 60 for a
    rehearsal."""


class SqlFailure(Document):
    """What the server said; *script* and *line* where it names them."""

    sqlstate: str
    """Five characters, as in the manual's table of error codes."""
    message: str
    """The server's primary message."""
    detail: str = ""
    """The server's detail; empty where it gave none."""
    hint: str = ""
    """The server's hint; empty where it gave none."""
    context: str = ""
    """Where in the script or function it was; empty where the server does not say."""
    script: str = ""
    """The file of the script; empty where the server does not name it."""
    line: int | None = None
    """The line of the script, from 1; null where the server does not name it."""


class RehearsedStep(Document):
    """One script of the path; *seconds* is null where it did not come to its end."""

    from_version: str
    """The version before the script."""
    to_version: str
    """The version after it."""
    outcome: Literal["succeeded", "failed", "not-reached", "unknown"]
    """What became of it; ``unknown`` where the server does not name the script that failed."""
    seconds: float | None = None
    """How many seconds it took; null unless all steps succeeded."""


class RehearsedLock(Document):
    """A lock that the update takes on something that was there before."""

    mode: str
    """As ``pg_locks`` has it, such as ``AccessExclusiveLock``."""
    object: str
    """What is locked, for people, such as ``table public.items``."""


class RehearsedNotice(Document):
    """What a script said."""

    severity: str
    """``WARNING`` or milder, as the server has it."""
    sqlstate: str
    """Five characters, as in the manual's table of error codes."""
    message: str
    """What the script said."""


class Rehearsal(Document):
    """An update that was run and rolled back."""

    database: str
    """The database."""
    extension: str
    """The extension."""
    from_version: str
    """The version that is installed."""
    to_version: str
    """The version that it would have."""
    path: tuple[str, ...]
    """The versions on the way, both ends too."""
    outcome: Literal["succeeded", "failed"]
    """Whether the whole update would succeed."""
    steps: tuple[RehearsedStep, ...]
    """One for each script of the path."""
    failure: SqlFailure | None
    """What the server said; null where it succeeded."""
    locks: tuple[RehearsedLock, ...] | None
    """The strongest first; null where it failed, since they are gone then."""
    locks_left_out: int
    """How many locks are not listed, beyond the first 100."""
    notices: tuple[RehearsedNotice, ...]
    """What the scripts said, at most 100."""
    notices_left_out: int
    """How many notices are not listed, beyond the first 100."""
    duration_seconds: float
    """How many seconds the whole rehearsal took."""
    rolled_back: bool
    """What a look at the catalog said afterwards."""
    remarks: tuple[str, ...]
    """What else there is to know, for people."""
