"""What a smoke test was asked for, and what came of it. Pure data, frozen."""

# No postponed annotations here: pydantic would evaluate each of them anew.

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from instance_manager.extensions.models import Finding


class Outcome(StrEnum):
    """What became of a step."""

    PASSED = "passed"
    """It did what it should."""
    FAILED = "failed"
    """It did not; the image is bad."""
    SKIPPED = "skipped"
    """There was nothing to do, or an earlier step failed."""


class Verdict(StrEnum):
    """What is to be thought of an image."""

    GOOD = "good"
    """Everything in it works."""
    BAD = "bad"
    """A step failed."""
    REFUSED = "refused"
    """The preflight has an error: a server would not use it."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Step(_Frozen):
    """One thing that was tried."""

    name: str
    """What was done, such as ``start``, ``create``, ``use``, ``update``, ``load`` or ``end``."""
    outcome: Outcome
    """What became of it."""
    detail: str = ""
    """What was done, or what the server said."""
    hint: str = ""
    """What to do about it, where something is known."""


class Subject(_Frozen):
    """An extension, a module, or the volume as a whole, and what was tried with it."""

    kind: str
    """``extension``, ``module``, ``volume``, or ``server``."""
    name: str
    """Its name."""
    version: str | None = None
    """The version that was created; null for what has none."""
    steps: tuple[Step, ...] = ()
    """In the order in which they were tried."""

    @property
    def has_failed(self) -> bool:
        """Whether a step failed."""
        return any(step.outcome is Outcome.FAILED for step in self.steps)


class Result(_Frozen):
    """What came of one image."""

    source: str
    """The image, as it was named."""
    volume: str
    """The name that its volume had in the test."""
    verdict: Verdict
    """What is to be thought of it."""
    server: str = ""
    """The server's version; empty where none ran."""
    beside: tuple[str, ...] = ()
    """The volumes that were mounted beside it."""
    subjects: tuple[Subject, ...] = ()
    """What was tried."""
    remarks: tuple[str, ...] = ()
    """What is worth knowing and no failure."""
    findings: tuple[Finding, ...] = ()
    """Those of the preflight."""
    log: tuple[str, ...] = ()
    """The last lines of the manager's log, where a step failed."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a test is to use."""

    sources: tuple[str, ...]
    """Directories, layouts, archives, or images of podman's."""
    beside: tuple[str, ...] = ()
    """More of them, mounted beside each."""
    statements: tuple[str, ...] = ()
    """SQL that is run when all is created, after what the metadata gives."""
    parameters: tuple[tuple[str, str], ...] = ()
    """Parameters of the server."""
    bin_directory: Path | None = None
    """Where the server's programs are; None for where ``run`` finds them."""
    run_as: str = "postgres"
    """Whom the server runs as, where root asks."""
    statement_seconds: float = 120.0
    """How long one statement may take."""
