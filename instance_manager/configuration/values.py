"""What a value of a parameter means to the server, however it is written. Pure.

Source: parse_int(), parse_real() and parse_bool() of guc.c and bool.c.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_BYTES: Final = {"B": 1, "kB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}
_MICROSECONDS: Final = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "min": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
}
_WORDS: Final = {True: ("true", "yes"), False: ("false", "no")}
# A lone "o" could be the beginning of both "on" and "off", and is neither.
_SHORTEST: Final = {"on": True, "of": False, "off": False, "1": True, "0": False}
_NUMBER: Final = re.compile(
    r"\s*([+-]?(?:0[xX][0-9a-fA-F]+|[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,3})?"
    r"|\.[0-9]+(?:[eE][+-]?[0-9]{1,3})?))\s*([A-Za-z]*)\s*"
)
_UNIT: Final = re.compile(r"([0-9]*)([A-Za-z]+)")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the running server, as pg_settings tells it; *unit* may be empty."""

    context: str
    kind: str = "string"
    unit: str = ""
    value: str = ""

    def is_at(self, text: str) -> bool:
        """Whether the server has the value already that *text* stands for."""
        if self.kind == "bool":
            return flag(text) == flag(self.value) and flag(text) is not None
        if self.kind == "enum":
            # The server compares words of an enum without regard to case
            # (config_enum_lookup_by_name).
            return text.lower() == self.value.lower()
        if self.kind in {"integer", "real"}:
            given, has = self._number(text), self._number(self.value)
            return given == has and given is not None
        return text == self.value

    def _number(self, text: str) -> float | None:
        found = _NUMBER.fullmatch(text)
        scale = _scale(found[2], self.unit) if found else None
        if found is None or scale is None:
            return None
        number = _read(found[1], is_whole=self.kind == "integer") * scale
        # As parse_int does: "1.5GB" in MB is a whole number, and what is left is rounded.
        return float(round(number)) if self.kind == "integer" else number


def _read(digits: str, *, is_whole: bool) -> float:
    """Return what digits say: a whole number may be written in octal and hexadecimal, as in C."""
    if "x" in digits.lower():
        return float(int(digits, 16))
    if is_whole and re.fullmatch(r"[+-]?0[0-7]+", digits):
        return float(int(digits, 8))
    return float(digits)


def _scale(given: str, base: str) -> float | None:
    """Return how many *base* units one *given* unit is; None where they don't compare."""
    if not given:
        return 1.0
    # The base may be several of a unit: shared_buffers has 8kB.
    found = _UNIT.fullmatch(base)
    for units in (_BYTES, _MICROSECONDS):
        if found is not None and given in units and found[2] in units:
            return units[given] / (units[found[2]] * int(found[1] or 1))
    return None


def flag(text: str) -> bool | None:
    """Return what a word for yes or no says, shortened or not; None for any other."""
    word = text.strip().lower()
    for flag, names in _WORDS.items():
        if word and any(name.startswith(word) for name in names):
            return flag
    return _SHORTEST.get(word)
