from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instance_manager.settings import Address, parse_address

if TYPE_CHECKING:
    import ipaddress

PORTS = st.integers(min_value=1, max_value=65535)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("*:8080", "*", 8080),
        ("127.0.0.1:8000", "127.0.0.1", 8000),
        ("[::1]:8000", "::1", 8000),
        ("[2001:DB8::0:1]:1", "2001:db8::1", 1),
        ("localhost:65535", "localhost", 65535),
        ("pg-0.pg.db.svc:443", "pg-0.pg.db.svc", 443),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, host: str, port: int) -> None:
    """Star, IPv4, IPv6 in brackets and names are hosts."""
    assert parse_address(text) == Address(host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8080",
        ":8080",
        "*",
        "*:",
        "*:0",
        "*:65536",
        "*:+80",
        "*: 80",
        "*:8_0",
        "*:٨٠",
        "::1:8000",
        "[::1]",
        "[127.0.0.1]:80",
        "[::1:80",
        "256.0.0.1:80",
        "1.2.3:80",
        "a b:80",
        "-a:80",
        "a..b:80",
        "http://x:80",
        "**:80",
    ],
)
def test_what_is_no_address_is_refused_with_its_text(text: str) -> None:
    """The sentence shows what was written."""
    with pytest.raises(ValueError, match="must ") as caught:
        parse_address(text)

    assert repr(text) in str(caught.value)


def test_an_ipv6_address_without_brackets_says_so() -> None:
    """The commonest mistake has a sentence of its own."""
    with pytest.raises(ValueError, match="in brackets"):
        parse_address("::1:8000")


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"]
)
def test_loopback_is_known_in_all_its_forms(host: str) -> None:
    """Loopback is a network in IPv4, and IPv4 addresses can be written as IPv6."""
    assert Address(host, 1).is_loopback


@pytest.mark.parametrize("host", ["*", "0.0.0.0", "::", "10.0.0.1", "pg-0", "127.0.0.1.nip.io"])
def test_everything_else_is_not_loopback(host: str) -> None:
    """A name may lead anywhere, whatever it looks like."""
    assert not Address(host, 1).is_loopback


@pytest.mark.parametrize(("host", "expected"), [("*", True), ("0.0.0.0", True), ("::", True)])
def test_addresses_that_mean_all_are_known(host: str, expected: bool) -> None:
    """The unspecified address of either family stands for every address."""
    assert Address(host, 1).is_any is expected


def test_one_address_is_not_all() -> None:
    """A listener of one address leaves the port free on others."""
    assert not Address("127.0.0.1", 1).is_any


@given(st.ip_addresses(), PORTS)
def test_an_address_survives_being_written_and_parsed(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    """The text of an address parses to the same address."""
    address = Address(str(ip), port)

    assert parse_address(str(address)) == address


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    """No text makes the parser fail in another way."""
    try:
        address = parse_address(text)
    except ValueError:
        return

    assert 1 <= address.port <= 65535
