"""What a client over TCP may be made of."""

from __future__ import annotations

import pytest

from instance_manager.client import Client

ADDRESSES = ("http://a:1", "http://a:1/", "https://a", "https://[::1]:8000")
OTHERS = (
    "",
    "a:8000",
    "ftp://a",
    "http://",
    "http://a:99999",
    "http://a:1/v1",
    "http://a:1?b",
    "https://user:word@a:1",
)


@pytest.mark.parametrize("url", ADDRESSES)
def test_an_address_is_taken(url: str) -> None:
    """With a name or a number, with a slash at the end and without."""
    assert isinstance(Client.tcp(url, token="a b"), Client)


@pytest.mark.parametrize("url", OTHERS)
def test_what_is_no_address_is_told_before_anything_is_sent(url: str) -> None:
    """A path would be lost without a word; a missing scheme would look like a lost server."""
    with pytest.raises(ValueError, match="not an address"):
        Client.tcp(url)


@pytest.mark.parametrize("token", ["", "a\n", " a", "a\r\nb", "a\0"])
def test_a_token_as_it_stood_in_its_file_is_refused(token: str) -> None:
    """And not shown."""
    with pytest.raises(ValueError, match=r"^the token is empty, or has white space around it"):
        Client.tcp("https://a", token=token)
