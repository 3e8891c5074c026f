"""What the OpenAPI document says of each route: a row for each row of the table of routes.

A test fails where the two tables differ. Imported when the document is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from instance_manager.api.configuration_models import ConfigurationDocument, ConfigurationResult
from instance_manager.api.models import (
    EmptyRequest,
    Event,
    Items,
    Operation,
    ProbeReport,
    StartRequest,
    Status,
    StopRequest,
)
from instance_manager.api.update_models import Rehearsal, UpdateRequest
from instance_manager.databases.models import DatabaseExtensions, Databases
from instance_manager.extensions.models import ExtensionsReport, Volume

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel

Model = type["BaseModel"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a request, in its query or its headers."""

    name: str
    place: str
    text: str
    schema: Mapping[str, Any]
    required: bool = False


@dataclass(frozen=True, slots=True)
class Description:
    """What is sent to a route, what comes back, and which problems it may have.

    *answers* map a status to its document, to those that it may be, or to None for plain text.
    *name* is that of the client's method.
    """

    name: str
    tag: str
    summary: str
    answers: Mapping[int, Model | tuple[Model, ...] | None]
    body: Model | None = None
    parameters: tuple[Parameter, ...] = ()
    problems: tuple[int, ...] = ()
    headers: Mapping[str, str] | None = None
    """Of the good answers."""
    texts: tuple[str, ...] = ()
    """Media types in which the good answers come as well, or alone, as text."""
    more: str = ""
    """What there is to know besides."""


TAGS: Final = {
    "probes": "Health and metrics, from memory: nobody is asked when you ask.",
    "status": "What is the case, and what has happened.",
    "extensions": "The extension volumes.",
    "databases": "What databases have of extensions, and what they could have.",
    "configuration": "What the server is told.",
    "postgres": "The life of the server; each is an operation.",
    "operations": "What was asked for and takes time.",
    "documentation": "This API.",
}

PLACES: Final = {
    "check": "A check of the probe by its name, such as `heartbeat`, `start`, `postgres`, `lag` or"
    " `shutdown`; each probe has its own.",
    "volume": "The name of a volume, which is that of its directory.",
    "name": "The name of a database as the server has it, up to 63 bytes, percent-encoded.",
    "extension": "The name of an extension as the server has it, up to 63 bytes, percent-encoded.",
    "id": "The id of an operation that is remembered: the last 100 of this run of the manager.",
}
"""The parameters in paths, by their names."""

