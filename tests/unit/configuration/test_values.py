"""A value is compared as the server reads it."""

from __future__ import annotations

import pytest

from instance_manager.configuration.values import Parameter

PARAMETERS = {
    "bool": Parameter("postmaster", "bool", "", "on"),
    "enum": Parameter("postmaster", "enum", "", "replica"),
    "count": Parameter("postmaster", "integer", "", "8"),
    "pages": Parameter("postmaster", "integer", "8kB", "16384"),
    "segments": Parameter("postmaster", "integer", "MB", "1024"),
    "time": Parameter("postmaster", "integer", "ms", "60000"),
    "real": Parameter("postmaster", "real", "ms", "1.5"),
    "text": Parameter("postmaster", "string", "", "a B"),
}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("bool", text) for text in ("on", "ON", "true", "t", "yes", "Y", "1")),
        ("enum", "REPLICA"),
        *(("count", text) for text in ("8", " 8 ", "010", "0x8", "8.4", "7.5e0", "+8")),
        *(("pages", text) for text in ("16384", "128MB", "131072kB", "0.125GB", "134217728B")),
        *(("segments", text) for text in ("1GB", "1024", "0.0009765625 TB")),
        *(("time", text) for text in ("1min", "60s", "60000", "60000ms", "60000000us")),
        *(("real", text) for text in ("1.5", "1.5ms", "1500us", "15e-1")),
        ("text", "a B"),
    ],
)
def test_what_says_the_same_is_the_same(name: str, text: str) -> None:
    """In other units, notations and capitals."""
    assert PARAMETERS[name].is_at(text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("bool", text) for text in ("off", "0", "no", "", "o", "nope", "2")),
        ("enum", "logical"),
        *(("count", text) for text in ("9", "8kB", "", "x", "8 8", "0x", "\u0661")),
        *(("pages", text) for text in ("128 mb", "128", "128s", "128GB")),
        *(("time", text) for text in ("1h", "60", "60kB", "1 d")),
        *(("real", text) for text in ("1.6", "nan", "")),
        *(("text", text) for text in ("a b", "a B ", "")),
    ],
)
def test_what_says_something_else_is_not(name: str, text: str) -> None:
    """Or says nothing at all: then a restart may be told that is not needed, never the reverse."""
    assert not PARAMETERS[name].is_at(text)
