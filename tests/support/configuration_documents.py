"""Configuration documents of any content, made of what a server says of its own parameters."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, Final

PARAMETERS: Final = """
SELECT name, vartype, min_val, max_val, coalesce(enumvals, '{}'), coalesce(boot_val, '')
  FROM pg_settings WHERE context <> 'internal' AND category <> 'Developer Options' ORDER BY name
"""
"""Those of developers have values that keep every client waiting for an hour."""
TRUST: Final = "host all all 127.0.0.1/32 trust"
_WRONG: Final = ("", "x'y", "ü\n", "nonsense", "(", "1e9", "-7", "8XB", "0x10", "2147483648")
_WORDS: Final = ("x", "*", "a, b", '"$user", public', "ISO, DMY", "UTC", "C", "FIRST 1 (a, b)")
_RULES: Final = (
    "# nothing",
    "local all all trust",
    "host all all ::1/128 md5",
    'local "a b" +c reject',
    "host all all 10.0.0.0/40 md5",
    "host all all all peer",
    "nonsense",
)
_IDENTS: Final = ("m a b", "# x", "m a")
_LIBRARIES: Final = ("pg_stat_statements", "auto_explain", "nosuchlib")
_SELDOM: Final = 0.15

Row = tuple[str, str, str | None, str | None, Sequence[str], str]


def documents(rows: Sequence[Row], count: int) -> Iterator[dict[str, Any]]:
    """Yield so many documents, the same ones each time; *rows* are those of PARAMETERS."""
    for number in range(count):
        yield _document(rows, random.Random(number))  # noqa: S311 - no secret


def _document(rows: Sequence[Row], chance: random.Random) -> dict[str, Any]:
    chosen = chance.sample(rows, chance.randint(1, 3))
    return {
        "parameters": {row[0]: _value(row, chance) for row in chosen},
        "hba": [TRUST, *_seldom(_RULES, chance)],
        "ident": _seldom(_IDENTS, chance),
        "shared_preload_libraries": _seldom(_LIBRARIES, chance),
    }


def _seldom(choices: Sequence[str], chance: random.Random) -> list[str]:
    return [chance.choice(choices)] if chance.random() < _SELDOM else []


def _value(row: Row, chance: random.Random) -> str:
    _, kind, low, high, words, usual = row
    if chance.random() < _SELDOM:
        return chance.choice(_WRONG)
    if kind == "bool":
        return chance.choice(("on", "off"))
    if kind == "enum":
        return chance.choice(words)
    if low is None or high is None:
        return chance.choice((usual, *_WORDS))
    return chance.choice((low, high, usual, *_between(kind, float(low), float(high), chance)))


def _between(kind: str, low: float, high: float, chance: random.Random) -> tuple[str, ...]:
    """Return numbers of any magnitude between the bounds, and one beyond them."""
    near = low + (high - low) * 10 ** chance.uniform(-9, 0)
    values = (near, low + chance.randint(0, 300), high * 2 + 1)
    return tuple(f"{value:.0f}" if kind == "integer" else f"{value:g}" for value in values)