_TEXT: Final = {"type": "string"}
KEY: Final = Parameter(
    "Idempotency-Key",
    "header",
    "1 to 255 visible ASCII characters: the same request with the same key is the same operation.",
    {**_TEXT, "minLength": 1, "maxLength": 255},
)
FOLLOW: Final = Parameter(
    "follow",
    "query",
    "Go on with what happens, as server-sent events, unless it is ``false``, ``0`` or ``no``."
    " So does ``Accept: text/event-stream``.",
    _TEXT,
)
LAST_EVENT: Final = Parameter(
    "Last-Event-ID", "header", "With ``follow``: begin after this event.", _TEXT
)
WAIT: Final = Parameter(
    "Prefer",
    "header",
    "``wait=SECONDS``, whole ones from 0 to 60: answer when it has finished, or when the time is"
    " up. More than 60 is 60; what can't be read is ignored.",
    {**_TEXT, "examples": ["wait=30"]},
)
IF_MATCH: Final = Parameter(
    "If-Match",
    "header",
    "The tag of the document that is changed, in quotes, or ``*``. Not needed for a dry run.",
    {**_TEXT, "examples": ['"2f7c8d"', "*"]},
)
DRY_RUN: Final = Parameter(
    "dry_run",
    "query",
    "Only say what would change; needs no tag.",
    {"type": "string", "enum": ["true", "false"], "default": "false"},
)
EXCLUDE: Final = Parameter(
    "exclude",
    "query",
    "A check to leave out of the verdict, by its name; may be repeated.",
    {"type": "array", "items": _TEXT},
)
VERBOSE: Final = Parameter(
    "verbose", "query", "Tell each check in the text, whatever the value.", _TEXT
)
_APPLIED: Final = {"Preference-Applied": "``wait=SECONDS`` as it was applied; absent without."}
_LOCATION: Final = {"Location": "Where the operation is found.", **_APPLIED}
_ONE_AT_A_TIME: Final = (
    "One start, stop, restart, fence or unfence runs at a time: another one is 409, and"
    " `operation` in the problem is the id of the one in the way."
)
_TAKES_OVER: Final = (
    "Takes over from a start, a restart or an unfence, which is cancelled then; a stop or a fence"
    " in the way is 409, and `operation` in the problem is its id."
)
_NO_TURN: Final = "Needs no turn: what else is under way does not hinder it."
_STREAM: Final = (
    "A stream begins with what is remembered, or with what came after Last-Event-ID. The data of a"
    " `message` is an Event, and its id the event's; `missed` (events after Last-Event-ID are"
    " forgotten) and `end` (the manager ends, or the reader was too slow) have a StreamNotice. A"
    " comment comes every 15 seconds. At most 32 streams of a listener are open at once."
)
_PUT: Final = (
    "The document is whole: what it leaves out is empty. It is judged before anything is written,"
    " and what is wrong comes as a list, each with its path (422); what is wrong with its form"
    " comes alone. What needs only a reload is in force when the answer comes. 409 where the"
    " settings file is the truth, 412 where the document was changed since its tag was read, 428"
    " without a tag."
)
_BEGUN: Final = {200: Operation, 202: Operation}
_REFUSED: Final = (409, 503)
_PROBED: Final = {200: ProbeReport, 503: ProbeReport}


def _probe(name: str, summary: str) -> Description:
    return Description(
        name, "probes", summary, _PROBED, parameters=(EXCLUDE, VERBOSE), texts=("text/plain",)
    )


def _check(name: str, summary: str) -> Description:
    return Description(
        name,
        "probes",
        summary,
        _PROBED,
        parameters=(EXCLUDE, VERBOSE),
        problems=(404,),
        texts=("text/plain",),
    )


def _verb(name: str, summary: str, body: Model, more: str = _ONE_AT_A_TIME) -> Description:
    return Description(
        name, "postgres", summary, _BEGUN, body, (WAIT, KEY), _REFUSED, _LOCATION, more=more
    )


