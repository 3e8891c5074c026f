"""Extensions that the settings declare: created, updated, moved, dropped, and mended again."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from instance_manager.databases.reconciling import Reconciler
from instance_manager.databases.sessions import Sessions
from instance_manager.databases.turns import Turns
from instance_manager.health.snapshot import Target
from instance_manager.observability.events import Events
from instance_manager.postgres import account
from instance_manager.settings.models import DatabaseSettings
from instance_manager.supervision.states import State
from tests.support.manager import ACCOUNT, Manager, until
from tests.support.sql_extensions import (
    condition,
    declare,
    events,
    installed,
    own_root,
    reload,
    write,
)

NO = """CREATE FUNCTION no() RETURNS event_trigger LANGUAGE plpgsql
            AS 'BEGIN RAISE EXCEPTION $$no$$; END'"""
HOSTILE = 'drop "table"; \' -- é%s\\'
"""A name that ends up as another statement wherever it is not quoted."""


@pytest.fixture
def declared(manager: Manager) -> Manager:
    """Return a manager with volumes of its own, where extension toy has three versions."""
    root = own_root(manager)
    steps = {
        "1.0--1.1": "ALTER TABLE toy ADD more int;",
        "1.1--1.2": "CREATE INDEX ON toy (more);",
    }
    write(root, "toy", {"1.0": "CREATE TABLE toy (id int);", **steps}, default_version="1.2")
    return manager.trust()


def root_of(manager: Manager) -> Path:
    return manager.directory / "extensions"


def until_condition(manager: Manager, reason: str) -> str:
    """Wait for the condition to have *reason* and return its message."""
    try:
        until(lambda: condition(manager)[1] == reason, f"the databases are {reason}")
    except AssertionError as error:
        raise AssertionError(f"{error}, but {condition(manager)}\n{manager.logged()}") from error
    return condition(manager)[2]


def test_what_is_declared_is_brought_about_and_changed(declared: Manager) -> None:
    """Created with the first start, updated and moved by a reload, dropped only when asked to."""
    declare(declared, {"name": "toy", "version": "1.0"}, {"name": "vector"})
    declared.start().until_ready()
    assert until_condition(declared, "AsDeclared") == "as declared: postgres"
    assert {name: schema for name, (_, schema) in installed(declared).items()} == {
        "toy": "public",
        "vector": "public",
    }
    assert installed(declared)["toy"][0] == "1.0"
    assert len(events(declared, "ExtensionCreated")) == 2

    declared.query('CREATE SCHEMA "other place"')
    declare(declared, {"name": "toy", "version": "1.2", "schema": "other place"})
    reload(declared)
    until(lambda: installed(declared)["toy"] == ("1.2", '"other place"'), "it is as declared")
    until_condition(declared, "AsDeclared")
    assert len(events(declared, "ExtensionUpdated")) == 1
    assert len(events(declared, "ExtensionMoved")) == 1
    assert "vector" in installed(declared), "it is no longer declared, and nobody asked to drop it"

    declare(declared, {"name": "toy", "ensure": "absent"})
    reload(declared)
    until(lambda: "toy" not in installed(declared), "it is dropped")
    until_condition(declared, "AsDeclared")
    assert len(events(declared, "ExtensionDropped")) == 1
    assert "vector" in installed(declared)
    assert declared.end() == 0


def test_what_can_not_be_done_is_told_in_words_and_the_rest_is_done(declared: Manager) -> None:
    """Each with its reason; a script's error with the server's own message and SQLSTATE."""
    root = root_of(declared)
    refusal = "DO $$BEGIN RAISE 'only by preload' USING ERRCODE = '55000'; END$$;"
    write(root, "unloaded", {"1.0": refusal})
    write(root, "fixed", {"1.0": "CREATE TABLE fixed (id int);"}, schema="fixed")
    declare(
        declared,
        {"name": "unloaded"},
        {"name": "toy", "version": "9.9"},
        {"name": "fixed", "schema": "public"},
        {"name": "vector", "schema": "nowhere"},
        {"name": "missing"},
        {"name": "citext"},
    )
    declared.settings["databases"].append({"name": "absent", "extensions": [{"name": "toy"}]})
    declared.start().until_ready()
    message = until_condition(declared, "NotAsDeclared")

    assert set(installed(declared)) == {"citext"}
    told = "\n".join(events(declared, "ExtensionFailed", "DatabaseFailed"))
    for words in (
        "extension 'unloaded' of database 'postgres': only by preload (55000)",
        "extension 'toy' of database 'postgres': it can't be created in version '9.9'",
        "it can't be created in version '9.9': there are '1.0', '1.1', '1.2'",
        "it can't be created in schema 'public': its control file fixes 'fixed'",
        "there is no schema 'nowhere'",
        "extension 'missing' of database 'postgres': no volume offers it",
        "database 'absent': there is no such database",
    ):
        assert words in told
    assert "and 1 more" in message
    assert f"not as declared: {message}" in declared.run("status").stdout

    write(root, "unloaded", {"1.0": "CREATE TABLE loaded (id int);"})
    declare(declared, {"name": "unloaded"}, {"name": "fixed"})
    reload(declared)
    until_condition(declared, "AsDeclared")
    assert installed(declared)["fixed"] == ("1.0", "fixed")


def test_what_others_require_comes_first(declared: Manager) -> None:
    """Whatever the order in the settings; what is not declared only where cascade says so."""
    root = root_of(declared)
    write(root, "top", {"1.0": "CREATE VIEW top AS TABLE middle;"}, requires="middle")
    write(root, "middle", {"1.0": "CREATE VIEW middle AS TABLE ground;"}, requires="ground")
    write(root, "ground", {"0.9": "CREATE TABLE ground ();", "1.0": "CREATE TABLE ground ();"})
    declare(declared, {"name": "top"}, {"name": "middle"})
    declared.start().until_ready()
    message = until_condition(declared, "NotAsDeclared")
    assert "version '1.0' requires 'ground': declare it too, or set cascade" in message
    assert installed(declared) == {}

    declare(declared, {"name": "top"}, {"name": "middle"}, {"name": "ground", "version": "0.9"})
    reload(declared)
    until_condition(declared, "AsDeclared")
    assert {name: version for name, (version, _) in installed(declared).items()} == {
        "top": "1.0",
        "middle": "1.0",
        "ground": "0.9",
    }

    absent = [{"name": name, "ensure": "absent"} for name in ("ground", "middle", "top")]
    declare(declared, absent[0], {"name": "top"})
    reload(declared)
    until_condition(declared, "NotAsDeclared")
    assert "it can't be dropped: 'top', declared present, requires it" in condition(declared)[2]
    declare(declared, *absent)
    reload(declared)
    until_condition(declared, "AsDeclared")
    assert installed(declared) == {}

    declare(declared, {"name": "top", "cascade": True})
    reload(declared)
    until_condition(declared, "AsDeclared")
    assert set(installed(declared)) == {"top", "middle", "ground"}


def test_what_one_with_a_schema_of_its_own_requires_comes_into_the_default_one(
    declared: Manager,
) -> None:
    """Not where the manager's own sessions look: that is the catalog."""
    root = root_of(declared)
    top = {"1.0": "CREATE TABLE top ();"}
    write(root, "top", top, requires="ground", schema="tiger")
    write(root, "ground", {"1.0": "CREATE TABLE ground ();"})
    declare(declared, {"name": "top", "cascade": True})

    declared.start().until_ready()

    until_condition(declared, "AsDeclared")
    assert installed(declared) == {"top": ("1.0", "tiger"), "ground": ("1.0", "public")}


