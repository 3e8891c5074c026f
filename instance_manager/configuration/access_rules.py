"""Whether lines of pg_hba.conf and pg_ident.conf can be read by the server. Pure.

The server reads all its rules or none: at a reload with one wrong line the rules before stay, and
at a start it ends. So each line is read here first, as ``parse_hba_line`` and ``parse_ident_line``
of hba.c do. What needs another file is refused: it would lie outside of what is checked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from instance_manager.configuration.hba import FIRST_MAJOR_WITH_INCLUDE
from instance_manager.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_FIRST_MAJOR_WITH_OAUTH: Final = 18
_TYPES: Final = frozenset({"local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"})
_INCLUDES: Final = frozenset({"include", "include_if_exists", "include_dir"})
_WORDS_FOR_ADDRESSES: Final = frozenset({"all", "samehost", "samenet"})
_LDAP: Final = (
    *("ldapurl", "ldaptls", "ldapscheme", "ldapserver", "ldapport", "ldapbinddn"),
    *("ldapbindpasswd", "ldapsearchattribute", "ldapsearchfilter", "ldapbasedn"),
    *("ldapprefix", "ldapsuffix"),
)
_OPTIONS: Final = {
    "trust": (),
    "reject": (),
    "md5": (),
    "scram-sha-256": (),
    "password": (),
    "gss": ("map", "include_realm", "krb_realm"),
    "ident": ("map",),
    "peer": ("map",),
    "pam": ("pamservice", "pam_use_hostname"),
    "ldap": _LDAP,
    "radius": ("radiusservers", "radiussecrets", "radiusports", "radiusidentifiers"),
    "cert": ("map",),
    "oauth": ("issuer", "scope", "validator", "map", "delegate_ident_mapping"),
}
"""The methods of a server on Linux, and the options that each knows."""
_REQUIRED: Final = {
    "ldap": (("ldapserver", "ldapurl"), ("ldapbasedn", "ldapprefix", "ldapsuffix", "ldapurl")),
    "radius": (("radiusservers",), ("radiussecrets",)),
    "oauth": (("issuer",), ("scope",)),
}
_SEARCH: Final = frozenset(
    {"ldapbasedn", "ldapbinddn", "ldapbindpasswd", "ldapsearchattribute", "ldapsearchfilter"}
)
_EITHER: Final = {
    "ldap": (
        (frozenset({"ldapprefix", "ldapsuffix"}), _SEARCH),
        (frozenset({"ldapsearchattribute"}), frozenset({"ldapsearchfilter"})),
    ),
}
"""Options that exclude each other: one way of LDAP looks a user up, the other makes the name."""
_ONE_OR_AS_MANY: Final = ("radiussecrets", "radiusports", "radiusidentifiers")
"""Lists that have one item for all of the servers, or one for each."""
_WITH_TLS: Final = ("clientcert", "clientname")
_CHOICES: Final = {
    "clientcert": ("verify-ca", "verify-full"),
    "clientname": ("CN", "DN"),
}
_BITS: Final = {4: 32, 6: 128}
"""Of an address, by the version of IP."""
_TOKEN: Final = re.compile(r'(?:"(?:[^"]|"")*(?:"|$)|[^ \t\r,#"])+')
_GAP: Final = re.compile(r"[ \t\r,]*")
_QUOTED: Final = re.compile(r'"((?:[^"]|"")*)(?:"|$)')
# MAX_TOKEN of hba.c with its NUL; newer servers have no such limit.
_TOKEN_LIMIT_BYTES: Final = 10240 - 1


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    quoted: bool = False


class _WrongLineError(Exception):
    pass


def hba_problems(lines: Sequence[str], path: str, major: int) -> Iterator[Problem]:
    """Find lines that a server of *major* would not take as access rules.

    *path* is the key where they stand.
    """
    yield from _problems(lines, path, lambda fields: _check_rule(fields, major))


def ident_problems(lines: Sequence[str], path: str, major: int) -> Iterator[Problem]:
    """Find lines that a server of *major* would not take as maps of user names."""
    yield from _problems(lines, path, lambda fields: _check_map(fields, major))


def _problems(
    lines: Sequence[str], path: str, check: Callable[[list[list[_Token]]], None]
) -> Iterator[Problem]:
    for index, line in enumerate(lines):
        try:
            if fields := _fields(line):
                check(fields)
        except _WrongLineError as error:
            yield Problem(f"{path}.{index}", str(error))


def _fields(line: str) -> list[list[_Token]]:
    """Part a line into fields, and fields into the tokens that commas join (hba.c, next_token)."""
    fields: list[list[_Token]] = []
    continues, position = False, _end_of_gap(line, 0)
    while position < len(line) and line[position] != "#":
        found = _TOKEN.match(line, position)
        assert found is not None  # noqa: S101 - what is no gap and no comment is a token
        token = _token(found[0])
        if continues:
            fields[-1].append(token)
        else:
            fields.append([token])
        # A comma makes a list only directly behind a token; elsewhere it is a gap like a blank.
        continues = line[found.end() : found.end() + 1] == ","
        position = _end_of_gap(line, found.end())
    return fields


def _end_of_gap(line: str, position: int) -> int:
    found = _GAP.match(line, position)
    return position if found is None else found.end()


def _token(raw: str) -> _Token:
    text = _QUOTED.sub(lambda quoted: quoted[1].replace('""', '"'), raw)
    if len(text.encode(errors="surrogateescape")) > _TOKEN_LIMIT_BYTES:
        raise _WrongLineError(f"holds a word of more than {_TOKEN_LIMIT_BYTES} bytes")
    # Only quotes at the beginning keep a word from being a keyword, as initial_quote does in
    # hba.c.
    return _Token(text, raw.startswith('"'))


def _check_rule(fields: list[list[_Token]], major: int) -> None:
    kind = _single(fields[0], "the type of connection").text
    _refuse_include(kind, major)
    if kind not in _TYPES:
        raise _WrongLineError(
            f"begins with {kind!r}, which is no type of connection: use one of"
            f" {', '.join(sorted(_TYPES))}"
        )
    rest = fields[1:]
    for what in ("a database", "a user"):
        if not rest:
            raise _WrongLineError(f"ends before {what}")
        _check_names(rest.pop(0), what)
    if kind != "local":
        _check_address(rest)
    if not rest:
        raise _WrongLineError("ends before the method")
    method = _single(rest.pop(0), "the method").text
    _check_method(kind, method, major)
    _check_options(kind, method, rest)


def _refuse_include(word: str, major: int) -> None:
    # To an older server the word is a type that it does not know, which is said below.
    if word in _INCLUDES and major >= FIRST_MAJOR_WITH_INCLUDE:
        raise _WrongLineError(
            f"{word} would read another file, which is not checked here: write its lines out"
        )


def _check_names(tokens: list[_Token], what: str) -> None:
    for token in tokens:
        if _is_file(token):
            raise _WrongLineError(
                f"{token.text!r} would read {what}'s names from a file, which is not checked here:"
                " write them out, or put quotes around the name"
            )


def _is_file(token: _Token) -> bool:
    # In every field (next_field_expand in hba.c). A lone @ is a name to the server.
    return token.text.startswith("@") and not token.quoted and len(token.text) > 1


def _check_address(rest: list[list[_Token]]) -> None:
    if not rest:
        raise _WrongLineError("ends before the address")
    token = _single(rest.pop(0), "the address")
    if token.text in _WORDS_FOR_ADDRESSES and not token.quoted:
        return
    if _is_file(token):
        raise _WrongLineError(
            f"{token.text!r} would read the address from a file, which is not checked here:"
            " write it out, or put quotes around the name"
        )
    address, slash, length = token.text.partition("/")
    family = _family(address)
    # What is no address may be a host's name, which no grammar bounds.
    if family is None:
        if slash:
            raise _WrongLineError(
                f"has the address {token.text!r}: a host name has no mask, and this is no address"
            )
    elif slash:
        _check_length(token.text, length, family)
    else:
        _check_mask(token.text, rest, family)


def _check_length(address: str, length: str, family: int) -> None:
    if not re.fullmatch("[0-9]{1,3}", length) or int(length) > _BITS[family]:
        raise _WrongLineError(
            f"has the address {address!r}: after the slash stands a number up to {_BITS[family]}"
        )


def _check_mask(address: str, rest: list[list[_Token]], family: int) -> None:
    """An address without a length has its mask in the next field."""
    mask = _single(rest.pop(0), "the mask").text if rest else ""
    if _family(mask) != family:
        raise _WrongLineError(
            f"has the address {address!r} without a mask: write {address}/{_BITS[family]} for it"
            " alone"
        )


def _family(text: str) -> int | None:
    try:
        # A zone follows a link-local address, and is the resolver's to judge.
        return ip_address(text.partition("%")[0]).version
    except ValueError:
        return None


def _check_method(kind: str, method: str, major: int) -> None:
    # A rule with a method that the server does not know takes all other rules with it.
    known = _OPTIONS.keys() - ({"oauth"} if major < _FIRST_MAJOR_WITH_OAUTH else set())
    if method not in known:
        raise _WrongLineError(f"has the method {method!r}: use one of {', '.join(sorted(known))}")
    if method == "gss" and kind == "local":
        raise _WrongLineError("has the method gss, which unix sockets don't know: use peer")
    # Not ident: on a unix socket, the server takes it for another word for peer.
    if method == "peer" and kind != "local":
        raise _WrongLineError("has the method peer, which only local connections know")
    if method == "cert" and kind != "hostssl":
        raise _WrongLineError("has the method cert, which only hostssl knows")


def _check_options(kind: str, method: str, fields: list[list[_Token]]) -> None:
    given: dict[str, str] = {}
    for token in (token for field in fields for token in field):
        name, equals, value = token.text.partition("=")
        if not equals:
            raise _WrongLineError(
                f"has {token.text!r} after the method: an option is written name=value"
            )
        _check_option(kind, method, name, value)
        given[name] = value
    for names in _REQUIRED.get(method, ()):
        if not given.keys() & set(names):
            raise _WrongLineError(
                f"has the method {method} without its option {' or '.join(names)}"
            )
    for one, other in _EITHER.get(method, ()):
        if (first := given.keys() & one) and (second := given.keys() & other):
            raise _WrongLineError(f"has {min(first)} beside {min(second)}: only one of them goes")
    if method == "radius":
        _check_counts(given)


def _check_counts(given: Mapping[str, str]) -> None:
    # Given, or the check of what is required would have ended this.
    servers = len(given["radiusservers"].split(","))
    for name in _ONE_OR_AS_MANY:
        count = len(given[name].split(",")) if name in given else 1
        if count not in {1, servers}:
            raise _WrongLineError(
                f"has {count} {name} for {servers} radiusservers: give one, or one for each"
            )


def _check_option(kind: str, method: str, name: str, value: str) -> None:
    if name in _WITH_TLS:
        if kind != "hostssl":
            raise _WrongLineError(f"has the option {name}, which only hostssl knows")
    elif name not in _OPTIONS[method]:
        known = ", ".join(_OPTIONS[method]) or "none"
        raise _WrongLineError(
            f"has the option {name!r}, which the method {method} does not know; it knows {known}"
        )
    choices = _CHOICES.get(name)
    if choices is not None and value not in choices:
        raise _WrongLineError(f"has {name}={value}: use {' or '.join(choices)}")
    if name == "clientcert" and method == "cert" and value != "verify-full":
        raise _WrongLineError("has the method cert with clientcert: only verify-full goes there")
    # The server reads it with atoi(), and refuses what comes to 0.
    if name == "ldapport" and not re.fullmatch(r"\s*[+-]?0*[1-9][0-9]*.*", value):
        raise _WrongLineError(f"has ldapport={value}: it is no port")


def _check_map(fields: list[list[_Token]], major: int) -> None:
    _refuse_include(fields[0][0].text, major)
    names = ("the map", "the system's user", "the user of the database")
    # The server reads three fields, and no more.
    for what, field in zip(names, fields, strict=False):
        token = _single(field, what)
        _check_names([token], what)
    if len(fields) < len(names):
        raise _WrongLineError(f"ends before {names[len(fields)]}")
    # It reads a file that a further one names all the same, and the map is lost with it.
    for field in fields[len(names) :]:
        _check_names(field, "the rest")


def _single(tokens: list[_Token], what: str) -> _Token:
    if len(tokens) > 1:
        raise _WrongLineError(f"has a list where {what} stands: only one is possible")
    return tokens[0]
