"""CRC-32C (Castagnoli), with which PostgreSQL guards its control file.

Four bits at a time: its table is made in microseconds, and a few hundred bytes take less than a
table for whole bytes takes to make. Source: RFC 3720, appendix B.4; src/include/port/pg_crc32c.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_POLYNOMIAL: Final = 0x82F63B78
"""Reflected: the lowest bit comes first."""
_ALL_ONES: Final = 0xFFFFFFFF


def _remainder(nibble: int) -> int:
    for _ in range(4):
        nibble = nibble >> 1 ^ (_POLYNOMIAL if nibble & 1 else 0)
    return nibble


_TABLE: Final = tuple(map(_remainder, range(16)))


def of_prefixes(content: bytes) -> Iterator[int]:
    """Yield the checksum of the first byte, of the first two, and so on to the whole."""
    table, crc = _TABLE, _ALL_ONES
    for byte in content:
        crc ^= byte
        crc = crc >> 4 ^ table[crc & 15]
        crc = crc >> 4 ^ table[crc & 15]
        yield crc ^ _ALL_ONES