def test_what_people_made_of_an_extension_goes_only_with_cascade(declared: Manager) -> None:
    """Without it, the server refuses, and the extension and the data stay."""
    declare(declared, {"name": "vector"})
    declared.start().until_ready()
    until_condition(declared, "AsDeclared")
    declared.query("CREATE TABLE kept (id int, embedding vector)")
    declare(declared, {"name": "vector", "ensure": "absent"})
    reload(declared)
    message = until_condition(declared, "NotAsDeclared")
    assert "(2BP01)" in message
    assert "vector" in installed(declared)

    declare(declared, {"name": "vector", "ensure": "absent", "cascade": True})
    reload(declared)
    until_condition(declared, "AsDeclared")
    assert installed(declared) == {}
    assert declared.query("SELECT count(*) FROM kept") == [(0,)]


def test_names_are_names_whatever_they_hold(declared: Manager) -> None:
    """Database, schema, extension and version with quotes, blanks, signs and other letters."""
    write(
        root_of(declared), "od\"d' é", {"v'1 \"": "CREATE TABLE odd ();"}, default_version="v'1 \""
    )
    declared.start().until_ready()
    with declared.sql() as connection:
        connection.execute(f'CREATE DATABASE "{HOSTILE.replace(chr(34), chr(34) * 2)}"'.encode())
    with declared.sql(dbname=HOSTILE) as connection:
        connection.execute(f'CREATE SCHEMA "{HOSTILE.replace(chr(34), chr(34) * 2)}"'.encode())
    odd = {"name": "od\"d' é", "version": "v'1 \"", "schema": HOSTILE}
    declare(declared, odd, {"name": "toy", "schema": HOSTILE}, name=HOSTILE)
    reload(declared)
    until_condition(declared, "AsDeclared")

    schemas = declared.query(
        "SELECT extname, nspname FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace"
        " WHERE extname <> 'plpgsql' ORDER BY 1",
        dbname=HOSTILE,
    )
    assert schemas == [("od\"d' é", HOSTILE), ("toy", HOSTILE)]


