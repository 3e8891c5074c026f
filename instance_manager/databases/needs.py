"""What databases need, against what the server would find: before it is started, and after.

Pure: the inventory, what is composed, and which files are there go in; findings come out. The
search is that of the server (``load_external_function`` and ``expand_dynamic_library_name``,
dfmgr.c). In doubt a library is taken for there: a start must not be refused by a guess.
"""

from __future__ import annotations

from itertools import groupby, islice
from typing import TYPE_CHECKING, Final, NamedTuple

from instance_manager.extensions.findings import Code, finding
from instance_manager.extensions.models import Severity, State
from instance_manager.extensions.offers import nothing
from instance_manager.extensions.paths import split_search_path

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from instance_manager.databases.facts import (
        Database,
        Installed,
        Inventory,
        Library,
        Override,
        Reading,
    )
    from instance_manager.extensions.facts import ServerFacts
    from instance_manager.extensions.models import ExtensionsReport, Finding, Volume
    from instance_manager.extensions.offers import Offers

_LIBDIR: Final = "$libdir"
_MOUNT_AGAIN: Final = "mount the volume again"
_NAMED: Final = 5
"""So many databases or libraries are named in one message."""
_BY_METHOD: Final = " with access method "
_NAME_SHOWN: Final = 100
"""Characters of a library's name that anybody may have given."""
_MOST_BY_OVERRIDES: Final = 1000
"""Libraries of overrides that are looked for: whoever may log in can list as many as they like."""


class Need(NamedTuple):
    """A library that is searched for in *files*, in this order; none where that is not known.

    *user* is what uses it: words for people. *override* is what has sessions load it, where the
    contents of a database do not need it.
    """

    database: str
    library: str
    files: tuple[str, ...]
    user: str = ""
    extension: str | None = None
    override: Override | None = None


def needs_of(
    inventory: Inventory, report: ExtensionsReport, server: ServerFacts
) -> tuple[Need, ...]:
    """Return every library that a database needs and where the server would look for it.

    Those that a database or role has its sessions load are cut to the first thousand.
    """
    if not server.library_directory:
        # Not known where the server's own libraries are, every one of them would seem to be
        # missing.
        return ()
    of_databases = (
        need
        for database in inventory.databases
        for need in _of_database(database, inventory.overrides, report, server)
    )
    of_sessions = _of_sessions(inventory.overrides, report, server)
    # Each is looked for on disk, before a start and while clients wait.
    return (*of_databases, *islice(of_sessions, _MOST_BY_OVERRIDES))


def control_files(
    inventory: Inventory, report: ExtensionsReport, server: ServerFacts
) -> dict[str, tuple[str, ...]]:
    """Return the files in the volumes that could be the control file of each extension in use.

    Without those that the server itself has.
    """
    if server.extensions is None:
        return {}
    installed = {
        each.name for database in inventory.databases for each in database.extensions or ()
    }
    directories = split_search_path(report.composed.extension_control_path)
    return {
        # The entry that is no path is $system, where the server's own lie.
        name: tuple(f"{each}/extension/{name}.control" for each in directories if each[0] == "/")
        for name in installed - server.extensions
    }


def judge(
    inventory: Inventory,
    report: ExtensionsReport,
    server: ServerFacts,
    present: frozenset[str],
    offered: Offers = nothing,
) -> tuple[Finding, ...]:
    """Return what databases need and the server would not find.

    Only what the contents of a database need is an error: a list of libraries is set by whoever
    owns a database or has a role, without any rights over the server.

    Args:
        inventory: what was read last.
        report: the volumes, and what is composed of them.
        server: whose own library directory and extensions count too.
        present: those files of :func:`needs_of` and :func:`control_files` that exist.
        offered: says which image has an extension.
    """
    needs = needs_of(inventory, report, server)
    missing = [each for each in needs if each.files and present.isdisjoint(each.files)]
    needed = [each for each in missing if each.override is None]
    told = {each.extension for each in needed}
    controls = {
        name: files
        for name, files in control_files(inventory, report, server).items()
        if name not in told and present.isdisjoint(files)
    }
    return (
        *_vanished(needed, report, offered),
        *_without_control(inventory, controls, offered),
        *_not_loaded([each for each in missing if each.override is not None]),
    )


