"""Who sends the request that is being answered, for whoever has to tell it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request, as the events name it."""

    name: str
    is_proven: bool = True
    """Whether it showed who it is; what is open to all is so to those who did not."""


CALLER: Final[ContextVar[Caller]] = ContextVar("caller")
"""Set by the gate of the listener: each request is answered in a context of its own."""
