"""CRC-32C, against the values of its standard and a bit-by-bit computation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instance_manager.postgres import crc32c


def bit_by_bit(content: bytes) -> int:
    """Return the checksum as its definition says, one bit after another."""
    crc = 0xFFFFFFFF
    for byte in content:
        for bit in range(8):
            low = (crc ^ (byte >> bit)) & 1
            crc = crc >> 1 ^ (0x82F63B78 if low else 0)
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("content", "checksum"),
    [
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_the_values_of_the_standard_are_computed(content: bytes, checksum: int) -> None:
    """Those of RFC 3720, appendix B.4, and the usual check value."""
    assert list(crc32c.of_prefixes(content))[-1] == checksum


@given(st.binary(max_size=60))
def test_each_prefix_has_its_own_checksum(content: bytes) -> None:
    """One for each byte, in order."""
    assert list(crc32c.of_prefixes(content)) == [
        bit_by_bit(content[:length]) for length in range(1, len(content) + 1)
    ]
