"""A configuration amid what goes wrong: fences, damaged files, floods and hostile bodies."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import yaml

from tests.support.manager import Manager, UnixConnection, until

TRUST = "host all all 127.0.0.1/32 trust"
CHANGES_AFTER_SECONDS = (0.2, 0.4, 0.5, 0.6, 0.8)
"""From before the first reading of the settings to after the first look of the watch."""
RELOADS = 200
SILENCE_SECONDS = 10
"""Far more than a busy host needs; without bounds on the work it took minutes."""


@pytest.fixture
def from_api(manager: Manager) -> Manager:
    """Return a ready manager whose configuration comes over HTTP."""
    manager.trust().settings["configuration"] = {"source": "api"}
    return manager.start().until_ready()


def put(manager: Manager, parameters: dict[str, str], *rules: str) -> tuple[int, Any]:
    """Send a document, whatever there is."""
    document = {"parameters": parameters, "hba": [TRUST, *rules]}
    return manager.ask("PUT", "/v1/configuration", document, **{"If-Match": "*"})


def parameters(manager: Manager) -> Any:
    """Return those of the document in force."""
    return manager.ask("GET", "/v1/configuration")[1]["parameters"]


def test_a_fenced_instance_shows_the_accepted_document_after_a_new_start(
    from_api: Manager,
) -> None:
    """Else whoever edits what he reads, with its tag, throws the accepted document away."""
    assert put(from_api, {"work_mem": "11MB"})[0] == 200
    from_api.ask("POST", "/v1/postgres/fence", Prefer="wait=60")
    from_api.end()

    from_api.start().until_phase("fenced")

    assert parameters(from_api) == {"work_mem": "11MB"}


@pytest.mark.parametrize("delay", CHANGES_AFTER_SECONDS)
def test_a_settings_file_that_changes_while_the_manager_starts_is_applied(
    manager: Manager, delay: float
) -> None:
    """Between the first reading and the first look of the watch, too."""
    manager.trust().start().until_ready()
    manager.end()
    manager.start()
    time.sleep(delay)

    manager.settings["postgres"]["parameters"] = {"work_mem": "77MB"}
    # In one step: half a file at the first reading would be another test.
    whole = manager.config.with_name("whole.yaml")
    whole.write_text(yaml.safe_dump(manager.settings))
    whole.rename(manager.config)

    manager.until_ready()
    until(lambda: manager.query("SHOW work_mem")[0][0] == "77MB", "it is applied")


def test_a_change_at_once_after_a_start_has_something_to_fall_back_on(from_api: Manager) -> None:
    """What runs is kept before another one takes its place."""
    late = {"huge_pages": "on", "huge_page_size": "1GB"}
    assert put(from_api, late)[0] == 200
    assert (from_api.data / "instance-manager" / "last-good.json").exists()


@pytest.mark.parametrize("content", ['{"instance', "[]", None])
def test_an_accepted_document_that_cannot_be_read_is_told_and_the_last_good_one_is_used(
    from_api: Manager, content: str | None
) -> None:
    """In the status, with the file's name; what is sent again takes its place."""
    assert put(from_api, {"work_mem": "11MB"})[0] == 200
    good = from_api.data / "instance-manager" / "last-good.json"
    until(lambda: good.exists() and "11MB" in good.read_text(), "it is kept as good")
    from_api.end()
    accepted = good.with_name("configuration.json")
    accepted.unlink()
    if content is None:
        accepted.symlink_to("/etc/passwd")
    else:
        accepted.write_text(content)

    from_api.start().until_ready()

    status = from_api.status()
    assert status is not None
    problem = status["configuration"]["errors"][0]["message"]
    assert str(accepted) in problem
    assert "the last good one is" in problem
    assert from_api.query("SHOW work_mem")[0][0] == "11MB"
    assert put(from_api, {"work_mem": "12MB"})[0] == 200
    status = from_api.status()
    assert status is not None
    assert status["configuration"]["errors"] == []


