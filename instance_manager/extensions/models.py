"""What the manager says about extension volumes: the JSON of ``GET /v1/extensions``.

Pure data, frozen. Six small models and no more: they are built on the way to the first
connection, so a field that nobody reads costs every start.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Severity(StrEnum):
    """What a finding means for the start."""

    ERROR = "error"
    """The volume is not used, or the start is refused."""
    WARNING = "warning"
    """It works, but not as it should."""
    INFO = "info"
    """It is worth knowing."""


class State(StrEnum):
    """What became of a volume."""

    READY = "ready"
    """It is used."""
    QUARANTINED = "quarantined"
    """It is left out because of an error."""
    EMPTY = "empty"
    """It holds no extension and no library."""


class Preload(StrEnum):
    """Whether a library must be loaded when the server starts: metadata says so, or itself."""

    NO = "no"
    """Sessions load it when they need it."""
    SERVER = "server"
    """It must be in ``shared_preload_libraries``."""


class PendingAction(StrEnum):
    """What it takes until the running server uses what is configured."""

    NONE = "none"
    """Nothing."""
    RELOAD = "reload"
    """A reload."""
    RESTART = "restart"
    """A restart."""
    REMOUNT = "remount"
    """A listed volume is absent: it must be mounted, by a new container."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Finding(_Frozen):
    """One thing that is wrong, or worth knowing; *code* is stable."""

    code: str
    """Stable: ``EXT`` and three digits."""
    severity: Severity
    """``error`` keeps a volume from being used; the others keep nothing."""
    subject: str
    """What it is about, such as a path within the volume; may be empty."""
    message: str
    """What is the case, for people."""
    hint: str
    """What to do about it, for people."""


class Extension(_Frozen):
    """An extension that a control file offers; *versions* can be installed from nothing."""

    name: str
    """The extension."""
    default_version: str | None
    """What ``CREATE EXTENSION`` makes; null where the control file does not say."""
    versions: tuple[str, ...]
    """Versions that can be installed from nothing."""
    requires: tuple[str, ...]
    """Extensions that must be installed before it."""
    trusted: bool
    """Whether users without superuser rights may install it."""
    module: str | None
    """Its library, as its control file names it; null where it names none."""


class Library(_Frozen):
    """A shared object; *path* is relative to the volume.

    *module* says that it exports a magic block; *postgres_major* and *machine* are ``None`` where
    they can't be read, *name* and *version* also where the module's magic block does not say them.
    """

    path: str
    """Relative to the volume."""
    module: bool
    """Whether it is one that PostgreSQL loads: it exports a magic block."""
    postgres_major: int | None
    """The major version that it was built for; null where that can't be read."""
    machine: str | None
    """The machine that it was built for, such as ``x86_64``; null where that can't be read."""
    needed: tuple[str, ...]
    """The libraries that it asks the dynamic loader for."""
    preload: Preload
    """Whether it must be loaded when the server starts."""
    name: str | None = None
    """What the module calls itself; null where it does not."""
    version: str | None = None
    """The version that the module gives of itself; null where it does not."""


class Volume(_Frozen):
    """A directory under the root.

    ``content_sha256`` is ``None`` until a background thread has computed it. ``provenance`` is
    what the metadata says of the build.
    """

    name: str
    """The name of its directory."""
    path: str
    """The absolute path of its directory."""
    state: State
    """What became of it."""
    read_only: bool
    """Whether its file system is mounted read-only."""
    content_sha256: str | None
    """A hash of all that it holds, in hexadecimal; null until it was computed."""
    extensions: tuple[Extension, ...]
    """Extensions whose control files it holds."""
    libraries: tuple[Library, ...]
    """Shared objects that it holds."""
    findings: tuple[Finding, ...]
    """What is wrong with it, or worth knowing."""
    provenance: dict[str, str] = {}
    """What its metadata says of its build, by name."""


class Composed(_Frozen):
    """The parameters and the environment that make the volumes usable, each as one text.

    ``extension_control_path`` is empty for a server that does not know this parameter.
    """

    extension_control_path: str
    """The parameter; empty for a server that does not know it."""
    dynamic_library_path: str
    """The parameter."""
    shared_preload_libraries: str
    """The parameter: names, separated by commas."""
    ld_library_path: str
    """``LD_LIBRARY_PATH`` of postgres; empty where it is not set."""
    path: str
    """``PATH`` of postgres."""
    env: dict[str, str]
    """Variables that the volumes give to postgres, by name."""


class NotRunning(_Frozen):
    """``{}``: there is no server to compare with."""


class ExtensionsReport(_Frozen):
    """The whole answer. ``check`` leaves ``running`` out."""

    root: str
    """The directory under which volumes are mounted."""
    scan_seconds: float
    """How many seconds the look at all volumes took."""
    volumes: tuple[Volume, ...]
    """In the order in which they are used."""
    findings: tuple[Finding, ...]
    """Those of the whole set; each volume has its own."""
    composed: Composed
    """What the next start of postgres gets."""
    running: Composed | NotRunning = NotRunning()
    """The same, read from the server that runs; empty without one."""
    pending_action: PendingAction = PendingAction.NONE
    """What it takes until the server uses what is mounted and configured."""

    def all_findings(self) -> tuple[Finding, ...]:
        """Return the findings of the whole set, and those of every volume."""
        of_volumes = (finding for volume in self.volumes for finding in volume.findings)
        return (*self.findings, *of_volumes)
