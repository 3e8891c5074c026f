"""What is proven of the extension volumes: look, have the dynamic loader asked, conclude.

On the way to a start the loader is asked about what the server will load there, and about the
rest for as long as that costs next to nothing; what is left is completed once the server accepts.
Beside that it is remembered which libraries the running server was started with.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from collections import defaultdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from instance_manager.errors import VolumesUnansweringError
from instance_manager.extensions import replaced, scan
from instance_manager.extensions.composition import loader_path
from instance_manager.extensions.facts import identity_of
from instance_manager.extensions.models import Severity
from instance_manager.extensions.paths import bare_name
from instance_manager.log import get_logger
from instance_manager.postgres.tracing import Question, Scene
from instance_manager.supervision.threads import Serial, in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from instance_manager.extensions.facts import Identity, RootFacts, ServerFacts, VolumeFacts
    from instance_manager.extensions.loader_trace import Trace
    from instance_manager.extensions.models import ExtensionsReport, Finding
    from instance_manager.extensions.scan import Examination, Server
    from instance_manager.postgres.tracing import Tracer
    from instance_manager.settings.models import Settings

T = TypeVar("T")
_log: Final = get_logger()
_BUDGET_SECONDS: Final = 0.1
"""How long a start waits for what the loader says of modules that it does not need."""
_MOST_MODULES: Final = 2000
_MOST_ROUNDS: Final = 50
"""Each takes a volume away, or brings those back that it had spoiled: a bound for the absurd."""
_DEADLINE_SECONDS: Final = 10.0
"""For the storage of the volumes to answer: a look takes a fraction of a second."""
_DELETED: Final = " (deleted)"


class Look(NamedTuple):
    """What one look found, and what it was judged by."""

    found: RootFacts
    settings: Settings
    server: Server


class Prover:
    """Proves the volumes, and keeps what the last look found.

    *completed* adds what others know to a report, for a server; it is called in a thread.
    """

    def __init__(
        self,
        tracer: Tracer,
        *,
        clock: Callable[[], float],
        on_warning: Callable[[str, str], object],
        completed: Callable[[ExtensionsReport, ServerFacts, Settings], ExtensionsReport],
    ) -> None:
        self.examination: Examination | None = None
        self.trial: Finding | None = None
        """Why the last trial of a start failed; None where it did not."""
        self._clock = clock
        self._on_warning = on_warning
        self._completed = completed
        self._tracer = tracer
        self._look: Look | None = None
        self._is_complete = False
        self._looked = asyncio.Event()
        self._turns: defaultdict[Path, Serial] = defaultdict(Serial)
        self._begun = self._kept = 0
        self._reconsidered = 0
        self._told: dict[str, frozenset[tuple[str, Finding]]] = {}
        self._started_with: Mapping[str, Identity] = {}
        self.changes = replaced.NO_CHANGES

    @property
    def report(self) -> ExtensionsReport | None:
        """The last look, completed by what was found out since."""
        if self.examination is None:
            return None
        report = replaced.with_changes(self.examination.report, self.changes)
        if self.trial is None:
            return report
        return report.model_copy(update={"findings": (*report.findings, self.trial)})

    async def examine(self, settings: Settings, server: Server) -> Examination:
        """Look at the volumes as other settings would have them; nothing of it is kept.

        Raises:
            VolumesUnansweringError: their storage does not answer.
        """
        begun = self._clock()
        examination, _ = await self._prove(
            await self._look_at(settings, server), begun + _BUDGET_SECONDS
        )
        return examination

    async def _look_at(self, settings: Settings, server: Server) -> Look:
        # A turn for each root: one that hangs holds up nobody who looks at another one.
        turn = self._turns[settings.extensions.root]
        look = partial(scan.look, settings, server=server.facts)
        found = await _within_limit(settings, turn, "discovery", look)
        return Look(found, settings, server)

    async def look(self, settings: Settings, server: Server) -> ExtensionsReport:
        """Look at the volumes and return what is found; a look that began later is newer.

        Raises:
            VolumesUnansweringError: their storage does not answer.
        """
        self._begun += 1
        number, begun, reconsidered = self._begun, self._clock(), self._reconsidered
        look = await self._look_at(settings, server)
        examination, is_complete = await self._prove(look, begun + _BUDGET_SECONDS)
        examination = scan.timed(examination, self._clock() - begun)
        # Looks may end in another order than they began: an older one must not take a newer's
        # place.
        if number > self._kept:
            self._kept, self._look = number, look
            # What others know may be newer than this look, which has asked them before its end.
            self._is_complete = is_complete and reconsidered == self._reconsidered
            self._take(examination)
            self._looked.set()
        return examination.report

    async def next_look(self, within_seconds: float) -> None:
        """Wait until somebody has looked since the last call, or the time is up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_seconds):
                await self._looked.wait()
        self._looked.clear()

    def reconsider(self) -> None:
        """Have the last look judged anew in :meth:`complete`: others know more than before."""
        self._is_complete = False
        self._reconsidered += 1
        self._looked.set()

    async def complete(self) -> None:
        """Ask the loader what it was not asked yet, and read the contents of the volumes."""
        look, number = self._look, self._kept
        if look is not None and not self._is_complete:
            # Before it is: meanwhile somebody may have it reconsidered.
            self._is_complete = True
            try:
                examination, _ = await self._prove(look, math.inf)
            except BaseException:
                # Else nobody would ask again what was not answered.
                self._is_complete = False
                raise
            # Somebody may have looked again meanwhile: what they saw is newer.
            if number == self._kept and self.examination is not None:
                seconds = self.examination.report.scan_seconds
                self._take(scan.timed(examination, seconds))
        await self._read_contents()

    async def _prove(self, look: Look, until: float) -> tuple[Examination, bool]:
        turn = self._turns[look.settings.extensions.root]
        examination, is_complete = await prove(self._tracer, look, until, turn)
        report = await in_thread(
            "preflight", self._completed, examination.report, look.server.facts, look.settings
        )
        return examination._replace(report=report), is_complete

    async def _read_contents(self) -> None:
        examination, look = self.examination, self._look
        if examination is None or look is None:
            return
        if all(one.content_sha256 for one in examination.report.volumes):
            return
        completed = await in_thread("contents", scan.complete, examination, look.server.facts)
        # Every byte was read: somebody may have looked again meanwhile.
        if self.examination is examination:
            self.examination = completed
            before = set(_by_volume(examination.report))
            self._tell_once("contents", set(_by_volume(completed.report)) - before)

    def start(self) -> None:
        """Remember which libraries the server that is started now will load."""
        accepted = self.examination.accepted if self.examination else ()
        # As they are now: a file that is exchanged later is not the one that the server has
        # mapped.
        self._started_with = replaced.libraries_of(accepted)
        self.changes = replaced.NO_CHANGES

    def end(self) -> None:
        """Forget them: the server is gone."""
        self._started_with = {}
        self.changes = replaced.NO_CHANGES

    async def compare(self, postmaster: int) -> bool:
        """Compare the running server's libraries with the files; return whether that is news."""
        before = self._started_with
        changes = await in_thread("replaced libraries", _changes, before, postmaster)
        # Another server may have been started while this looked.
        if before is not self._started_with or changes == self.changes:
            return False
        told = (*self.changes.replaced, *self.changes.gone)
        self.changes = changes
        for finding in (*changes.replaced, *changes.gone):
            if finding in told:
                continue
            _tell(finding)
            self._on_warning("LibraryReplaced", finding.message)
        return True

    def _take(self, examination: Examination) -> None:
        self.examination = examination
        self._tell_once("volumes", _by_volume(examination.report))

    def _tell_once(self, part: str, found: Iterable[tuple[str, Finding]]) -> None:
        """Log the findings of a part of the look that the last one did not have."""
        # A server that restarts again and again would say them again and again.
        told = self._told.get(part, frozenset())
        now = dict.fromkeys(found)
        self._told[part] = frozenset(now)
        for volume, finding in now:
            if (volume, finding) not in told:
                _tell(finding, volume)


