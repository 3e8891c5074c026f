"""The settings: every key with its type and default, as frozen models.

Pure. Durations are seconds, sizes bytes; ``None`` means *not set*, and where a default must be
found (host name, directories), another room finds it. Four fields have no key of their own:
``bootstrap.superuser_password`` and ``postgres.host_auth_method`` come from the official image's
environment only, ``extensions.catalogued`` and its fault from the file that
``extensions.catalogue`` names.
"""

# No postponed annotations here: pydantic would evaluate each of them anew, at every start.

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from instance_manager.settings.addresses import Address, parse_address
from instance_manager.settings.variables import variable_problem

# NAMEDATALEN - 1 (src/include/pg_config_manual.h): the server cuts longer names.
NAME_LIMIT_BYTES = 63


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"must be an absolute path, not {str(path)!r}")
    if not str(path).isprintable():
        raise ValueError(f"must be an absolute path without control characters, not {str(path)!r}")
    return path


def _absolute_file(path: Path) -> Path:
    # Not shown: people write the secret where its file is asked for.
    if not path.is_absolute():
        raise ValueError(
            "must be the absolute path of a file, not a relative one or what the file holds"
        )
    return path


def _searchable(path: Path) -> Path:
    # A colon parts the elements of search paths, and can't be escaped there.
    if ":" in str(path):
        raise ValueError(f"must not hold a colon: {str(path)!r}")
    return path


def _listen(text: str) -> str:
    parse_address(text)
    return text


def _name(text: str) -> str:
    size = len(text.encode())
    if not 1 <= size <= NAME_LIMIT_BYTES or not text.isprintable():
        raise ValueError(f"must be a name of 1 to {NAME_LIMIT_BYTES} bytes, not {text!r}")
    return text


def _role(text: str) -> str:
    # initdb and CREATE ROLE refuse such a name (IsReservedName).
    if _name(text).startswith("pg_"):
        raise ValueError(f"must not begin with pg_, which Postgres keeps for itself: {text!r}")
    return text


