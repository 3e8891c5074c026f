"""The JSON Schema of the settings file, for editors, for ``config schema`` and for the docs. Pure.

Not on the way to postgres' start: imported where the schema is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from instance_manager.settings.changes import LIVE_KEYS
from instance_manager.settings.keys import KEYLESS, known_keys
from instance_manager.settings.models import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

DIALECT = "https://json-schema.org/draft/2020-12/schema"
LIVE = "live"
START = "start"

DESCRIPTIONS: Mapping[str, str] = {
    "instance.name": "Name of this instance; default: the host name.",
    "failure": "Where the manager can't go on: stay and serve the reason, or exit.",
    "postgres.bin_directory": "Where the program postgres lies; default: the one on PATH, else the"
    " newest /usr/lib/postgresql/*/bin, else the embedded package.",
    "postgres.data_directory": "The data directory; default: $PGDATA, else the one usual place"
    " that holds a cluster, else /var/lib/postgresql/data/pgdata.",
    "postgres.wal_directory": "A directory of its own for pg_wal, for a separate volume.",
    "postgres.run_as": "The user that runs postgres; used only when root started the manager.",
    "postgres.port": "The port of TCP connections, and part of the unix socket's name.",
    "postgres.listen_addresses": "TCP addresses, separated by commas; empty text for none.",
    "postgres.socket_directory": "The directory of postgres' unix socket.",
    "postgres.parameters": "Server parameters and their values, as text.",
    "postgres.shared_preload_libraries": "Libraries to load at server start, in this order.",
    "postgres.allow_alter_system": "Whether ALTER SYSTEM is allowed.",
    "postgres.hba": "Lines of pg_hba.conf, after the manager's own.",
    "postgres.ident": "Lines of pg_ident.conf, after the manager's own.",
    "bootstrap.superuser": "The superuser that a new cluster is made with.",
    "bootstrap.superuser_password_file": "File with the superuser's password.",
    "bootstrap.database": "An application database to make in a new cluster.",
    "bootstrap.owner": "The role that owns the application database.",
    "bootstrap.owner_password_file": "File with the owner's password.",
    "bootstrap.initdb_arguments": "More arguments for initdb.",
    "bootstrap.init_directory": "Directory of scripts to run once in a new cluster.",
    "extensions.root": "The directory under which extension volumes are mounted.",
    "extensions.policy": "A volume with an error: leave it out, or refuse to start.",
    "extensions.inventory": "What databases need by the last inventory: enforce, or report.",
    "extensions.volumes": "Order and overrides of volumes; those not listed follow by name.",
    "databases": "Databases and the extensions that they shall have.",
    "shutdown.smart_seconds": "Seconds for a smart shutdown before a fast one.",
    "shutdown.fast_seconds": "Seconds for a fast shutdown before an immediate one.",
    "shutdown.immediate_seconds": "Seconds for an immediate shutdown before SIGKILL.",
    "restart.policy": "When postgres ends on its own: restart it, or exit.",
    "restart.maximum": "How many restarts are allowed within the window.",
    "restart.window_seconds": "The window in which restarts are counted, in seconds.",
    "health.listen": "Address of the health listener; * is every address.",
    "health.readiness": "Ready means: accepts connections, answers a query, or a standby streams.",
    "health.maximum_lag_bytes": "A standby that is further behind is not ready.",
    "health.period_seconds": "Seconds between two looks at postgres.",
    "control.socket": "Path of the control API's unix socket.",
    "control.group": "A group whose members may use that socket.",
    "control.listen": "Address of the control API; null for the unix socket only.",
    "control.tls.certificate_file": "Certificate chain of the control API, PEM.",
    "control.tls.key_file": "Private key of that certificate, PEM.",
    "control.tls.client_ca_file": "Authorities whose client certificates are let in, PEM.",
    "control.token_file": "File with the token that clients send.",
    "configuration.source": "The truth: the settings file, or the last document accepted.",
    "log.level": "The least severe message of the manager's own log.",
    "log.format": "JSON lines, text for people, or what suits where stdout goes.",
}


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the settings file.

    Each key carries ``x-applied`` (``live``: when the settings are read again; ``start``: at a new
    start of the manager) and ``x-environment``, the variable that sets it.
    """
    document = Settings.model_json_schema()
    definitions = document["$defs"]
    for path in KEYLESS:
        _drop_property(document, definitions, path)
    for path, key in known_keys().items():
        entry = _properties(document, definitions, path)[path.rpartition(".")[2]]
        entry["description"] = DESCRIPTIONS[path]
        entry["x-applied"] = LIVE if path in LIVE_KEYS else START
        entry["x-environment"] = key.variable
    # As text they may be written as YAML likes to show them.
    _properties(document, definitions, "postgres.parameters")["parameters"][
        "additionalProperties"
    ] = {"type": ["string", "number", "boolean"]}
    return {"$schema": DIALECT, **document}


def _properties(document: Any, definitions: Any, path: str) -> dict[str, Any]:
    """Return the properties among which the last part of *path* stands."""
    node = document
    for part in path.split(".")[:-1]:
        node = definitions[node["properties"][part]["$ref"].rpartition("/")[2]]
    properties: dict[str, Any] = node["properties"]
    return properties


def _drop_property(document: Any, definitions: Any, path: str) -> None:
    del _properties(document, definitions, path)[path.rpartition(".")[2]]
