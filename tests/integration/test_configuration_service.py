"""Configurations over HTTP and from the file: judged, applied, kept and taken back."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from instance_manager.postgres.shared_memory import MEMORY, OVERCOMMIT
from tests.support.configuration_documents import PARAMETERS, TRUST, documents
from tests.support.figures import Figures
from tests.support.manager import Manager, until

Times = Callable[[int, int], int]


@pytest.fixture
def from_api(manager: Manager) -> Manager:
    """Return a manager whose configuration comes over HTTP, and is ready."""
    manager.trust().settings["configuration"] = {"source": "api"}
    return manager.start().until_ready()


def read(manager: Manager) -> tuple[dict[str, Any], str]:
    """Return the document in force and its tag."""
    code, document = manager.ask("GET", "/v1/configuration")
    assert code == 200
    status = manager.status()
    assert status is not None
    return document, status["configuration"]["etag"]


def put(manager: Manager, document: Mapping[str, Any], tag: str | None = None) -> tuple[int, Any]:
    """Send a document for the present one, or for the one with *tag*."""
    match = f'"{tag if tag is not None else read(manager)[1]}"'
    return manager.ask("PUT", "/v1/configuration", document, **{"If-Match": match})


def rehearse(manager: Manager, document: Mapping[str, Any]) -> tuple[int, Any]:
    """Have a document judged."""
    return manager.ask("PUT", "/v1/configuration?dry_run=true", document)


def setting(manager: Manager, name: str) -> str:
    """Return the value that a new session has."""
    return str(manager.query(f"SHOW {name}")[0][0])


def configuration(manager: Manager) -> dict[str, Any]:
    """Return that part of the status."""
    status = manager.status()
    assert status is not None
    found: dict[str, Any] = status["configuration"]
    return found


def errors_of(answer: Any) -> dict[str, str]:
    """Return what is wrong, by its path."""
    return {each["path"]: each["message"] for each in answer["errors"]}


def test_a_document_is_applied_and_what_needs_a_restart_waits(from_api: Manager) -> None:
    """The reload is done when the answer comes; the restart is shown until it was made."""
    document, tag = read(from_api)
    wanted = {"work_mem": "8MB", "max_connections": "50"}

    code, done = put(from_api, {**document, "parameters": wanted}, tag)

    assert code == 200, done
    actions = {change["name"]: change["action"] for change in done["changes"]}
    assert actions == {"work_mem": "reload", "max_connections": "restart"}
    assert done["action"] == "restart"
    assert setting(from_api, "work_mem") == "8MB"
    assert setting(from_api, "max_connections") == "100"
    pending = until(lambda: configuration(from_api)["pending_restart"], "it is told")
    assert pending == [{"name": "max_connections", "running": "100", "configured": "50"}]
    assert configuration(from_api)["etag"] == done["etag"] == read(from_api)[1]
    from_api.ask("POST", "/v1/postgres/restart", Prefer="wait=60")
    assert setting(from_api, "max_connections") == "50"


def test_a_parameter_that_is_taken_out_waits_for_its_restart_too(from_api: Manager) -> None:
    """The server names it in a message only; other changes are taken meanwhile."""
    document, _ = read(from_api)
    put(from_api, {**document, "parameters": {"max_prepared_transactions": "50"}})
    from_api.ask("POST", "/v1/postgres/restart", Prefer="wait=60")

    code, done = put(from_api, {**document, "parameters": {}})

    assert (code, done.get("action")) == (200, "restart"), done
    pending = until(lambda: configuration(from_api)["pending_restart"], "it is told")
    assert [each["name"] for each in pending] == ["max_prepared_transactions"]
    code, done = put(from_api, {**document, "parameters": {"work_mem": "8MB"}})
    assert code == 200, done
    assert setting(from_api, "work_mem") == "8MB"
    assert setting(from_api, "max_prepared_transactions") == "50"
    from_api.ask("POST", "/v1/postgres/restart", Prefer="wait=60")
    assert setting(from_api, "max_prepared_transactions") == "0"
    assert configuration(from_api)["pending_restart"] == []


def test_a_dry_run_tells_the_changes_and_makes_none(from_api: Manager) -> None:
    """Old and new value, and what it takes."""
    document, tag = read(from_api)
    hba = [*document["hba"], "host all all ::1/128 trust"]

    code, plan = rehearse(from_api, {**document, "parameters": {"work_mem": "9MB"}, "hba": hba})

    assert code == 200, plan
    assert plan["dry_run"] is True
    assert plan["changes"] == [{"name": "work_mem", "old": None, "new": "9MB", "action": "reload"}]
    assert (plan["sections"], plan["action"]) == (["hba"], "reload")
    assert read(from_api) == (document, tag)
    assert setting(from_api, "work_mem") == "4MB"


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"parameters": {"work_mem": "8XB"}}, "parameters.work_mem", "invalid value"),
    ({"parameters": {"work_mem": "1kB"}}, "parameters.work_mem", "outside the valid range"),
    ({"parameters": {"wrok_mem": "8MB"}}, "parameters.wrok_mem", "did you mean work_mem"),
    ({"parameters": {"DateStyle": "nonsense"}}, "parameters.DateStyle", "invalid value"),
    ({"parameters": {"port": "1"}}, "parameters.port", "use postgres.port"),
    ({"parameters": {"block_size": "1"}}, "parameters.block_size", "cannot be changed"),
    (
        {"parameters": {"unix_socket_group": "no such"}},
        "parameters.unix_socket_group",
        "does not exist",
    ),
    ({"parameters": {"unix_socket_group": "root"}}, "parameters.unix_socket_group", "no member"),
    (
        {"parameters": {"unix_socket_permissions": "0500"}},
        "parameters.unix_socket_permissions",
        "write permission",
    ),
    ({"shared_preload_libraries": ["nosuchlib"]}, "", "nosuchlib"),
    ({"hba": ["host all all 10.0.0.0/33 trust"]}, "hba.0", "a number up to 32"),
    ({"ident": ["m a"]}, "ident.0", "ends before"),
    ({"hba": [TRUST, "local all all trust\nx"]}, "hba.1", "one line"),
    ({"databases": [{"name": "a"}, {"name": "a"}]}, "databases.1.name", "listed twice"),
    ({"volumes": [{"name": "a", "colour": "red"}]}, "volumes.0.colour", "unknown key"),
    ({"parametersx": {}}, "parametersx", "did you mean parameters"),
    ({"parameters": []}, "parameters", "must be a map"),
]


def test_what_is_wrong_is_told_by_its_place_and_changes_nothing(from_api: Manager) -> None:
    """Neither the file of the server nor what runs."""
    document, tag = read(from_api)
    file = from_api.data / "instance-manager" / "postgresql.conf"
    before = file.read_bytes()

    for part, path, words in BAD:
        code, problem = put(from_api, {**document, "hba": [TRUST], **part}, tag)

        if path:
            assert code == 422, (part, problem)
            assert words in errors_of(problem)[path], (part, problem)
        else:
            assert (code, words in problem["detail"]) == (409, True), (part, problem)
        assert file.read_bytes() == before
        assert read(from_api) == (document, tag)
    assert from_api.probe("readyz")[0] == 200


def test_more_memory_than_the_host_has_is_refused_before_a_restart(from_api: Manager) -> None:
    """Where it is sure: what the kernel would not map, and huge pages that are not there."""
    document, tag = read(from_api)
    wanted: list[dict[str, str]] = []
    if Path(OVERCOMMIT).read_text().strip() != "1":
        wanted.append({"max_locks_per_transaction": "2147483647"})
    if re.search(r"^HugePages_Total: +0$", Path(MEMORY).read_text(), re.MULTILINE):
        wanted.append({"huge_pages": "on"})

    for parameters in wanted:
        code, problem = put(from_api, {**document, "parameters": parameters}, tag)

        assert code == 422, (parameters, problem)
        assert "of shared memory" in errors_of(problem)[""]
    assert put(from_api, {**document, "parameters": {"huge_pages": "try"}}, tag)[0] == 200


def test_all_that_is_wrong_is_told_at_once(from_api: Manager) -> None:
    """Parameters and rules together."""
    document, _ = read(from_api)
    parameters = {"work_mem": "x", "no_such_thing": "1", "shared_buffers": "-3"}

    code, problem = put(
        from_api, {**document, "parameters": parameters, "hba": ["nonsense"], "ident": ["x"]}
    )

    assert code == 422
    assert set(errors_of(problem)) >= {*(f"parameters.{name}" for name in parameters)} | {
        "hba.0",
        "ident.0",
    }


def test_a_change_needs_the_tag_of_what_it_changes(from_api: Manager) -> None:
    """Without one 428, with an old one 412, and the new tag is in the answer."""
    document, tag = read(from_api)
    assert put(from_api, {**document, "parameters": {"work_mem": "5MB"}}, tag)[0] == 200

    code, problem = from_api.ask("PUT", "/v1/configuration", document)
    assert (code, problem["code"]) == (428, "precondition-required")
    code, problem = put(from_api, document, tag)
    assert (code, problem["code"]) == (412, "precondition-failed")
    code, _ = from_api.ask("PUT", "/v1/configuration", document, **{"If-Match": "*"})
    assert code == 200


def test_where_the_file_is_the_truth_a_put_is_refused_with_its_name(manager: Manager) -> None:
    """But a dry run is answered."""
    manager.trust().start().until_ready()

    code, problem = put(manager, {"hba": [TRUST]})

    assert (code, problem["code"]) == (409, "conflict")
    assert str(manager.config) in problem["detail"]
    assert rehearse(manager, {"parameters": {"work_mem": "1GB"}})[0] == 200


def test_secrets_are_masked_and_stay_when_the_mask_comes_back(from_api: Manager) -> None:
    """In the document, in a plan, and in what is pending."""
    secret = "host=p password='it is s3cret' user=u"
    rule = "host all all 10.0.0.0/8 ldap ldapserver=x ldapprefix=x ldapbindpasswd=s3cret"
    parameters = {"primary_conninfo": secret, "work_mem": "6MB"}
    code, done = put(from_api, {"parameters": parameters, "hba": [TRUST]})
    assert code == 200, done
    assert "s3cret" not in json.dumps(done)

    document, _ = read(from_api)
    assert "s3cret" not in json.dumps(document)
    document["parameters"]["work_mem"] = "7MB"
    code, _ = put(from_api, document)

    assert code == 200
    assert setting(from_api, "primary_conninfo") == secret
    assert setting(from_api, "work_mem") == "7MB"
    misplaced = {"parameters": {"archive_command": "x ********"}, "hba": [TRUST]}
    code, problem = put(from_api, misplaced)
    assert (code, list(errors_of(problem))) == (422, ["parameters.archive_command"])
    # This server was built without ldap: the rule itself is judged by the running one.
    put(from_api, {"hba": [TRUST, rule]})
    assert "s3cret" not in from_api.logged()


def test_an_accepted_document_survives_the_manager(from_api: Manager) -> None:
    """Nobody has to send it again, whatever the settings file says by then."""
    assert put(from_api, {"parameters": {"work_mem": "11MB"}, "hba": [TRUST]})[0] == 200
    from_api.end()
    from_api.settings["postgres"]["parameters"] = {"work_mem": "99MB"}

    from_api.start().until_ready()

    assert setting(from_api, "work_mem") == "11MB"
    assert read(from_api)[0]["parameters"] == {"work_mem": "11MB"}
    kept = from_api.data / "instance-manager" / "configuration.json"
    assert kept.stat().st_mode & 0o777 == 0o600


def test_a_document_that_came_with_a_copy_is_not_used(from_api: Manager) -> None:
    """It is another instance's."""
    assert put(from_api, {"parameters": {"work_mem": "11MB"}, "hba": [TRUST]})[0] == 200
    from_api.end()
    copy = from_api.directory / "copy"
    subprocess.run(["cp", "-a", from_api.data, copy], check=True)
    from_api.data = copy
    from_api.settings["postgres"]["data_directory"] = str(copy)
    from_api.settings["instance"]["name"] = "another"

    from_api.start().until_ready()

    assert setting(from_api, "work_mem") == "4MB"
    _, events = from_api.ask("GET", "/v1/events")
    assert "ConfigurationIgnored" in [event["reason"] for event in events["items"]]


