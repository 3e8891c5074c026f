"""What databases need, known before a start: through the manager, as users run it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.manager import Manager, until


def volume(manager: Manager) -> Path:
    """Return the volume that holds pgvector, in the test's own copy of the volumes."""
    return Path(manager.settings["extensions"]["root"]) / "pgvector"


def take_away(manager: Manager) -> None:
    """Take the volume away, as a pod without its image would lack it."""
    volume(manager).rename(manager.directory / "pgvector")


def put_back(manager: Manager) -> None:
    """Mount it again."""
    (manager.directory / "pgvector").rename(volume(manager))


def operate(manager: Manager, verb: str, body: object = None) -> dict[str, Any]:
    """Ask for an operation, wait for its end, and return it."""
    code, operation = manager.ask("POST", f"/v1/postgres/{verb}", body, Prefer="wait=60")
    assert code == 200, operation
    assert isinstance(operation, dict)
    return operation


def kept(manager: Manager) -> dict[str, list[str]]:
    """Return the extensions of each database by the file beside the data."""
    file = manager.data / "instance-manager" / "inventory.json"
    if not file.exists():
        return {}
    databases = json.loads(file.read_text())["databases"]
    return {row[0]: [one[0] for one in row[2] or ()] for row in databases}


def reasons(manager: Manager) -> list[str]:
    """Return the reasons of the events so far."""
    _, events = manager.ask("GET", "/v1/events")
    return [event["reason"] for event in events["items"]]


@pytest.fixture
def using(manager: Manager) -> Manager:
    """Return a running manager with two databases that use pgvector, as its inventory has it."""
    root = manager.directory / "extensions"
    subprocess.run(["cp", "-a", manager.server.extensions, root], check=True)
    manager.settings["extensions"]["root"] = str(root)
    manager.trust().start().until_ready()
    for name in ("shop", "search"):
        manager.query(f"CREATE DATABASE {name}")
        manager.query("CREATE EXTENSION vector", dbname=name)
    operate_stop_start(manager)
    until(lambda: {"shop", "search"} <= kept(manager).keys(), "they are in the inventory")
    return manager


def test_a_start_without_a_volume_that_databases_need_is_refused_and_says_which(
    using: Manager,
) -> None:
    """Both databases, the extension and the library are named; mounted again, it starts."""
    assert using.end() == 0
    take_away(using)
    using.start()
    failure = using.until_phase("failed")["failure"]

    assert (failure["exit_code"], failure["code"]) == (3, "preflight-refused")
    assert 'EXT070 databases "search", "shop" use extension "vector" ' in failure["message"]
    assert '(library "vector") but no volume provides it' in failure["message"]
    assert "--ignore-inventory" in failure["hint"]
    checked = using.run("check", "--output", "json")
    assert checked.returncode == 3
    assert json.loads(checked.stdout)["refusal"]["message"] == failure["message"]
    assert operate(using, "start")["error"]["code"] == "preflight-refused"

    put_back(using)
    assert operate(using, "start")["state"] == "succeeded"
    assert using.query("SELECT '[1]'::vector", dbname="shop") == [("[1]",)]


def test_a_refusal_ends_the_manager_where_the_settings_say_so(using: Manager) -> None:
    """As every refusal of the preflight does."""
    assert using.end() == 0
    take_away(using)
    using.settings["failure"] = "exit"

    assert using.start().wait() == 3
    put_back(using)
    using.start().until_ready()


def test_a_start_can_ignore_the_inventory_once(using: Manager) -> None:
    """By the API and from a shell; who still needs the library stands in the next inventory."""
    assert using.end() == 0
    take_away(using)
    using.start().until_phase("failed")
    assert operate(using, "start", {"ignore_inventory": True})["state"] == "succeeded"
    assert using.query("SELECT 1", dbname="shop") == [(1,)]
    using.query("DROP EXTENSION vector", dbname="shop")
    assert operate(using, "stop")["state"] == "succeeded"

    refused = operate(using, "start")
    assert '"search"' in refused["error"]["detail"]
    done = using.run("start", "--ignore-inventory")
    assert (done.returncode, done.stdout) == (0, "start: done\n")


def test_what_was_dropped_a_moment_ago_hinders_no_restart(using: Manager) -> None:
    """Whoever follows the hint of the refusal gets out, without a wait for the next inventory."""
    assert using.end() == 0
    take_away(using)
    using.start()
    hint = using.until_phase("failed")["failure"]["hint"]
    assert "an index by its access method goes only with the whole database" in hint
    assert operate(using, "start", {"ignore_inventory": True})["state"] == "succeeded"
    using.query("DROP EXTENSION vector", dbname="shop")
    using.query("DROP DATABASE search")

    assert operate(using, "restart")["state"] == "succeeded"