def _variable(text: str) -> str:
    if problem := variable_problem(text):
        raise ValueError(problem)
    return text


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
FilePath = Annotated[Path, AfterValidator(_absolute_file)]
SearchablePath = Annotated[Path, AfterValidator(_absolute), AfterValidator(_searchable)]
AddressText = Annotated[str, AfterValidator(_listen)]
Name = Annotated[str, AfterValidator(_name)]
RoleName = Annotated[str, AfterValidator(_role)]
VariableName = Annotated[str, AfterValidator(_variable)]
Port = Annotated[int, Field(ge=1, le=65535)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveSeconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Section(BaseModel):
    """A part of the settings: frozen, and no key but those it names."""

    # defer_build: only what is used is built, and PID 1 starts postgres the sooner.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class InstanceSettings(Section):
    """Who this instance is. Without a name it takes the host's."""

    name: Name | None = None
    """Name of this instance; default: the host name."""


class PostgresSettings(Section):
    """The server: where it lies, where it listens, what it is told.

    ``run_as`` counts only for a manager that root started. ``host_auth_method`` is what follows
    ``host all all all`` in the last line of pg_hba.conf.
    """

    bin_directory: AbsolutePath | None = None
    """Where the program postgres lies; default: the one on PATH, else the newest
    /usr/lib/postgresql/*/bin, else the embedded package."""
    data_directory: AbsolutePath | None = None
    """The data directory; default: $PGDATA, else the one usual place that holds a cluster, else
    /var/lib/postgresql/data/pgdata."""
    wal_directory: AbsolutePath | None = None
    """A directory of its own for pg_wal, for a separate volume."""
    run_as: Name = "postgres"
    """The user that runs postgres; used only when root started the manager."""
    port: Port = 5432
    """The port of TCP connections, 1 to 65535, and part of the unix socket's name."""
    listen_addresses: str = "*"
    """TCP addresses, separated by commas; empty text for none."""
    socket_directory: AbsolutePath = Path("/run/postgresql")
    """The directory of postgres' unix socket."""
    parameters: Mapping[str, str] = {}
    """Server parameters and their values, as text."""
    shared_preload_libraries: tuple[str, ...] = ()
    """Libraries to load at server start, in this order."""
    allow_alter_system: bool = False
    """Whether ALTER SYSTEM is allowed."""
    hba: tuple[str, ...] = ()
    """Lines of pg_hba.conf, after the manager's own."""
    ident: tuple[str, ...] = ()
    """Lines of pg_ident.conf, after the manager's own."""
    host_auth_method: str = "scram-sha-256"


class BootstrapSettings(Section):
    """What a new cluster is made with; nothing here touches a cluster that exists."""

    superuser: RoleName = "postgres"
    """The superuser that a new cluster is made with."""
    superuser_password: SecretStr | None = None
    superuser_password_file: FilePath | None = None
    """File with the superuser's password, for a new cluster."""
    database: Name | None = None
    """An application database to make in a new cluster."""
    owner: RoleName | None = None
    """The role that owns the application database."""
    owner_password_file: FilePath | None = None
    """File with the owner's password, for a new cluster."""
    initdb_arguments: tuple[str, ...] = ()
    """More arguments for initdb, one an item."""
    init_directory: AbsolutePath = Path("/docker-entrypoint-initdb.d")
    """Directory of scripts to run once in a new cluster."""


class VariableSettings(Section):
    """One environment variable that a volume gives to postgres."""

    name: VariableName
    """The variable; names that steer the server, the loader or the manager are refused."""
    value: str
    """Its value; ``${image_root}`` is the volume's directory, and ``$${`` is ``${``."""


class VolumeSettings(Section):
    """How one extension volume is used. A list that is given replaces the volume's default.

    Whether the name can be one of a volume is judged where volumes are, not here.
    """

    name: str
    """The volume: the name of its directory, at most 59 characters."""
    extension_control_path: tuple[str, ...] | None = None
    """Directories of the volume whose ``extension`` holds control files; default: share."""
    dynamic_library_path: tuple[str, ...] | None = None
    """Directories of the volume with modules; default: lib."""
    ld_library_path: tuple[str, ...] | None = None
    """Directories of the volume with libraries that modules need; default: those of system and lib
    that hold one."""
    bin_path: tuple[str, ...] | None = None
    """Directories of the volume with programs, appended to PATH; default: bin, if it is there."""
    env: tuple[VariableSettings, ...] = ()
    """Variables that postgres gets."""
    required: bool = False
    """Whether a volume that is absent or has an error keeps postgres from starting."""


class ExtensionSettings(Section):
    """Where extension volumes are, and what to do about those that don't fit."""

    root: SearchablePath = Path("/extensions")
    """The directory under which extension volumes are mounted."""
    policy: Literal["quarantine", "refuse"] = "quarantine"
    """A volume with an error: leave it out, or refuse to start."""
    inventory: Literal["enforce", "report"] = "enforce"
    """What databases need by the last inventory: enforce, or report."""
    volumes: tuple[VolumeSettings, ...] = ()
    """Order and overrides of volumes; those not listed follow by name."""
    catalogue: FilePath | None = None
    """A catalogue of images: it describes volumes that don't describe themselves, and names the
    image of what is missing."""
    # Images of settings.catalogue, which is imported only where there is such a file.
    catalogued: tuple[Any, ...] = ()
    # Why they are those of an earlier reading; empty where they are not.
    catalogue_fault: str = ""


class DatabaseExtensionSettings(Section):
    """An extension that a database shall have, or shall not have."""

    name: Name
    """The extension, at most 63 bytes."""
    version: str | None = None
    """The version that it shall have; default: any, and the control file's default for a new
    one."""
    schema_name: Name | None = Field(default=None, alias="schema")
    """The schema that it shall be in, at most 63 bytes; default: any."""
    ensure: Literal["present", "absent"] = "present"
    """Whether it shall be there, or be dropped."""
    cascade: bool = False
    """Whether what it requires is created with it, or what depends on it dropped with it."""


class DatabaseSettings(Section):
    """A database and its extensions. A database that is absent is reported, not made."""

    name: Name
    """The database, at most 63 bytes."""
    extensions: tuple[DatabaseExtensionSettings, ...] = ()
    """The extensions that are looked after; others are left alone."""


class ShutdownSettings(Section):
    """The rungs of the stop ladder; 0 skips a rung."""

    smart_seconds: Seconds = 0
    """Seconds for a smart shutdown before a fast one; 0 leaves it out."""
    # With those of the next rung 25: Kubernetes kills after 30 where nobody says otherwise.
    fast_seconds: Seconds = 20
    """Seconds for a fast shutdown before an immediate one; 0 leaves it out."""
    immediate_seconds: Seconds = 5
    """Seconds for an immediate shutdown before SIGKILL; 0 leaves it out."""


class RestartSettings(Section):
    """What to do when postgres ends on its own: at most *maximum* restarts in the window."""

    policy: Literal["restart", "exit"] = "restart"
    """When postgres ends on its own: restart it, or exit."""
    maximum: Count = 5
    """How many restarts are allowed within the window; 0 for none."""
    window_seconds: PositiveSeconds = 300
    """The window in which restarts are counted, in seconds."""


class HealthSettings(Section):
    """The health listener, and what ready means."""

    listen: AddressText = "*:8080"
    """Address of the health listener; * is every address."""
    readiness: Literal["accepting", "query", "streaming"] = "accepting"
    """Ready means: accepts connections, answers a query, or a standby streams."""
    maximum_lag_bytes: Count | None = None
    """A standby with more bytes of WAL to replay is not ready; default: however many."""
    period_seconds: PositiveSeconds = 1
    """Seconds between two looks at postgres; an answer counts for three of them."""

    @property
    def needs_query(self) -> bool:
        """Whether readiness depends on what only a query can tell."""
        return self.readiness != "accepting" or self.maximum_lag_bytes is not None

    @property
    def address(self) -> Address:
        """The listener's address, parsed."""
        return parse_address(self.listen)


class TlsSettings(Section):
    """Certificate and key of the TCP control listener, and whose client certificates it takes."""

    certificate_file: FilePath | None = None
    """Certificate chain of the control API, PEM."""
    key_file: FilePath | None = None
    """Private key of that certificate, PEM."""
    client_ca_file: FilePath | None = None
    """Authorities whose client certificates are let in, PEM."""


class ControlSettings(Section):
    """The control listeners: the unix socket always, TCP unless ``listen`` is null."""

    socket: AbsolutePath = Path("/run/instance-manager/control.sock")
    """Path of the control API's unix socket."""
    group: Name | None = None
    """A group whose members may use that socket."""
    listen: AddressText | None = "127.0.0.1:8000"
    """Address of the control API; null for the unix socket only."""
    tls: TlsSettings = Field(default_factory=TlsSettings)
    """TLS of the control API over TCP."""
    token_file: FilePath | None = None
    """File with the token that clients send over TCP."""

    @property
    def address(self) -> Address | None:
        """The TCP listener's address, parsed; None for the unix socket only."""
        return None if self.listen is None else parse_address(self.listen)


class ConfigurationSettings(Section):
    """Which configuration document is the truth: the settings file or the last one accepted."""

    source: Literal["file", "api"] = "file"
    """The truth: the settings file, or the last document accepted."""


class LogSettings(Section):
    """The manager's own log; ``auto`` is for people on a terminal and JSON elsewhere."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe message of the manager's own log."""
    format: Literal["json", "console", "auto"] = "auto"
    """JSON lines, text for people, or what suits where stdout goes."""


class Settings(Section):
    """All settings of one manager."""

    instance: InstanceSettings = Field(default_factory=InstanceSettings)
    """Who this instance is."""
    failure: Literal["stay", "exit"] = "stay"
    """Where the manager can't go on: stay and serve the reason, or exit."""
    postgres: PostgresSettings = Field(default_factory=PostgresSettings)
    """The server."""
    bootstrap: BootstrapSettings = Field(default_factory=BootstrapSettings)
    """What a new cluster is made with."""
    extensions: ExtensionSettings = Field(default_factory=ExtensionSettings)
    """The extension volumes."""
    databases: tuple[DatabaseSettings, ...] = ()
    """Databases and the extensions that they shall have."""
    shutdown: ShutdownSettings = Field(default_factory=ShutdownSettings)
    """How postgres is stopped: each rung comes after the time of the one before."""
    restart: RestartSettings = Field(default_factory=RestartSettings)
    """What to do when postgres ends on its own."""
    health: HealthSettings = Field(default_factory=HealthSettings)
    """The health listener, and what ready means."""
    control: ControlSettings = Field(default_factory=ControlSettings)
    """The control listeners."""
    configuration: ConfigurationSettings = Field(default_factory=ConfigurationSettings)
    """Which configuration document is the truth."""
    log: LogSettings = Field(default_factory=LogSettings)
    """The manager's own log."""
