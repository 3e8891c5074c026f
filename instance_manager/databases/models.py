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
    version: str
    schema_name: str = Field(alias="schema")


class LibraryInUse(_Frozen):
    """A library that functions of a database are in; *name* is as ``pg_proc.probin`` has it."""

    name: str
    extension: str | None
    access_methods: tuple[str, ...]
    languages: tuple[str, ...]


class ParameterOverride(_Frozen):
    """A path or a preload list that ``ALTER ROLE`` or ``ALTER DATABASE`` set.

    A null *role* or *database* means all of them.
    """

    parameter: str
    value: str
    database: str | None
    role: str | None


class DatabaseInUse(_Frozen):
    """A database; null where it could not be read, and *problems* say why."""

    name: str
    extensions: tuple[InstalledExtension, ...] | None
    libraries: tuple[LibraryInUse, ...] | None
    overrides: tuple[ParameterOverride, ...]
    findings: tuple[Finding, ...]
    problems: tuple[str, ...]


class Databases(_Frozen):
    """All databases that allow connections, as they were at *read_at*; null before a reading."""

    read_at: AwareDatetime | None
    items: tuple[DatabaseInUse, ...]
    problems: tuple[str, ...] = ()


class UpdatePath(_Frozen):
    """A version that the installed one can be updated to, and the versions on the way."""

    target: str
    path: tuple[str, ...]


class DatabaseExtension(_Frozen):
    """An extension that is installed, or available: null where it is not.

    *versions* can be installed from nothing; *updates* is null where they are not known.
    """

    name: str
    installed_version: str | None
    schema_name: str | None = Field(alias="schema")
    default_version: str | None
    versions: tuple[str, ...]
    updates: tuple[UpdatePath, ...] | None


class DatabaseExtensions(_Frozen):
    """The extensions of one database: ``GET /v1/databases/{name}/extensions``."""

    database: str
    read_at: AwareDatetime
    items: tuple[DatabaseExtension, ...]
    problems: tuple[str, ...]