def test_what_used_a_library_can_be_dropped_without_it_but_for_indexes(using: Manager) -> None:
    """An index needs the handler of its access method even to be dropped."""
    using.query("CREATE TABLE items (v vector(2))", dbname="shop")
    using.query("CREATE TABLE items (v vector(2))", dbname="search")
    using.query("CREATE INDEX ON items USING hnsw (v vector_l2_ops)", dbname="search")
    assert using.end() == 0
    take_away(using)
    using.settings["extensions"]["inventory"] = "report"
    using.start().until_ready()

    using.query("DROP EXTENSION vector CASCADE", dbname="shop")
    with pytest.raises(psycopg.Error, match="could not access file"):
        using.query("DROP EXTENSION vector CASCADE", dbname="search")


def assert_comes_again(manager: Manager) -> None:
    """Kill the postmaster, and see that the manager starts another one."""
    before = manager.until_phase("running")["postgres"]["pid"]
    os.kill(before, signal.SIGKILL)

    def came_again() -> bool:
        status = manager.status()
        assert status is not None
        assert status["phase"] != "failed", status["failure"]
        return status["phase"] == "running" and status["postgres"]["pid"] not in (before, None)

    assert until(came_again, "postgres was restarted")


def test_a_crash_after_an_ignored_inventory_is_no_new_refusal(using: Manager) -> None:
    """Only a start that somebody asks for is judged anew."""
    assert using.end() == 0
    take_away(using)
    using.start().until_phase("failed")
    assert operate(using, "start", {"ignore_inventory": True})["state"] == "succeeded"
    assert_comes_again(using)


def test_a_restart_that_is_refused_changes_nothing_of_what_was_ignored(using: Manager) -> None:
    """The server that goes on comes again after a crash as it would have before."""
    assert using.end() == 0
    take_away(using)
    using.start().until_phase("failed")
    assert operate(using, "start", {"ignore_inventory": True})["state"] == "succeeded"

    assert operate(using, "restart")["error"]["code"] == "preflight-refused"
    assert_comes_again(using)


def test_a_start_that_is_refused_ignores_nothing_for_those_after_it(using: Manager) -> None:
    """A fenced instance is not started by it; who unfences has not asked to ignore anything."""
    operate(using, "fence")
    assert using.end() == 0
    take_away(using)
    using.start().until_phase("fenced")
    assert operate(using, "start", {"ignore_inventory": True})["error"]["code"] == "conflict"

    assert operate(using, "unfence")["error"]["code"] == "preflight-refused"


def test_with_report_it_starts_and_is_a_finding(using: Manager) -> None:
    """The finding is in the report, with its severity."""
    assert using.end() == 0
    take_away(using)
    using.settings["extensions"]["inventory"] = "report"
    using.start().until_ready()
    _, report = using.ask("GET", "/v1/extensions")

    found = [each for each in report["findings"] if each["code"] == "EXT070"]
    assert [each["severity"] for each in found] == ["error"]
    assert using.run("check").returncode == 3


def codes(manager: Manager) -> list[str]:
    """Return the codes of the findings that no volume has for itself."""
    _, report = manager.ask("GET", "/v1/extensions")
    return [each["code"] for each in report["findings"]]


def test_a_reload_does_not_take_a_library_from_a_server_that_uses_it(using: Manager) -> None:
    """It is done, since access rules may be urgent, and reports; the server searches as before."""
    path = using.query("SHOW dynamic_library_path")
    (volume(using) / "share" / "extension" / "broken.control").write_text("magic_sauce = 1\n")
    using.settings["postgres"]["hba"] = ["host all urgent all reject", "host all all all trust"]
    using.write_settings()

    assert operate(using, "reload")["state"] == "succeeded"
    assert codes(using) == ["EXT070"]
    assert using.query("SELECT '[1]'::vector", dbname="shop") == [("[1]",)]
    assert using.query("SHOW dynamic_library_path") == path
    assert using.query("SHOW extension_control_path") == [("$system",)]
    rules = using.query("SELECT user_name FROM pg_hba_file_rules WHERE auth_method = 'reject'")
    assert (["urgent"],) in rules
    assert operate(using, "restart")["error"]["code"] == "preflight-refused"

    (volume(using) / "share" / "extension" / "broken.control").unlink()
    assert operate(using, "reload")["state"] == "succeeded"
    assert (codes(using), using.query("SHOW dynamic_library_path")) == ([], path)


def test_a_reload_takes_away_what_no_database_uses(using: Manager) -> None:
    """Once the extension is dropped everywhere and the databases were read."""
    for name in ("shop", "search"):
        using.query("DROP EXTENSION vector", dbname=name)
    operate_stop_start(using)
    until(lambda: "vector" not in kept_all(using), "they are read")
    take_away(using)

    assert operate(using, "reload")["state"] == "succeeded"
    assert using.query("SHOW dynamic_library_path") == [("$libdir",)]


