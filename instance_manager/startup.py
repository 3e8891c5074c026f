"""From settings to a postmaster: the steps of a start, in the order in which they may fail.

Lock, volumes, data directory, configuration, spawn. What blocks on a disk runs in a thread, so
that probes are answered whatever the volumes do. This is the supervisor's :class:`StartWork`.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from instance_manager.documents import Documents
from instance_manager.errors import (
    DataDirectoryError,
    DataDirectoryInUseError,
    DataDirectoryLostError,
    DiskSpaceError,
    InstanceManagerError,
    PreflightError,
    VolumesUnansweringError,
)
from instance_manager.extensions import refusals
from instance_manager.extensions.composition import Base
from instance_manager.extensions.scan import Server
from instance_manager.fence import Fence
from instance_manager.inventory import InventoryFile
from instance_manager.log import get_logger
from instance_manager.postgres import (
    before_start,
    binaries,
    bootstrap,
    data_directory,
    free_space,
    lost,
    marker,
    memory,
    pid_file,
    ports,
    process,
)
from instance_manager.postgres.connection import Answer
from instance_manager.postgres.fencing import Verdict
from instance_manager.postgres.tracing import Tracer
from instance_manager.postgres.way import way_to
from instance_manager.proving import Prover
from instance_manager.server_configuration import (
    Target,
    Written,
    render_configuration,
    search_paths,
    write_configuration,
)
from instance_manager.settings.changes import keep, keys_needing_start
from instance_manager.supervision.states import Event
from instance_manager.supervision.threads import Serial, in_thread
from instance_manager.tenancy import Tenancy
from instance_manager.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from instance_manager.extensions.facts import ServerFacts
    from instance_manager.extensions.models import ExtensionsReport
    from instance_manager.extensions.scan import Examination
    from instance_manager.health.snapshot import Observer
    from instance_manager.journal import Journal
    from instance_manager.observability.log_pipe import PostgresLog
    from instance_manager.postgres.binaries import Version
    from instance_manager.settings.models import Settings
    from instance_manager.supervision.children import Child, Children
    from instance_manager.supervision.work import LastExit
    from instance_manager.surroundings import Place, Surroundings
    from instance_manager.trial import Loading

_log: Final = get_logger()
_SEGMENTS_AFTER_FULL: Final = 3
"""More than a start needs: with just one, a server that a full disk ended would end again."""
_EVENTS: Final = {Answer.ACCEPTS: Event.ACCEPTED, Answer.STARTING: Event.RECOVERY_SEEN}


class Candidate(NamedTuple):
    """Settings that nobody has decided for, and what a server would be given by them."""

    settings: Settings
    examination: Examination
    configuration: str
    """The text of our file."""
    environment: dict[str, str]
    loading: Loading
    refusal: PreflightError | None
    """Why the volumes would not let it start."""


class Startup:
    """Prepares starts of one data directory; holds its lock for as long as the manager lives."""

    def __init__(
        self,
        surroundings: Surroundings,
        children: Children,
        observer: Observer,
        log: PostgresLog,
        *,
        clock: Callable[[], float],
        journal: Journal,
    ) -> None:
        self.settings = surroundings.settings
        self.generation = 0
        self.version: Version | None = None
        self.written: Written | None = None
        self.step = ""
        self.step_at = clock()
        self._children = children
        self.hasten = children.hasten
        self._observer = observer
        self._log = log
        self._clock = clock
        self._journal = journal
        self._files_turn = Serial()
        self.place = surroundings.place
        self.tenancy = tenancy = Tenancy(self.place.data_directory, children.pids)
        self._use(surroundings)
        # Where it is kept may be found out only by the first start.
        kept = (lambda: self.files, surroundings.name, self._files_turn, tenancy.has_own_lock)
        self.fence, self.inventory = Fence(*kept), InventoryFile(*kept)
        self.documents = Documents(surroundings.load, *kept)
        self._has_run = False
        self.prover = Prover(
            Tracer(children, self.place.binaries.postgres, clock),
            clock=clock,
            on_warning=journal.on_warning,
            completed=self.inventory.completed,
        )
        given = (lambda: self.place, lambda: tenancy.descriptor)
        self.trial = Trial(children, *given, self._files_turn, self.prover)
        self.oom_kills_before: int | None = None
        """The kernel's count when the postmaster was spawned; None where it can't be read."""

    def _use(self, surroundings: Surroundings) -> None:
        """Work in the data directory of these surroundings from now on; nothing is held yet."""
        self._surroundings, self.place = surroundings, surroundings.place
        self.tenancy.move_to(self.place.data_directory)

    def settled_place(self) -> Place:
        """Return where everything is: looked for anew where that isn't known yet. For threads."""
        return self._surroundings.settled().place

    def close(self) -> None:
        """Release the lock, as far as this process holds it."""
        self.tenancy.close()

    @property
    def report(self) -> ExtensionsReport | None:
        """What the last look at the volumes found."""
        return self.prover.report

    @property
    def examination(self) -> Examination | None:
        """What the last look at the volumes found, and what follows from it."""
        return self.prover.examination

    @property
    def files(self) -> data_directory.OurFiles:
        """Our files in the data directory."""
        return self.tenancy.files

    async def prepare(self) -> Event:
        """Check and write all that a start needs: nothing, where the instance is fenced.

        Raises:
            InstanceManagerError: it can't start, and why.
        """
        try:
            return await self._prepare()
        except OSError as error:
            directory = self.place.data_directory
            raise DataDirectoryError(
                f"cannot use data directory {str(directory)!r}: {error}",
                hint=f"the way there: {await way_to(directory)}",
            ) from error

    async def _prepare(self) -> Event:
        if not self._surroundings.is_settled:
            with self._timed("place"):
                self._use(await self._files_turn.run("place", self._surroundings.settled))
        await self._read_version()
        with self._timed("lock"):
            await self._files_turn.run("lock", self.tenancy.take)
            # Before the fence: who reads a fenced instance's configuration reads the accepted one.
            self.settings = await self.documents.adopted(self.settings, self._journal)
            if await self._is_fenced():
                return Event.FENCE_FOUND
            await self._files_turn.run("leftovers", self._end_leftovers)
        await self.look_at_volumes()
        with self._timed("data directory"):
            if await self._files_turn.run("data directory", self._is_empty):
                return Event.DIRECTORY_EMPTY
        with self._timed("configuration"):
            await self.configure()
        if any(loading := self.trial.loading(self.settings)):
            with self._timed("rehearsal"):
                await self.trial.before_start(self.render(), self._server_environment(), loading)
        ports.require_free(self.settings.postgres)
        return Event.PREPARED

    async def look_at_volumes(self, *, ignore_inventory: bool | None = None) -> None:
        """Discover and judge the volumes; what databases need may be only reported.

        Raises:
            PreflightError: the policy forbids to start with them, or they do not answer.
        """
        await self.rescan()
        if self.inventory.is_foreign:
            message = "an inventory of the databases that came with a copy is not used"
            self._journal.on_event("InventoryIgnored", message)
        refused = self.refusal(ignore_inventory=ignore_inventory)
        if refused is not None:
            raise refused

    def refusal(self, *, ignore_inventory: bool | None = None) -> PreflightError | None:
        """Return why postgres must not be started after the last look, or None."""
        if self.examination is None:
            return None
        libraries = self._server_facts().libraries
        return refusals.refusal(
            self.examination.report,
            self.settings,
            libraries,
            ignore_inventory=self.inventory.is_passed_over(ignore_inventory),
        )

    async def rescan(self) -> ExtensionsReport:
        """Discover and judge the volumes, and change nothing by that."""
        if self.version is None:
            await self._read_version()
        with self._timed("preflight"):
            return await self.prover.look(self.settings, self._server())

    def _server(self) -> Server:
        base = Base(self.place.tools["PATH"], self.place.library_path)
        return Server(self._server_facts(), base)

    async def see_changes(self, postmaster: int) -> None:
        """Note which libraries changed under the running server; look at all then."""
        if await self.prover.compare(postmaster):
            await self.rescan()

    async def rehearse(self) -> None:
        """Try whether a start would succeed, beside a server that runs.

        Raises:
            InstanceManagerError: it would not, and why.
        """
        await self.look_at_volumes(ignore_inventory=False)
        with self._timed("rehearsal"):
            loading = self.trial.loading(self.settings)
            await self.trial.require(self.render(), self._server_environment(), loading)

    async def reread_settings(self, document: Mapping[str, Any] | None = None) -> Settings:
        """Read the settings again and return them; what needs a new start stays as it is.

        With the accepted configuration document, or with *document* in its place.

        Raises:
            SettingsError: with every problem.
        """
        new = await self.documents.read_settings(document)
        waiting = keys_needing_start(self.settings, new)
        if waiting:
            _log.warning("changed settings wait for a new start of the manager", keys=waiting)
        return keep(self.settings, new, waiting)

    async def candidate(self, settings: Settings) -> Candidate:
        """Return what other settings would make of volumes and parameters; nothing is kept.

        Raises:
            PreflightError: the volumes do not answer.
        """
        if self.version is None:
            await self._read_version()
        examination = await self.prover.examine(settings, self._server())
        return Candidate(
            settings,
            examination,
            render_configuration(settings, examination, self._target()),
            self._server_environment(examination),
            self.trial.loading(settings, examination),
            refusals.refusal(
                examination.report,
                settings,
                self._server_facts().libraries,
                # What is missing is so without a reload, too.
                ignore_inventory=True,
            ),
        )

    async def fall_back(self, ending: LastExit) -> bool:
        """Take the last good configuration, if there is another one that a server ran with.

        Returns:
            Whether the next start has another configuration than the one that ended so.
        """
        failed = self.settings
        good = await self.documents.another_good(failed)
        # Else it was changed while that was read, and what is wanted now has not been tried.
        if self.settings is failed and good is not None:
            self.documents.tell_fallen_back(str(ending), self._journal)
            self.settings = good
        return self.settings is not failed

    async def configure(self, library_path: str = "") -> Written:
        """Write what the server reads; *library_path* is what one that runs has now."""
        self.written = await self._files_turn.run(
            "configuration", self._write_configuration, library_path
        )
        self.generation += self.written.changed
        return self.written

    async def initialize(self) -> None:
        """Make a new cluster."""
        with self._timed("bootstrap"):
            plan = await in_thread("bootstrap plan", self._bootstrap_plan)
            _log.info("making a new cluster", data_directory=str(self.place.data_directory))
            await bootstrap.make_cluster(self._children, plan, self._progress, self._files_turn)

    def spawn(self) -> Child:
        """Start the postmaster with what was prepared."""
        lock = self.tenancy.descriptor
        if lock is None:
            raise PreflightError("cannot start postgres: nothing was prepared")
        self._observer.forget()
        self._has_run = True
        self.oom_kills_before = memory.oom_kills()
        launch = process.Launch(
            binaries=self.place.binaries,
            data_directory=self.place.data_directory,
            environment=self._server_environment() | self.tenancy.past_stale_pid,
            lock=lock,
        )
        self.prover.start()
        self.trial.begin(self._server_environment(), self.trial.loading(self.settings))
        with self._timed("spawn"), self._log.capturing() as output:
            return process.start(self._children, launch, output)

    async def ask(self) -> Event | None:
        """Ask the postmaster whether it accepts connections."""
        return _EVENTS.get(await self._observer.ask())

    async def still_fails(self, failure: InstanceManagerError) -> InstanceManagerError | None:
        """Return why a start would fail that has failed for want of what may come by itself."""
        try:
            if isinstance(failure, DataDirectoryInUseError):
                await self._files_turn.run("lock", self.tenancy.take)
                await self._files_turn.run("leftovers", self._end_leftovers)
            elif isinstance(failure, DataDirectoryLostError):
                present = await self._files_turn.run(
                    "data directory", data_directory.has_cluster, self.place.data_directory
                )
                return None if present else failure
            elif isinstance(failure, DiskSpaceError):
                await self._files_turn.run("free space", self._require_space)
            elif isinstance(failure, VolumesUnansweringError):
                await self.rescan()
        except InstanceManagerError as error:
            if isinstance(
                error, DataDirectoryInUseError | DiskSpaceError | VolumesUnansweringError
            ):
                return error
            # Storage that can't be asked now may be well the next time.
            return failure if isinstance(error.__cause__, OSError) else error
        except OSError:
            return failure
        return None

    def _require_space(self) -> None:
        directory = self.place.data_directory
        if data_directory.has_cluster(directory):
            free_space.require_for_start(directory, _SEGMENTS_AFTER_FULL)
        else:
            free_space.require_for_new_cluster(directory)

    def _end_what_is_fenced(self) -> None:
        """An old server of a fenced instance must not run; but nothing keeps the fence from it."""
        try:
            self._end_leftovers()
        except InstanceManagerError as error:
            _log.error(error.message, code=error.code, hint=error.hint)

    async def _is_fenced(self) -> bool:
        verdict = await self.fence.look()
        if verdict is Verdict.FENCED:
            await self._files_turn.run("leftovers", self._end_what_is_fenced)
        elif verdict is Verdict.COPIED:
            self._journal.on_event("FenceIgnored", "a fence that came with a copy was taken away")
        return verdict is Verdict.FENCED

    def _progress(self, step: str) -> None:
        self.step, self.step_at = step, self._clock()
        _log.info("initialising", step=step)

    @contextmanager
    def _timed(self, step: str) -> Generator[None]:
        began = self.step_at = self._clock()
        self.step = step
        try:
            yield
        finally:
            self._journal.on_step(step, self._clock() - began)

    def _end_leftovers(self) -> None:
        self.tenancy.end_leftovers(self.trial.clear)

    async def _read_version(self) -> None:
        with self._timed("version"):
            self.version = await binaries.read_version(
                self.place.binaries, self._children, self.place.tools
            )

    def _is_empty(self) -> bool:
        assert self.version is not None  # noqa: S101 - prepare() has read it
        directory, wal = self.place.data_directory, self.settings.postgres.wal_directory
        if marker.recover(self.files):
            _log.warning("an unfinished initialisation was cleared away")
        if data_directory.is_empty(directory):
            if self.tenancy.had_cluster:
                # Since the lock was taken, a moment ago.
                lost.require_not_vanished(directory)
            lost.require_never_used(self.files, wal)
            return True
        before_start.require_usable(directory, self.version.major, wal)
        return False

    @property
    def has_run(self) -> bool:
        """Whether a postmaster was spawned by this manager."""
        return self._has_run

    @property
    def names_of_ours(self) -> frozenset[str]:
        """The names of variables that every server gets from us, whatever the volumes ask for."""
        ours = process.environment_of(self.place.tools, search_path="", library_path="", extra={})
        return frozenset(ours) | {pid_file.GRANDPARENT}

    @property
    def system_identifier(self) -> str | None:
        """The cluster's own number; None before its control file was read."""
        return self.written.system_identifier if self.written else None

    def _server_facts(self) -> ServerFacts:
        assert self.version is not None  # noqa: S101 - prepare() has read it
        return binaries.server_facts(self.place.binaries, self.version)

    def _write_configuration(self, library_path: str) -> Written:
        assert self.examination is not None  # noqa: S101 - prepare() has looked
        return write_configuration(self.settings, self.examination, self._target(), library_path)

    def render(self) -> str:
        """Return our file's text by the settings in force and the last look at the volumes."""
        assert self.examination is not None  # noqa: S101 - prepare() has looked
        return render_configuration(self.settings, self.examination, self._target())

    def _target(self) -> Target:
        assert self.version is not None  # noqa: S101 - prepare() has read it
        return Target(
            files=self.files,
            log_directory=self.place.log_directory,
            major=self.version.major,
            instance=self._surroundings.name,
            account=self._surroundings.account,
        )

    def _bootstrap_plan(self) -> bootstrap.Bootstrap:
        settings, examination = self.settings, self.examination
        assert examination is not None  # noqa: S101 - prepare() has looked
        lock = self.tenancy.descriptor
        assert lock is not None  # noqa: S101 - prepare() has taken it
        composed = examination.report.composed
        return bootstrap.Bootstrap(
            files=self.files,
            binaries=self.place.binaries,
            settings=settings.bootstrap,
            wal_directory=settings.postgres.wal_directory,
            runtime_directory=self.place.runtime_directory,
            environment=self.place.tools,
            server_environment=self._server_environment(),
            server_parameters=search_paths(composed, self._server_facts().major),
            passwords=bootstrap.passwords_of(settings.bootstrap),
            instance=self._surroundings.name,
            lock=lock,
        )

    def _server_environment(self, examination: Examination | None = None) -> dict[str, str]:
        examination = examination or self.examination
        assert examination is not None  # noqa: S101 - prepare() has looked
        composed = examination.report.composed
        return process.environment_of(
            self.place.tools,
            search_path=composed.path,
            library_path=composed.ld_library_path,
            extra=composed.env,
        )
