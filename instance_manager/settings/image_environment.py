"""The environment of the official image, so that people change images without manifests. Pure.

What each variable means: docker-library/docs, postgres, "Environment Variables".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from instance_manager.errors import Problem
from instance_manager.settings.sources import Layer, Origin, Source, Value, text_problems

if TYPE_CHECKING:
    from collections.abc import Mapping

_HIDDEN = "POSTGRES_PASSWORD"
_FILE = "_FILE"
_INITDB_ARGUMENTS = "bootstrap.initdb_arguments"
_DATABASE = "bootstrap.database"

# Each may also be given as …_FILE.
VARIABLES: Mapping[str, str] = {
    "PGDATA": "postgres.data_directory",
    "PGPORT": "postgres.port",
    "POSTGRES_USER": "bootstrap.superuser",
    _HIDDEN: "bootstrap.superuser_password",
    "POSTGRES_DB": _DATABASE,
    "POSTGRES_INITDB_ARGS": _INITDB_ARGUMENTS,
    "POSTGRES_INITDB_WALDIR": "postgres.wal_directory",
    "POSTGRES_HOST_AUTH_METHOD": "postgres.host_auth_method",
}
# A password is no setting to read once: its file is read when it is needed, and when it changes.
FILE_VARIABLES = tuple(f"{name}{_FILE}" for name in VARIABLES if name != _HIDDEN)
# What the manager takes out of its own environment once it has read it.
SECRET_VARIABLES = (_HIDDEN,)


def image_layer(environment: Mapping[str, str], files: Mapping[str, str]) -> Layer:
    """Take the official image's variables; an empty one is not set.

    *files* maps the ``…_FILE`` variables that are set, but for the password's, to what was read.
    """
    values: dict[str, Value] = {}
    origins: dict[str, Origin] = {}
    problems: list[Problem] = []
    for name, path in VARIABLES.items():
        source, text, key = _given(name, path, environment, files)
        # The official image refuses this too: nobody can tell which one is meant.
        if environment.get(name) and environment.get(f"{name}{_FILE}"):
            problems.append(Problem(name, f"both {name} and {name}{_FILE} are set: unset one"))
        elif text:
            values[key], fault = _value(key, text)
            origins[key] = Origin(Source.IMAGE_ENVIRONMENT, source)
            problems.extend([Problem(source, fault)] if fault else [])
            problems.extend(text_problems(source, values[key]))
    _add_default_database(values, origins)
    return Layer(values, origins, tuple(problems))


def _given(
    name: str, path: str, environment: Mapping[str, str], files: Mapping[str, str]
) -> tuple[str, str, str]:
    """Return the variable that is set, its text, and the key that it sets."""
    from_file = f"{name}{_FILE}"
    if not environment.get(from_file):
        return name, environment.get(name, ""), path
    if name == _HIDDEN:
        # The path alone: a password is read when it is needed, and not kept.
        return from_file, environment[from_file], f"{path}_file"
    return from_file, files.get(from_file, ""), path


def _value(key: str, text: str) -> tuple[Value, str]:
    """Return the value that *text* stands for, and what is wrong with it."""
    if key != _INITDB_ARGUMENTS:
        return text, ""
    # Seldom set, and on the way to the start of postgres.
    import shlex

    try:
        # The official image gives the text to a shell (eval), which parts words and takes quotes
        # off.
        return list(shlex.split(text)), ""
    except ValueError as err:
        return [], f"must be arguments as a shell reads them: {err}"


def _add_default_database(values: dict[str, Value], origins: dict[str, Origin]) -> None:
    """Without POSTGRES_DB, that image makes a database with the name of POSTGRES_USER."""
    user = values.get("bootstrap.superuser")
    # The database postgres is there in every cluster.
    if user is not None and user != "postgres" and _DATABASE not in values:
        values[_DATABASE] = user
        origins[_DATABASE] = origins["bootstrap.superuser"]
