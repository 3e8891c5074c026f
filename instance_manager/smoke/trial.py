"""What is tried with a volume in a running server: each extension, each module, the statements.

Each extension is created, used, dropped, and updated from its oldest version, by itself; then all
are created together, for the statements of who made the image. Whatever a step leaves behind is
dropped before the next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from instance_manager.databases import observing
from instance_manager.databases.sessions import Limits, SqlError
from instance_manager.extensions.models import Preload
from instance_manager.extensions.paths import bare_name
from instance_manager.smoke.models import Outcome, Step, Subject

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from psycopg.sql import SQL, Composed

    from instance_manager.databases.sessions import SqlFailure
    from instance_manager.extensions.models import Extension, Library, Volume
    from instance_manager.smoke.server import Server

_DATABASE: Final = "postgres"
_UNPACKAGED: Final = "unpackaged"
"""No version, but what scripts are called that take over loose objects."""
_LOCK_SECONDS: Final = 30.0
_GONE: Final = ("", "57P01", "57P02", "57P03")
"""What a session ends with that the server did not survive (errcodes.txt)."""
_MOST_OLD_VERSIONS: Final = 5
"""How many old versions are tried until one can be created."""
_SHOWN: Final = 5


class StepError(Exception):
    """A step did not do what it should; no statement is to blame."""


class Trial:
    """Tries one volume; *remarks* is what is worth knowing and no failure."""

    def __init__(
        self, server: Server, volume: Volume, searched: str, statement_seconds: float
    ) -> None:
        self._server = server
        self._volume = volume
        self._searched = searched.split(":")
        self._limits = Limits(_LOCK_SECONDS, statement_seconds)
        self._baseline: frozenset[str] = frozenset()
        self._used: set[str] = set()
        self.remarks: list[str] = []

    async def run(self, statements: Sequence[str]) -> tuple[Subject, ...]:
        """Try everything; return what came of it.

        Raises:
            NotStartedError: the server did not come up again after a crash.
            SqlError: it can't even be asked.
        """
        # template1 brings plpgsql, which must be there at the end as well.
        self._baseline = frozenset(await self._installed())
        subjects = [await self._extension(one) for one in self._volume.extensions]
        subjects += [await self._module(one) for one in self._modules()]
        if statements:
            subjects.append(await self._statements(statements))
        return tuple(subjects)

    async def _extension(self, extension: Extension) -> Subject:
        name, version = extension.name, extension.default_version
        if version is None:
            step = Step(
                name="create",
                outcome=Outcome.FAILED,
                detail="its control file gives no default_version",
            )
            return Subject(kind="extension", name=name, steps=(step,))
        steps = _Steps(self._server)
        await steps.do("create", lambda: self._create(name, version))
        fresh: list[tuple[Any, ...]] = []

        async def used() -> str:
            # Before use: what the extension makes then is not what its script makes.
            fresh.extend(await self._members(name))
            return await self._use(name)

        await steps.do("use", used)
        await steps.do("drop", lambda: self._drop(name))
        await self._clear()
        # An update is of interest also where the newest version can't be used.
        steps.go_on()
        await steps.do(
            "update",
            lambda: self._update(extension, version, fresh),
            "no older version can be created",
        )
        await self._clear()
        return Subject(kind="extension", name=name, version=version, steps=steps.done())

    async def _create(self, name: str, version: str) -> str:
        from instance_manager.smoke import statements

        before = await self._installed()
        await self._execute(statements.create(name, version))
        # CASCADE creates what it requires, which people should know of.
        others = await self._installed() - before - {name}
        return f"{version}, with {', '.join(sorted(others))}" if others else version

    async def _use(self, name: str) -> str:
        """Use all of an extension that can be used without knowing what it is for."""
        from instance_manager.smoke import statements

        found = await self._execute(statements.about(statements.LIBRARIES, name))
        libraries = [bare_name(path) for (path,) in found]
        # By LOAD, since most functions can't be called without knowing their arguments.
        for library in libraries:
            await self._execute(statements.load(library))
        self._used.update(libraries)
        symbols = await self._execute(statements.about(statements.SYMBOLS, name))
        functions = await self._execute(statements.about(statements.DEFINITIONS, name))
        relations = await self._execute(statements.about(statements.RELATIONS, name))
        await self._execute(*(statements.read(*relation) for relation in relations))
        parts = (
            f"loaded {', '.join(libraries)}" if libraries else "",
            f"found {len(symbols)} functions of C in it" if symbols else "",
            f"read {len(functions)} functions" if functions else "",
            f"read {len(relations)} tables and views" if relations else "",
        )
        return "; ".join(filter(None, parts)) or "it has nothing that could be used"

    async def _drop(self, name: str) -> str:
        from instance_manager.smoke import statements

        await self._execute(statements.drop(name))
        if name in await self._installed():
            raise StepError("the server still has it")
        return ""

    async def _update(
        self, extension: Extension, version: str, fresh: list[tuple[Any, ...]]
    ) -> str | None:
        """Update from the oldest version that can be created; None where there is none."""
        from instance_manager.smoke import statements

        name = extension.name
        old = await self._old_version(extension, version)
        if old is None:
            return None
        await self._execute(statements.update_to(name, version))
        async with self._server.sessions.open(_DATABASE, self._limits) as connection:
            have = (await observing.read_installed(connection)).installed
        # A script may end without an error and have done nothing to the catalogue.
        if name not in have or have[name].version != version:
            raise StepError(f"after the update from {old} it is not {version}")
        members = await self._members(name)
        if fresh and members != fresh:
            self._remark_difference(name, old, fresh, members)
        await self._use(name)
        await self._drop(name)
        return f"from {old} to {version}, used and dropped"

    async def _old_version(self, extension: Extension, version: str) -> str | None:
        from instance_manager.smoke import statements

        candidates = await self._candidates(extension, version)
        # The script of an old version may ask for functions that the library has dropped since.
        for old in candidates[:_MOST_OLD_VERSIONS]:
            try:
                await self._execute(statements.create(extension.name, old))
            except SqlError as error:
                if error.failure.sqlstate in _GONE:
                    raise
                await self._clear()
                self.remarks.append(
                    f"{extension.name} {old} can't be created: {_text_of(error.failure)}"
                )
            else:
                return old
        return None

    async def _candidates(self, extension: Extension, version: str) -> list[str]:
        """Return the versions from which there is a way to *version*, oldest first."""
        found: list[str] = []
        async with self._server.sessions.open(_DATABASE, self._limits) as connection:
            for old in extension.versions:
                paths = await observing.read_paths(connection, extension.name, old)
                if old not in (version, _UNPACKAGED) and version in paths:
                    found.append(old)
        return found

    def _remark_difference(
        self, name: str, old: str, fresh: list[tuple[Any, ...]], members: list[tuple[Any, ...]]
    ) -> None:
        kinds = {
            "lacks": [text for (text,) in fresh if (text,) not in members],
            "has more": [text for (text,) in members if (text,) not in fresh],
        }
        said = "; ".join(f"{kind}: {_some(texts)}" for kind, texts in kinds.items() if texts)
        if said:
            self.remarks.append(f"{name} updated from {old} is not as one that is new: it {said}")

    def _modules(self) -> list[Library]:
        """Return the modules that no extension has used."""
        named = {bare_name(one.module) for one in self._volume.extensions if one.module}
        return [
            one
            for one in self._volume.libraries
            if one.module
            and f"{self._volume.path}/{one.path}".rpartition("/")[0] in self._searched
            and _module_name(one) not in self._used | named
        ]

    async def _module(self, library: Library) -> Subject:
        name = _module_name(library)
        steps = _Steps(self._server)
        await steps.do(
            "load", lambda: self._load(name, library.preload), "not meant to be loaded by itself"
        )
        return Subject(kind="module", name=name, version=library.version, steps=steps.done())

    async def _load(self, name: str, preload: Preload) -> str | None:
        from instance_manager.smoke import statements

        ((preloaded,),) = await self._execute(statements.PRELOADED)
        if name in {bare_name(one.strip(' "')) for one in preloaded.split(",")}:
            return "by the server at its start"
        if preload is not Preload.NO:
            raise StepError(
                "it must be loaded at the start of the server, and the metadata of the volume does"
                " not say so in shared_preload_libraries"
            )
        try:
            await self._execute(statements.load(name))
        except SqlError as error:
            if error.failure.sqlstate in _GONE or not self._volume.extensions:
                raise
            # Some extensions bring modules that only their other modules load.
            self.remarks.append(
                f"{name} can't be loaded by itself, and no function of an extension is in it:"
                f" {_text_of(error.failure)}"
            )
            return None
        return "by a session"

    async def _statements(self, texts: Sequence[str]) -> Subject:
        steps = _Steps(self._server)
        await steps.do("create", self._create_all)
        await steps.do("statements", lambda: self._say(texts))
        await self._clear()
        return Subject(kind="volume", name=self._volume.name, steps=steps.done())

    async def _create_all(self) -> str:
        from instance_manager.smoke import statements

        for one in self._volume.extensions:
            # CASCADE may have created it with an earlier one.
            if one.default_version and one.name not in await self._installed():
                await self._execute(statements.create(one.name, one.default_version))
        return ", ".join(sorted(await self._installed() - self._baseline))

    async def _say(self, texts: Sequence[str]) -> str:
        async with self._server.sessions.open(_DATABASE, self._limits) as connection:
            # In one session: a statement may set what the next one needs.
            for text in texts:
                await connection.execute(text.encode())
        return f"ran {len(texts)}"

    async def _members(self, name: str) -> list[tuple[Any, ...]]:
        from instance_manager.smoke import statements

        return await self._execute(statements.about(statements.MEMBERS, name))

    async def _installed(self) -> set[str]:
        async with self._server.sessions.open(_DATABASE, self._limits) as connection:
            return set((await observing.read_installed(connection)).installed)

    async def _clear(self) -> None:
        """Drop what is left, whatever depends on it."""
        from instance_manager.smoke import statements

        for name in sorted(await self._installed() - self._baseline):
            # CASCADE may have taken it along with an earlier one.
            if name not in await self._installed():
                continue
            try:
                await self._execute(statements.drop(name, cascade=True))
            except SqlError as error:
                self.remarks.append(f"{name} can't be dropped: {_text_of(error.failure)}")
                restarts = await self._server.restarts()
                if error.failure.sqlstate in _GONE:
                    await self._server.recovered(restarts)

    async def _execute(self, *statements: SQL | Composed) -> list[tuple[Any, ...]]:
        """Run statements in one new session; return the rows of the last."""
        rows: list[tuple[Any, ...]] = []
        async with self._server.sessions.open(_DATABASE, self._limits) as connection:
            for statement in statements:
                cursor = await connection.execute(statement)
                rows = await cursor.fetchall() if cursor.description else []
        return rows


class _Steps:
    """Steps one after the other: what comes after one that failed is skipped."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._steps: list[Step] = []
        self._is_broken = False

    def go_on(self) -> None:
        """Do what comes next, whatever failed before."""
        self._is_broken = False

    def done(self) -> tuple[Step, ...]:
        """Return the steps."""
        return tuple(self._steps)

    async def do(
        self, name: str, act: Callable[[], Awaitable[str | None]], nothing: str = ""
    ) -> None:
        """Do one, whose text is its detail; None where there was *nothing* to do."""
        if self._is_broken:
            self._add(name, Outcome.SKIPPED, "an earlier step failed")
            return
        restarts = await self._server.restarts()
        try:
            detail = await act()
        except SqlError as error:
            failure = error.failure
            words = await self._ended(restarts) if failure.sqlstate in _GONE else ""
            text = f"{_text_of(failure)}{f': {words}' if words else ''}"
            self._add(name, Outcome.FAILED, text, failure.hint)
        except StepError as failure:
            self._add(name, Outcome.FAILED, str(failure))
        else:
            outcome = Outcome.SKIPPED if detail is None else Outcome.PASSED
            self._add(name, outcome, nothing if detail is None else detail)

    async def _ended(self, restarts: int) -> str:
        """Wait for the server after a session that broke off; return why it ended."""
        await self._server.recovered(restarts)
        return await self._server.last_words()

    def _add(self, name: str, outcome: Outcome, detail: str, hint: str = "") -> None:
        self._steps.append(Step(name=name, outcome=outcome, detail=detail, hint=hint))
        self._is_broken = self._is_broken or outcome is Outcome.FAILED


def _module_name(library: Library) -> str:
    return bare_name(library.path.rpartition("/")[2])


def _text_of(failure: SqlFailure) -> str:
    where = f", in {failure.script} near line {failure.line}" if failure.script else ""
    return f"{failure}{where}{f': {failure.detail}' if failure.detail else ''}"


def _some(texts: Iterable[str]) -> str:
    shown = list(texts)
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more
