"""What a server has never started with must not become what its next start falls back on."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.support.faults import postmaster_of, until_served
from tests.support.manager import Manager, until

if TYPE_CHECKING:
    from collections.abc import Sequence

TRUST = "host all all 127.0.0.1/32 trust"
TOO_MUCH = {"huge_pages": "on", "huge_page_size": "1GB", "work_mem": "15MB"}
"""Whether the host has pages of that size, only a start can tell."""

HASH = "SHOW instance_manager.config_sha256"
LOOKS_SECONDS = 4
"""Some looks of the one that keeps what is good, which come once a second."""


@pytest.fixture
def from_api(manager: Manager) -> Manager:
    """Return a manager whose configuration comes over HTTP, and which gives up soon."""
    manager.trust().settings["configuration"] = {"source": "api"}
    manager.settings["restart"] = {"maximum": 1}
    return manager


def put(
    manager: Manager, parameters: dict[str, str], rules: Sequence[str] = (TRUST,)
) -> tuple[int, Any]:
    """Send a document, whatever there is."""
    document = {"parameters": parameters, "hba": [*rules]}
    return manager.ask("PUT", "/v1/configuration", document, **{"If-Match": "*"})


def is_let_in(manager: Manager, user: str) -> bool:
    """Say whether the rules let somebody log in."""
    refusal = ""
    try:
        return manager.query("SELECT 1", user=user) == [(1,)]
    except psycopg.OperationalError as error:
        refusal = str(error)
    assert "pg_hba.conf rejects" in refusal
    return False


def configuration(manager: Manager) -> dict[str, Any]:
    """Return that part of the status."""
    status = manager.status()
    assert status is not None
    found: dict[str, Any] = status["configuration"]
    return found


def kept_work_mem(manager: Manager) -> str | None:
    """Return the value in the last good configuration."""
    path = manager.data / "instance-manager" / "last-good.json"
    if not path.exists():
        return None
    found: str | None = json.loads(path.read_text())["document"]["parameters"].get("work_mem")
    return found


def test_what_waits_for_a_restart_is_not_good_before_it(from_api: Manager) -> None:
    """A restart that can't have the memory comes back with what had run, and says so."""
    from_api.start().until_ready()
    assert put(from_api, {"work_mem": "13MB"})[0] == 200
    until(lambda: kept_work_mem(from_api) == "13MB", "what runs is kept")
    code, done = put(from_api, TOO_MUCH)
    assert (code, done["action"]) == (200, "restart")
    until(lambda: configuration(from_api)["pending_restart"], "it waits for a restart")
    looked = time.monotonic() + LOOKS_SECONDS
    while time.monotonic() < looked:
        assert kept_work_mem(from_api) == "13MB"
        time.sleep(0.1)

    code, operation = from_api.ask("POST", "/v1/postgres/restart", Prefer="wait=60")

    assert (code, operation["state"]) == (200, "succeeded"), operation
    assert kept_work_mem(from_api) == "13MB"
    assert from_api.query("SHOW work_mem")[0][0] == "13MB"
    assert "the last good one is used" in configuration(from_api)["errors"][0]["message"]
    assert put(from_api, {"work_mem": "14MB"})[0] == 200
    assert configuration(from_api)["errors"] == []
    until(lambda: kept_work_mem(from_api) == "14MB", "the mended one is kept")


def test_a_crash_amid_a_change_that_no_server_can_start_with_falls_back(
    from_api: Manager,
) -> None:
    """Accepted or refused, what is told to be in force is what the server runs with."""
    from_api.start().until_ready()
    assert put(from_api, {"work_mem": "13MB"})[0] == 200
    until(lambda: kept_work_mem(from_api) == "13MB", "what runs is kept")
    written = from_api.data / "instance-manager" / "postgresql.conf"
    postmaster = postmaster_of(from_api)

    with ThreadPoolExecutor(1) as pool:
        change = pool.submit(put, from_api, TOO_MUCH)
        until(lambda: "15MB" in written.read_text(), "the change is written")
        os.kill(postmaster, signal.SIGKILL)
        code, _ = change.result()

    if code == 200:
        until(lambda: configuration(from_api)["errors"], "it is told")
        assert "last good" in configuration(from_api)["errors"][0]["message"]
    # The last answer of the one before counts for a while.
    until_served(from_api, postmaster)
    assert from_api.query("SHOW work_mem")[0][0] == "13MB"
    code, document = from_api.ask("GET", "/v1/configuration")
    assert (code, document["parameters"]) == (200, {"work_mem": "13MB"})
    assert put(from_api, {"work_mem": "14MB"})[0] == 200
    assert from_api.query("SHOW work_mem")[0][0] == "14MB"


def test_what_is_taken_back_is_loaded_when_the_answer_comes(from_api: Manager) -> None:
    """A rule that only the running server can judge is refused, and leaves no trace."""
    from_api.start().until_ready()
    before = from_api.query(HASH)
    document = {"parameters": {"work_mem": "18MB"}, "hba": [TRUST, "local /[ all trust"]}

    code, answer = from_api.ask("PUT", "/v1/configuration", document, **{"If-Match": "*"})

    assert (code, answer["code"]) == (422, "settings-invalid"), answer
    assert from_api.query(HASH) == before
    assert from_api.query("SHOW work_mem")[0][0] == "4MB"


def test_rules_alone_are_loaded_when_the_answer_comes(from_api: Manager) -> None:
    """The next login goes by them, though the server tells of parameters only."""
    from_api.start().until_ready()
    with from_api.sql() as session:
        session.execute("CREATE ROLE guest LOGIN")
    loaded = {}

    for method in ("trust", "reject") * 5:
        rules = [f"host all guest 127.0.0.1/32 {method}", TRUST]
        code, answer = put(from_api, {}, rules)
        assert code == 200, answer
        assert is_let_in(from_api, "guest") == (method == "trust")
        loaded[method] = from_api.query(HASH)

    assert loaded["trust"] != loaded["reject"]


def test_a_document_starts_an_instance_that_had_failed(from_api: Manager) -> None:
    """It was the configuration that the first start failed for."""
    from_api.settings["postgres"]["parameters"] = {"work_mem": "nonsense"}
    from_api.start().until_phase("failed")

    assert put(from_api, {"work_mem": "16MB"})[0] == 200

    from_api.until_ready()
    assert from_api.query("SHOW work_mem")[0][0] == "16MB"


def test_a_change_while_a_reload_is_under_way_takes_its_turn(from_api: Manager) -> None:
    """Neither is lost: the document is in force when both are over."""
    from_api.start().until_ready()

    with ThreadPoolExecutor(2) as pool:
        reload = pool.submit(from_api.ask, "POST", "/v1/postgres/reload", Prefer="wait=60")
        change = pool.submit(put, from_api, {"work_mem": "17MB"})
        code, done = change.result()
        _, operation = reload.result()

    assert (code, operation["state"]) == (200, "succeeded"), (done, operation)
    assert from_api.query("SHOW work_mem")[0][0] == "17MB"