def test_nobodys_list_of_libraries_keeps_the_server_down(using: Manager) -> None:
    """Its owner breaks her own database: it is told, and every start and reload goes on."""
    using.query("CREATE ROLE mallory LOGIN")
    using.query("CREATE DATABASE hers OWNER mallory")
    with using.sql(user="mallory", dbname="hers") as hers:
        hers.execute("ALTER DATABASE hers SET local_preload_libraries = 'nosuch'")
        hers.execute("ALTER ROLE mallory SET local_preload_libraries = 'nosuch'")
    operate_stop_start(using)
    until(lambda: codes(using) == ["EXT073", "EXT073"], "it is told")

    assert operate(using, "reload")["state"] == "succeeded"
    assert operate(using, "restart")["state"] == "succeeded"
    assert_comes_again(using)
    assert using.end() == 0
    assert using.run("check").returncode == 0
    using.start().until_ready()
    assert codes(using) == ["EXT073", "EXT073"]
    assert using.query("SELECT '[1]'::vector", dbname="shop") == [("[1]",)]


def kept_all(manager: Manager) -> list[str]:
    """Return the extensions of all databases by the file."""
    return [name for names in kept(manager).values() for name in names]


def operate_stop_start(manager: Manager) -> None:
    """Have the databases read: before the stop, and after the start."""
    operate(manager, "stop")
    operate(manager, "start")


def test_a_quarantined_volume_that_a_database_needs_refuses_and_says_why(using: Manager) -> None:
    """The reason of the quarantine is in the message."""
    assert using.end() == 0
    (volume(using) / "share" / "extension" / "broken.control").write_text("magic_sauce = 1\n")
    using.start()
    failure = using.until_phase("failed")["failure"]

    assert 'the volume "pgvector" that holds it is quarantined: EXT012' in failure["message"]
    assert failure["hint"].startswith("correct the control file in the extension image; or start")
    (volume(using) / "share" / "extension" / "broken.control").unlink()
    assert operate(using, "start")["state"] == "succeeded"


def test_what_was_dropped_is_needed_no_more(using: Manager) -> None:
    """An extension, and a whole database: the file follows."""
    using.query("DROP EXTENSION vector", dbname="shop")
    using.query("DROP DATABASE search")
    operate_stop_start(using)
    left = {name: ["plpgsql"] for name in ("postgres", "shop", "template1")}
    until(lambda: kept(using) == left, "nothing else is left")
    assert using.end() == 0
    take_away(using)

    using.start().until_ready()


def test_an_instance_without_an_inventory_starts(using: Manager) -> None:
    """One that was never read, and one whose file is damaged: a line in the log says so."""
    assert using.end() == 0
    take_away(using)
    file = using.data / "instance-manager" / "inventory.json"
    file.write_bytes(file.read_bytes()[:-20])
    using.start().until_ready()

    assert "cannot use the inventory of the databases" in using.logged()
    until(lambda: file.read_bytes().endswith(b"}\n"), "it is made anew")


