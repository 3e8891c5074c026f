"""Updates of extensions that are asked for: rehearsed without a trace, or done."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.manager import Manager, until
from tests.support.sql_extensions import (
    declare,
    events,
    installed,
    own_root,
    reload,
    write,
)

Document = dict[str, Any]
SCRIPTS = {
    "1.0": "CREATE TABLE toy (id int); CREATE SEQUENCE numbers;",
    "1.0--1.1": "ALTER TABLE toy ADD more int; DO $$BEGIN RAISE WARNING 'take care'; END$$;",
    "1.1--1.2": "CREATE INDEX ON people (id); CREATE FUNCTION f() RETURNS int RETURN 1;",
    "1.1--bad": "CREATE TABLE half (id int);\n\nSELECT 1 / 0;",
    "bad--2.0": "SELECT 1;",
    "1.1--vacuum": "VACUUM;",
    "1.1--concurrent": "CREATE INDEX CONCURRENTLY ON toy (id);",
    "1.1--endless": "SELECT pg_sleep(1000000);",
    "1.0--greedy": "SET lock_timeout = 0; SET statement_timeout = 0; LOCK TABLE toy;",
    "1.0--long": """DO $$BEGIN FOR n IN 1..150 LOOP
        EXECUTE format('COMMENT ON TABLE many%s IS NULL', n);
        RAISE WARNING '%', repeat('x', 5000);
    END LOOP; END$$;""",
}
CATALOG = """
SELECT (SELECT array_agg(row(extname, extversion)::text ORDER BY oid) FROM pg_extension),
       (SELECT array_agg(row(oid, relname, relfilenode)::text ORDER BY oid) FROM pg_class),
       (SELECT array_agg(p::text ORDER BY oid) FROM pg_proc p),
       (SELECT array_agg(d::text ORDER BY d::text) FROM pg_depend d),
       (SELECT array_agg(row(attrelid, attname, atttypid)::text ORDER BY attrelid, attnum)
          FROM pg_attribute)