def outdated(database: Database, reading: Reading) -> Iterator[Finding]:
    """Yield which extensions of a database are not of the version that is there."""
    if reading.available is None:
        return
    defaults = {each.name: each.default_version for each in reading.available}
    for each in database.extensions or ():
        default = defaults.get(each.name)
        updates = reading.updates.get((each.name, each.version))
        if each.name not in defaults:
            yield _no_control(each, [database.name])
        elif default is not None and default != each.version and updates is not None:
            yield _update(database.name, each, default, {one.target for one in updates})


def _update(database: str, each: Installed, default: str, targets: Collection[str]) -> Finding:
    has = f'database "{database}" has extension "{each.name}" {each.version}'
    if default in targets:
        message = f"{has}; {default} is available: ALTER EXTENSION {each.name} UPDATE"
        return finding(Code.UPDATE_AVAILABLE, each.name, message)
    message = f"{has}, from which no update path leads to {default}, the one that is there"
    return finding(Code.NO_UPDATE_PATH, each.name, message)


def _of_database(
    database: Database,
    overrides: Iterable[Override],
    report: ExtensionsReport,
    server: ServerFacts,
) -> Iterator[Need]:
    own = [each for each in overrides if each.database in (None, database.name)]
    # Any of them may be in force, by the role that asks.
    paths = [report.composed.dynamic_library_path]
    paths += [each.value for each in own if each.parameter == "dynamic_library_path"]
    path, libdir = ":".join(paths), server.library_directory
    versions = {each.name: each.version for each in database.extensions or ()}
    for library in database.libraries or ():
        name = _stripped(library.name)
        user = _user(library, versions)
        files = _candidates(name, path, libdir)
        yield Need(database.name, name, files, user, library.extension)


def _of_sessions(
    overrides: Sequence[Override], report: ExtensionsReport, server: ServerFacts
) -> Iterator[Need]:
    """Yield what databases and roles have their sessions load."""
    paths = [each.value for each in overrides if each.parameter == "dynamic_library_path"]
    # Which of them is in force depends on database and role: any may be.
    path = ":".join(dict.fromkeys([report.composed.dynamic_library_path, *paths]))
    for each in overrides:
        for name in _preloads(each):
            files = _candidates(name, path, server.library_directory)
            yield Need(each.database or "", name, files, override=each)


def _user(library: Library, versions: Mapping[str, str]) -> str:
    if library.extension is None:
        return "functions"
    user = f'extension "{library.extension}" {versions.get(library.extension, "")}'.rstrip()
    methods = ", ".join(library.access_methods)
    return f"{user}{_BY_METHOD}{methods}" if methods else user


def _stripped(library: str) -> str:
    """Return the name as the server looks for it when a function is called."""
    rest = library.removeprefix(f"{_LIBDIR}/")
    # load_external_function() does so since 18: other directories are searched, too.
    return library if "/" in rest else rest


def _preloads(override: Override) -> Iterator[str]:
    """Yield the libraries of a preload list; a local one is looked for in a place of its own."""
    if not override.parameter.endswith("_preload_libraries"):
        return
    for part in override.value.split(","):
        name = part.strip().strip('"')
        if name and override.parameter == "local_preload_libraries" and "/" not in name:
            yield f"{_LIBDIR}/plugins/{name}"
        elif name:
            yield name


def _candidates(name: str, path: str, libdir: str) -> tuple[str, ...]:
    """Return the files that the server tries, in its order; none where that is not known."""
    if "/" in name:
        file = _expanded(name, libdir)
        # A relative path is looked up from wherever the server is: not known from here.
        return (file, f"{file}.so") if file.startswith("/") else ()
    directories = [_expanded(each, libdir) for each in split_search_path(path)]
    return tuple(f"{each}/{file}" for file in (name, f"{name}.so") for each in directories)


