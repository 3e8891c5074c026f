"""Who may ask: a gate for each listener.

On the unix socket the kernel says who the peer is. On TCP a bearer token or a client certificate
does; on loopback without a token a few readings are open, but only for a ``Host`` of loopback,
since a web page in a browser on the same machine can send requests there too. The health listener
is open, and serves nothing else.
"""

from __future__ import annotations

import hmac
import socket
import struct
from array import array
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, Protocol

from aiohttp import hdrs, web

from instance_manager.api.callers import CALLER, Caller
from instance_manager.api.problems import RequestCode, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from aiohttp.typedefs import Handler, Middleware

    Certificate = Mapping[str, str | tuple[tuple[str, str], ...]]

SO_PEERGROUPS: Final = 59
"""asm-generic/socket.h: the supplementary groups that the peer had when it connected."""

_CREDENTIALS: Final = struct.Struct("3i")
"""``struct ucred``, unix(7): process, user and group id."""

_GROUPS_BYTES: Final = 1024
"""As much as Python's ``getsockopt`` takes: 256 groups."""


class Access(StrEnum):
    """What a caller needs for a route of the control listeners."""

    READER = "reader"
    """Open on loopback without a token."""
    OPERATOR = "operator"
    """Needs proof, always."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a unix socket, by the kernel's word."""

    pid: int
    uid: int
    groups: frozenset[int]


class Gate(Protocol):
    """Decides who may ask on one listener."""

    def admit(self, request: web.Request, access: Access) -> Caller:
        """Return who asks.

        Raises:
            RequestError: 401 where a credential is missing or wrong, 403 where none would help.
        """
        ...


class OpenGate:
    """Admits everyone: what is served behind it is meant for everyone."""

    def admit(self, request: web.Request, access: Access) -> Caller:
        """Return the nameless caller."""
        del request, access
        return Caller("anonymous", is_proven=False)


class SocketGate:
    """Admits some users, and members of one group, by the peer's credentials."""

    def __init__(self, users: Collection[int], group: int | None) -> None:
        self._users = frozenset(users)
        self._group = group

    def admit(self, request: web.Request, access: Access) -> Caller:
        """Return the caller by user and process id."""
        del access
        connection: socket.socket | None = request.get_extra_info("socket")
        peer = read_peer(connection) if connection is not None else None
        if peer is None or not (peer.uid in self._users or self._group in peer.groups):
            who = f"user {peer.uid}" if peer else "an unknown user"
            raise RequestError(
                RequestCode.FORBIDDEN,
                f"{who} may not use this socket",
                hint="use the manager's user, root, or a member of control.group",
            )
        return Caller(f"uid={peer.uid} pid={peer.pid}")


class TcpGate:
    """Admits bearers of the token and of certificates, and readers on loopback without a token.

    *token* is asked at each request, so that it may change; None where none is set. *trusts* says
    whether client certificates count on a connection, by its TLS context; None where never.
    """

    def __init__(
        self,
        *,
        token: Callable[[], str | None],
        loopback: bool,
        trusts: Callable[[object], bool] | None,
    ) -> None:
        self._token = token
        self._loopback = loopback
        self._trusts = trusts

    def admit(self, request: web.Request, access: Access) -> Caller:
        """Return the caller by what was shown."""
        certificate: Certificate | None = request.get_extra_info("peercert")
        # A certificate that the TLS library has passed was signed by the authorities of that
        # context.
        if self._trusts is not None and certificate:
            if self._trusts(request.get_extra_info("sslcontext")):
                return Caller(f"certificate {subject_of(certificate)!r}{origin_of(request)}")
            # It ends with the answer: on a new one, the authorities of today judge it.
            request.protocol.close()
        token = self._token()
        # Where something authenticates, nobody reads without it, on loopback neither.
        if token is None and self._loopback and self._trusts is None:
            return self._admit_reader(request, access)
        given = bearer_token(request.headers.getall(hdrs.AUTHORIZATION, []))
        if token is not None and given is not None and is_same_secret(given, token):
            return Caller(f"token{origin_of(request)}")
        raise _unauthenticated(wrong=given is not None)

    def _admit_reader(self, request: web.Request, access: Access) -> Caller:
        # DNS rebinding: a page of any site may have its name lead to 127.0.0.1, but its Host stays
        # that name.
        if not is_loopback_host(request.headers.getall(hdrs.HOST, [])):
            raise RequestError(
                RequestCode.FORBIDDEN,
                "without a token, only the hosts localhost, 127.0.0.1 and [::1] are served",
                hint="set control.token_file, or ask by one of these names",
            )
        if access is not Access.READER:
            raise RequestError(
                RequestCode.FORBIDDEN,
                f"{request.method} {request.path} needs a token, and none is set",
                hint="set control.token_file, or use the unix socket",
            )
        return Caller(f"anonymous{origin_of(request)}", is_proven=False)


