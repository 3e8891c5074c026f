"""The answers of ``/livez`` beside a crowd: idle connections, and handshakes that never finish.

The bare loop has the same crowd at its own door; it speaks no TLS, so that there all are silent.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import trustme

from tests.bench.contestants import Site
from tests.bench.probe_figures import Answers, Crowding
from tests.bench.probing import RATE, ask, bare_loop, rotated

IDLE: Final = 500
HANDSHAKES: Final = 100
_HELLO: Final = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
"""The beginning of a record with a ClientHello; the rest never comes."""
_LOOK_SECONDS: Final = 0.5
_DEADLINE_SECONDS: Final = 30.0


def measure_crowd(site: Site, rounds: int, seconds: float, *, rate: float = RATE) -> Crowding:
    """Ask both by turns, each with and without its crowd."""
    took: dict[str, list[list[float | None]]] = defaultdict(list)
    _speak_tls(site)
    with ExitStack() as stack:
        stack.enter_context(site.managed())
        site.until_ready()
        bare = stack.enter_context(bare_loop())
        asked = {"manager": (site.health_port, "/livez"), "bare loop": (bare, "/")}
        for turn in range(rounds):
            for name in rotated(list(asked), turn):
                took[f"{name}, alone"].append(ask(*asked[name], rate, seconds))
        with _crowds(site, bare) as crowds:
            for turn in range(rounds):
                for name in rotated(list(asked), turn):
                    took[name].append(ask(*asked[name], rate, seconds))
            returned = sum(one.returned for one in crowds)
    answers = {name: Answers.of(values) for name, values in took.items()}
    return Crowding(rate, IDLE, HANDSHAKES, returned, answers)


def _speak_tls(site: Site) -> None:
    """Give the control listener a certificate, for the handshakes to wait for."""
    issued = trustme.CA().issue_cert("localhost", key_type=trustme.KeyType.ECDSA)
    token, certificate, key = (site.directory / name for name in ("token", "tls.crt", "tls.key"))
    token.write_text("bench\n")
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    owner = site.directory.stat()
    for file in (token, certificate, key):
        file.chmod(0o600)
        os.chown(file, owner.st_uid, owner.st_gid)
    site.settings["control"] |= {
        "token_file": str(token),
        "tls": {"certificate_file": str(certificate), "key_file": str(key)},
    }


class _Crowd:
    """Connections that are kept up: who is thrown out comes back."""

    def __init__(self, port: int, number: int, say: bytes = b"") -> None:
        self.returned = 0
        """How often one had to come back."""
        self._address = ("127.0.0.1", port)
        self._say = say
        self._members = [self._member() for _ in range(number)]

    def look(self) -> None:
        """Replace those whom the other side has closed."""
        for place, one in enumerate(self._members):
            if _is_closed(one):
                one.close()
                self._members[place] = self._member()
                self.returned += 1

    def leave(self) -> None:
        """Close all of them."""
        for one in self._members:
            one.close()

    def _member(self) -> socket.socket:
        made = socket.create_connection(self._address, _DEADLINE_SECONDS)
        made.setblocking(False)
        if self._say:
            made.send(self._say)
        return made


def _is_closed(one: socket.socket) -> bool:
    try:
        return one.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


@contextmanager
def _crowds(site: Site, bare: int) -> Iterator[list[_Crowd]]:
    """Yield the crowds of both, at their full size all the while."""
    crowds = [
        _Crowd(site.health_port, IDLE),
        _Crowd(site.control_port, HANDSHAKES, _HELLO),
        _Crowd(bare, IDLE + HANDSHAKES),
    ]
    over = threading.Event()

    def keep_up() -> None:
        while not over.wait(_LOOK_SECONDS):
            for one in crowds:
                one.look()

    keeper = threading.Thread(target=keep_up)
    keeper.start()
    try:
        yield crowds
    finally:
        over.set()
        keeper.join()
        for one in crowds:
            one.leave()
