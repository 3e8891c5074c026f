"""The rows of the compatibility table: what is mounted, what is tried, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FORETELLING: Final = frozenset(
    {"EXT013", "EXT015", "EXT019", "EXT020", "EXT050", "EXT052", "EXT054", "EXT056", "EXT061"}
)
"""The warnings that say of a use of the volume that it will fail."""


@dataclass(frozen=True)
class Row:
    """One use of one or more volumes.

    The statements are run each in a session of its own; *shows* is what the last one prints, or
    what the server says where the use fails. *code* is the finding that foretells it, and *about*
    a word in that finding. A row with a code fails, unless it *works* all the same. *beside* are
    the codes of warnings about other uses of the volume.
    """

    name: str
    volumes: tuple[str, ...]
    statements: tuple[str, ...]
    shows: str
    code: str = ""
    about: str = ""
    works: bool = False
    beside: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict[str, str])
    sample: bool = False

    @property
    def fails(self) -> bool:
        return bool(self.code) and not self.works

    def foretold(self, findings: Iterable[Mapping[str, str]]) -> list[str]:
        """Return the codes that foretell that this use fails: errors, and warnings about it."""
        return [
            each["code"]
            for each in findings
            if each["severity"] == "error"
            or (
                each["code"] in FORETELLING
                and each["code"] not in self.beside
                and self.about in f"{each['subject']} {each['message']}"
            )
        ]

    def main_finding(self, findings: Iterable[Mapping[str, str]]) -> Mapping[str, str] | None:
        """Return the finding that the row is there to show."""
        for each in findings:
            if each["code"] == self.code and self.about in f"{each['subject']} {each['message']}":
                return each
        return None


_LOGICAL: Final = {"wal_level": "logical"}
_WAL2JSON: Final = (
    "SELECT 1 FROM pg_create_logical_replication_slot('slot', 'wal2json')",
    "CREATE TABLE changed (id int PRIMARY KEY); INSERT INTO changed VALUES (1)",
    "SELECT data FROM pg_logical_slot_get_changes('slot', NULL, NULL)",
)
_PGAUDIT: Final = (
    "CREATE EXTENSION pgaudit",
    """SET client_min_messages = log; SET pgaudit.log_client = on; SET pgaudit.log = 'read';
    SELECT count(*) FROM pg_class""",
)
_TIMESCALEDB: Final = (
    "CREATE EXTENSION timescaledb",
    """CREATE TABLE measures (at timestamptz NOT NULL, value int);
    SELECT create_hypertable('measures', 'at');
    INSERT INTO measures VALUES ('2026-01-01', 1), ('2026-03-01', 2)""",
    "SELECT count(*) || ' chunks' FROM show_chunks('measures')",
)
_PG_CRON: Final = (
    "CREATE EXTENSION pg_cron",
    "SELECT 'job ' || cron.schedule('nightly', '0 3 * * *', 'VACUUM')",
)
_PGLOGICAL: Final = (
    "CREATE EXTENSION pglogical",
    "SELECT 'node ' || (pglogical.create_node('here', 'host=/tmp dbname=postgres') > 0)",
)
_POSTGIS: Final = (
    """CREATE EXTENSION postgis; CREATE EXTENSION postgis_raster;
    CREATE EXTENSION postgis_sfcgal; CREATE EXTENSION postgis_topology""",
    """SELECT ST_AsText(ST_Transform('SRID=4326;POINT(13.4 52.5)'::geometry, 25833), 0)
    || ' ' || postgis_full_version()""",
)
_H3: Final = (
    "CREATE EXTENSION h3",
    "SELECT h3_latlng_to_cell(POINT(-122.4, 37.7), 5)",
)
_AGE: Final = (
    "CREATE EXTENSION age",
    """LOAD 'age'; SET search_path = ag_catalog; SELECT create_graph('roads');
    SELECT * FROM cypher('roads', $$ RETURN 6 * 7 $$) AS (answer agtype)""",
)
_PLPYTHON3: Final = (
    "CREATE EXTENSION plpython3u",
    """CREATE FUNCTION major() RETURNS text LANGUAGE plpython3u AS
    $$ import json, sys; return 'Python ' + json.dumps(sys.version_info[0]) $$""",
    "SELECT major()",
)
_HTTP: Final = (
    "CREATE EXTENSION http",
    "SELECT status FROM http_get('http://127.0.0.1:8080/livez')",
)
_RDKIT: Final = (
    "CREATE EXTENSION rdkit",
    "SELECT mol_formula('c1ccccc1O'::mol)",
)
_VECTOR: Final = (
    "CREATE EXTENSION vector",
    "SELECT '[1,2,3]'::vector <-> '[4,6,3]'",
)

WORKING: Final = (
    Row("pgvector", ("pgvector",), _VECTOR, "5", sample=True),
    Row("pgaudit", ("pgaudit",), _PGAUDIT, "AUDIT: SESSION", preload=("pgaudit",), sample=True),
    Row(
        "pg_failover_slots",
        ("pg_failover_slots",),
        ("SHOW pg_failover_slots.synchronize_slot_names",),
        "name_like:%",
        preload=("pg_failover_slots",),
        sample=True,
    ),
    Row("timescaledb", ("timescaledb",), _TIMESCALEDB, "2 chunks", preload=("timescaledb",)),
    Row("postgis", ("postgis",), _POSTGIS, "POINT(391", beside=("EXT013", "EXT019")),
    Row("pg_cron", ("pg_cron",), _PG_CRON, "job 1", preload=("pg_cron",), sample=True),
    Row("age", ("age",), _AGE, "42"),
    Row("http", ("http",), _HTTP, "200", sample=True),
    Row("h3", ("h3",), _H3, "85", beside=("EXT015",)),
    Row("rdkit", ("rdkit",), _RDKIT, "C6H6O"),
    Row(
        "wal2json",
        ("wal2json",),
        _WAL2JSON,
        '"kind":"insert"',
        parameters={**_LOGICAL, "output_plugin_libraries": "pgoutput, wal2json"},
    ),
    Row(
        "pglogical",
        ("pglogical",),
        _PGLOGICAL,
        "node true",
        beside=("EXT054",),
        preload=("pglogical",),
        parameters=_LOGICAL,
    ),
    Row("plpython3", ("plpython3",), _PLPYTHON3, "Python 3", sample=True),
    Row(
        "h3_postgis, with postgis",
        ("h3", "postgis"),
        (
            "CREATE EXTENSION h3_postgis CASCADE",
            "SELECT h3_latlng_to_cell('SRID=4326;POINT(1 2)'::geometry, 5)",
        ),
        "85",
        beside=("EXT013", "EXT019"),
    ),
)

FAILING: Final = (
    Row(
        "pgaudit, not preloaded",
        ("pgaudit",),
        _PGAUDIT,
        "pgaudit must be loaded via shared_preload_libraries",
        code="EXT050",
        about="pgaudit",
        sample=True,
    ),
    Row(
        "timescaledb, not preloaded",
        ("timescaledb",),
        _TIMESCALEDB,
        'extension "timescaledb" must be preloaded',
        code="EXT050",
        about="timescaledb",
    ),
    Row(
        "pg_cron, not preloaded",
        ("pg_cron",),
        _PG_CRON,
        'unrecognized configuration parameter "cron.database_name"',
        code="EXT050",
        about="pg_cron",
    ),
    Row(
        "pglogical, not preloaded",
        ("pglogical",),
        _PGLOGICAL,
        "pglogical is not in shared_preload_libraries",
        code="EXT050",
        about="pglogical",
        parameters=_LOGICAL,
    ),
    Row(
        "wal2json, not trusted",
        ("wal2json",),
        _WAL2JSON,
        'library "wal2json" may not be used as an output plugin',
        code="EXT054",
        about="wal2json",
        parameters=_LOGICAL,
        sample=True,
    ),
    Row(
        "h3_postgis, without postgis",
        ("h3",),
        ("CREATE EXTENSION h3_postgis CASCADE",),
        'extension "postgis" is not available',
        code="EXT015",
        about="h3_postgis",
    ),
    Row(
        "postgis, update",
        ("postgis",),
        (
            "CREATE EXTENSION postgis",
            "ALTER EXTENSION postgis UPDATE TO 'ANY'; ALTER EXTENSION postgis UPDATE",
        ),
        'could not access file "$libdir/postgis-3": No such file or directory',
        code="EXT019",
        about="postgis--ANY--",
    ),
    Row(
        "postgis, links of alternatives",
        ("postgis_alternatives",),
        ("SELECT * FROM pg_available_extensions",),
        "could not open extension control file",
        code="EXT010",
        about="postgis.control",
    ),
    Row(
        "postgis, without libgeos_c",
        ("postgis_without_geos",),
        _POSTGIS,
        "libgeos_c.so.1: cannot open shared object file: No such file or directory",
        code="EXT040",
        about="libgeos_c.so.1",
    ),
    Row(
        "plpython3, preloaded without libpython",
        ("plpython3_without_python",),
        _PLPYTHON3,
        "cannot open shared object file: No such file or directory",
        code="EXT040",
        about="libpython3",
        preload=("plpython3",),
        sample=True,
    ),
    Row(
        "pltcl, without Tcl's scripts",
        ("pltcl",),
        ("CREATE EXTENSION pltcl", "DO LANGUAGE pltcl 'elog NOTICE here'"),
        "could not initialize dummy Tcl interpreter",
        code="EXT061",
        about="init.tcl",
    ),
    Row(
        "plr, without R's packages",
        ("plr",),
        (
            "CREATE EXTENSION plr",
            "CREATE FUNCTION one() RETURNS int LANGUAGE plr AS 'return(1)'; SELECT one()",
        ),
        "the R interpreter did not initialize",
        code="EXT061",
        about="libR.so",
    ),
    Row(
        "mysql_fdw, without the client library that it opens",
        ("mysql_fdw",),
        ("CREATE EXTENSION mysql_fdw",),
        "libmysqlclient.so: cannot open shared object file: No such file or directory",
        code="EXT061",
        about="libmysqlclient.so",
    ),
    Row(
        "jit, from a volume",
        ("jit",),
        ("DO $$ BEGIN ASSERT pg_jit_available(), 'there is no JIT'; END $$",),
        "there is no JIT",
        code="EXT056",
        about="llvmjit",
    ),
    Row(
        "pgextwlist, in local_preload_libraries",
        ("pgextwlist",),
        ("SELECT 1",),
        'could not access file "$libdir/plugins/pgextwlist": No such file or directory',
        code="EXT055",
        about="pgextwlist",
        parameters={"local_preload_libraries": "pgextwlist"},
    ),
    Row(
        "pgaudit, preloaded without its volume",
        ("pgvector",),
        ("SELECT 1",),
        'could not access file "pgaudit": No such file or directory',
        code="EXT051",
        about="pgaudit",
        preload=("pgaudit",),
        sample=True,
    ),
    Row(
        "pgvector of PostgreSQL 17",
        ("pgvector_17",),
        _VECTOR,
        "version mismatch",
        code="EXT033",
        about="vector.so",
        sample=True,
    ),
    Row(
        "pgvector of arm64",
        ("pgvector_arm64",),
        _VECTOR,
        "vector.so: cannot open shared object file: No such file or directory",
        code="EXT031",
        about="vector.so",
        sample=True,
    ),
    Row(
        "pgvector, truncated",
        ("pgvector_truncated",),
        _VECTOR,
        "server closed the connection unexpectedly",
        code="EXT030",
        about="vector.so",
        sample=True,
    ),
    Row(
        "pg_stat_kcache, preloaded alone",
        ("pg_stat_kcache",),
        ("CREATE EXTENSION pg_stat_kcache CASCADE",),
        "pg_stat_kcache is present after pg_stat_statements",
        code="EXT053",
        about="pg_stat_kcache",
        preload=("pg_stat_kcache",),
    ),
    Row(
        "rdkit, with an older libstdc++",
        ("rdkit_old_libstdcxx",),
        _RDKIT,
        "not found (required by",
        code="EXT048",
        about="libstdc++.so.6",
    ),
    Row(
        "http, with an older OpenSSL",
        ("http_old_openssl",),
        _HTTP,
        "not found (required by",
        code="EXT041",
        about="OPENSSL_",
    ),
    Row(
        "plpython3, with an older OpenSSL",
        ("plpython3_old_openssl",),
        (
            "CREATE EXTENSION plpython3u",
            "SELECT pg_read_file('/proc/self/maps')",
        ),
        # As the kernel names what is mapped from an overlay: without the mount point.
        " /system/libssl.so.3",
        code="EXT043",
        about="libssl.so.3",
        works=True,
    ),
)

ROWS: Final = (*WORKING, *FAILING)
