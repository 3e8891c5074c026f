"""What a standby must not have less of than its primary: it could not replay what that one wrote.

A standby that is started with less stops, or pauses its recovery. What the primary has is in the
control file, by WAL records of its own. Source: CheckRequiredParameterValues(), xlogrecovery.c.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from instance_manager.configuration.rendering import values_of
from instance_manager.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

DEFAULTS: Final[Mapping[str, int]] = {
    "max_connections": 100,
    "max_worker_processes": 8,
    "max_wal_senders": 10,
    "max_prepared_transactions": 0,
    "max_locks_per_transaction": 64,
}
"""The parameters, and what they are where nobody sets them."""

_IN_CONTROL_DATA: Final[Mapping[str, str]] = {
    "max_connections setting": "max_connections",
    "max_worker_processes setting": "max_worker_processes",
    "max_wal_senders setting": "max_wal_senders",
    "max_prepared_xacts setting": "max_prepared_transactions",
    "max_locks_per_xact setting": "max_locks_per_transaction",
}
_SIGNALS: Final = ("standby.signal", "recovery.signal")
_NUMBER: Final = re.compile(r"\s*[0-9]{1,10}\s*")


def is_standby(data_directory: Path) -> bool:
    """Whether a server starts there with a recovery from another's WAL. Blocks: for a thread.

    A recovery that ends at a point in time has the same limits as a standby.
    """
    return any((data_directory / name).exists() for name in _SIGNALS)


def required(control_data: str) -> dict[str, int]:
    """Return what the primary has, by the output of pg_controldata in English."""
    pairs = (line.partition(":") for line in control_data.splitlines())
    return {
        _IN_CONTROL_DATA[label]: int(value)
        for label, _, value in pairs
        if label in _IN_CONTROL_DATA and _NUMBER.fullmatch(value)
    }


def problems(before: str, after: str, required: Mapping[str, int]) -> Iterator[Problem]:
    """Find what would be less than the primary has, in the text of our file.

    What neither text sets is the business of the directory's own files.
    """
    old, new = values_of(before), values_of(after)
    for name, least in required.items():
        # What is taken out of the configuration falls back to the server's default.
        value = new.get(name, str(DEFAULTS[name])) if name in old | new else None
        given = _whole_number(value) if value is not None else None
        if given is not None and given < least:
            yield Problem(
                f"parameters.{name}",
                f"cannot be {given} on a standby: its primary has {least}; lower it there"
                " first, and here when that has arrived",
            )


def _whole_number(text: str) -> int | None:
    """Return what the server makes of *text*, or None for what it refuses (parse_int(), guc.c)."""
    try:
        # Octal as C writes it; hexadecimal, fractions and exponents as they are.
        octal = re.fullmatch(r"\s*([+-]?)0([0-7]+)\s*", text)
        if octal:
            return int(f"{octal[1]}{octal[2]}", 8)
        return int(text, 0) if "x" in text.lower() else round(float(text))
    except (ValueError, OverflowError):
        return None
