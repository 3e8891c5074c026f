"""What the postmaster and the tools are given."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instance_manager.postgres import process

ALLOWED = {"HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "TMPDIR", "TZ", "TZDIR", "USER"}
REFUSED = (
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "PGDATA",
    "PGPASSWORD",
    "PGOPTIONS",
    "POSTGRES_PASSWORD",
    "INSTANCE_MANAGER_POSTGRES__PORT",
    "NOTIFY_SOCKET",
    "KUBERNETES_SERVICE_HOST",
    "AWS_SECRET_ACCESS_KEY",
    "PYTHONPATH",
    "BASH_ENV",
    "GLIBC_TUNABLES",
    "OPENSSL_CONF",
    "lc_all",
    "LC",
    "Path",
)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_on_the_list_does_not_reach_a_tool(name: str) -> None:
    """Secrets, our own settings and what bends a program stay with the manager."""
    assert name not in process.tool_environment({name: "value", "TZ": "UTC"})


@pytest.mark.parametrize("name", [*sorted(ALLOWED), "LC_ALL", "LC_MESSAGES", "MALLOC_ARENA_MAX"])
def test_what_is_on_the_list_reaches_a_tool_as_it_is(name: str) -> None:
    """Locale, time zone and memory tuning are the operator's choice."""
    assert process.tool_environment({name: "value"})[name] == "value"


def test_a_tool_always_has_a_path_and_a_locale_that_exists() -> None:
    """With nothing inherited, tools are found, and text is UTF-8."""
    assert process.tool_environment({}) == {"PATH": process.DEFAULT_PATH, "LANG": "C.UTF-8"}


@settings(max_examples=40)
@given(st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=8))
def test_no_name_gets_through_by_its_shape(inherited: dict[str, str]) -> None:
    """Only names of the list, or with one of its prefixes."""
    found = process.tool_environment(inherited).keys() - {"PATH", "LANG"}

    assert all(name in ALLOWED or name.startswith(("LC_", "MALLOC_")) for name in found)


def test_the_postmaster_gets_what_the_volumes_need() -> None:
    """Composed paths replace the tools' own, and a volume's variables are added."""
    tools = {"PATH": "/usr/bin", "LANG": "C.UTF-8"}
    found = process.environment_of(
        tools,
        search_path="/usr/bin:/extensions/a/bin",
        library_path="/extensions/a/system",
        extra={"PROJ_DATA": "/extensions/a/share/proj"},
    )

    assert found["PATH"] == "/usr/bin:/extensions/a/bin"
    assert found["LD_LIBRARY_PATH"] == "/extensions/a/system"
    assert found["PROJ_DATA"] == "/extensions/a/share/proj"
    assert found["LANG"] == "C.UTF-8"
    assert tools == {"PATH": "/usr/bin", "LANG": "C.UTF-8"}


def test_nothing_composed_sets_nothing() -> None:
    """An empty library path would mean the working directory to the loader."""
    found = process.environment_of({"PATH": "/bin"}, search_path="", library_path="", extra={})

    assert found["PATH"] == "/bin"
    assert "LD_LIBRARY_PATH" not in found


def test_the_children_of_a_protected_postmaster_are_not_protected() -> None:
    """They give up the adjustment that the kubelet gives a guaranteed pod."""
    assert process.oom_adjustment(-997, limit_bytes=None) == {
        "PG_OOM_ADJUST_FILE": "/proc/self/oom_score_adj",
        "PG_OOM_ADJUST_VALUE": "0",
    }


@pytest.mark.parametrize("own", [0, 2, 999, 1000])
def test_without_a_limit_the_host_decides_whom_to_kill(own: int) -> None:
    """Nor is any child better protected than the postmaster, as it would be with zero."""
    assert process.oom_adjustment(own, limit_bytes=None) == {}


@pytest.mark.parametrize(
    ("own", "mebibytes", "expected"),
    [(0, 256, 500), (0, 1024, 125), (100, 1024, 225), (950, 1024, 1000), (0, 64, 1000)],
)
def test_under_a_limit_each_child_looks_larger_than_the_manager(
    own: int, mebibytes: int, expected: int
) -> None:
    """By 128 MiB of the limit: many sessions of middling size cost one of them."""
    found = process.oom_adjustment(own, mebibytes * 1024 * 1024)

    assert found["PG_OOM_ADJUST_VALUE"] == str(expected)


def test_the_environment_of_a_live_process_is_read() -> None:
    """Our own, as it was when we were started."""
    found = process.environment_of_process(os.getpid())

    assert found.get("PATH") == os.environ.get("PATH")
    assert all(name and "=" not in name for name in found)


def test_a_process_that_is_gone_has_no_environment() -> None:
    """No process has the largest number there is."""
    assert process.environment_of_process(2**31 - 1) == {}