def test_an_inventory_that_came_with_a_copy_is_not_used(using: Manager) -> None:
    """Another instance on a copy starts, and an event says what it ignored."""
    assert using.end() == 0
    copy = using.directory / "copy"
    shutil.copytree(using.data, copy, symlinks=True)
    owner = using.data.stat()
    for path in (copy, *copy.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
    take_away(using)
    using.settings["instance"]["name"] = "another"
    using.settings["postgres"]["data_directory"] = str(copy)
    using.data = copy
    using.start().until_ready()

    assert "InventoryIgnored" in reasons(using)


def test_an_inventory_of_another_cluster_is_not_used(using: Manager) -> None:
    """The system identifier tells, whatever the directory and the name."""
    assert using.end() == 0
    take_away(using)
    file = using.data / "instance-manager" / "inventory.json"
    document = json.loads(file.read_text()) | {"system_identifier": "1"}
    file.write_text(json.dumps(document))
    using.start().until_ready()

    assert "InventoryIgnored" in reasons(using)


def test_a_killed_manager_leaves_an_inventory_that_can_be_read(using: Manager) -> None:
    """Killed while it reads the databases or keeps the result: an old one or a new one is left."""
    for turn in range(5):
        using.query(f"CREATE DATABASE turn{turn}")
        operate_stop_start(using)
        assert using.end(signal.SIGKILL) == -9
        assert "shop" in kept(using)
        using.start().until_ready()

    assert "cannot use the inventory" not in using.logged()


def test_a_stop_in_order_reads_the_databases_once_more(using: Manager) -> None:
    """What was made since the last reading is known; a slow server is not waited for."""
    turns = iter(range(1000))

    def is_kept_by_the_stop() -> bool:
        name = f"turn{next(turns)}"
        using.query(f"CREATE DATABASE {name}")
        operate(using, "stop")
        known = name in kept(using)
        operate(using, "start")
        return known

    assert until(is_kept_by_the_stop, "a stop is not too late")


def test_a_standby_is_read_too(using: Manager) -> None:
    """What its databases need is what it will need as a primary."""
    assert using.end() == 0
    (using.data / "instance-manager" / "inventory.json").unlink()
    signal_file = using.data / "standby.signal"
    signal_file.touch()
    os.chown(signal_file, using.data.stat().st_uid, using.data.stat().st_gid)
    using.start().until_ready()

    assert using.query("SELECT pg_is_in_recovery()") == [(True,)]
    until(lambda: kept(using).get("shop") == ["plpgsql", "vector"], "its databases are read")


def test_a_standby_starts_without_a_volume_that_only_queries_need(using: Manager) -> None:
    """Replay loads no library of an extension; what is missing is told, until it matters."""
    assert using.end() == 0
    (using.data / "instance-manager" / "inventory.json").unlink()
    signal_file = using.data / "standby.signal"
    signal_file.touch()
    os.chown(signal_file, using.data.stat().st_uid, using.data.stat().st_gid)
    take_away(using)
    using.start().until_ready()
    until(lambda: codes(using) == ["EXT070"], "it is told once its databases are read")

    assert using.end() == 0
    checked = using.run("check", "--output", "json")
    assert json.loads(checked.stdout)["refusal"] is None
    using.start().until_ready()
    assert codes(using) == ["EXT070"]
    assert operate(using, "restart")["state"] == "succeeded"

    assert using.query("SELECT pg_promote()") == [(True,)]
    assert_comes_again(using)
    assert operate(using, "restart")["error"]["code"] == "preflight-refused"
    assert operate(using, "stop")["state"] == "succeeded"
    assert operate(using, "start")["error"]["code"] == "preflight-refused"


def test_what_a_server_that_stops_can_not_say_is_nobodys_problem(using: Manager) -> None:
    """A reading that failed while the server ended is dropped; the one before it stays."""

    def shop() -> dict[str, Any]:
        _, databases = using.ask("GET", "/v1/databases")
        return next((each for each in databases["items"] if each["name"] == "shop"), {})

    until(shop, "it was read after the start")
    before = shop()
    ((oid,),) = using.query("SELECT oid::text FROM pg_database WHERE datname = 'shop'")
    (using.data / "base" / oid / "PG_VERSION").unlink()
    assert operate(using, "stop")["state"] == "succeeded"

    assert before["problems"] == []
    assert shop() == before
    assert "not all of the databases can be read" not in using.logged()


def test_the_databases_are_answered_from_memory(using: Manager) -> None:
    """What is installed, what is available, and where an update leads; after a stop too."""
    using.query(
        "UPDATE pg_extension SET extversion = '0.7.0' WHERE extname = 'vector'", dbname="shop"
    )
    operate_stop_start(using)

    def follows() -> bool:
        _, document = using.ask("GET", "/v1/databases/shop/extensions")
        return "0.7.0" in {each["installed_version"] for each in document.get("items", ())}

    until(follows, "the update is seen")
    operate(using, "stop")
    code, databases = using.ask("GET", "/v1/databases")
    assert code == 200
    items = {each["name"]: each for each in databases["items"]}
    assert list(items) == ["postgres", "search", "shop", "template1"]
    assert [each["schema"] for each in items["shop"]["extensions"]] == ["pg_catalog", "public"]
    assert [each["code"] for each in items["shop"]["findings"]] == ["EXT071"]
    assert databases["read_at"].endswith("Z")

    code, extensions = using.ask("GET", "/v1/databases/shop/extensions")
    assert code == 200
    vector = next(each for each in extensions["items"] if each["name"] == "vector")
    assert vector["installed_version"] == "0.7.0"
    paths = {each["target"]: each["path"] for each in vector["updates"]}
    assert paths[vector["default_version"]][0] == "0.7.0"
    code, problem = using.ask("GET", "/v1/databases/nowhere/extensions")
    assert (code, problem["code"]) == (404, "not-found")
    assert "shop" in problem["hint"]
    assert "instance_manager_inventory_age_seconds" in using.probe("metrics")[1]


def test_before_a_server_was_read_there_are_no_databases(manager: Manager) -> None:
    """An empty list that says so, and not an error."""
    manager.settings["extensions"]["volumes"] = [{"name": "missing", "required": True}]
    manager.start().until_phase("failed")
    code, databases = manager.ask("GET", "/v1/databases")

    assert (code, databases["read_at"], databases["items"]) == (200, None, [])
    code, problem = manager.ask("GET", "/v1/databases/postgres/extensions")
    assert (code, problem["hint"]) == (
        404,
        "no database was read yet: they are read once postgres runs",
    )