"""


@pytest.fixture
def running(manager: Manager) -> Manager:
    """Return a manager whose server has version 1.0 of toy, and a table that people made."""
    write(own_root(manager), "toy", SCRIPTS, default_version="1.2")
    manager.trust().start().until_ready()
    manager.query("CREATE EXTENSION toy VERSION '1.0'")
    manager.query("CREATE TABLE people (id int)")
    return manager


def ask(
    manager: Manager, body: object, extension: str = "toy", database: str = "postgres"
) -> tuple[int, Document]:
    """Ask for an update; wait for its end where it is an operation."""
    path = f"/v1/databases/{database}/extensions/{extension}/update"
    code, document = manager.ask("POST", path, body, Prefer="wait=60")
    assert isinstance(document, dict)
    return code, document


def rehearse(manager: Manager, version: str, **body: object) -> Document:
    """Rehearse an update and return the report."""
    code, report = ask(manager, {"version": version, "dry_run": True, **body})
    assert code == 200, report
    return report


def test_a_rehearsal_shows_the_update_and_leaves_no_trace(running: Manager) -> None:
    """Path, steps, locks on what was there before, notices; the catalogs are as they were."""
    before = running.query(CATALOG)
    code, report = ask(running, {"dry_run": True})

    assert code == 200, report
    assert (report["from_version"], report["to_version"]) == ("1.0", "1.2")
    assert report["path"] == ["1.0", "1.1", "1.2"]
    assert (report["outcome"], report["failure"]) == ("succeeded", None)
    assert [step["outcome"] for step in report["steps"]] == ["succeeded", "succeeded"]
    assert all(0 <= step["seconds"] <= report["duration_seconds"] for step in report["steps"])
    assert report["notices"] == [
        {"severity": "WARNING", "sqlstate": "01000", "message": "take care"}
    ]
    locks = [(lock["mode"], lock["object"]) for lock in report["locks"]]
    assert locks[0] == ("AccessExclusiveLock", "table public.toy")
    assert ("ShareLock", "table public.people") in locks
    assert not [name for _, name in locks if "index" in name], "what it made itself is no lock"
    assert (report["rolled_back"], report["locks_left_out"]) == (True, 0)
    assert "really held" in report["remarks"][0]
    assert running.query(CATALOG) == before
    assert len(events(running, "ExtensionUpdateRehearsed")) == 1
    assert events(running, "ExtensionUpdated") == []


@pytest.mark.parametrize(
    ("version", "sqlstate", "line"),
    [("bad", "22012", 3), ("vacuum", "25001", 1), ("concurrent", "25001", 1)],
)
def test_a_script_that_fails_is_told_with_its_line_and_so_fails_in_truth(
    running: Manager, version: str, sqlstate: str, line: int
) -> None:
    """Also statements that refuse a transaction: the update itself would meet the same error."""
    before = running.query(CATALOG)
    report = rehearse(running, version)

    assert (report["outcome"], report["locks"], report["rolled_back"]) == ("failed", None, True)
    failure = report["failure"]
    assert (failure["sqlstate"], failure["script"]) == (sqlstate, f"toy--1.1--{version}.sql")
    assert failure["line"] == line
    assert [step["outcome"] for step in report["steps"]] == ["succeeded", "failed"]
    assert running.query(CATALOG) == before

    code, operation = ask(running, {"version": version})
    assert (code, operation["state"]) == (200, "failed")
    assert operation["error"]["code"] == "extension-update-failed"
    assert f"({sqlstate}), in toy--1.1--{version}.sql" in operation["error"]["detail"]
    assert running.query(CATALOG) == before
    assert len(events(running, "ExtensionFailed")) == 1


def test_a_rehearsal_tells_when_the_extension_is_not_as_it_was(running: Manager) -> None:
    """Somebody else has updated it meanwhile: that is seen in the catalog, and not assumed."""
    with ThreadPoolExecutor(1) as pool, running.sql(autocommit=False) as other:
        other.execute("UPDATE pg_extension SET extversion = '1.1' WHERE extname = 'toy'")
        report = pool.submit(rehearse, running, "1.1", lock_timeout_seconds=60)
        until(
            lambda: running.query("SELECT 1 FROM pg_locks WHERE NOT granted"),
            "the update waits for the other one",
        )
        other.commit()

    assert report.result()["outcome"] == "failed"
    assert report.result()["rolled_back"] is False


def test_a_step_after_one_that_fails_is_not_reached(running: Manager) -> None:
    """The path is told whole."""
    report = rehearse(running, "2.0")

    assert report["path"] == ["1.0", "1.1", "bad", "2.0"]
    assert [step["outcome"] for step in report["steps"]] == [
        "succeeded",
        "failed",
        "not-reached",
    ]


def test_a_script_without_an_end_is_ended(running: Manager) -> None:
    """By the time that the caller gives it."""
    report = rehearse(running, "endless", timeout_seconds=0.5)

    assert (report["outcome"], report["failure"]["sqlstate"]) == ("failed", "57014")
    assert "timeout_seconds" in report["remarks"][0]


def test_a_lock_of_somebody_fails_a_rehearsal_in_time(running: Manager) -> None:
    """It does not wait behind the holder, with everybody else behind it."""
    with running.sql(autocommit=False) as holder:
        holder.execute("LOCK TABLE toy IN ACCESS SHARE MODE")
        report = rehearse(running, "1.1", lock_timeout_seconds=0.2)
        assert (report["outcome"], report["failure"]["sqlstate"]) == ("failed", "55P03")
        assert "lock_timeout_seconds" in report["remarks"][0]

        report = rehearse(running, "greedy", timeout_seconds=0.5)
        assert (report["outcome"], report["failure"]["sqlstate"]) == ("failed", "57014")

    assert rehearse(running, "1.1")["outcome"] == "succeeded"


def test_a_long_answer_is_cut_and_says_so(running: Manager) -> None:
    """A script may lock and say as much as it likes."""
    for number in range(1, 151):
        running.query(f"CREATE TABLE many{number} ()")
    report = rehearse(running, "long")

    assert report["outcome"] == "succeeded"
    assert (len(report["locks"]), len(report["notices"])) == (100, 100)
    assert (report["locks_left_out"] >= 50, report["notices_left_out"]) == (True, 50)
    assert report["locks"][0]["mode"] == "ShareUpdateExclusiveLock"
    assert len(report["notices"][0]["message"]) == 1000


def test_the_real_update_is_an_operation(running: Manager) -> None:
    """To the default version where none is given; where that holds it succeeds at once."""
    code, operation = ask(running, None)
    assert (code, operation["kind"], operation["state"]) == (200, "update-extension", "succeeded")
    assert installed(running)["toy"] == ("1.2", "public")
    code, operation = ask(running, {"version": "1.2"})
    assert (code, operation["state"]) == (200, "succeeded")

    report = rehearse(running, "1.2")
    assert (report["path"], report["steps"]) == (["1.2"], [])
    assert report["remarks"] == ["there is nothing to update"]
    _, document = running.ask("GET", "/v1/events")
    actors = [one["actor"] for one in document["items"] if one["reason"] == "ExtensionUpdated"]
    assert "manager" not in actors
    assert len(actors) == 1  # the second one changed nothing


def test_one_update_at_a_time_and_it_can_be_called_back(running: Manager) -> None:
    """The second one is told whose turn it is; one that is cancelled leaves all as it was."""
    path = "/v1/databases/postgres/extensions/toy/update"
    code, operation = running.ask("POST", path, {"version": "endless"})
    assert code == 202
    until(
        lambda: running.query("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"),
        "it is under way",
    )
    for body in ({"version": "1.1"}, {"version": "1.1", "dry_run": True}):
        code, problem = running.ask("POST", path, body)
        assert (code, problem["code"]) == (409, "conflict"), problem

    code, ended = running.ask("DELETE", f"/v1/operations/{operation['id']}", Prefer="wait=60")
    assert (code, ended["state"]) == (200, "cancelled")
    assert installed(running)["toy"][0] == "1.0"
    until(
        lambda: not running.query("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"),
        "nothing of it goes on in the server",
    )


@pytest.mark.parametrize("given_up", ["by request", "by the end of its session"])
def test_an_update_that_the_server_has_done_is_not_said_to_be_undone(
    running: Manager, given_up: str
) -> None:
    """It is committed, and waits for a standby only: whatever ends the wait, it stays."""
    running.settings["postgres"]["parameters"] = {"synchronous_standby_names": "nobody"}
    reload(running)
    path = "/v1/databases/postgres/extensions/toy/update"
    code, operation = running.ask("POST", path, {"version": "1.1"})
    assert code == 202
    waiting = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    until(lambda: running.query(f"SELECT 1 {waiting}"), "it is committed")

    if given_up == "by request":
        running.ask("DELETE", f"/v1/operations/{operation['id']}")
    else:
        running.query(f"SELECT pg_terminate_backend(pid) {waiting}")

    _, ended = running.ask("GET", f"/v1/operations/{operation['id']}", Prefer="wait=60")
    assert installed(running)["toy"][0] == "1.1"
    assert ended["state"] == "succeeded", ended
    assert len(events(running, "ExtensionUpdated")) == 1


@pytest.mark.parametrize("dry_run", [True, False])
def test_what_can_not_be_updated_is_refused_at_once(running: Manager, dry_run: bool) -> None:
    """Each with its code, and with what there is instead."""
    body = {"dry_run": dry_run}
    for database in ("nowhere", "a%00b", "%FF", "x" * 64, "host=elsewhere"):
        code, problem = ask(running, body, database=database)
        assert (code, problem["code"]) == (404, "not-found"), problem
    code, problem = ask(running, body, extension="vector")
    assert (code, problem["hint"]) == (404, "it has: plpgsql, toy")
    for version, words in (
        ("9", "it has no version '9': there are '1.0', '1.1', '1.2'"),
        ("a'; DROP TABLE people; --", "it has no version"),
    ):
        code, problem = ask(running, {"version": version, **body})
        assert (code, problem["code"]) == (422, "invalid-input")
        assert problem["errors"][0]["path"] == "version"
        assert problem["errors"][0]["message"].startswith(words)
    assert ask(running, {"dry_run": "yes"})[0] == 422
    assert ask(running, {"version": ""})[0] == 422
    assert ask(running, {"timeout_seconds": 0, **body})[0] == 422

    ask(running, {"version": "1.2"})
    code, problem = ask(running, {"version": "1.0", **body})
    assert code == 422
    assert "no update path leads from version '1.2' to '1.0'" in problem["errors"][0]["message"]
    running.ask("POST", "/v1/postgres/stop", Prefer="wait=60")
    assert ask(running, body)[0] == 409


def test_what_the_settings_declare_is_updated_in_the_settings(running: Manager) -> None:
    """Else it would be drift at once; a rehearsal is free, and the default is what is declared."""
    declare(running, {"name": "toy", "version": "1.0"})
    running.write_settings()
    running.ask("POST", "/v1/postgres/reload", Prefer="wait=60")
    code, problem = ask(running, {"version": "1.1"})
    assert (code, problem["code"]) == (409, "conflict")
    assert "the settings declare '1.0'" in problem["detail"]

    assert rehearse(running, "1.1")["outcome"] == "succeeded"
    code, operation = ask(running, {})
    assert (code, operation["state"]) == (200, "succeeded")
    assert installed(running)["toy"][0] == "1.0"
