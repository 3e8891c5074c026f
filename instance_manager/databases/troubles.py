"""What keeps databases from what is declared, when to try again, and the verdict. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from instance_manager.databases.desired import Action

_FIRST_RETRY_SECONDS: Final = 5.0
_LAST_RETRY_SECONDS: Final = 300.0
_SHOWN: Final = 5
_MESSAGE_LIMIT: Final = 500


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why an extension, or with an empty name a whole database, is not as declared."""

    database: str
    extension: str
    message: str
    sqlstate: str = ""
    """Of the server's own error; empty where it was not asked."""
    hint: str = ""

    def __str__(self) -> str:
        where = f"database {self.database!r}"
        if self.extension:
            where = f"extension {self.extension!r} of {where}"
        state = f" ({self.sqlstate})" if self.sqlstate else ""
        message = self.message
        if len(message) > _MESSAGE_LIMIT:
            message = f"{message[:_MESSAGE_LIMIT]}…"
        return f"{where}: {message}{state}"


@dataclass(frozen=True, slots=True)
class Retry:
    """An action that failed, how often, and when it is due again by the caller's clock.

    None is to look again: what an action needs is missing, such as a database or a schema.
    """

    action: Action | None
    attempts: int
    at: float
    trouble: Trouble


def retry_after(
    action: Action | None, trouble: Trouble, before: Retry | None, now: float
) -> Retry:
    """Return when to try again: after 5 s, then twice as long each time, at most 5 minutes."""
    attempts = before.attempts + 1 if before is not None and before.action == action else 1
    # The exponent is bounded, since an action may fail for months.
    pause = min(_FIRST_RETRY_SECONDS * 2 ** min(attempts - 1, 10), _LAST_RETRY_SECONDS)
    return Retry(action, attempts, now + pause, trouble)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the databases are as declared; None where nobody can know."""

    holds: bool | None
    reason: str
    message: str


NOT_RUNNING: Final = Verdict(None, "NotRunning", "postgres does not run")
NOT_LOOKED_YET: Final = Verdict(None, "NotLookedYet", "the databases were not looked at yet")
IN_RECOVERY: Final = Verdict(None, "InRecovery", "a standby has what its primary has")
NOTHING_DECLARED: Final = Verdict(True, "NothingDeclared", "the settings declare no database")


def judge(troubles: Iterable[Trouble], databases: Iterable[str]) -> Verdict:
    """Return the verdict on databases that were looked at."""
    found = list(troubles)
    if not found:
        return Verdict(True, "AsDeclared", f"as declared: {', '.join(databases)}")
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return Verdict(False, "NotAsDeclared", "; ".join(map(str, found[:_SHOWN])) + more)
