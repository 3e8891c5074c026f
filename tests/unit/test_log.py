"""Lines of the log: their fields, their order, their levels."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instance_manager import log

TEXT = st.text(max_size=30)
NAMES = st.text(st.characters(categories=["Ll"]), min_size=1, max_size=8)


@contextmanager
def written(path: Path, level: log.Level = "info", style: log.Format = "json") -> Generator[None]:
    """Let the log go to a file; it is whole when the context has ended."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC)
    root = logging.getLogger()
    before = root.handlers, root.level
    sink = log.configure(level, style, descriptor)
    try:
        yield
    finally:
        root.handlers, root.level = before
        sink.close(60)
        os.close(descriptor)
        structlog.reset_defaults()


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log, each of which must be an object of JSON."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_every_line_begins_with_the_same_four_fields(tmp_path: Path) -> None:
    """Time, level, logger and message come first, in this order."""
    with written(tmp_path / "log"):
        log.get_logger("api", session="s").warning("it happened", port=5432, path=Path("/x"))
    text = (tmp_path / "log").read_text()
    line = json.loads(text)

    assert list(line) == ["ts", "level", "logger", "message", "session", "port", "path"]
    assert (line["level"], line["logger"], line["message"]) == ("warning", "api", "it happened")
    assert (line["port"], line["path"], line["session"]) == (5432, "/x", "s")
    assert text.endswith("}\n")


def test_the_time_is_utc_with_milliseconds() -> None:
    """As RFC 3339 writes it, with a Z."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", log.timestamp())


def test_a_line_may_speak_for_another_program(tmp_path: Path) -> None:
    """A tool's words carry the tool's name, and the level that it gave."""
    with written(tmp_path / "log"):
        log.get_logger().info("creating directory", logger="initdb", level="error")

    assert lines_of(tmp_path / "log")[0]["logger"] == "initdb"
    assert lines_of(tmp_path / "log")[0]["level"] == "error"


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(TEXT, st.dictionaries(NAMES, TEXT | st.integers() | st.none()))))
def test_any_text_is_one_line_and_comes_back_as_it_was(
    tmp_path: Path, entries: list[tuple[str, dict[str, object]]]
) -> None:
    """Newlines, quotes and other scripts neither break a line nor get lost."""
    reserved = {"ts", "level", "logger", "message", "event", "origin", "args", "kw", "self"}
    kept = [(text, {k: v for k, v in more.items() if k not in reserved}) for text, more in entries]
    with written(tmp_path / "log"):
        for text, more in kept:
            log.get_logger().info(text, **more)
    found = lines_of(tmp_path / "log")

    assert [line["message"] for line in found] == [text for text, _ in kept]
    assert [dict(list(line.items())[4:]) for line in found] == [more for _, more in kept]


def test_text_that_is_no_unicode_does_not_break_the_line(tmp_path: Path) -> None:
    """A file name of arbitrary bytes is shown as well as it can be."""
    name = os.fsdecode(b"/data/\xff")
    with written(tmp_path / "log"):
        log.get_logger().info(f"cannot read {name}", path=name)

    assert lines_of(tmp_path / "log")[0]["path"] == name


def test_a_percent_sign_is_no_format(tmp_path: Path) -> None:
    """What others said is passed on as it is."""
    with written(tmp_path / "log"):
        log.get_logger().info("100% of %s and {braces}")

    assert lines_of(tmp_path / "log")[0]["message"] == "100% of %s and {braces}"


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["debug", "info", "warning", "error", "critical"]),
        ("info", ["info", "warning", "error", "critical"]),
        ("warning", ["warning", "error", "critical"]),
        ("error", ["error", "critical"]),
    ],
)
def test_what_is_less_grave_than_the_level_is_left_out(
    tmp_path: Path, level: log.Level, expected: list[str]
) -> None:
    """A level lets through itself and what is graver."""
    with written(tmp_path / "log", level):
        _say_all()

    assert [line["level"] for line in lines_of(tmp_path / "log")] == expected


def test_the_level_can_change_while_the_program_runs(tmp_path: Path) -> None:
    """A logger that was made before obeys too."""
    logger = log.get_logger()
    with written(tmp_path / "log", "error"):
        logger.info("hidden")
        log.set_level("info")
        logger.info("shown")
        log.set_level("error")
        logger.info("hidden again")

    assert [line["message"] for line in lines_of(tmp_path / "log")] == ["shown"]


def _say_all() -> None:
    logger = log.get_logger()
    says: tuple[Callable[..., Any], ...] = (
        logger.debug,
        logger.info,
        logger.warning,
        logger.error,
        logger.critical,
    )
    for say in says:
        say("words")


def test_people_get_time_level_message_and_the_rest(tmp_path: Path) -> None:
    """On a terminal a line is text; whose record it came from is left out."""
    with written(tmp_path / "log", style="console"):
        log.get_logger("postgres").warning("checkpoint", seconds=3, record={"pid": 1})
    text = re.sub(r"\x1b\[\d+m", "", (tmp_path / "log").read_text())

    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} warning  postgres: checkpoint seconds=3\n", text)


def test_what_libraries_say_is_a_line_like_any_other(tmp_path: Path) -> None:
    """The standard library's logging would write text to standard error by itself."""
    with written(tmp_path / "log"):
        logging.getLogger("psycopg").warning("cancelling %s failed", "it")
        logging.getLogger("psycopg").info("not told")
        logging.getLogger("asyncio").error("never retrieved", exc_info=ValueError("a reason"))

    first, second = lines_of(tmp_path / "log")
    assert (first["logger"], first["level"]) == ("psycopg", "warning")
    assert first["message"] == "cancelling it failed"
    assert second["level"] == "error"
    assert "ValueError: a reason" in second["traceback"]


def test_a_log_that_goes_to_no_terminal_is_json(tmp_path: Path) -> None:
    """Auto means text for people only where people look."""
    with written(tmp_path / "log", style="auto"):
        log.get_logger().info("words")

    assert lines_of(tmp_path / "log")[0]["message"] == "words"