def _expanded(path: str, libdir: str) -> str:
    first, slash, rest = path.partition("/")
    return f"{libdir}{slash}{rest}" if first == _LIBDIR else path


def _vanished(
    missing: Iterable[Need], report: ExtensionsReport, offered: Offers
) -> Iterator[Finding]:
    databases: dict[tuple[str, str, str], list[str]] = {}
    for each in missing:
        # Who made functions by hand may have called the library as an extension is called.
        wanted = each.extension or each.library
        databases.setdefault((each.library, each.user, wanted), []).append(each.database)
    quarantined = [each for each in report.volumes if each.state is State.QUARANTINED]
    for (library, user, wanted), names in databases.items():
        holder, error = _holder(library, quarantined)
        why = "no volume provides it"
        if error is not None:
            why = (
                f'the volume "{holder}" that holds it is quarantined: {error.code} {error.message}'
            )
        uses = f"{_listed(names)} use{'s' if len(names) == 1 else ''} {user}"
        message = f'{uses} (library "{library}") but {why};'
        message += f' queries would fail with: could not access file "{library}"'
        mend = error.hint if error is not None else offered(wanted) or _MOUNT_AGAIN
        hint = f"{mend}; or start with --ignore-inventory and drop what used it"
        if _BY_METHOD in user:
            hint += " (an index by its access method goes only with the whole database)"
        yield finding(Code.VANISHED, library, message, hint)


def _not_loaded(missing: Iterable[Need]) -> Iterator[Finding]:
    """Yield one finding for each override, whatever it lists."""
    # Those of one override stand together, as needs_of() gives them.
    for override, needs in groupby(missing, key=lambda each: each.override):
        if override is None:
            continue
        names = [each.library[:_NAME_SHOWN] for each in needs]
        message = f"sessions of {_whose(override)} load {_quoted(names)} by"
        message += f" {override.parameter}, which is nowhere; logins would fail with: could not"
        yield finding(
            Code.SESSION_LIBRARY,
            override.parameter,
            f'{message} access file "{names[0]}"',
        )


def _whose(override: Override) -> str:
    role = "all roles" if override.role is None else f'role "{override.role}"'
    if override.database is None:
        return role
    database = f'database "{override.database}"'
    return database if override.role is None else f"{role} in {database}"


def _holder(library: str, quarantined: Iterable[Volume]) -> tuple[str, Finding | None]:
    """Return the quarantined volume that holds a library, and why it is left out."""
    file = library.rpartition("/")[2].removesuffix(".so")
    for volume in quarantined:
        if any(each.path.rpartition("/")[2] in (file, f"{file}.so") for each in volume.libraries):
            error = next(each for each in volume.findings if each.severity is Severity.ERROR)
            return volume.name, error
    return "", None


def _without_control(
    inventory: Inventory, names: Collection[str], offered: Offers
) -> Iterator[Finding]:
    databases: dict[Installed, list[str]] = {}
    for database in inventory.databases:
        for each in database.extensions or ():
            if each.name in names:
                databases.setdefault(each._replace(schema=""), []).append(database.name)
    for each, holders in databases.items():
        yield _no_control(each, holders, offered(each.name))


def _no_control(each: Installed, databases: list[str], mend: str = "") -> Finding:
    has = f"{_listed(databases)} ha{'s' if len(databases) == 1 else 've'}"
    message = f'{has} extension "{each.name}" {each.version}, whose control file is nowhere: it'
    message += " can't be updated, and a dump of the database can't be restored here"
    return finding(Code.NO_UPDATE_PATH, each.name, message, mend or _MOUNT_AGAIN)


def _listed(names: list[str]) -> str:
    return f"database{'' if len(names) == 1 else 's'} {_quoted(names)}"


def _quoted(names: list[str]) -> str:
    shown = ", ".join(f'"{name}"' for name in names[:_NAMED])
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown
