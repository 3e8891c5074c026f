"""The settings: every key with its type and default, as frozen models.

Pure. Durations are seconds, sizes bytes; ``None`` means *not set*, and where a default must be
found (host name, directories), another room finds it. Two fields have no key of their own and
come from the official image's environment only: ``bootstrap.superuser_password`` and
``postgres.host_auth_method``.
"""

# No postponed annotations here: pydantic would evaluate each of them anew, at every start.

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

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

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class InstanceSettings(Section):
    """Who this instance is. Without a name it takes the host's."""

    name: Name | None = None


class PostgresSettings(Section):
    """The server: where it lies, where it listens, what it is told.

    ``run_as`` counts only for a manager that root started. ``host_auth_method`` is what follows
    ``host all all all`` in the last line of pg_hba.conf.
    """

    bin_directory: AbsolutePath | None = None
    data_directory: AbsolutePath | None = None
    wal_directory: AbsolutePath | None = None
    run_as: Name = "postgres"
    port: Port = 5432
    listen_addresses: str = "*"
    socket_directory: AbsolutePath = Path("/run/postgresql")
    parameters: Mapping[str, str] = {}
    shared_preload_libraries: tuple[str, ...] = ()
    allow_alter_system: bool = False
    hba: tuple[str, ...] = ()
    ident: tuple[str, ...] = ()
    host_auth_method: str = "scram-sha-256"


class BootstrapSettings(Section):
    """What a new cluster is made with; nothing here touches a cluster that exists."""

    superuser: RoleName = "postgres"
    superuser_password: SecretStr | None = None
    superuser_password_file: FilePath | None = None
    database: Name | None = None
    owner: RoleName | None = None
    owner_password_file: FilePath | None = None
    initdb_arguments: tuple[str, ...] = ()
    init_directory: AbsolutePath = Path("/docker-entrypoint-initdb.d")


class VariableSettings(Section):
    """One environment variable that a volume gives to postgres."""

    name: VariableName
    value: str


class VolumeSettings(Section):
    """How one extension volume is used. A list that is given replaces the volume's default.

    Whether the name can be one of a volume is judged where volumes are, not here.
    """

    name: str
    extension_control_path: tuple[str, ...] | None = None
    dynamic_library_path: tuple[str, ...] | None = None
    ld_library_path: tuple[str, ...] | None = None
    bin_path: tuple[str, ...] | None = None
    env: tuple[VariableSettings, ...] = ()
    required: bool = False


class ExtensionSettings(Section):
    """Where extension volumes are, and what to do about those that don't fit."""

    root: SearchablePath = Path("/extensions")
    policy: Literal["quarantine", "refuse"] = "quarantine"
    inventory: Literal["enforce", "report"] = "enforce"
    volumes: tuple[VolumeSettings, ...] = ()


class DatabaseExtensionSettings(Section):
    """An extension that a database shall have, or shall not have."""

    name: Name
    version: str | None = None
    schema_name: Name | None = Field(default=None, alias="schema")
    ensure: Literal["present", "absent"] = "present"
    cascade: bool = False


class DatabaseSettings(Section):
    """A database and its extensions. A database that is absent is reported, not made."""

    name: Name
    extensions: tuple[DatabaseExtensionSettings, ...] = ()


class ShutdownSettings(Section):
    """The rungs of the stop ladder; 0 skips a rung."""

    smart_seconds: Seconds = 0
    fast_seconds: Seconds = 20
    immediate_seconds: Seconds = 5


class RestartSettings(Section):
    """What to do when postgres ends on its own: at most *maximum* restarts in the window."""

    policy: Literal["restart", "exit"] = "restart"
    maximum: Count = 5
    window_seconds: PositiveSeconds = 300


class HealthSettings(Section):
    """The health listener, and what ready means."""

    listen: AddressText = "*:8080"
    readiness: Literal["accepting", "query", "streaming"] = "accepting"
    maximum_lag_bytes: Count | None = None
    period_seconds: PositiveSeconds = 1

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
    key_file: FilePath | None = None
    client_ca_file: FilePath | None = None


class ControlSettings(Section):
    """The control listeners: the unix socket always, TCP unless ``listen`` is null."""

    socket: AbsolutePath = Path("/run/instance-manager/control.sock")
    group: Name | None = None
    listen: AddressText | None = "127.0.0.1:8000"
    tls: TlsSettings = Field(default_factory=TlsSettings)
    token_file: FilePath | None = None

    @property
    def address(self) -> Address | None:
        """The TCP listener's address, parsed; None for the unix socket only."""
        return None if self.listen is None else parse_address(self.listen)


class ConfigurationSettings(Section):
    """Which configuration document is the truth: the settings file or the last one accepted."""

    source: Literal["file", "api"] = "file"


class LogSettings(Section):
    """The manager's own log; ``auto`` is for people on a terminal and JSON elsewhere."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console", "auto"] = "auto"


class Settings(Section):
    """All settings of one manager."""

    instance: InstanceSettings = Field(default_factory=InstanceSettings)
    failure: Literal["stay", "exit"] = "stay"
    postgres: PostgresSettings = Field(default_factory=PostgresSettings)
    bootstrap: BootstrapSettings = Field(default_factory=BootstrapSettings)
    extensions: ExtensionSettings = Field(default_factory=ExtensionSettings)
    databases: tuple[DatabaseSettings, ...] = ()
    shutdown: ShutdownSettings = Field(default_factory=ShutdownSettings)
    restart: RestartSettings = Field(default_factory=RestartSettings)
    health: HealthSettings = Field(default_factory=HealthSettings)
    control: ControlSettings = Field(default_factory=ControlSettings)
    configuration: ConfigurationSettings = Field(default_factory=ConfigurationSettings)
    log: LogSettings = Field(default_factory=LogSettings)