DESCRIPTIONS: Final[Mapping[tuple[str, str], Description]] = {
    ("GET", "/livez"): _probe("livez", "Whether the manager itself lives."),
    ("GET", "/livez/{check}"): _check("livez_check", "One check of /livez."),
    ("GET", "/healthz"): _probe("healthz", "An old name for /livez."),
    ("GET", "/healthz/{check}"): _check("healthz_check", "One check of /healthz."),
    ("GET", "/startupz"): _probe("startupz", "Whether the first start is over, or getting on."),
    ("GET", "/startupz/{check}"): _check("startupz_check", "One check of /startupz."),
    ("GET", "/readyz"): _probe("readyz", "Whether clients should be sent here."),
    ("GET", "/readyz/{check}"): _check("readyz_check", "One check of /readyz."),
    ("GET", "/metrics"): Description(
        "metrics",
        "probes",
        "Metrics, as Prometheus text or OpenMetrics.",
        {200: None},
        texts=("text/plain", "application/openmetrics-text"),
    ),
    ("GET", "/v1/status"): Description("status", "status", "The whole instance.", {200: Status}),
    ("GET", "/v1/events"): Description(
        "events",
        "status",
        "What happened to the instance, newest last; with follow, a stream.",
        {200: Items[Event]},
        parameters=(FOLLOW, LAST_EVENT),
        problems=(503,),
        texts=("text/event-stream",),
        more=_STREAM,
    ),
    ("GET", "/v1/extensions"): Description(
        "extensions",
        "extensions",
        "What the volumes hold, and what is composed of them.",
        {200: ExtensionsReport},
    ),
    ("GET", "/v1/extensions/{volume}"): Description(
        "extension_volume", "extensions", "One volume.", {200: Volume}, problems=(404,)
    ),
    ("POST", "/v1/extensions/rescan"): Description(
        "rescan",
        "extensions",
        "Look at the volumes again; changes nothing by itself.",
        {200: ExtensionsReport},
        EmptyRequest,
        problems=_REFUSED,
    ),
    ("GET", "/v1/databases"): Description(
        "databases", "databases", "What every database uses, as read last.", {200: Databases}
    ),
    ("GET", "/v1/databases/{name}/extensions"): Description(
        "database_extensions",
        "databases",
        "What one database has installed, what is available, and update paths.",
        {200: DatabaseExtensions},
        problems=(404,),
    ),
    ("POST", "/v1/databases/{name}/extensions/{extension}/update"): Description(
        "update_extension",
        "databases",
        "Update an extension: an operation, 200 if it has finished. With dry_run, a rehearsal"
        " that is rolled back, and 200.",
        {200: (Rehearsal, Operation), 202: Operation},
        UpdateRequest,
        (WAIT, KEY),
        (404, 409, 503, 507),
        headers=_LOCATION,
        more="A rehearsal takes the locks of the update while it lasts, and ignores the key. One"
        " update or rehearsal of an extension of a database runs at a time: another one is 409.",
    ),
    ("GET", "/v1/configuration"): Description(
        "configuration",
        "configuration",
        "The configuration document in force, its secrets masked.",
        {200: ConfigurationDocument},
        headers={"ETag": "The document's tag, in quotes."},
    ),
    ("PUT", "/v1/configuration"): Description(
        "put_configuration",
        "configuration",
        "Put another document into force, or say what that would change.",
        {200: ConfigurationResult},
        ConfigurationDocument,
        (DRY_RUN, IF_MATCH),
        (409, 412, 428, 503, 507),
        headers={"ETag": "The tag of the document in force now; not for a dry run."},
        more=_PUT,
    ),
    ("POST", "/v1/postgres/start"): _verb("start", "Start postgres.", StartRequest),
    ("POST", "/v1/postgres/stop"): _verb(
        "stop", "Stop postgres, and keep it so.", StopRequest, _TAKES_OVER
    ),
    ("POST", "/v1/postgres/restart"): _verb("restart", "Restart postgres.", StopRequest),
    ("POST", "/v1/postgres/reload"): _verb(
        "reload", "Apply what needs no restart.", EmptyRequest, _NO_TURN
    ),
    ("POST", "/v1/postgres/checkpoint"): _verb(
        "checkpoint", "Have the server make a checkpoint.", EmptyRequest, _NO_TURN
    ),
    ("POST", "/v1/postgres/fence"): _verb(
        "fence",
        "Stop postgres, and keep it so over restarts of the manager.",
        StopRequest,
        _TAKES_OVER,
    ),
    ("POST", "/v1/postgres/unfence"): _verb(
        "unfence", "Take the fence away, and start postgres.", EmptyRequest
    ),
    ("GET", "/v1/operations"): Description(
        "operations", "operations", "What was asked for, newest last.", {200: Items[Operation]}
    ),
    ("GET", "/v1/operations/{id}"): Description(
        "operation",
        "operations",
        "One operation; with Prefer: wait, once it has finished.",
        {200: Operation},
        parameters=(WAIT,),
        problems=(404,),
        headers=_APPLIED,
    ),
    ("DELETE", "/v1/operations/{id}"): Description(
        "cancel",
        "operations",
        "Cancel an operation.",
        _BEGUN,
        parameters=(WAIT,),
        problems=(404, 409),
        headers=_LOCATION,
        more="A start, a restart, an unfence, a checkpoint or an update of an extension can be"
        " called back; the others, and what has ended otherwise, are 409. Again is the same.",
    ),
    ("GET", "/openapi.json"): Description(
        "openapi",
        "documentation",
        "This document.",
        {200: None},
        texts=("application/json",),
    ),
    ("GET", "/docs"): Description(
        "docs", "documentation", "This document, to read.", {200: None}, texts=("text/html",)
    ),
}
