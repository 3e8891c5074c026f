"""The smoke test of images: each one alone in a server, from its files to a verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from instance_manager.client import ClientError
from instance_manager.databases.sessions import SqlError
from instance_manager.errors import UsageError
from instance_manager.extensions import metadata
from instance_manager.extensions.findings import Code
from instance_manager.extensions.models import Severity
from instance_manager.extensions.reading import VolumeReader
from instance_manager.images.taking import take
from instance_manager.smoke.models import Outcome, Result, Step, Subject, Verdict
from instance_manager.smoke.server import NotStartedError, make_place, running
from instance_manager.smoke.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from instance_manager.extensions.models import ExtensionsReport, Finding
    from instance_manager.smoke.keeping import Keeper
    from instance_manager.smoke.models import Request
    from instance_manager.smoke.server import Place, Server
    from instance_manager.supervision.children import Children

_METADATA_LIMIT: Final = 1 << 20
_OF_THE_MOUNT: Final = frozenset({Code.NOT_A_MOUNT, Code.WRITABLE})
"""What is found of how the test lays a volume out, and says nothing of the image."""


async def test_images(
    children: Children, request: Request, keeper: Keeper, tell: Callable[[str], None]
) -> tuple[Result, ...]:
    """Test each image by itself.

    Raises:
        UsageError: there is no such image, or it can't be read.
        SettingsError: there is no account that the server could run as.
    """
    return tuple(
        # One after the other: each has a server, and a crash should have one cause.
        [await _test_one(children, source, request, keeper, tell) for source in request.sources]
    )


async def _test_one(
    children: Children,
    source: str,
    request: Request,
    keeper: Keeper,
    tell: Callable[[str], None],
) -> Result:
    with make_place(request, keeper) as place:
        tell(f"unpacking {source}")
        root, name = await take(children, source, place.root / "image")
        volumes = {name: root}
        for number, other in enumerate(request.beside):
            directory, called = await take(children, other, place.root / f"beside-{number}")
            if called in volumes:
                raise UsageError(f"cannot mount {other!r} beside: {called!r} is there already")
            volumes[called] = directory
        tell(f"starting a server with {', '.join(volumes)}")
        async with running(children, place, volumes, request) as server:
            tested = _Tested(source, name, tuple(volumes)[1:], place)
            tell(f"testing {source}")
            return await tested.result(server, request, root)


class _Tested:
    """One image, and what is known of it so far."""

    def __init__(self, source: str, name: str, beside: tuple[str, ...], place: Place) -> None:
        self._source, self._name, self._beside, self._place = source, name, beside, place
        self._subjects: tuple[Subject, ...] = ()
        self._remarks: tuple[str, ...] = ()

    async def result(self, server: Server, request: Request, root: Path) -> Result:
        """Start the server, try everything, and judge."""
        try:
            await server.started()
        except NotStartedError as error:
            return self._judged(server, await _report(server), _failed("start", error))
        report = await server.report()
        # What the manager left out can't be tried.
        if _errors(report):
            return self._judged(server, report)
        volume = next(one for one in report.volumes if one.name == self._name)
        searched = report.composed.dynamic_library_path
        trial = Trial(server, volume, searched, request.statement_seconds)
        given = _described(root).smoke_test
        try:
            # The builder's statements first: they know what the extension is for.
            self._subjects = await trial.run((*given, *request.statements))
        except (NotStartedError, SqlError) as error:
            self._remarks = tuple(trial.remarks)
            return self._judged(server, report, _failed("go on", error))
        self._remarks = tuple(trial.remarks)
        # At last, since a worker may crash a while after what made it do so.
        return self._judged(server, report, await self._end(server))

    async def _end(self, server: Server) -> Step:
        """Say whether the server lived through all that, its background workers too."""
        restarts = await server.restarts()
        if not restarts:
            return Step(name="end", outcome=Outcome.PASSED, detail="the server never crashed")
        words = await server.last_words()
        detail = f"the server ended by itself {restarts} times, at last: {words}"
        return Step(name="end", outcome=Outcome.FAILED, detail=detail)

    def _judged(self, server: Server, report: ExtensionsReport | None, *steps: Step) -> Result:
        subjects = self._subjects
        if steps:
            subjects += (Subject(kind="server", name=server.version, steps=steps),)
        verdict = Verdict.BAD if any(one.has_failed for one in subjects) else Verdict.GOOD
        if report is not None and _errors(report):
            # An error of the preflight says more than the failures that follow from it.
            verdict = Verdict.REFUSED
        return Result(
            source=self._source,
            volume=self._name,
            verdict=verdict,
            server=server.version,
            beside=self._beside,
            subjects=subjects,
            remarks=self._remarks,
            findings=_findings(report) if report is not None else (),
            log=self._place.last_lines() if verdict is Verdict.BAD else (),
        )


async def _report(server: Server) -> ExtensionsReport | None:
    try:
        return await server.report()
    except ClientError:
        return None


def _findings(report: ExtensionsReport) -> tuple[Finding, ...]:
    return tuple(one for one in report.all_findings() if one.code not in _OF_THE_MOUNT)


def _errors(report: ExtensionsReport) -> bool:
    return any(one.severity is Severity.ERROR for one in report.all_findings())


def _failed(name: str, error: NotStartedError | SqlError) -> Step:
    hint = error.hint if isinstance(error, NotStartedError) else error.failure.hint
    return Step(name=name, outcome=Outcome.FAILED, detail=str(error), hint=hint)


def _described(root: Path) -> metadata.Metadata:
    content = VolumeReader(root).read(metadata.PATH, _METADATA_LIMIT)
    return metadata.Metadata() if content is None else metadata.parse(content).metadata