def test_a_lock_of_somebody_is_not_waited_for_without_end(declared: Manager) -> None:
    """It is given up and told, and tried again: once the lock is gone, it succeeds by itself."""
    declare(declared, {"name": "toy", "version": "1.0"})
    declared.start().until_ready()
    until_condition(declared, "AsDeclared")
    with declared.sql(autocommit=False) as holder:
        holder.execute("LOCK TABLE toy IN ACCESS SHARE MODE")
        declare(declared, {"name": "toy", "version": "1.1"}, {"name": "citext"})
        reload(declared)
        assert "(55P03)" in until_condition(declared, "NotAsDeclared")
        assert set(installed(declared)) == {"toy", "citext"}
        assert installed(declared)["toy"][0] == "1.0"

    until(lambda: installed(declared)["toy"][0] == "1.1", "it is updated by itself")
    until_condition(declared, "AsDeclared")
    assert len(events(declared, "ExtensionFailed")) == 1


def test_a_script_without_an_end_holds_up_neither_others_nor_a_stop(declared: Manager) -> None:
    """Other databases get what they shall have; with the server, the statement is given up."""
    write(root_of(declared), "endless", {"1.0": "SELECT pg_sleep(1000000);"})
    declared.settings["shutdown"] = {"smart_seconds": 3600}
    declared.start().until_ready()
    declared.query("CREATE DATABASE shop")
    declare(declared, {"name": "endless"})
    declared.settings["databases"].append({"name": "shop", "extensions": [{"name": "toy"}]})
    reload(declared)
    until(
        lambda: declared.query("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"),
        "it is being created",
    )
    until(lambda: installed(declared, "shop"), "the other one is created")

    code, operation = declared.ask(
        "POST", "/v1/postgres/stop", {"mode": "smart"}, Prefer="wait=60"
    )
    assert (code, operation["state"]) == (200, "succeeded")


def test_settings_of_roles_and_databases_do_not_lead_elsewhere(declared: Manager) -> None:
    """Neither a search path, nor a role, nor an event trigger of somebody has a say."""
    declared.start().until_ready()
    for statement in (
        "CREATE ROLE small",
        "CREATE SCHEMA trap",
        "ALTER DATABASE postgres SET role = 'small'",
        "ALTER DATABASE postgres SET search_path = trap",
        "ALTER DATABASE postgres SET lock_timeout = 1",
        NO,
        "CREATE EVENT TRIGGER no ON ddl_command_start EXECUTE FUNCTION no()",
    ):
        declared.query(statement, options="-c role=none -c search_path=public")
    declare(declared, {"name": "toy"})
    reload(declared)
    until_condition(declared, "AsDeclared")

    assert installed(declared) == {"toy": ("1.2", "public")}


def test_a_trigger_that_lets_nobody_in_does_not_keep_the_manager_out(declared: Manager) -> None:
    """A database that was locked up by mistake still gets what is declared."""
    declared.start().until_ready()
    declared.query("CREATE DATABASE shop")
    for statement in (
        NO,
        "CREATE EVENT TRIGGER no ON login EXECUTE FUNCTION no()",
        "ALTER EVENT TRIGGER no ENABLE ALWAYS",
    ):
        declared.query(statement, dbname="shop", options="-c event_triggers=off")
    with pytest.raises(psycopg.OperationalError, match="no"):
        declared.query("SELECT 1", dbname="shop")
    declare(declared, {"name": "toy"}, name="shop")
    reload(declared)

    assert until_condition(declared, "AsDeclared") == "as declared: shop"


def test_a_standby_is_left_alone_until_it_is_promoted(declared: Manager) -> None:
    """It has what its primary has; once promoted, it is brought to what it declares."""
    declared.settings["postgres"]["hba"] = [
        "host all all 127.0.0.1/32 trust",
        "host replication all 127.0.0.1/32 trust",
    ]
    declared.start().until_ready()
    standby = Manager(declared.directory / "standby", declared.server)
    try:
        copy_of(declared, standby)
        standby.settings["extensions"] = declared.settings["extensions"]
        declare(standby, {"name": "toy"})
        standby.start().until_ready()
        assert condition(standby)[0] == "Unknown"
        until_condition(standby, "InRecovery")
        assert installed(standby) == {}
        code, problem = standby.ask(
            "POST", "/v1/databases/postgres/extensions/plpgsql/update", {"dry_run": True}
        )
        assert (code, problem["code"], problem["hint"]) == (409, "conflict", "ask the primary")

        standby.query("SELECT pg_promote()")
        reload(standby)
        until_condition(standby, "AsDeclared")
        assert installed(standby) == {"toy": ("1.2", "public")}
        assert installed(declared) == {}
    finally:
        standby.clean_up()


def copy_of(primary: Manager, standby: Manager) -> None:
    """Make the standby's data directory out of the primary, for whom postgres runs as."""
    (standby.directory / "run").mkdir(parents=True)
    program = primary.server.bin_directory / "pg_basebackup"
    connection = ["-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres"]
    subprocess.run(
        [program, *connection, "-D", standby.data, "-R", "-X", "stream", "-c", "fast"],
        check=True,
        capture_output=True,
        timeout=60,
    )
    standby.trust()
    if os.geteuid() == 0:
        owner = account.find(ACCOUNT)
        for path in (standby.directory, *standby.directory.rglob("*")):
            os.chown(path, owner.uid, owner.gid, follow_symlinks=False)


class Steady:
    """A supervisor of a server that runs."""

    state = State.RUNNING

    async def until(self, states: Collection[State]) -> State:
        assert State.RUNNING in states
        return State.RUNNING

    async def changed(self) -> State:
        await asyncio.Future()
        return State.RUNNING


async def make_what_is_missing(manager: Manager) -> None:
    """Make a database, then a schema in it, which a reconciler with a long period waits for."""
    wanted = [{"name": "toy", "schema": "place"}]
    settings = DatabaseSettings.model_validate({"name": "later", "extensions": wanted})
    sessions = Sessions(Target(Path("127.0.0.1"), manager.port, "postgres"), lambda: 180000)
    ring = Events(now=lambda: datetime.now(UTC))
    reconciler = Reconciler(
        Steady(), sessions, lambda: [settings], Turns(), ring, clock=time.monotonic
    )
    reconciler.period_seconds = 3600.0
    work = asyncio.create_task(reconciler.run())

    async def until_told(words: str) -> None:
        await asyncio.to_thread(until, lambda: words in reconciler.verdict().message, words)

    try:
        await until_told("there is no such database")
        await asyncio.to_thread(manager.query, "CREATE DATABASE later")
        await until_told("there is no schema 'place'")
        await asyncio.to_thread(manager.query, "CREATE SCHEMA place", dbname="later")
        await until_told("as declared: later")
    finally:
        work.cancel()
        await asyncio.wait({work})


async def look_while_somebody_is_at_it(manager: Manager) -> None:
    """Hold the turn of an extension that is to be created, then give it back."""
    settings = DatabaseSettings.model_validate(
        {"name": "postgres", "extensions": [{"name": "toy"}]}
    )
    sessions = Sessions(Target(Path("127.0.0.1"), manager.port, "postgres"), lambda: 180000)
    ring = Events(now=lambda: datetime.now(UTC))
    turns = Turns()
    reconciler = Reconciler(
        Steady(), sessions, lambda: [settings], turns, ring, clock=time.monotonic
    )
    reconciler.period_seconds = 3600.0
    with turns.hold("postgres", "toy", "a rehearsal"):
        work = asyncio.create_task(reconciler.run())
        await asyncio.to_thread(
            until, lambda: reconciler.verdict().reason != "NotLookedYet", "it has looked"
        )
        verdict = reconciler.verdict()
    try:
        assert (verdict.holds, verdict.reason) == (False, "NotAsDeclared"), verdict
        assert "a rehearsal is under way" in verdict.message
        await asyncio.to_thread(until, lambda: reconciler.verdict().holds, "it is created soon")
    finally:
        work.cancel()
        await asyncio.wait({work})


def test_what_somebody_is_at_is_not_said_to_be_as_declared(declared: Manager) -> None:
    """Whoever waits for the condition would go on without the extension."""
    declared.start().until_ready()

    asyncio.run(look_while_somebody_is_at_it(declared))

    assert "toy" in installed(declared)


def test_a_database_and_a_schema_that_are_made_are_seen_soon(declared: Manager) -> None:
    """As what failed is tried again soon; the next look of its own would be an hour later."""
    declared.start().until_ready()

    asyncio.run(make_what_is_missing(declared))


async def look_again_and_again(manager: Manager, ring: Events) -> None:
    """Drop an extension behind the reconciler's back, three times, beside one that fails."""
    settings = DatabaseSettings.model_validate(
        {"name": "postgres", "extensions": [{"name": "toy"}, {"name": "missing"}]}
    )
    # Over TCP: the socket is for the account of postgres, and tests may be run by another.
    target = Target(Path("127.0.0.1"), manager.port, "postgres")
    sessions = Sessions(target, lambda: 180000)
    reconciler = Reconciler(
        Steady(),
        sessions,
        lambda: [settings],
        Turns(),
        ring,
        clock=time.monotonic,
    )
    reconciler.period_seconds = 0.05
    work = asyncio.create_task(reconciler.run())
    try:
        for _ in range(3):
            await asyncio.to_thread(until, lambda: installed(manager), "it is created")
            await asyncio.to_thread(manager.query, "DROP EXTENSION toy")
        await asyncio.to_thread(until, lambda: installed(manager), "it is created again")
        assert reconciler.verdict().reason == "NotAsDeclared"
    finally:
        work.cancel()
        await asyncio.wait({work})


def test_drift_is_mended_each_time_and_what_stays_so_is_told_once(declared: Manager) -> None:
    """A person who drops an extension meets it again; a failure that lasts is one event."""
    declared.start().until_ready()
    ring = Events(now=lambda: datetime.now(UTC))

    asyncio.run(look_again_and_again(declared, ring))

    reasons = [event.reason for event in ring.recent()]
    assert 3 <= reasons.count("ExtensionCreated") <= 4
    assert reasons.count("ExtensionFailed") == 1


def test_what_a_refused_document_declares_is_not_brought_about(declared: Manager) -> None:
    """The one before is in force, says the answer: a dropped extension would not come back."""
    declared.settings["configuration"] = {"source": "api"}
    declare(declared, {"name": "toy"})
    declared.start().until_ready()
    until_condition(declared, "AsDeclared")
    # The last step fails: what was accepted can't be kept.
    in_the_way = declared.data / "instance-manager" / "configuration.json"
    in_the_way.mkdir()
    document = declared.ask("GET", "/v1/configuration")[1]
    document["databases"][0]["extensions"] = [{"name": "toy", "ensure": "absent"}]

    code, answer = declared.ask("PUT", "/v1/configuration", document, **{"If-Match": "*"})

    assert code >= 400, answer
    # A look that begins now ends after one that was under way.
    declare(declared, {"name": "toy"}, {"name": "vector"})
    document["databases"] = declared.settings["databases"]
    in_the_way.rmdir()
    code, answer = declared.ask("PUT", "/v1/configuration", document, **{"If-Match": "*"})
    assert code == 200, answer
    until(lambda: "vector" in installed(declared), "it is created")
    assert events(declared, "ExtensionDropped") == []