def test_two_changes_of_the_same_document_are_one_change_and_one_refusal(
    from_api: Manager,
) -> None:
    """Whoever comes second has to look again."""
    from concurrent.futures import ThreadPoolExecutor

    document, tag = read(from_api)

    def send(number: int) -> int:
        return put(from_api, {**document, "parameters": {"work_mem": f"{number}MB"}}, tag)[0]

    with ThreadPoolExecutor(2) as pool:
        codes = sorted(pool.map(send, (21, 22)))

    assert codes == [200, 412]


@pytest.mark.parametrize("verb", ["stop", "fence"])
def test_a_document_for_a_server_that_does_not_run_is_for_its_next_start(
    from_api: Manager, verb: str
) -> None:
    """It is judged all the same."""
    from_api.ask("POST", f"/v1/postgres/{verb}", Prefer="wait=60")

    assert put(from_api, {"parameters": {"work_mem": "nonsense"}})[0] == 422
    code, done = put(from_api, {"parameters": {"work_mem": "12MB"}, "hba": [TRUST]})
    assert (code, done["action"]) == (200, "restart")

    way_back = "unfence" if verb == "fence" else "start"
    from_api.ask("POST", f"/v1/postgres/{way_back}", Prefer="wait=60")
    assert setting(from_api, "work_mem") == "12MB"


