"""Whether a start would succeed, tried before anything depends on it.

A server that restarts on its own, or was tried before it was stopped, loses no time: what has
worked is not tried again. But whoever stops a server that runs wants to know for sure.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

from instance_manager.errors import DataDirectoryError, PreflightError, TransientError
from instance_manager.extensions.findings import RULES, Code, finding
from instance_manager.extensions.preloading import lists_of
from instance_manager.extensions.replaced import libraries_of
from instance_manager.log import get_logger
from instance_manager.supervision.endings import Cause
from instance_manager.supervision.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from instance_manager.errors import Problem
    from instance_manager.extensions.facts import Identity
    from instance_manager.extensions.scan import Examination
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


_CONTROL_DATA_SECONDS: Final = 10.0


class Loading(NamedTuple):
    """The names of the libraries that a server loads as it starts, and as each session does."""

    at_start: tuple[str, ...]
    in_sessions: tuple[str, ...]


class _Loaded(NamedTuple):
    """What a start loads: it need not be tried again while nothing of that changes."""

    loading: Loading
    environment: Mapping[str, str]
    libraries: Mapping[str, Identity]


class Trial:
    """Tries starts of one data directory.

    *place* tells each time where it is, *lock* the descriptor of its lock.
    """

    def __init__(
        self,
        children: Children,
        place: Callable[[], Place],
        lock: Callable[[], int | None],
        turn: Serial,
        prover: Prover,
    ) -> None:
        self.is_running = False
        """Whether a start is being tried now."""
        self._children = children
        self._place = place
        self._lock = lock
        self._turn = turn
        self._prover = prover
        self._begun: _Loaded | None = None
        self._works: _Loaded | None = None
        self._playing = asyncio.Lock()

    def loading(self, settings: Settings, examination: Examination | None = None) -> Loading:
        """Return what a start would load: by the last look at the volumes, or by a given one."""
        examination = examination or self._prover.examination
        if examination is None:
            return Loading((), ())
        lists = lists_of(examination.report.composed, settings)
        return Loading(lists.loaded, lists.session)

    async def judge(
        self, configuration: str, environment: Mapping[str, str], loading: Loading
    ) -> Failure | None:
        """Try a start with a configuration that nobody has decided for; return why it fails.

        Raises:
            InstanceManagerError, OSError: it can't be tried.
        """
        return await self._try(configuration, environment, loading)

    async def required_of_standby(self) -> dict[str, int]:
        """Return what a standby must not have less of; nothing for a primary.

        Raises:
            InstanceManagerError, OSError: it can't be found out.
        """
        from instance_manager.postgres import standby

        place = self._place()
        if not await in_thread("standby", standby.is_standby, place.data_directory):
            return {}
        done = await self._children.run(
            "pg_controldata",
            [str(place.binaries.postgres.with_name("pg_controldata")), str(place.data_directory)],
            # The labels of its output are translated.
            environment=place.tools | {"LC_ALL": "C"},
            deadline_seconds=_CONTROL_DATA_SECONDS,
        )
        return standby.required(done.output)

    async def certificates(self, configuration: str) -> tuple[Problem, ...]:
        """Return what the server could not serve TLS with."""
        from instance_manager.postgres import certificates

        place = self._place().data_directory
        return await in_thread(
            "certificates", lambda: tuple(certificates.problems(configuration, place))
        )

    async def before_start(
        self, configuration: str, environment: Mapping[str, str], loading: Loading
    ) -> None:
        """Try a start that comes next; whatever is in the way of the trial itself is left to it.

        What has worked is not tried. What never comes back is refused after a minute: the start
        itself would hang without a word.

        Raises:
            PreflightError: a library that it loads would end it.
        """
        # A restart is to be fast: what has worked with the same files will work again.
        if self._loaded(environment, loading) == self._works:
            return
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
        """Try a start for whose sake a running server will be stopped; always anew.

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

    def begin(self, environment: Mapping[str, str], loading: Loading) -> None:
        """Note what the server that is started now loads."""
        self._begun, self._works = self._loaded(environment, loading), None

    def succeed(self) -> None:
        """Note that it accepts connections: what it loaded works, whatever a trial has said."""
        # By what was loaded at its start: the files may have changed since.
        self._works = self._begun
        self._prover.trial = None

    def clear(self) -> None:
        """Clear away what a killed manager's trial left; blocks: for a thread."""
        stage = self._stage()
        if stage.exists():
            from instance_manager.postgres.rehearsal import strike

            strike(stage)

    def _stage(self) -> Path:
        return self._place().log_directory.with_suffix(".rehearsal")

    def _loaded(self, environment: Mapping[str, str], loading: Loading) -> _Loaded:
        accepted = self._prover.examination.accepted if self._prover.examination else ()
        return _Loaded(loading, dict(environment), libraries_of(accepted))

    async def _fails(
        self, configuration: str, environment: Mapping[str, str], loading: Loading
    ) -> Failure | None:
        tried = self._loaded(environment, loading)
        self.is_running = True
        try:
            failed = await self._try(configuration, environment, loading)
        finally:
            self.is_running = False
        self._prover.trial = None
        # A restart need not try it twice.
        self._works = None if failed else tried
        return failed

    async def _try(
        self, configuration: str, environment: Mapping[str, str], loading: Loading
    ) -> Failure | None:
        # Here, since most starts need nothing of it.
        from instance_manager.postgres.rehearsal import Rehearsal, rehearse

        # There is one stage.
        async with self._playing:
            place, lock = self._place(), self._lock()
            rehearsal = Rehearsal(
                binaries=place.binaries,
                data_directory=place.data_directory,
                stage=self._stage(),
                configuration=configuration,
                environment=environment,
                libraries=loading.at_start,
                session_libraries=loading.in_sessions,
                # By the lock the next start finds a trial whose manager was killed.
                inherit=() if lock is None else (lock,),
            )
            return await rehearse(self._children, rehearsal, self._turn)

    def _refusal(self, failed: Failure) -> PreflightError:
        message = f"rehearsal start failed: {failed.ending.message}"
        self._prover.trial = finding(Code.REHEARSAL, failed.library or "postgres", message)
        return PreflightError(
            f"cannot start postgres: {Code.REHEARSAL} {message}", hint=RULES[Code.REHEARSAL].hint
        )
