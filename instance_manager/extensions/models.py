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
    WARNING = "warning"
    INFO = "info"


class State(StrEnum):
    """What became of a volume."""

    READY = "ready"
    QUARANTINED = "quarantined"
    EMPTY = "empty"


class Preload(StrEnum):
    """Whether a library must be loaded when the server starts: metadata says so, or itself."""

    NO = "no"
    SERVER = "server"


class PendingAction(StrEnum):
    """What it takes until the running server uses what is configured."""

    NONE = "none"
    RELOAD = "reload"
    RESTART = "restart"
    REMOUNT = "remount"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Finding(_Frozen):
    """One thing that is wrong, or worth knowing; *code* is stable."""

    code: str
    severity: Severity
    subject: str
    message: str
    hint: str


class Extension(_Frozen):
    """An extension that a control file offers; *versions* can be installed from nothing."""

    name: str
    default_version: str | None
    versions: tuple[str, ...]
    requires: tuple[str, ...]
    trusted: bool
    module: str | None


class Library(_Frozen):
    """A shared object; *path* is relative to the volume.

    *module* says that it exports a magic block; *postgres_major* and *machine* are ``None`` where
    they can't be read, *name* and *version* also where the module's magic block does not say them.
    """

    path: str
    module: bool
    postgres_major: int | None
    machine: str | None
    needed: tuple[str, ...]
    preload: Preload
    name: str | None = None
    version: str | None = None


class Volume(_Frozen):
    """A directory under the root.

    ``content_sha256`` is ``None`` until a background thread has computed it. ``provenance`` is
    what the metadata says of the build.
    """

    name: str
    path: str
    state: State
    read_only: bool
    content_sha256: str | None
    extensions: tuple[Extension, ...]
    libraries: tuple[Library, ...]
    findings: tuple[Finding, ...]
    provenance: dict[str, str] = {}


class Composed(_Frozen):
    """The parameters and the environment that make the volumes usable, each as one text.

    ``extension_control_path`` is empty for a server that does not know this parameter.
    """

    extension_control_path: str
    dynamic_library_path: str
    shared_preload_libraries: str
    ld_library_path: str
    path: str
    env: dict[str, str]


class NotRunning(_Frozen):
    """``{}``: there is no server to compare with."""


class ExtensionsReport(_Frozen):
    """The whole answer. ``check`` leaves ``running`` out."""

    root: str
    scan_seconds: float
    volumes: tuple[Volume, ...]
    findings: tuple[Finding, ...]
    composed: Composed
    running: Composed | NotRunning = NotRunning()
    pending_action: PendingAction = PendingAction.NONE

    def all_findings(self) -> tuple[Finding, ...]:
        """Return the findings of the whole set, and those of every volume."""
        of_volumes = (finding for volume in self.volumes for finding in volume.findings)
        return (*self.findings, *of_volumes)