def test_a_standby_may_not_have_less_than_its_primary(from_api: Manager) -> None:
    """Neither set lower, nor left to a default that is lower; more is fine."""
    parameters = {"max_connections": "120", "max_wal_senders": "12"}
    assert put(from_api, {"parameters": parameters, "hba": [TRUST]})[0] == 200
    from_api.ask("POST", "/v1/postgres/restart", Prefer="wait=60")
    from_api.ask("POST", "/v1/postgres/stop", Prefer="wait=60")
    (from_api.data / "standby.signal").touch()
    from_api.ask("POST", "/v1/postgres/start", Prefer="wait=60")

    code, problem = put(from_api, {"parameters": {"max_connections": "119"}, "hba": [TRUST]})

    assert code == 422
    told = errors_of(problem)
    assert set(told) == {"parameters.max_connections", "parameters.max_wal_senders"}
    assert "its primary has 120" in told["parameters.max_connections"]
    more = parameters | {"max_connections": "150"}
    assert put(from_api, {"parameters": more, "hba": [TRUST]})[0] == 200


def swap(manager: Manager, text: str) -> None:
    """Put another file under the name of the settings file, as Kubernetes swaps its links."""
    directory = manager.config.parent
    version = directory / f"..{time.monotonic_ns()}"
    version.mkdir()
    (version / "config.yaml").write_text(text)
    link = directory / "..new"
    link.symlink_to(version.name)
    link.rename(directory / "..data")
    if not manager.config.is_symlink():
        manager.config.unlink()
        manager.config.symlink_to("..data/config.yaml")


