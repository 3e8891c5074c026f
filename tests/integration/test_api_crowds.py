"""The real manager among callers that are many, silent and hostile; and what it never tells."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from instance_manager.api.routes import CONTROL_ROUTES, HEALTH_ROUTES
from tests.support.manager import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.manager import Manager

IDLE, HALF_OPEN = 500, 100
MANY_KIB = 64 * 1024
HEAD = b"POST /v1/postgres/stop HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture
def over_tls(manager: Manager) -> Manager:
    """Start a manager whose control listener speaks TLS."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", key_type=trustme.KeyType.ECDSA)
    directory = manager.directory
    issued.cert_chain_pems[0].write_to_path(directory / "tls.crt")
    issued.private_key_pem.write_to_path(directory / "tls.key")
    authority.cert_pem.write_to_path(directory / "ca.crt")
    (directory / "token").write_text("hunter2\n")
    owner = directory.stat()
    import os

    for name in ("tls.crt", "tls.key", "token"):
        (directory / name).chmod(0o600)
        os.chown(directory / name, owner.st_uid, owner.st_gid)
    manager.settings["control"] |= {
        "token_file": str(directory / "token"),
        "tls": {
            "certificate_file": str(directory / "tls.crt"),
            "key_file": str(directory / "tls.key"),
        },
    }
    return manager.start().until_ready()


@contextlib.contextmanager
def crowd(port: int, number: int, say: bytes = b"") -> Iterator[list[socket.socket]]:
    """Open connections that say something, or nothing, and wait."""
    with contextlib.ExitStack() as ends:
        opened: list[socket.socket] = []
        for _ in range(number):
            one = ends.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            with contextlib.suppress(OSError):
                one.sendall(say)
            opened.append(one)
        yield opened


def memory_kib(pid: int) -> int:
    """Return the memory that a process has for itself, and its part of what it shares."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)
    assert found is not None
    return int(found[1])


def tls_status(manager: Manager) -> int:
    """Ask over TLS and return the status."""
    context = ssl.create_default_context(cafile=manager.directory / "ca.crt")
    with (
        socket.create_connection(("localhost", manager.control_port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(
            b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer hunter2\r\n"
            b"Connection: close\r\n\r\n"
        )
        return int(connection.recv(100).split()[1])


def test_idle_connections_and_handshakes_without_end_keep_nobody_out(over_tls: Manager) -> None:
    """Probes and the control API answer beside all of them, and postgres can be restarted."""
    hello = b"\x16\x03\x01\x00\x05\x01"
    with (
        crowd(over_tls.health_port, IDLE),
        crowd(over_tls.control_port, HALF_OPEN, hello),
        crowd(over_tls.control_port, IDLE // 2),
    ):
        for _ in range(20):
            assert over_tls.probe("livez")[0] == 200
            assert over_tls.probe("readyz")[0] == 200
        assert tls_status(over_tls) == 200
        code, operation = over_tls.ask("POST", "/v1/postgres/restart", Prefer="wait=60")
        assert (code, operation["state"]) == (200, "succeeded")


def test_hostile_requests_cost_no_memory(manager: Manager) -> None:
    """Slow bodies, long ones, floods of headers: over and over."""
    manager.start().until_ready()
    process = manager.process
    assert process is not None
    headers = b"".join(b"X-%d: %s\r\n" % (number, b"y" * 500) for number in range(1000))
    hostile = [
        HEAD + b"Content-Length: 10485760\r\n\r\n" + b" " * 300_000,
        HEAD + b"Content-Length: 60000\r\n\r\n" + b"[" * 59_000,
        HEAD + headers + b"\r\n",
        b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\n\r\n",
        HEAD + b'Content-Length: 14\r\n\r\n{"mode":"\xff\xfe"}',
    ]
    rounds = 8
    sizes: list[int] = []
    for _ in range(rounds):
        for request in hostile:
            with crowd(manager.control_port, 40, request):
                assert manager.probe("livez")[0] == 200
        sizes.append(memory_kib(process.pid))

    # More than 400 MB were sent by then; what the allocator keeps comes to an end before.
    assert sizes[-1] - sizes[0] < MANY_KIB, sizes
    assert manager.status() is not None


SECRET = "s3cret"


def secretive(manager: Manager) -> Manager:
    """Give a manager secrets in all the places that it knows."""
    import os

    directory = manager.directory
    owner = directory.stat()
    for name in ("token", "password"):
        (directory / name).write_text(f"{SECRET}-{name}\n")
        (directory / name).chmod(0o600)
        os.chown(directory / name, owner.st_uid, owner.st_gid)
    manager.trust()
    manager.environment["POSTGRES_PASSWORD"] = f"{SECRET}-environment"
    manager.settings["control"]["token_file"] = str(directory / "token")
    manager.settings["bootstrap"] |= {"database": "app", "owner": "app"}
    manager.settings["bootstrap"]["owner_password_file"] = str(directory / "password")
    manager.settings["configuration"] = {"source": "api"}
    manager.settings["postgres"]["parameters"] = {
        "primary_conninfo": f"host=x password={SECRET}-conninfo",
        "archive_command": f"true postgresql://u:{SECRET}-uri@h/d",
    }
    return manager.start().until_ready()


def test_no_secret_is_in_any_answer_or_in_the_log(manager: Manager) -> None:
    """On every route that can be read, also after a change."""
    secretive(manager)
    changed = {"primary_conninfo": f"host=y password='{SECRET} new'", "work_mem": "5MB"}
    document = {"parameters": changed, "hba": ["host all all 127.0.0.1/32 trust"]}
    code, answer = manager.ask("PUT", "/v1/configuration", document, **{"If-Match": "*"})
    assert code == 200
    seen = [json.dumps(answer)]
    wrong = {"parameters": {"primary_conninfo": f"password={SECRET} nonsense x"}}
    seen.append(json.dumps(manager.ask("PUT", "/v1/configuration?dry_run=true", wrong)))
    _, operation = manager.ask("POST", "/v1/postgres/restart", Prefer="wait=60")

    for route in HEALTH_ROUTES + CONTROL_ROUTES:
        if route.method != "GET" or route.path in {"/metrics", "/docs"}:
            continue
        path = route.path.replace("{id}", operation["id"]).replace("{name}", "app")
        path = path.replace("{check}", "postgres").replace("{volume}", "pgvector")
        accept = {"Accept": "application/json"}
        seen.append(json.dumps(manager.ask("GET", path, None, **accept)))
    seen.append(manager.logged())

    assert not [text for text in seen if SECRET in text]
    assert until(lambda: "restart" in manager.logged(), "something was logged")
