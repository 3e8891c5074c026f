"""Who is changing an extension of a database: one at a time, and nobody waits."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from instance_manager.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Generator


class Turns:
    """Remembers who changes what. For the loop's thread only."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], str] = {}

    def require_free(self, database: str, extension: str) -> None:
        """Refuse where somebody is at it.

        Raises:
            ConflictError: says who.
        """
        holder = self._held.get((database, extension))
        if holder is not None:
            raise ConflictError(
                f"cannot change extension {extension!r} of database {database!r}: {holder} is"
                " under way",
                hint="wait for its end",
            )

    @contextmanager
    def hold(self, database: str, extension: str, what: str) -> Generator[None]:
        """Hold the extension for *what*, such as ``a rehearsal``.

        Raises:
            ConflictError: as :meth:`require_free`.
        """
        self.require_free(database, extension)
        self._held[database, extension] = what
        try:
            yield
        finally:
            del self._held[database, extension]
