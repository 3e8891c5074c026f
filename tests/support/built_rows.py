"""The packages that the builder is tried on, and what is known of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class BuiltRow:
    """A package whose image is built, judged and tested.

    Args:
        name: what follows ``postgresql-18-`` in the package's name, or that name as a whole.
        sql: statements that use what it brings, in one session, once all is created.
        preload: what its metadata names for ``shared_preload_libraries``.
        parameters: what the server needs to be told, ``NAME=VALUE``.
        beside: packages whose images are mounted too, since it requires what they hold.
        options: more options of the build.
        reason: words of the reason why it does not work; nothing where it does.
        why: what there is to know about that.
        sample: whether it is tried where not all are.
    """

    name: str
    sql: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    reason: str = ""
    why: str = ""
    sample: bool = False

    @property
    def package(self) -> str:
        """The Debian package."""
        return self.name if self.name.startswith("postgresql-") else f"postgresql-18-{self.name}"


BUILT: Final = (
    BuiltRow("pgvector", ("SELECT '[1,2]'::vector <-> '[1,5]'",), sample=True),
    BuiltRow("pgaudit", ("SET pgaudit.log = 'read'",), preload=("pgaudit",), sample=True),
    BuiltRow("pg-failover-slots", preload=("pg_failover_slots",)),
    BuiltRow(
        "timescaledb",
        ("CREATE TABLE m (at timestamptz NOT NULL, v int); SELECT create_hypertable('m', 'at')",),
        preload=("timescaledb",),
    ),
    BuiltRow(
        "postgis-3",
        (
            "SELECT ST_Transform('SRID=4326;POINT(13.4 52.5)'::geometry, 25833)",
            "SELECT postgis_full_version()",
        ),
    ),
    BuiltRow(
        "cron", ("SELECT cron.schedule('nightly', '0 3 * * *', 'VACUUM')",), preload=("pg_cron",)
    ),
    BuiltRow("http", ("SELECT urlencode('a b')",)),
    BuiltRow("wal2json", parameters=("wal_level=logical",)),
    BuiltRow(
        "postgresql-plpython3-18",
        (
            (
                "CREATE FUNCTION f() RETURNS text LANGUAGE plpython3u AS 'import json, sys;"
                " return json.dumps(sys.version_info[0])'"
            ),
            "SELECT f()",
        ),
    ),
    BuiltRow(
        "postgresql-plperl-18",
        ("DO LANGUAGE plperl 'my $x = sprintf(\"%d\", 42);'",),
        reason="Can't locate strict.pm in @INC",
        why="Perl's own modules are not among the data that the builder brings",
    ),
    BuiltRow(
        "postgresql-pltcl-18",
        ("CREATE FUNCTION f() RETURNS int LANGUAGE pltcl AS 'return [expr 6 * 7]'", "SELECT f()"),
    ),
    BuiltRow("h3", ("SELECT h3_latlng_to_cell(POINT(-122.4, 37.7), 5)",), beside=("postgis-3",)),
    BuiltRow("pgrouting", ("SELECT pgr_version()",), beside=("postgis-3",)),
    BuiltRow(
        "age",
        ("LOAD 'age'", "SET search_path = ag_catalog, public", "SELECT create_graph('roads')"),
    ),
    BuiltRow("hypopg", ("SELECT * FROM hypopg_list_indexes",)),
    BuiltRow("hll", ("SELECT hll_cardinality(hll_empty())",), sample=True),
    BuiltRow("ip4r", ("SELECT '10.0.0.0/8'::ip4r",)),
    BuiltRow("icu-ext", ("SELECT icu_version()",)),
    BuiltRow("orafce", ("SELECT oracle.add_months('2026-01-31'::date, 1)",)),
    BuiltRow("partman"),
    BuiltRow("repack"),
    BuiltRow("pg-hint-plan", preload=("pg_hint_plan",)),
    BuiltRow("pg-ivm", preload=("pg_ivm",)),
    BuiltRow("pg-qualstats", preload=("pg_qualstats",)),
    BuiltRow("pg-stat-kcache", preload=("pg_stat_statements", "pg_stat_kcache")),
    BuiltRow("pg-wait-sampling", preload=("pg_wait_sampling",)),
    BuiltRow("squeeze", preload=("pg_squeeze",), parameters=("wal_level=logical",)),
    BuiltRow("roaringbitmap", ("SELECT rb_cardinality(rb_build(ARRAY[1,2,3]))",)),
    BuiltRow(
        "rum", ("CREATE TABLE t (v tsvector); CREATE INDEX ON t USING rum (v rum_tsvector_ops)",)
    ),
    BuiltRow("similarity", ("SELECT lev('a', 'b')",)),
    BuiltRow("rational", ("SELECT '1/3'::rational + '1/6'",)),
    BuiltRow("semver", ("SELECT '1.2.3'::semver > '1.2.0'",)),
    BuiltRow(
        "unit",
        ("SELECT '1 km'::unit + '1 m'",),
        reason='could not open file "/usr/share/postgresql/18/extension/unit_prefixes.data"',
        why="its script names a file of the server's own directory, where no volume reaches",
    ),
    BuiltRow("prefix", ("SELECT '123'::prefix_range @> '1234'",)),
    BuiltRow("debversion", ("SELECT '1.0~rc1'::debversion < '1.0'",)),
    BuiltRow("numeral", ("SELECT 'forty-two'::numeral",)),
    BuiltRow("pgmp", ("SELECT '42'::mpz * 10",), sample=True),
    BuiltRow("pgpcre", ("SELECT 'abc' ~ pcre 'b'",)),
    BuiltRow("pgsphere", ("SELECT spoint '(10d, 20d)'",)),
    BuiltRow("q3c", ("SELECT q3c_version()",)),
    BuiltRow("pointcloud", ("SELECT PC_Version()",), beside=("postgis-3",)),
    BuiltRow("pgtap", ("SELECT plan(1)",)),
    BuiltRow(
        "plpgsql-check",
        (
            "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'",
            "SELECT * FROM plpgsql_check_function('f()')",
        ),
    ),
    BuiltRow("pldebugger", preload=("plugin_debugger",)),
    BuiltRow("plprofiler", preload=("plprofiler",)),
    BuiltRow("pllua", ("DO LANGUAGE pllua 'local x = 1'",)),
    BuiltRow("plsh", ("CREATE FUNCTION f() RETURNS text LANGUAGE plsh AS '#!/bin/sh\necho 1'",)),
    BuiltRow("plproxy"),
    BuiltRow("mysql-fdw", ("SELECT mysql_fdw_version()",)),
    BuiltRow("tds-fdw", ("CREATE SERVER s FOREIGN DATA WRAPPER tds_fdw",)),
    BuiltRow("mongo-fdw", ("SELECT mongo_fdw_version()",)),
    BuiltRow("pgfincore", ("SELECT * FROM pgsysconf()",)),
    BuiltRow("pgextwlist"),
    BuiltRow("tdigest", ("SELECT tdigest(1.0, 100)",)),
    BuiltRow("timestamp9", ("SELECT now()::timestamp9",)),
    BuiltRow("toastinfo", ("SELECT pg_toastinfo('a'::text)",)),
    BuiltRow("set-user", preload=("set_user",)),
    BuiltRow("credcheck", preload=("credcheck",)),
    BuiltRow("pg-uuidv7", ("SELECT uuid_generate_v7()",)),
    BuiltRow("jsquery"),
)
"""The packages, those of most users first."""
