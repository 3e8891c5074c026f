"""Whether a start would succeed, tried before anything depends on it.

What has passed is not tried again until something of it changes, so that a server which restarts
on its own, or was tried before it was stopped, loses no time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from instance_manager.errors import DataDirectoryError, PreflightError, TransientError
from instance_manager.extensions.findings import RULES, Code, finding
from instance_manager.extensions.preloading import lists_of
from instance_manager.extensions.replaced import libraries_of
from instance_manager.log import get_logger
from instance_manager.supervision.endings import Cause

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from instance_manager.postgres.rehearsal import Failure
    from instance_manager.proving import Prover
    from instance_manager.settings.models import Settings
    from instance_manager.supervision.children import Children
    from instance_manager.supervision.threads import Serial
    from instance_manager.surroundings import Place

_log: Final = get_logger()
_TOLD_BY_THE_START: Final = frozenset(
    {Cause.BAD_CONFIGURATION, Cause.OUT_OF_MEMORY, Cause.DISK_FULL}
)
"""What is not the volumes' fault: the start itself meets it, and has a code of its own for it."""


class Loading(NamedTuple):
    """The names of the libraries that a server loads as it starts, and as each session does."""

    at_start: tuple[str, ...]
    in_sessions: tuple[str, ...]


class Trial:
    """Tries starts of one data directory; *place* tells each time where it is."""

    def __init__(
        self, children: Children, place: Callable[[], Place], turn: Serial, prover: Prover
    ) -> None:
        self._children = children
        self._place = place
        self._turn = turn
        self._prover = prover
        self._passed: object = None

    def loading(self, settings: Settings) -> Loading:
        """Return what a start by the last look at the volumes would load."""
        examination = self._prover.examination
        if examination is None:
            return Loading((), ())
        lists = lists_of(examination.report.composed, settings)
        return Loading(lists.loaded, lists.session)

    async def before_start(
        self, configuration: str, environment: Mapping[str, str], loading: Loading
    ) -> None:
        """Try a start that comes next; whatever is in the way of the trial itself is left to it.

        Raises:
            PreflightError: a library that it loads would end it.
        """
        try:
            failed = await self._fails(configuration, environment, loading)
        except (OSError, DataDirectoryError, TransientError) as error:
            _log.warning("the start was not tried before", reason=str(error))
            return
        if failed is not None and failed.ending.cause not in _TOLD_BY_THE_START:
            raise self._refusal(failed)

    async def require(
        self, configuration: str, environment: Mapping[str, str], loading: Loading
    ) -> None:
        """Try a start for whose sake a running server will be stopped.

        Raises:
            PreflightError: it would fail, whatever the reason.
            InstanceManagerError: it can't be tried.
        """
        try:
            failed = await self._fails(configuration, environment, loading)
        except OSError as error:
            _log.warning("the start was not tried before", reason=str(error))
            return
        if failed is not None:
            raise self._refusal(failed)

    async def _fails(
        self, configuration: str, environment: Mapping[str, str], loading: Loading
    ) -> Failure | None:
        # Here, since most starts need nothing of it.
        from instance_manager.postgres.rehearsal import Rehearsal, rehearse

        accepted = self._prover.examination.accepted if self._prover.examination else ()
        tried = (configuration, dict(environment), libraries_of(accepted))
        if tried == self._passed:
            return None
        place = self._place()
        rehearsal = Rehearsal(
            binaries=place.binaries,
            data_directory=place.data_directory,
            stage=place.log_directory.with_suffix(".rehearsal"),
            configuration=configuration,
            environment=environment,
            libraries=loading.at_start,
            session_libraries=loading.in_sessions,
        )
        failed = await rehearse(self._children, rehearsal, self._turn)
        self._prover.trial = None
        self._passed = None if failed else tried
        return failed

    def _refusal(self, failed: Failure) -> PreflightError:
        message = f"rehearsal start failed: {failed.ending.message}"
        self._prover.trial = finding(Code.REHEARSAL, failed.library or "postgres", message)
        return PreflightError(
            f"cannot start postgres: {Code.REHEARSAL} {message}", hint=RULES[Code.REHEARSAL].hint
        )
