"""The pure parts of the gates: headers, secrets, names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instance_manager.api.authentication import (
    bearer_token,
    is_loopback_host,
    is_same_secret,
    split_host,
    subject_of,
)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8000",
        "127.0.0.1",
        "127.0.0.1:8000",
        "127.1.2.3",
        "[::1]",
        "[::1]:8000",
        "localhost:",
    ],
)
def test_a_loopback_name_is_one(host: str) -> None:
    """With or without a port."""
    assert is_loopback_host([host])


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "localhost@evil.example",
        "127.0.0.1.nip.io",
        "127.1",
        "2130706433",
        "10.0.0.1",
        "0.0.0.0",
        "[::]",
        "::1",
        "[::1",
        "[::1]evil.example",
        "[127.0.0.1]",
        "localhost:80:80",
        "localhost:http",
        "localhost:\uff18\uff10",
        " localhost",
    ],
)
def test_any_other_name_is_none(host: str) -> None:
    """A page that resolves its own name to 127.0.0.1 still sends its own name."""
    assert not is_loopback_host([host])


@pytest.mark.parametrize(
    "headers", [[], ["localhost", "localhost"], ["localhost", "evil.example"]]
)
def test_exactly_one_host_header_counts(headers: list[str]) -> None:
    """None, or more than one, is not loopback."""
    assert not is_loopback_host(headers)


@given(st.text())
def test_any_text_is_split_without_an_error(text: str) -> None:
    """The header comes from outside and may hold anything."""
    host, port = split_host(text)

    assert is_loopback_host([text]) in {True, False}
    assert not host or host in text
    assert not port or port in text


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
        ("BEARER a b", "a b"),
        ("Bearer", None),
        ("Bearer ", None),
        ("Basic abc", None),
        ("abc", None),
        ("", None),
    ],
)
def test_the_token_is_what_follows_the_scheme(header: str, token: str | None) -> None:
    """The scheme is read in any case, other schemes are no token."""
    assert bearer_token([header]) == token


def test_two_authorization_headers_are_none() -> None:
    """Which of them a proxy in between has looked at, nobody knows."""
    assert bearer_token(["Bearer abc", "Bearer abc"]) is None
    assert bearer_token([]) is None


@given(st.text(), st.text())
def test_only_the_same_secret_is_the_same(one: str, other: str) -> None:
    """Any text may be compared; nothing else is equal."""
    assert is_same_secret(one, other) is (one == other and other != "")


def test_an_empty_secret_lets_nobody_in() -> None:
    """An empty token file must not be an open door."""
    assert not is_same_secret("", "")


def test_bytes_that_are_no_text_can_be_compared() -> None:
    """Headers carry them as surrogates."""
    assert is_same_secret("caf\udce9", "caf\udce9")
    assert not is_same_secret("caf\udce9", "café")


def test_a_certificate_is_called_by_its_alternative_name() -> None:
    """The first one; without any, the serial number."""
    names = (("URI", "spiffe://example/operator"), ("DNS", "operator"))

    assert subject_of({"subjectAltName": names}) == "URI:spiffe://example/operator"
    assert subject_of({"serialNumber": "0A"}) == "serial:0A"