def rename(manager: Manager, text: str) -> None:
    """Replace the settings file, as editors do."""
    new = manager.config.with_suffix(".new")
    new.write_text(text)
    new.rename(manager.config)


def overwrite(manager: Manager, text: str) -> None:
    """Write into the settings file."""
    manager.config.write_text(text)


@pytest.mark.parametrize("change", [swap, rename, overwrite])
def test_a_changed_settings_file_is_applied_by_itself(
    manager: Manager, change: Callable[[Manager, str], None]
) -> None:
    """However it is changed; and one that is wrong leaves what there was, and is told."""
    manager.trust().start().until_ready()
    for value in ("31MB", "32MB"):
        manager.settings["postgres"]["parameters"] = {"work_mem": value}
        change(manager, yaml.safe_dump(manager.settings))
        until(lambda: setting(manager, "work_mem") == value, "it is applied")  # noqa: B023

    change(manager, "postgres: {parameters: {work_mem: 1MB")
    problems = until(lambda: configuration(manager)["errors"], "it is told")

    assert "not YAML" in problems[0]["message"]
    assert setting(manager, "work_mem") == "32MB"
    manager.settings["postgres"]["parameters"] = {"work_mem": "33MB"}
    change(manager, yaml.safe_dump(manager.settings))
    until(lambda: setting(manager, "work_mem") == "33MB", "it is applied")
    until(lambda: not configuration(manager)["errors"], "nothing is wrong any more")


