"""What the server itself says of a configuration: before it is written, and after it was loaded.

Before, ``postgres -C`` reads the candidate on a stage and names all that is wrong with it. After,
the views pg_file_settings, pg_hba_file_rules and pg_ident_file_mappings tell whether the running
server took it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from instance_manager.configuration.hba import FIRST_MAJOR_WITH_INCLUDE
from instance_manager.configuration.masking import mask_text
from instance_manager.configuration.values import Parameter
from instance_manager.errors import Problem
from instance_manager.settings.keys import nearest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection
    from pathlib import Path

    from psycopg import AsyncConnection

    from instance_manager.postgres.rehearsal import Failure

_NAMED: Final = re.compile(r'parameter(?: name)? "(?P<name>[^"]+)"')
_WHERE: Final = re.compile(r' in file "[^"]*"(?: line [0-9]+)?')
_MEANT: Final = 20
_UNKNOWN: Final = "unrecognized configuration parameter"
_CONCLUSION: Final = re.compile(r'configuration file ".*" contains errors')
_PARAMETERS: Final = """
SELECT lower(name), context, vartype, coalesce(unit, ''), coalesce(setting, '') FROM pg_settings
"""
_FILE_SETTINGS: Final = """
SELECT coalesce(f.name, ''), f.error, coalesce(f.sourcefile, ''), coalesce(f.sourceline, 0)
  FROM pg_file_settings f
 WHERE f.error IS NOT NULL AND NOT EXISTS (
       SELECT FROM pg_settings s
        WHERE s.pending_restart
          AND (lower(s.name) = lower(f.name)
               OR f.name IS NULL AND f.sourcefile IS NULL AND strpos(f.error, s.name) > 0))
 ORDER BY f.seqno
"""
"""What waits for a restart is no error. A parameter that is in no file any more has no row of its
own: the server names it in a message only, in the language of ``lc_messages``."""
_OVERRIDDEN: Final = """
SELECT DISTINCT lower(name) FROM pg_file_settings
 WHERE sourcefile = %s AND NOT applied AND error IS NULL
"""
_RULES: Final = (
    ("hba", "SELECT {file}, line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL"),
    (
        "ident",
        "SELECT {file}, line_number, error FROM pg_ident_file_mappings WHERE error IS NOT NULL",
    ),
)


def problems_of(failure: Failure, known: Collection[str]) -> tuple[Problem, ...]:
    """Return why the trial of a candidate failed, parameter by parameter.

    *known* are names of parameters, for those who slipped; none where no server can be asked.
    """
    said = [text for text in failure.said if not _CONCLUSION.search(text)]
    if not said:
        return (Problem("", mask_text(failure.ending.message)),)
    # Who slips does so a few times; to look for what was meant takes milliseconds each.
    pairs = ((text, known if index < _MEANT else ()) for index, text in enumerate(said))
    return tuple(dict.fromkeys(_problem(text, names) for text, names in pairs))


def unknown_names(failure: Failure) -> frozenset[str]:
    """Return the names of parameters in the candidate that the server does not know."""
    named = (_NAMED.search(text) for text in failure.said if text.startswith(_UNKNOWN))
    return frozenset(found["name"] for found in named if found)


def _problem(text: str, known: Collection[str]) -> Problem:
    # Without the file, which lies on the stage: nobody who asks has heard of that.
    message = mask_text(_WHERE.sub("", text))
    found = _NAMED.search(text)
    if found is None:
        return Problem("", message)
    name = found["name"]
    if text.startswith(_UNKNOWN) and (meant := nearest(name, known)):
        message = f"{message}; did you mean {meant}?"
    return Problem(_path(name), message)


def _path(name: str) -> str:
    lists = ("shared_preload_libraries",)
    return name if name in lists else f"parameters.{name}"


async def parameters(connection: AsyncConnection[tuple[Any, ...]]) -> dict[str, Parameter]:
    """Return the running server's parameters, by name in lower case.

    Raises:
        psycopg.Error: the server refuses, or goes away.
    """
    rows = await (await connection.execute(_PARAMETERS)).fetchall()
    return {name: Parameter(*row) for name, *row in rows}


async def rejected(
    connection: AsyncConnection[tuple[Any, ...]], major: int
) -> tuple[Problem, ...]:
    """Return what the running server does not take of the files that it reads.

    Raises:
        psycopg.Error: the server refuses, or goes away.
    """
    rows = await (await connection.execute(_FILE_SETTINGS)).fetchall()
    rules = [problem async for problem in _of_rules(connection, major)]
    return (*(_of_setting(*row) for row in rows), *rules)


async def overridden(connection: AsyncConnection[tuple[Any, ...]], file: Path) -> frozenset[str]:
    """Return the parameters in *file* that count no more, since what is read later sets them.

    Raises:
        psycopg.Error: the server refuses, or goes away.
    """
    rows = await (await connection.execute(_OVERRIDDEN, [str(file)])).fetchall()
    return frozenset(name for (name,) in rows)


def _of_setting(name: str, error: str, file: str, line: int) -> Problem:
    where = f" ({file}, line {line})" if file else ""
    return Problem(_path(name) if name else "", f"{mask_text(error)}{where}")


async def _of_rules(
    connection: AsyncConnection[tuple[Any, ...]], major: int
) -> AsyncIterator[Problem]:
    file = "file_name" if major >= FIRST_MAJOR_WITH_INCLUDE else "''"
    for path, query in _RULES:
        rows = await (await connection.execute(query.format(file=file).encode())).fetchall()
        for name, line, error in rows:
            yield Problem(path, f"{mask_text(error)} ({name}, line {line})")