async def prove(
    tracer: Tracer, look: Look, until: float, turn: Serial
) -> tuple[Examination, bool]:
    """Conclude, ask the loader about what may be used, and conclude anew from its answers.

    What it refuses is left out, and others may need that, or may have been spoiled by it and are
    asked about without it: until nothing is new. It is asked also about what its emulation alone
    would leave out: the loader's word counts.

    Args:
        tracer: asks the loader.
        look: what to conclude from.
        until: the moment of the tracer's clock up to which it is asked what can wait.
        turn: whose turn it is to read the volumes.

    Returns:
        What follows, and whether the loader was asked about all.

    Raises:
        VolumesUnansweringError: the storage of the volumes does not answer.
    """
    traces: dict[str, Trace] = {}
    rounds = 0
    while True:
        conclude = partial(scan.conclude, *look, dict(traces))
        examination = await _within_limit(look.settings, turn, "preflight", conclude)
        tried = _to_try(examination)
        if not tried:
            return examination, True
        # Bounded: a volume may hold any number of files that look like modules.
        questions = list(islice(_questions(tried, look.settings), _MOST_MODULES))
        answers = await tracer.ask(questions, _scene(tried, look.server), until)
        if (program := look.server.facts.program) in answers:
            # Without whom it blames it is clean: that must not clear them again, for ever.
            answers[program] = _joined(traces.get(program), answers[program])
        is_news = any(_is_news(trace, traces.get(module)) for module, trace in answers.items())
        # An answer that clears a volume is news, too.
        is_news = is_news or bool(examination.accused and answers.keys() - traces.keys())
        traces.update(answers)
        rounds += 1
        if not is_news or rounds == _MOST_ROUNDS:
            asked = {question.module for question in questions}
            return examination, asked <= answers.keys()


def _joined(before: Trace | None, now: Trace) -> Trace:
    """Return what two traces of the server complain of, each with other volumes in its way."""
    if before is None:
        return now
    return now._replace(
        resolved=tuple(dict.fromkeys((*before.resolved, *now.resolved))),
        missing=tuple(dict.fromkeys((*before.missing, *now.missing))),
        versions=tuple(dict.fromkeys((*before.versions, *now.versions))),
        undefined=tuple(dict.fromkeys((*before.undefined, *now.undefined))),
        stop=before.stop or now.stop,
    )


async def _within_limit(
    settings: Settings, turn: Serial, name: str, function: Callable[[], T]
) -> T:
    """Call a function that reads the volumes, when all before it have ended, or give up.

    So a disk that does not answer has one thread at most waiting for it.
    """
    try:
        async with asyncio.timeout(_DEADLINE_SECONDS):
            return await turn.run(name, function)
    except TimeoutError as error:
        root = str(settings.extensions.root)
        raise VolumesUnansweringError(
            f"cannot read the extension volumes: {root!r}, or what is mounted below it, does not"
            f" answer within {_DEADLINE_SECONDS:.0f} s",
            hint="see to the storage, or unmount the volume: this is tried again by itself",
        ) from error


def _is_news(trace: Trace, before: Trace | None) -> bool:
    return trace != before if before is not None else not trace.is_clean


def _to_try(examination: Examination) -> tuple[VolumeFacts, ...]:
    """Return the volumes that may be used, in precedence order."""
    if not examination.accused:
        return examination.accepted
    names = {volume.name for volume in (*examination.accepted, *examination.accused)}
    return tuple(volume for volume in examination.volumes if volume.name in names)


def _scene(volumes: Sequence[VolumeFacts], server: Server) -> Scene:
    return Scene(
        loader_path(volumes, server.base.ld_library_path),
        # A number instead of what it stands for: it is compared for each module.
        hash(tuple(replaced.libraries_of(volumes).items())),
    )


def _questions(volumes: Sequence[VolumeFacts], settings: Settings) -> Iterator[Question]:
    """Yield the modules that may be used; what the server loads at its start is urgent."""
    from instance_manager.extensions.loader_trace import unaskable
    from instance_manager.extensions.tracing_verdict import path_of

    preloaded = {bare_name(name) for name in settings.postgres.shared_preload_libraries}
    for volume in volumes:
        preloaded.update(volume.metadata.shared_preload_libraries)
    seen: set[Identity | None] = set()
    for volume in volumes:
        for library in volume.searched():
            path = path_of(volume, library)
            if library.is_module and not library.problem and library.identity not in seen:
                reason = unaskable(path)
                if reason:
                    _log.debug("a module is not traced", module=library.path, reason=reason)
                    continue
                # By the file: a library that has several names is asked about once.
                seen.add(library.identity)
                names = {bare_name(library.name), path, path.removesuffix(".so")}
                yield Question(path, is_urgent=not names.isdisjoint(preloaded))


def _changes(before: Mapping[str, Identity], postmaster: int) -> replaced.Changes:
    now: dict[str, Identity | None] = {}
    for path in before:
        try:
            now[path] = identity_of(Path(path).stat())
        except (FileNotFoundError, NotADirectoryError):
            now[path] = None
        except OSError:
            # Storage that can't be asked says nothing of the file.
            continue
    if now == before:
        return replaced.NO_CHANGES
    return replaced.compare(before, now, _mapped(postmaster))


def _mapped(pid: int) -> frozenset[str]:
    """Return the files that a process has mapped, replaced ones too; none where it is gone."""
    try:
        lines = os.fsdecode(Path(f"/proc/{pid}/maps").read_bytes()).splitlines()
    except OSError:
        return frozenset()
    # proc_pid_maps(5): the path is the sixth field.
    return frozenset(
        line.split(maxsplit=5)[5].removesuffix(_DELETED) for line in lines if " /" in line
    )


def _by_volume(report: ExtensionsReport) -> Iterator[tuple[str, Finding]]:
    """Yield each finding after the name of its volume, which those of the whole set don't have."""
    for finding in report.findings:
        yield "", finding
    for volume in report.volumes:
        for finding in volume.findings:
            yield volume.name, finding


def _tell(finding: Finding, volume: str = "") -> None:
    """Log a finding at the level of its severity, with its volume where it has one."""
    say = {Severity.ERROR: _log.error, Severity.WARNING: _log.warning}
    where = {"volume": volume} if volume else {}
    say.get(finding.severity, _log.info)(
        finding.message,
        **where,
        code=finding.code,
        severity=str(finding.severity),
        subject=finding.subject,
        hint=finding.hint,
    )