WRONG_AT_A_START: list[dict[str, Any]] = [
    {"parameters": {"work_mem": "nonsense"}},
    {"parameters": {"wal_level": "minimal", "archive_mode": "on"}},
    {"parameters": {"shared_buffers": "99TB"}},
    {"hba": ["nonsense"]},
]


@pytest.mark.parametrize("wrong", WRONG_AT_A_START, ids=str)
def test_a_configuration_that_does_not_work_does_not_stop_the_next_start(
    manager: Manager, wrong: dict[str, Any]
) -> None:
    """The last good one is used, the status says so, and the mended one is applied."""
    manager.trust().settings["postgres"]["parameters"] = {"work_mem": "13MB"}
    manager.start().until_ready()
    good = manager.data / "instance-manager" / "last-good.json"
    until(good.exists, "it is kept")
    manager.end()
    before = dict(manager.settings["postgres"])
    manager.settings["postgres"] |= wrong

    manager.start().until_ready()

    assert setting(manager, "work_mem") == "13MB"
    problems = configuration(manager)["errors"]
    assert "the last good one is used" in problems[0]["message"]
    status = manager.status()
    assert status is not None
    assert status["phase"] == "running"
    conditions = {each["type"]: each for each in status["conditions"]}
    assert conditions["ConfigurationLoaded"]["reason"] == "Rejected"
    first = problems[0]["message"].splitlines()[0]
    assert f"configuration refused: {first}" in manager.run("status").stdout
    manager.settings["postgres"] = before | {"parameters": {"work_mem": "14MB"}}
    manager.write_settings()
    until(lambda: setting(manager, "work_mem") == "14MB", "the mended one is applied")
    until(lambda: not configuration(manager)["errors"], "nothing is wrong any more")
    assert "refused" not in manager.run("status").stdout


def test_without_a_good_configuration_a_wrong_one_fails_and_says_why(manager: Manager) -> None:
    """There is nothing to fall back on at a first start."""
    manager.trust().settings["postgres"]["parameters"] = {"work_mem": "nonsense"}

    status = manager.start().until_phase("failed")

    assert "work_mem" in status["failure"]["message"]


def test_any_document_is_refused_or_the_server_comes_back_with_it(
    from_api: Manager, times: Times, figures: Figures
) -> None:
    """What is accepted is loaded, and a restart with it works."""
    from_api.settings["restart"] = {"maximum": 10000}
    accepted = 0
    for document in documents(from_api.query(PARAMETERS), times(25, 1000)):
        code, answer = put(from_api, document)
        assert code in (200, 409, 422), (document, answer)
        if code != 200:
            figures.add("configuration document, refused")
            continue
        accepted += 1
        figures.add("configuration document, accepted and loaded")
        assert from_api.probe("readyz")[0] == 200, document
        if answer["action"] == "restart":
            began = time.monotonic()
            code, operation = from_api.ask("POST", "/v1/postgres/restart", Prefer="wait=60")
            assert operation["state"] == "succeeded", (document, operation)
            took = time.monotonic() - began
            figures.add("configuration document, restarted with", ready_seconds=took)
            assert configuration(from_api)["pending_restart"] == [], document
            assert configuration(from_api)["errors"] == [], document
    assert accepted > 0


def test_a_kill_during_a_change_leaves_the_old_or_the_new_configuration(
    from_api: Manager, times: Times
) -> None:
    """Whole, and the next start is ready with it."""
    import threading

    moments = times(4, 100)
    for number in range(moments):
        before = read(from_api)[0]["parameters"]
        wanted = {"work_mem": f"{100 + number}MB", "log_statement": "ddl"}
        sender = threading.Thread(target=_send_and_ignore, args=(from_api, wanted))
        sender.start()
        time.sleep(0.4 * number / moments)
        process = from_api.process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        sender.join()

        from_api.start().until_ready()

        now = read(from_api)[0]["parameters"]
        assert now in (before, wanted)
        assert setting(from_api, "work_mem") == now.get("work_mem", "4MB")


def _send_and_ignore(manager: Manager, parameters: dict[str, str]) -> None:
    import contextlib
    import http.client

    with contextlib.suppress(OSError, http.client.HTTPException):
        manager.ask(
            "PUT",
            "/v1/configuration",
            {"parameters": parameters, "hba": [TRUST]},
            **{"If-Match": "*"},
        )
