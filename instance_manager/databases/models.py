"""The documents of ``GET /v1/databases``: what each database uses, and what it could.

Pure data, frozen. Imported when the API is, after postgres was spawned. Annotations are read at
run time, so they are not postponed here.
"""

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from instance_manager.extensions.models import Finding


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True, populate_by_name=True)


class InstalledExtension(_Frozen):
    """An extension of a database."""

    name: str
    """The extension."""
    version: str
    """The installed version."""
    schema_name: str = Field(alias="schema")
    """The schema that its objects are in."""


class LibraryInUse(_Frozen):
    """A library that functions of a database are in; *name* is as ``pg_proc.probin`` has it."""

    name: str
    """The library as ``pg_proc.probin`` has it, such as ``$libdir/vector``."""
    extension: str | None
    """The extension whose functions are in it; null for functions of no extension."""
    access_methods: tuple[str, ...]
    """Names of the access methods whose handler is in it."""
    languages: tuple[str, ...]
    """Names of the languages whose handler is in it."""


class ParameterOverride(_Frozen):
    """A path or a preload list that ``ALTER ROLE`` or ``ALTER DATABASE`` set.

    A null *role* or *database* means all of them.
    """

    parameter: str
    """Which parameter was set."""
    value: str
    """What it was set to."""
    database: str | None
    """The only database that it counts in; null for all."""
    role: str | None
    """The only role that it counts for; null for all."""


class DatabaseInUse(_Frozen):
    """A database; null where it could not be read, and *problems* say why."""

    name: str
    """The database."""
    extensions: tuple[InstalledExtension, ...] | None
    """What is installed; null where that could not be read."""
    libraries: tuple[LibraryInUse, ...] | None
    """Libraries that its functions are in, without initdb's own; null where that could not be
    read."""
    overrides: tuple[ParameterOverride, ...]
    """Paths and preload lists that ``ALTER ROLE`` or ``ALTER DATABASE`` set in it."""
    findings: tuple[Finding, ...]
    """What is wrong with what it uses."""
    problems: tuple[str, ...]
    """Why something of it could not be read, for people."""


class Databases(_Frozen):
    """All databases that allow connections, as they were at *read_at*; null before a reading."""

    read_at: AwareDatetime | None
    """When they were read last; null before the first reading."""
    items: tuple[DatabaseInUse, ...]
    """One for each database, templates too."""
    problems: tuple[str, ...] = ()
    """Why something could not be read, for people."""


class UpdatePath(_Frozen):
    """A version that the installed one can be updated to, and the versions on the way."""

    target: str
    """The version at its end."""
    path: tuple[str, ...]
    """All versions on the way, both ends too."""


class DatabaseExtension(_Frozen):
    """An extension that is installed, or available: null where it is not.

    *versions* can be installed from nothing; *updates* is null where they are not known.
    """

    name: str
    """The extension."""
    installed_version: str | None
    """Null where it is not installed."""
    schema_name: str | None = Field(alias="schema")
    """The schema that its objects are in; null where it is not installed."""
    default_version: str | None
    """What ``CREATE EXTENSION`` makes; null where no control file offers it."""
    versions: tuple[str, ...]
    """What ``CREATE EXTENSION`` could make."""
    updates: tuple[UpdatePath, ...] | None
    """Where the installed version can be updated to; null where the server could not tell in
    time."""


class DatabaseExtensions(_Frozen):
    """The extensions of one database: ``GET /v1/databases/{name}/extensions``."""

    database: str
    """The database."""
    read_at: AwareDatetime
    """When this was read."""
    items: tuple[DatabaseExtension, ...]
    """Extensions that are installed or available, by name."""
    problems: tuple[str, ...]
    """Why something of it could not be read, for people."""