def origin_of(request: web.Request) -> str:
    """Say where a caller over TCP is: a token may be used from anywhere."""
    peer: tuple[str, int] | None = request.get_extra_info("peername")
    return f" from {peer[0]}" if peer else ""


def read_peer(connection: socket.socket) -> Peer:
    """Return who connected; the credentials are those of the moment of connect(2).

    A peer in more than 256 groups counts by its primary group alone.
    """
    # The kernel's word: nothing that the peer sends can change it.
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    groups = array("I")
    try:
        groups.frombytes(connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, _GROUPS_BYTES))
    except OSError:
        # ERANGE: more groups than fit. Too few rights are better than too many.
        groups = array("I")
    return Peer(pid, uid, frozenset({gid, *groups}))


def bearer_token(headers: list[str]) -> str | None:
    """Return the token of the one ``Authorization`` header (RFC 6750); None for any other."""
    # Two might be read otherwise by whatever stands before us.
    if len(headers) != 1:
        return None
    scheme, _, token = headers[0].strip().partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def is_same_secret(given: str, expected: str) -> bool:
    """Compare in a time that tells neither the content nor the length. Empty is never the same."""
    # compare_digest() tells the length; two hashes have the same.
    one, other = (sha256(text.encode("utf-8", "surrogateescape")) for text in (given, expected))
    return hmac.compare_digest(one.digest(), other.digest()) and bool(expected)


def is_loopback_host(headers: list[str]) -> bool:
    """Return whether the one ``Host`` header names this machine by a loopback name or address."""
    if len(headers) != 1:
        return False
    host, port = split_host(headers[0])
    if port and not (port.isascii() and port.isdecimal()):
        return False
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def split_host(text: str) -> tuple[str, str]:
    """Return host and port of a ``Host`` header; the brackets of an IPv6 address are dropped.

    What is neither gives an empty host.
    """
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        well_formed = bracket and ":" in host and (not rest or rest.startswith(":"))
        return (host, rest[1:]) if well_formed else ("", "")
    host, _, port = text.partition(":")
    return host, port


def subject_of(certificate: Certificate) -> str:
    """Return a name for the bearer of a verified certificate: its first alternative name.

    The form is that of ``ssl.SSLSocket.getpeercert``; a certificate without alternative names is
    called by its serial number.
    """
    names = certificate.get("subjectAltName")
    if isinstance(names, tuple) and names:
        kind, value = names[0]
        return f"{kind}:{value}"
    return f"serial:{certificate.get('serialNumber')}"


def authenticate(gate: Gate, access_of: Mapping[web.AbstractRoute, Access]) -> Middleware:
    """Return the middleware that lets requests pass through *gate*.

    What leads nowhere is treated as a reading: whoever may not read must not learn what exists.
    """

    @web.middleware
    async def admit(request: web.Request, handler: Handler) -> web.StreamResponse:
        access = access_of.get(request.match_info.route, Access.READER)
        # aiohttp answers each request in a task of its own, so that the context is its own too.
        CALLER.set(gate.admit(request, access))
        return await handler(request)

    return admit


def _unauthenticated(*, wrong: bool) -> RequestError:
    # RFC 6750, 3: no error code where no credential was sent.
    challenge = 'Bearer realm="instance-manager"' + (', error="invalid_token"' if wrong else "")
    return RequestError(
        RequestCode.UNAUTHENTICATED,
        "the token is wrong" if wrong else "a token or a client certificate is needed",
        headers={hdrs.WWW_AUTHENTICATE: challenge},
    )
