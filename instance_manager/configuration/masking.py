"""Secrets in a configuration document: hidden in answers, and put back in what comes in. Pure.

Known places: passwords in connection strings and URIs, those of access rules, commands that print
a passphrase, and variables of volumes whose names say so.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import unquote

from instance_manager.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MASK: Final = "********"

_WHOLE: Final = frozenset({"ssl_passphrase_command"})
_NAME: Final = (
    r"[\w-]{0,40}(?:password|passwd|secret|token|secret_access_key|api_?key)|radiussecrets"
)
_WORD: Final = re.compile(
    rf"(?i)\b((?:{_NAME})\"?\s*=\s*)"
    r"(?:'(?:[^'\\]|\\.|'')*'|\"(?:[^\"]|\"\")*\"|\\.|[^\s\\])+"
)
"""What a name that speaks of a secret is set to, in a connection string, a rule or a command.

It goes on to the next space that is not within quotes or behind a backslash.
"""
_IN_URI: Final = re.compile(r"([?&])([^\s=&?]{1,200})=([^\s&]+)")
_BEARER: Final = re.compile(r"(?i)\b((?:bearer|basic)\s+)[a-z0-9._~+/-]{8,}=*")
_OPTION: Final = re.compile(
    r'("(?:ldapbindpasswd|radiussecrets|oauth_client_secret)=)((?:[^"]|"")+)(?="|$)', re.IGNORECASE
)
"""An option of an access rule within quotes: its value goes on to the closing one."""
# Bounded: else one long word would take the square of its length.
_URI: Final = re.compile(r"\b([a-z][a-z0-9+.-]{0,31}://[^\s:/@]*:)[^\s@/]+(?=@)", re.IGNORECASE)
_SECRET_VARIABLE: Final = re.compile(r"(?i)passw|secret|token|credential|private|api_?key")


def mask_text(text: str) -> str:
    """Return *text* with the passwords in it hidden."""
    # _OPTION first: its value may hold blanks, at which the next one would stop.
    for pattern in (_OPTION, _WORD, _BEARER, _URI):
        text = pattern.sub(rf"\g<1>{MASK}", text)
    # Names without percent signs have been found by the patterns before.
    return _IN_URI.sub(_without_secret, text) if "%" in text else text


def _without_secret(found: re.Match[str]) -> str:
    """Mask a parameter of a URI whose name is written in percent signs."""
    is_secret = _SECRET_VARIABLE.search(unquote(found[2])) and found[3] != MASK
    return f"{found[1]}{found[2]}={MASK}" if is_secret else found[0]


def mask_value(name: str, value: str) -> str:
    """Return the value of the parameter *name* with what is secret in it hidden."""
    # A command may print the secret in any form, so that nothing of it is safe to show.
    return MASK if name.lower() in _WHOLE and value else mask_text(value)


def mask_document(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a whole document with what is secret in it hidden."""
    return {
        **document,
        "parameters": {
            name: mask_value(name, value) for name, value in document["parameters"].items()
        },
        "hba": [mask_text(line) for line in document["hba"]],
        "ident": [mask_text(line) for line in document["ident"]],
        "volumes": [_mask_volume(volume) for volume in document["volumes"]],
    }


def _mask_volume(volume: Mapping[str, Any]) -> dict[str, Any]:
    if "env" not in volume:
        return dict(volume)
    return {**volume, "env": [_mask_variable(one) for one in volume["env"]]}


def _mask_variable(variable: Mapping[str, Any]) -> dict[str, Any]:
    # A variable's value is free text: only its name tells.
    is_secret = _SECRET_VARIABLE.search(str(variable["name"]))
    value = str(variable["value"])
    return {**variable, "value": MASK if is_secret and value else mask_text(value)}


def unmask_document(document: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document with the secrets of the *current* one where it has their masks.

    So what was read may be sent back with other parts changed. A mask stands for the secret of the
    same parameter, rule or variable; anywhere else it stays (see :func:`mask_problems`).
    """
    return {
        **document,
        **_unmasked_parameters(document, current),
        **{
            key: _unmask_lines(document[key], current[key])
            for key in ("hba", "ident")
            if isinstance(document.get(key), list)
        },
        **_unmasked_volumes(document, current),
    }


def _unmasked_parameters(
    document: Mapping[str, Any], current: Mapping[str, Any]
) -> dict[str, Any]:
    # What is no map stays, to be refused by those who judge it.
    parameters = _mapping(document.get("parameters"))
    if not parameters:
        return {}
    known = current["parameters"]
    return {
        "parameters": {
            name: _restored(value, known[name], mask_value(name, known[name]))
            if name in known
            else value
            for name, value in parameters.items()
        }
    }


def _restored(value: Any, old: str, masked: str) -> Any:
    return old if value == masked else value


def _mapping(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return [*value] if isinstance(value, list) else []


def _unmask_lines(lines: Iterable[Any], current: Iterable[str]) -> list[Any]:
    """Put secrets back; lines that look alike masked are told apart by their order.

    Where one of them was added or taken away nobody can tell which: their masks stay.
    """
    lines = [*lines]
    secrets: dict[str, list[str]] = {}
    for line in current:
        if (masked := mask_text(line)) != line:
            secrets.setdefault(masked, []).append(line)
    left = {
        masked: iter(known)
        for masked, known in secrets.items()
        # Equal secrets can be put back in any order, and as many times as the line stands there.
        if len(set(known)) == 1 or lines.count(masked) == len(known)
    }
    return [
        next(left[line], secrets[line][-1]) if isinstance(line, str) and line in left else line
        for line in lines
    ]


def _unmasked_volumes(document: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, Any]:
    volumes = _list(document.get("volumes"))
    if not volumes:
        return {}
    known = {
        (volume["name"], variable["name"]): variable
        for volume in current["volumes"]
        for variable in volume.get("env", ())
    }
    return {"volumes": [_unmask_volume(volume, known) for volume in volumes]}


def _unmask_volume(volume: Any, known: Mapping[tuple[Any, Any], Mapping[str, Any]]) -> Any:
    given = _mapping(volume)
    env = _list(given.get("env"))
    if not env:
        return volume
    return {**given, "env": [_unmask_variable(given, one, known) for one in env]}


def _unmask_variable(
    volume: Mapping[str, Any], variable: Any, known: Mapping[tuple[Any, Any], Mapping[str, Any]]
) -> Any:
    names = (volume.get("name"), _mapping(variable).get("name"))
    old = known.get(names) if all(isinstance(name, str) for name in names) else None
    return old if old is not None and variable == _mask_variable(old) else variable


def mask_problems(document: Mapping[str, Any]) -> Iterator[Problem]:
    """Find masks that stand for no secret: they must not become one."""
    yield from _masks("", document)


def _masks(path: str, value: Any) -> Iterator[Problem]:
    # Written to the server, the mask would be a password that everybody knows.
    if isinstance(value, str) and MASK in value:
        yield Problem(
            path, f"holds {MASK}, which stands for a secret that is not here: send the secret"
        )
    for name, item in (*_mapping(value).items(), *enumerate(_list(value))):
        yield from _masks(f"{path}.{name}".lstrip("."), item)