def test_many_wrong_names_and_long_rules_do_not_silence_the_probes(from_api: Manager) -> None:
    """40,000 names fit into a body; what was meant is looked up for the first of them."""
    over, longest = threading.Event(), [0.0]

    def look() -> None:
        while not over.is_set():
            began = time.monotonic()
            from_api.probe("livez")
            longest.append(time.monotonic() - began)

    looking = threading.Thread(target=look)
    looking.start()
    names, _ = put(from_api, {f"unknown{number}": "1" for number in range(40_000)})
    rule, _ = put(from_api, {}, "local " + "a," * 200_000 + "a all md5")
    over.set()
    looking.join()

    assert names == 422
    assert rule == 200
    assert max(longest) < SILENCE_SECONDS


@pytest.mark.parametrize(
    "body",
    [b'{"\\ud800": 1}', b'{"hba":' + b"[" * 700 + b"]" * 700 + b"}", b"[" * 100_000],
    ids=["half a character", "deep", "deeper"],
)
def test_no_body_is_a_fault_of_the_manager(from_api: Manager, body: bytes) -> None:
    """A key that no UTF-8 can hold, and nesting that a reader of JSON takes or does not take."""
    connection = UnixConnection(from_api.socket)
    headers = {"Content-Type": "application/json", "If-Match": "*"}
    connection.request("PUT", "/v1/configuration", body, headers)
    status = connection.getresponse().status
    connection.close()

    assert status == 400


def test_what_alter_system_overrides_is_told(manager: Manager) -> None:
    """The change is accepted, and does not count before that is taken back."""
    manager.trust().settings["configuration"] = {"source": "api"}
    manager.settings["postgres"]["allow_alter_system"] = True
    manager.start().until_ready()
    manager.query("ALTER SYSTEM SET work_mem = '64MB'")

    code, answer = put(manager, {"work_mem": "8MB", "maintenance_work_mem": "80MB"})

    assert (code, answer["overridden"]) == (200, ["work_mem"])
    assert manager.query("SHOW work_mem")[0][0] == "64MB"
    manager.query("ALTER SYSTEM RESET work_mem")
    assert put(manager, {"work_mem": "9MB"})[1]["overridden"] == []
    assert manager.query("SHOW work_mem")[0][0] == "9MB"


def begin_reloads(manager: Manager) -> list[str]:
    """Ask for many reloads at once; return where their operations are."""
    connection = UnixConnection(manager.socket)
    begun: list[str] = []
    for _ in range(RELOADS):
        connection.request("POST", "/v1/postgres/reload")
        answer = connection.getresponse()
        begun.append(answer.headers["Location"])
        answer.read()
    connection.close()
    return begun


def test_reloads_that_wait_are_done_together(from_api: Manager) -> None:
    """All of them succeed, and a change behind them has not to wait for each."""
    begun = begin_reloads(from_api)

    assert put(from_api, {"work_mem": "9MB"})[0] == 200

    done = [from_api.ask("GET", path, Prefer="wait=60")[1] for path in begun[-50:]]
    assert {operation["state"] for operation in done} == {"succeeded"}
    loads = from_api.logged().count("received SIGHUP, reloading configuration files")
    assert 0 < loads < RELOADS / 2


def test_reloads_that_wait_fail_together(manager: Manager) -> None:
    """Each says why, and what is mended works at once."""
    manager.trust().start().until_ready()
    manager.settings["postgres"]["parameters"] = {"work_mem": "nonsense"}
    manager.write_settings()

    begun = begin_reloads(manager)

    done = [manager.ask("GET", path, Prefer="wait=60")[1] for path in begun[-50:]]
    assert {operation["error"]["code"] for operation in done} == {"settings-invalid"}
    manager.settings["postgres"]["parameters"] = {"work_mem": "9MB"}
    manager.write_settings()
    code, operation = manager.ask("POST", "/v1/postgres/reload", Prefer="wait=60")
    assert (code, operation["state"]) == (200, "succeeded")
    assert manager.query("SHOW work_mem")[0][0] == "9MB"
