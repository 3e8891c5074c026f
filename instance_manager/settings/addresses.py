"""Addresses of listeners, as text and parsed: ``*:8080``, ``127.0.0.1:8000``, ``[::1]:8000``.

Pure: nothing is resolved or bound here.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

ANY = "*"
_HOST_NAME = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*"
)
_PORT_LIMIT = 65535
_FORM = "write HOST:PORT, such as '*:8080', '127.0.0.1:8000' or '[::1]:8000'"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener listens. *host* is ``*`` for every address of both families.

    An IPv6 address stands here without its brackets; *port* is 1 to 65535.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_any(self) -> bool:
        """Whether every address of this host is meant, as ``*``, ``0.0.0.0`` and ``::`` do."""
        return self.host == ANY or self._holds("is_unspecified")

    @property
    def is_loopback(self) -> bool:
        """Whether only this host can reach it; of names, ``localhost`` alone counts."""
        return self.host == "localhost" or self._holds("is_loopback")

    def _holds(self, quality: str) -> bool:
        try:
            parsed = ipaddress.ip_address(self.host)
        except ValueError:
            return False
        # ::ffff:127.0.0.1 binds what 127.0.0.1 binds, but is no loopback address of IPv6.
        mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
        return bool(getattr(mapped or parsed, quality))


def parse_address(text: str) -> Address:
    """Parse ``HOST:PORT``.

    Raises:
        ValueError: with a sentence that says what is wrong and what to write.
    """
    # From the right: an IPv6 address has colons of its own.
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError(f"must be an address, not {text!r}: {_FORM}")
    return Address(_parse_host(host, text), _parse_port(port, text))


def _parse_host(host: str, text: str) -> str:
    if host == ANY:
        return host
    if host.startswith("[") and host.endswith("]"):
        return _parse_ip(host[1:-1], text, ipaddress.IPv6Address)
    if ":" in host:
        raise ValueError(f"must have its IPv6 address in brackets, not {text!r}: {_FORM}")
    # Digits and dots alone are meant as an address: 1.2.3 is no host's name.
    if not host.strip("0123456789."):
        return _parse_ip(host, text, ipaddress.IPv4Address)
    if not _HOST_NAME.fullmatch(host):
        raise ValueError(f"must be an address, not {text!r}: {_FORM}")
    return host


def _parse_ip(
    host: str, text: str, family: type[ipaddress.IPv4Address | ipaddress.IPv6Address]
) -> str:
    try:
        return str(family(host))
    except ValueError as err:
        raise ValueError(f"must be an address, not {text!r}: {err}") from None


def _parse_port(port: str, text: str) -> int:
    # int() also reads other digits, signs, spaces and underscores.
    number = int(port) if re.fullmatch(r"[0-9]{1,5}", port) else 0
    if not 1 <= number <= _PORT_LIMIT:
        raise ValueError(f"must end in a port between 1 and {_PORT_LIMIT}, not {text!r}: {_FORM}")
    return number
