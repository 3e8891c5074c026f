"""The SQL of a smoke test: names are quoted, versions are literals.

Imported when psycopg is.
"""

from __future__ import annotations

from typing import Final

from psycopg.sql import SQL, Composed, Identifier, Literal

from instance_manager.databases.desired import Create, Drop
from instance_manager.databases.statements import statement_of, update

MEMBERS: Final = SQL("""
SELECT pg_describe_object(d.classid, d.objid, d.objsubid)
  FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
 WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = {}
 ORDER BY 1
""")
# probin is the library's name as CREATE FUNCTION gave it.
LIBRARIES: Final = SQL("""
SELECT DISTINCT p.probin
  FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid JOIN pg_proc p ON p.oid = d.objid
 WHERE d.refclassid = 'pg_extension'::regclass AND d.classid = 'pg_proc'::regclass
   AND d.deptype = 'e' AND p.probin IS NOT NULL AND e.extname = {}
 ORDER BY 1
""")
SYMBOLS: Final = SQL("""
SELECT fmgr_c_validator(p.oid)
  FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid JOIN pg_proc p ON p.oid = d.objid
  JOIN pg_language l ON l.oid = p.prolang
 WHERE d.refclassid = 'pg_extension'::regclass AND d.classid = 'pg_proc'::regclass
   AND d.deptype = 'e' AND l.lanname = 'c' AND e.extname = {}
""")
"""Finds each function of C in its library, as the first call of it would."""
# pg_get_functiondef refuses aggregates.
DEFINITIONS: Final = SQL("""
SELECT length(pg_get_functiondef(p.oid))
  FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid JOIN pg_proc p ON p.oid = d.objid
 WHERE d.refclassid = 'pg_extension'::regclass AND d.classid = 'pg_proc'::regclass
   AND d.deptype = 'e' AND p.prokind <> 'a' AND e.extname = {}
""")
# Tables and views can be read without arguments; LIMIT 0 still plans the view and resolves its
# functions.
RELATIONS: Final = SQL("""
SELECT n.nspname::text, c.relname::text
  FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid JOIN pg_class c ON c.oid = d.objid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE d.refclassid = 'pg_extension'::regclass AND d.classid = 'pg_class'::regclass
   AND d.deptype = 'e' AND c.relkind IN ('r', 'p', 'v', 'm') AND e.extname = {}
 ORDER BY 1, 2
""")
PRELOADED: Final = SQL("SELECT current_setting('shared_preload_libraries')")


def about(question: SQL, extension: str) -> Composed:
    """Return a question about what an extension has."""
    return question.format(Literal(extension))


def create(extension: str, version: str) -> Composed:
    """Return the statement that creates it, with all that it requires."""
    return statement_of(Create(extension, version, schema=None, cascade=True))


def drop(extension: str, *, cascade: bool = False) -> Composed:
    """Return the statement that drops it."""
    return statement_of(Drop(extension, version="", cascade=cascade))


def update_to(extension: str, version: str) -> Composed:
    """Return the statement that updates it."""
    return update(extension, version)


def load(library: str) -> Composed:
    """Return the statement that loads a library."""
    return SQL("LOAD {}").format(Literal(library))


def read(schema: str, relation: str) -> Composed:
    """Return the statement that reads a relation without a row of it."""
    # Without a row: some views are there to act, or are expensive.
    return SQL("SELECT * FROM {}.{} LIMIT 0").format(Identifier(schema), Identifier(relation))
